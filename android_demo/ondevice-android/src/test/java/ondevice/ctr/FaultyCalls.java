package ondevice.ctr;

import java.io.File;

/**
 * Lets every call for memory, and every call into Java, of a model's life fail in turn. Each must end
 * in an exception or in right scores; nothing may be lost, and the next attempt works. Prints how
 * many failed.
 */
final class FaultyCalls {
    private final File file;
    private final SignedModels trusted;
    private float[] right;

    private FaultyCalls(File file, SignedModels trusted) {
        this.file = file;
        this.trusted = trusted;
    }

    public static void main(String[] arguments) throws Exception {
        File folder = new File(arguments[0]);
        Native.load();
        String pem = new String(Fixtures.read(new File(folder, "signer.pub")), "UTF-8");
        byte[] root = Fixtures.read(new File(folder, "1.root.json"));
        File state = new File(folder, "state.json");
        File model = new File(folder, "models/m.odm");
        System.out.println(new FaultyCalls(model, null).all() + " "
                + new FaultyCalls(model, SignedModels.ofKeys(pem, state)).all() + " "
                + new FaultyCalls(model, null).roots(root));
    }

    private int all() {
        right = live();
        return each(Faults.MEMORY) + each(Faults.JAVA);
    }

    /** Reading a root document, which may only work or throw. */
    private int roots(byte[] root) {
        int failed = 0;
        for (int kind : new int[] {Faults.MEMORY, Faults.JAVA}) {
            Faults.arm(kind, 0);
            SignedModels.ofRoot(root, null);
            long calls = Faults.calls(kind);
            for (long call = 1; call <= calls; call++) {
                long before = Faults.held();
                try {
                    Faults.arm(kind, call);
                    SignedModels.ofRoot(root, null);
                    throw new AssertionError("call " + call + " of kind " + kind + " was ignored");
                } catch (OnDeviceException | OutOfMemoryError expected) {
                    failed++;
                } finally {
                    Faults.arm(kind, 0);
                }
                check(before == Faults.held(), "a failed call lost memory", kind, call);
            }
        }
        return failed;
    }

    private int each(int kind) {
        Faults.arm(kind, 0);
        live();
        long calls = Faults.calls(kind);
        check(calls > 5, "too few calls", kind, calls);
        int failed = 0;
        for (long call = 1; call <= calls; call++) {
            long before = Faults.held();
            try {
                Faults.arm(kind, call);
                check(java.util.Arrays.equals(live(), right), "wrong scores", kind, call);
            } catch (OnDeviceException | OutOfMemoryError expected) {
                check(expected.getMessage() != null && !expected.getMessage().isEmpty(),
                        "no text", kind, call);
                failed++;
            } finally {
                Faults.arm(kind, 0);
            }
            check(before == Faults.held(), "a failed call lost " + (Faults.held() - before),
                    kind, call);
            check(java.util.Arrays.equals(live(), right), "wrong afterwards", kind, call);
        }
        return failed;
    }

    /** A model from its opening to its end; its scores. */
    private float[] live() {
        OnDeviceModel model = trusted == null ? OnDeviceModel.open(file)
                : trusted.open(file, 1796083200);
        try {
            check(model.verify().passed(), "test vectors", 0, 0);
            Inputs inputs = new Inputs();
            for (java.util.Map.Entry<String, Object> entry : model.testInputs().entrySet()) {
                inputs.values(entry.getKey(), entry.getValue());
            }
            return model.predict(inputs);
        } finally {
            model.close();
        }
    }

    private static void check(boolean holds, String what, int kind, long call) {
        if (!holds) {
            throw new AssertionError(what + ", kind " + kind + ", call " + call);
        }
    }
}
