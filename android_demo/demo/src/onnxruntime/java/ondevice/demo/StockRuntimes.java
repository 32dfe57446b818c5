package ondevice.demo;

import ai.onnxruntime.OnnxTensor;
import ai.onnxruntime.OrtEnvironment;
import ai.onnxruntime.OrtException;
import ai.onnxruntime.OrtSession;
import android.content.Context;
import java.io.File;
import java.io.IOException;
import java.lang.reflect.Array;
import java.nio.FloatBuffer;
import java.nio.LongBuffer;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import ondevice.ctr.OnDeviceException;
import ondevice.ctr.bench.Worker;

/** ONNX Runtime on model.onnx, one thread. */
final class StockRuntimes {
    private StockRuntimes() {}

    /** Assets that a stock runtime of this flavour runs; they become files, which it can map. */
    static List<String> models(Context context) throws IOException {
        return StockFiles.copy(context, "model.onnx", "model.onnx.data");
    }

    static Worker.Engine open(String model, Context context) {
        try {
            return new Onnx(StockFiles.file(context, model));
        } catch (OrtException error) {
            throw new OnDeviceException(model + ": " + error.getMessage(), error);
        }
    }

    private static final class Onnx implements Worker.Engine {
        private final OrtEnvironment environment = OrtEnvironment.getEnvironment();
        private final OrtSession session;

        Onnx(File file) throws OrtException {
            OrtSession.SessionOptions options = new OrtSession.SessionOptions();
            options.setIntraOpNumThreads(1);
            session = environment.createSession(file.getPath(), options);
        }

        @Override
        public String engine() {
            return "onnx";
        }

        @Override
        public String runtime() {
            return "onnxruntime " + environment.getVersion();
        }

        @Override
        public Object request(Map<String, Object> context, Map<String, Object> rows,
                Map<String, Integer> rowSizes) {
            return new StockFiles.Request(context, rows, rowSizes);
        }

        @Override
        public void call(Object request) {
            StockFiles.Request ids = (StockFiles.Request) request;
            Map<String, OnnxTensor> tensors = new HashMap<String, OnnxTensor>();
            try {
                for (Map.Entry<String, Object> entry : ids.all.entrySet()) {
                    int width = ids.rowSizes.get(entry.getKey());
                    long rows = Array.getLength(entry.getValue()) / width;
                    tensors.put(entry.getKey(), tensor(entry.getValue(),
                            width == 1 ? new long[] {rows} : new long[] {rows, width}));
                }
                OrtSession.Result result = session.run(tensors);
                result.get(0).getValue(); // scores as a Java array
                result.close();
            } catch (OrtException error) {
                throw new OnDeviceException(error.getMessage(), error);
            } finally {
                for (OnnxTensor tensor : tensors.values()) {
                    tensor.close();
                }
            }
        }

        private OnnxTensor tensor(Object values, long[] shape) throws OrtException {
            return values instanceof float[]
                    ? OnnxTensor.createTensor(environment, FloatBuffer.wrap((float[]) values), shape)
                    : OnnxTensor.createTensor(environment, LongBuffer.wrap((long[]) values), shape);
        }

        @Override
        public void close() {
            try {
                session.close();
            } catch (OrtException error) {
                throw new OnDeviceException(error.getMessage(), error);
            }
        }
    }
}
