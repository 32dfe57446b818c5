package ondevice.ctr;

import java.io.File;
import java.io.IOException;

/**
 * Updates, boots or rolls back the model file of its arguments in a process of its own, and prints
 * "ok" or the kind of the error. {@code -Dondevice.keys} is a public key, {@code -Dondevice.state}
 * what the device has seen, by default state.json beside the model's folder; {@code -Dondevice.kill} the system call at which the process is killed,
 * {@code -Dondevice.memory} the call for memory that fails.
 */
final class UpdateFile {
    private UpdateFile() {}

    public static void main(String[] arguments) throws Exception {
        arm(Faults.KILL, Long.getLong("ondevice.kill"));
        arm(Faults.MEMORY, Long.getLong("ondevice.memory"));
        try {
            run(arguments[0], updates(new File(arguments[1])), arguments);
            System.out.println("ok");
        } catch (OnDeviceException | IOException error) {
            System.out.println(error.getClass().getSimpleName() + " " + error.getMessage());
        }
    }

    private static void arm(int kind, Long call) {
        if (call != null) {
            Native.load();
            Faults.arm(kind, call);
        }
    }

    private static ModelUpdates updates(File model) throws IOException {
        String keys = System.getProperty("ondevice.keys");
        if (keys == null) {
            return new ModelUpdates(model);
        }
        File beside = new File(model.getAbsoluteFile().getParentFile().getParentFile(), "state.json");
        String state = System.getProperty("ondevice.state", beside.getPath());
        return new ModelUpdates(model, SignedModels.ofKeys(
                new String(Fixtures.read(new File(keys)), "UTF-8"), new File(state)));
    }

    private static void run(String command, ModelUpdates updates, String[] arguments)
            throws IOException {
        if (command.equals("update") || command.equals("again")) {
            updates.update(new File(arguments[2]), command.equals("again"));
        } else if (command.equals("rollback")) {
            updates.rollback();
        } else if (command.equals("boot")) {
            updates.boot().close();
        } else if (command.equals("boots")) { // of all arguments
            for (int i = 1; i < arguments.length; i++) {
                updates(new File(arguments[i])).boot().close();
            }
        } else { // "turns": until it is killed, or so often
            System.out.println("ready");
            System.out.flush();
            int most = arguments.length > 4 ? Integer.parseInt(arguments[4]) : Integer.MAX_VALUE;
            for (int i = 0; i < most; i++) {
                updates.update(new File(arguments[2 + i % 2]));
                updates.boot().close();
            }
        }
    }
}
