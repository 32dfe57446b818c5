package ondevice.demo;

import android.content.Context;
import android.content.res.AssetManager;
import java.io.File;
import java.io.FileOutputStream;
import java.io.IOException;
import java.io.InputStream;
import java.lang.reflect.Array;
import java.util.Arrays;
import java.util.Collections;
import java.util.HashMap;
import java.util.List;
import java.util.Map;

/** What the flavours with stock runtimes share: model files outside the package, and requests. */
final class StockFiles {
    private StockFiles() {}

    static File file(Context context, String name) {
        return new File(context.getCacheDir(), name);
    }

    /**
     * Copy assets to files.
     *
     * @return the first name, or none when there is no such asset
     */
    static List<String> copy(Context context, String... names) throws IOException {
        List<String> there = Arrays.asList(context.getAssets().list(""));
        for (String name : names) {
            if (!there.contains(name)) {
                return Collections.emptyList();
            }
            copy(context.getAssets(), name, file(context, name));
        }
        return Collections.singletonList(names[0]);
    }

    private static void copy(AssetManager assets, String name, File target) throws IOException {
        File fresh = new File(target.getPath() + ".part");
        InputStream in = assets.open(name);
        try {
            FileOutputStream out = new FileOutputStream(fresh);
            try {
                byte[] piece = new byte[1 << 16];
                for (int size = in.read(piece); size > 0; size = in.read(piece)) {
                    out.write(piece, 0, size);
                }
            } finally {
                out.close();
            }
        } finally {
            in.close();
        }
        if (!fresh.renameTo(target)) {
            throw new IOException(target + " cannot be written");
        }
    }

    /** A request of rows: stock runtimes have no context, so its row is repeated. */
    static final class Request {
        final Map<String, Object> all;
        final Map<String, Integer> rowSizes;

        Request(Map<String, Object> context, Map<String, Object> rows,
                Map<String, Integer> rowSizes) {
            this.rowSizes = rowSizes;
            all = new HashMap<String, Object>(rows);
            int count = 0;
            for (Map.Entry<String, Object> entry : rows.entrySet()) {
                count = Array.getLength(entry.getValue()) / rowSizes.get(entry.getKey());
            }
            for (Map.Entry<String, Object> entry : context.entrySet()) {
                Object one = entry.getValue();
                int width = Array.getLength(one);
                Object many = one instanceof float[] ? new float[count * width]
                        : (Object) new long[count * width];
                for (int row = 0; row < count; row++) {
                    System.arraycopy(one, 0, many, row * width, width);
                }
                all.put(entry.getKey(), many);
            }
        }
    }

    /** IDs or numbers as rows of an array of arrays. */
    static Object table(Object values, int width) {
        int rows = Array.getLength(values) / width;
        Class<?> kind = values instanceof float[] ? float.class : long.class;
        Object table = Array.newInstance(kind, rows, width);
        for (int row = 0; row < rows; row++) {
            System.arraycopy(values, row * width, Array.get(table, row), 0, width);
        }
        return table;
    }
}
