package ondevice.demo;

import android.app.Service;
import android.content.Context;
import android.content.Intent;
import android.os.Bundle;
import android.os.Handler;
import android.os.HandlerThread;
import android.os.IBinder;
import android.os.Message;
import android.os.Messenger;
import android.os.Process;
import android.os.RemoteException;
import java.io.File;
import java.io.IOException;
import ondevice.ctr.OnDeviceException;
import ondevice.ctr.OnDeviceModel;
import ondevice.ctr.bench.Task;
import ondevice.ctr.bench.Worker;

/** Measures one thing in a process of its own, answers, and ends that process. */
public final class BenchService extends Service {
    static final String TASK = "task";
    static final String STARTED_NS = "started_ns";
    static final String RUNTIME = "runtime"; // which of StockRuntimes; none: the native engine
    static final String OBSERVATION = "observation.json"; // a file: too long for a message
    static final String PROBLEM = "problem";

    private HandlerThread thread;

    @Override
    public IBinder onBind(Intent intent) {
        thread = new HandlerThread("measure");
        thread.start();
        return new Messenger(new Handler(thread.getLooper()) {
            @Override
            public void handleMessage(Message message) {
                Bundle answer = new Bundle();
                try {
                    Files.write(observation(BenchService.this), observe(message.getData()));
                } catch (OnDeviceException error) {
                    answer.putString(PROBLEM, error.getMessage());
                } catch (IOException error) {
                    answer.putString(PROBLEM, error.getMessage());
                }
                Message reply = Message.obtain();
                reply.setData(answer);
                try {
                    message.replyTo.send(reply);
                } catch (RemoteException gone) {
                    stopSelf(); // nobody waits for it any more
                }
            }
        }).getBinder();
    }

    /** Where the answer is. */
    static File observation(Context context) {
        return new File(context.getCacheDir(), OBSERVATION);
    }

    private String observe(Bundle asked) {
        final String runtime = asked.getString(RUNTIME);
        Worker.Source source = new Worker.Source() {
            @Override
            public Worker.Engine open() {
                return runtime == null ? new Worker.NativeEngine(requests())
                        : StockRuntimes.open(runtime, BenchService.this);
            }

            @Override
            public OnDeviceModel requests() {
                return Store.open(BenchService.this);
            }
        };
        return Worker.observe(source, Task.parse(asked.getString(TASK)),
                asked.getLong(STARTED_NS));
    }

    /** The next measurement gets a fresh process. */
    @Override
    public boolean onUnbind(Intent intent) {
        Process.killProcess(Process.myPid());
        return false;
    }
}
