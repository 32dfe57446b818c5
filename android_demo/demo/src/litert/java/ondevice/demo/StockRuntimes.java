package ondevice.demo;

import android.content.Context;
import java.io.File;
import java.lang.reflect.Array;
import java.io.IOException;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import ondevice.ctr.OnDeviceException;
import ondevice.ctr.bench.Worker;
import org.tensorflow.lite.Interpreter;
import org.tensorflow.lite.TensorFlowLite;

/** LiteRT on model.tflite, one thread. */
final class StockRuntimes {
    private StockRuntimes() {}

    /** Assets that a stock runtime of this flavour runs; they become files, which it maps. */
    static List<String> models(Context context) throws IOException {
        return StockFiles.copy(context, "model.tflite");
    }

    static Worker.Engine open(String model, Context context) {
        try {
            return new Lite(StockFiles.file(context, model));
        } catch (IllegalArgumentException error) {
            throw new OnDeviceException(model + ": " + error.getMessage(), error);
        }
    }

    private static final class Lite implements Worker.Engine {
        private final Interpreter interpreter;
        private final String signature;
        private final String output;

        Lite(File file) {
            interpreter = new Interpreter(file, new Interpreter.Options().setNumThreads(1));
            signature = interpreter.getSignatureKeys()[0];
            output = interpreter.getSignatureOutputs(signature)[0];
        }

        @Override
        public String engine() {
            return "tflite";
        }

        @Override
        public String runtime() {
            return "LiteRT " + TensorFlowLite.runtimeVersion();
        }

        @Override
        public Object request(Map<String, Object> context, Map<String, Object> rows,
                Map<String, Integer> rowSizes) {
            return new StockFiles.Request(context, rows, rowSizes);
        }

        /** Arrays, not buffers: their shapes size the inputs. */
        @Override
        public void call(Object request) {
            StockFiles.Request ids = (StockFiles.Request) request;
            Map<String, Object> inputs = new HashMap<String, Object>();
            int rows = 0;
            for (Map.Entry<String, Object> entry : ids.all.entrySet()) {
                int width = ids.rowSizes.get(entry.getKey());
                rows = Array.getLength(entry.getValue()) / width;
                inputs.put(entry.getKey(), width == 1 ? entry.getValue()
                        : StockFiles.table(entry.getValue(), width));
            }
            Map<String, Object> outputs = new HashMap<String, Object>();
            outputs.put(output, new float[rows]);
            interpreter.runSignature(inputs, outputs, signature);
        }

        @Override
        public void close() {
            interpreter.close();
        }
    }
}
