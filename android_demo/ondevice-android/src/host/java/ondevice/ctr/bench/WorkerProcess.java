package ondevice.ctr.bench;

import java.io.File;
import ondevice.ctr.OnDeviceModel;

/** A measuring process on the host: MODEL STARTED_NS TASK; prints the observation. */
public final class WorkerProcess {
    private WorkerProcess() {}

    public static void main(String[] arguments) {
        final File model = new File(arguments[0]);
        System.out.println(Worker.observe(new Worker.Source() {
            @Override
            public Worker.Engine open() {
                return new Worker.NativeEngine(OnDeviceModel.open(model));
            }

            @Override
            public OnDeviceModel requests() {
                return OnDeviceModel.open(model);
            }
        }, Task.parse(arguments[2]), Long.parseLong(arguments[1])));
    }
}
