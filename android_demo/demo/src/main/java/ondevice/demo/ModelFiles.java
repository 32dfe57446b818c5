package ondevice.demo;

import java.io.File;
import java.io.FileOutputStream;
import java.io.IOException;
import java.io.InputStream;
import ondevice.ctr.ModelFileException;
import ondevice.ctr.OnDeviceModel;
import ondevice.ctr.Verification;

/** Puts a new model in the place of the old one: copied, verified and tried first, then renamed. */
final class ModelFiles {
    static final long MOST_BYTES = 512L << 20;

    private ModelFiles() {}

    /**
     * Replace {@code target} by what the stream holds, or leave everything as it was. The file in use
     * may still be open and mapped: it lives on without a name.
     *
     * @return the new model, open
     * @throws IOException it cannot be read or written
     * @throws ondevice.ctr.OnDeviceException it is no model, its test vectors do not hold, or it does
     *     not take the catalogue's users and items
     */
    static OnDeviceModel replace(InputStream source, File target, Catalogue catalogue)
            throws IOException {
        File fresh = File.createTempFile("model", ".part", target.getParentFile());
        boolean done = false;
        OnDeviceModel model = null;
        try {
            copy(source, fresh);
            model = OnDeviceModel.open(fresh);
            check(model, catalogue);
            if (!fresh.renameTo(target)) {
                throw new IOException("the file could not be put in place");
            }
            done = true;
            return model;
        } finally {
            if (!done) {
                fresh.delete();
                if (model != null) {
                    model.close();
                }
            }
        }
    }

    /** Remove what a copy left behind that was cut off with its process. */
    static void removeLeftovers(File folder) {
        File[] files = folder.listFiles();
        for (File file : files == null ? new File[0] : files) {
            if (file.getName().startsWith("model") && file.getName().endsWith(".part")) {
                file.delete();
            }
        }
    }

    /** Throws OnDeviceException unless the model computes what it should on this device. */
    static void check(OnDeviceModel model, Catalogue catalogue) {
        Verification tests = model.verify();
        if (!tests.passed()) {
            throw new ModelFileException("its test vectors differ by " + tests.maxDifference
                    + ", rank by " + tests.rankDifference + ", more than " + tests.tolerance);
        }
        for (float score : model.rank(catalogue.context(0), catalogue.candidates())) {
            if (Float.isNaN(score) || Float.isInfinite(score)) {
                throw new ModelFileException("it gives scores that are no numbers");
            }
        }
    }

    private static void copy(InputStream source, File target) throws IOException {
        FileOutputStream out = new FileOutputStream(target);
        try {
            byte[] piece = new byte[1 << 16];
            long total = 0;
            for (int size = source.read(piece); size > 0; size = source.read(piece)) {
                total += size;
                if (total > MOST_BYTES) {
                    throw new IOException("larger than " + (MOST_BYTES >> 20) + " MB");
                }
                out.write(piece, 0, size);
            }
            out.getFD().sync(); // its bytes before its name
        } finally {
            out.close();
        }
    }
}
