package ondevice.demo;

import android.content.ComponentName;
import android.content.Context;
import android.content.Intent;
import android.content.ServiceConnection;
import android.os.Bundle;
import android.os.Handler;
import android.os.HandlerThread;
import android.os.IBinder;
import android.os.Message;
import android.os.Messenger;
import android.os.RemoteException;
import java.io.IOException;
import java.util.concurrent.ArrayBlockingQueue;
import java.util.concurrent.BlockingQueue;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.TimeUnit;
import ondevice.ctr.bench.Benchmark;
import ondevice.ctr.bench.Task;

/** Runs each task in a fresh process of {@link BenchService}. Used by one thread. */
final class ServiceMachine implements Benchmark.Machine {
    private static final long PATIENCE_S = 30; // beyond what a task may take
    private static final long END_S = 10;

    private final Context context;
    private final String path;
    private final String runtime; // null: the native engine

    ServiceMachine(Context context, String path, String runtime) {
        this.context = context.getApplicationContext();
        this.path = path;
        this.runtime = runtime;
    }

    @Override
    public String path() {
        return path;
    }

    @Override
    public String observe(final Task task) throws IOException, InterruptedException {
        HandlerThread thread = new HandlerThread("answers");
        thread.start();
        final BlockingQueue<Bundle> answers = new ArrayBlockingQueue<Bundle>(1);
        final IBinder[] process = new IBinder[1];
        final CountDownLatch ended = new CountDownLatch(1);
        final Messenger replies = new Messenger(new Handler(thread.getLooper()) {
            @Override
            public void handleMessage(Message message) {
                answers.offer(message.getData());
            }
        });
        final long begun = System.nanoTime(); // the same clock in every process
        ServiceConnection connection = new ServiceConnection() {
            @Override
            public void onServiceConnected(ComponentName name, IBinder binder) {
                Message message = Message.obtain();
                Bundle asked = new Bundle();
                asked.putString(BenchService.TASK, task.toJson());
                asked.putLong(BenchService.STARTED_NS, begun);
                asked.putString(BenchService.RUNTIME, runtime);
                message.setData(asked);
                message.replyTo = replies;
                synchronized (process) {
                    process[0] = binder;
                }
                try {
                    new Messenger(binder).send(message);
                } catch (RemoteException died) {
                    ended.countDown();
                }
            }

            @Override
            public void onServiceDisconnected(ComponentName name) {
                ended.countDown();
            }
        };
        boolean bound = context.bindService(new Intent(context, BenchService.class), connection,
                Context.BIND_AUTO_CREATE);
        Bundle answer = null;
        try {
            if (!bound) {
                throw new IOException("the measuring process could not be started");
            }
            long patience = PATIENCE_S + (long) (10 * task.seconds);
            for (long s = 0; s < patience && answer == null && ended.getCount() > 0; s++) {
                answer = answers.poll(1, TimeUnit.SECONDS);
            }
        } finally {
            context.unbindService(connection);
            thread.quitSafely();
        }
        if (answer == null) {
            throw new IOException("the measuring process gave no answer");
        }
        waitForTheEnd(process);
        String problem = answer.getString(BenchService.PROBLEM);
        if (problem != null) {
            throw new IOException(problem);
        }
        return Files.read(BenchService.observation(context));
    }

    /** The process ends itself when it is unbound; the next one must be another. */
    private static void waitForTheEnd(IBinder[] process) throws IOException, InterruptedException {
        long deadline = System.nanoTime() + END_S * 1000000000;
        IBinder binder;
        synchronized (process) {
            binder = process[0];
        }
        while (binder != null && binder.pingBinder()) {
            if (System.nanoTime() > deadline) {
                throw new IOException("the measuring process did not end");
            }
            Thread.sleep(10);
        }
    }
}
