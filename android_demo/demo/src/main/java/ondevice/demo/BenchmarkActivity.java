package ondevice.demo;

import android.app.Activity;
import android.content.Intent;
import android.os.Build;
import android.os.Bundle;
import android.view.View;
import android.view.WindowManager;
import android.widget.Button;
import android.widget.ProgressBar;
import android.widget.TextView;

/** Runs the plan of `ondevice bench` on this device and shows its report. */
public final class BenchmarkActivity extends Activity implements BenchmarkRun.Listener {
    private BenchmarkRun run;
    private Button start;
    private Button share;
    private ProgressBar progress;
    private TextView step;

    @Override
    protected void onCreate(Bundle state) {
        super.onCreate(state);
        setContentView(R.layout.benchmark);
        if (getActionBar() != null) {
            getActionBar().setDisplayHomeAsUpEnabled(true);
        }
        run = BenchmarkRun.get(this);
        start = (Button) findViewById(R.id.start);
        share = (Button) findViewById(R.id.share);
        progress = (ProgressBar) findViewById(R.id.progress);
        step = (TextView) findViewById(R.id.step);
        start.setOnClickListener(new View.OnClickListener() {
            @Override
            public void onClick(View view) {
                if (run.isRunning()) {
                    run.stop();
                } else {
                    run.start();
                }
            }
        });
        share.setOnClickListener(new View.OnClickListener() {
            @Override
            public void onClick(View view) {
                share();
            }
        });
    }

    @Override
    protected void onStart() {
        super.onStart();
        run.listen(this);
        changed();
    }

    /** What is measured behind another app says nothing: only a rotation keeps the run going. */
    @Override
    protected void onStop() {
        run.listen(null);
        if (!isChangingConfigurations()) {
            run.stop();
        }
        super.onStop();
    }

    @Override
    public void changed() {
        boolean running = run.isRunning();
        start.setText(running ? R.string.stop : R.string.start);
        share.setEnabled(!running && run.report != null);
        progress.setVisibility(running ? View.VISIBLE : View.INVISIBLE);
        progress.setMax(Math.max(1, run.total));
        progress.setProgress(run.done);
        if (running) { // a screen that goes dark slows the processor down
            getWindow().addFlags(WindowManager.LayoutParams.FLAG_KEEP_SCREEN_ON);
        } else {
            getWindow().clearFlags(WindowManager.LayoutParams.FLAG_KEEP_SCREEN_ON);
        }
        step.setText(running ? getString(R.string.benchmark_step, run.done, run.total, run.step)
                : run.problem == null ? "" : getString(R.string.benchmark_failed, run.problem));
        String shown = running ? null : run.report;
        ((TextView) findViewById(R.id.figures)).setText(shown == null ? "" : ReportText.of(shown));
        ((TextView) findViewById(R.id.json)).setText(shown);
        findViewById(R.id.json_title).setVisibility(shown == null ? View.GONE : View.VISIBLE);
    }

    private void share() {
        Intent intent = new Intent(Intent.ACTION_SEND);
        intent.setType("text/plain");
        intent.putExtra(Intent.EXTRA_SUBJECT, getString(R.string.report_title, Build.MODEL));
        intent.putExtra(Intent.EXTRA_TEXT, run.report);
        startActivity(Intent.createChooser(intent, getString(R.string.share)));
    }
}
