package ondevice.demo;

import java.io.ByteArrayOutputStream;
import java.io.File;
import java.io.FileInputStream;
import java.io.FileOutputStream;
import java.io.IOException;
import java.io.InputStream;

/** Small texts in files, UTF-8, complete or not at all. */
final class Files {
    private Files() {}

    /** The whole text; closes the stream. */
    static String read(InputStream in) throws IOException {
        try {
            ByteArrayOutputStream out = new ByteArrayOutputStream();
            byte[] piece = new byte[1 << 14];
            for (int size = in.read(piece); size > 0; size = in.read(piece)) {
                out.write(piece, 0, size);
            }
            return out.toString("UTF-8");
        } finally {
            in.close();
        }
    }

    static String read(File file) throws IOException {
        return read(new FileInputStream(file));
    }

    static void write(File file, String text) throws IOException {
        File fresh = new File(file.getPath() + ".part");
        FileOutputStream out = new FileOutputStream(fresh);
        try {
            out.write(text.getBytes("UTF-8"));
        } finally {
            out.close();
        }
        if (!fresh.renameTo(file)) {
            throw new IOException(file.getName() + " cannot be written");
        }
    }
}
