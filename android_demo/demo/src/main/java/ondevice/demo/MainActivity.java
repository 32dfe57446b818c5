package ondevice.demo;

import android.app.Activity;
import android.content.ActivityNotFoundException;
import android.content.Intent;
import android.os.Bundle;
import android.view.Menu;
import android.view.MenuItem;
import android.view.View;
import android.widget.AdapterView;
import android.widget.ArrayAdapter;
import android.widget.ListView;
import android.widget.Spinner;
import android.widget.TextView;
import java.text.NumberFormat;
import ondevice.ctr.OnDeviceModel;
import ondevice.ctr.bench.Worker;

/** Pick a user, see the items ranked for them by the model on this device. */
public final class MainActivity extends Activity
        implements AdapterView.OnItemSelectedListener, AdapterView.OnItemClickListener,
        Store.Listener {
    private static final int PICK_MODEL = 1;
    private static final String USER = "user";
    private static final String MESSAGE = "message";

    private Store store;
    private Spinner users;
    private TextView summary;
    private TextView message;
    private ItemAdapter items;
    private int user;
    private boolean gone;

    @Override
    protected void onCreate(Bundle state) {
        super.onCreate(state);
        setContentView(R.layout.main);
        store = Store.get(this);
        users = (Spinner) findViewById(R.id.user);
        summary = (TextView) findViewById(R.id.summary);
        message = (TextView) findViewById(R.id.message);
        if (state != null) { // also after the process was ended
            user = state.getInt(USER);
            say(state.getString(MESSAGE));
        }
        store.catalogue(new Store.Answer<Catalogue>() {
            @Override
            public void got(Catalogue catalogue, String problem) {
                if (gone) {
                    return;
                }
                if (catalogue == null) {
                    summary.setText(getString(R.string.no_assets) + "\n\n" + problem);
                    return;
                }
                show(catalogue);
            }
        });
    }

    private void show(Catalogue catalogue) {
        items = new ItemAdapter(this, catalogue);
        ListView list = (ListView) findViewById(R.id.items);
        list.setAdapter(items);
        list.setOnItemClickListener(this);
        ArrayAdapter<String> names = new ArrayAdapter<String>(this,
                android.R.layout.simple_spinner_item, catalogue.users);
        names.setDropDownViewResource(android.R.layout.simple_spinner_dropdown_item);
        users.setAdapter(names);
        user = Math.min(user, catalogue.users.size() - 1);
        users.setSelection(user);
        users.setOnItemSelectedListener(this);
        store.notice(new Store.Answer<String>() {
            @Override
            public void got(String notice, String problem) {
                if (!gone && notice != null) {
                    say(getString(R.string.fell_back, notice));
                }
            }
        });
    }

    @Override
    protected void onStart() {
        super.onStart();
        store.listen(this);
    }

    @Override
    protected void onStop() {
        store.listen(null);
        super.onStop();
    }

    @Override
    protected void onSaveInstanceState(Bundle state) {
        super.onSaveInstanceState(state);
        state.putInt(USER, user);
        state.putString(MESSAGE,
                message.getVisibility() == View.VISIBLE ? message.getText().toString() : null);
    }

    @Override
    protected void onDestroy() {
        gone = true;
        super.onDestroy();
    }

    @Override
    public void onItemSelected(AdapterView<?> parent, View view, int position, long id) {
        user = position;
        rank();
    }

    @Override
    public void onNothingSelected(AdapterView<?> parent) {
        // a spinner always has a selection
    }

    /** What the model was given for the item, and its exact score. */
    @Override
    public void onItemClick(AdapterView<?> parent, View view, int position, long id) {
        TextDialog.show(this, items.title(position), items.details(position));
    }

    private void rank() {
        final int asked = user;
        store.rank(asked, new Store.Answer<Ranking>() {
            @Override
            public void got(final Ranking ranking, String problem) {
                if (gone || asked != user) {
                    return; // another user was picked meanwhile
                }
                if (ranking == null) {
                    summary.setText(problem);
                    return;
                }
                items.show(ranking);
                summarise(ranking);
            }
        });
    }

    private void summarise(final Ranking ranking) {
        store.model(new Store.Answer<OnDeviceModel>() {
            @Override
            public void got(OnDeviceModel model, String problem) {
                if (gone || model == null) {
                    return;
                }
                Long resident = Worker.memoryNow().get("rss");
                summary.setText(getString(R.string.summary,
                        NumberFormat.getIntegerInstance().format(ranking.scores.length),
                        milliseconds(ranking.medianNs), milliseconds(ranking.firstNs),
                        resident == null ? "-" : getString(R.string.megabytes,
                                number(resident / 1e6, 1)),
                        getString(R.string.kilobytes, number(model.describe().bytes / 1e3, 0)),
                        model.describe().kernels));
            }
        });
    }

    private String milliseconds(long ns) {
        return getString(R.string.milliseconds, number(ns / 1e6, 3));
    }

    private static String number(double value, int digits) {
        NumberFormat format = NumberFormat.getInstance();
        format.setMinimumFractionDigits(digits);
        format.setMaximumFractionDigits(digits);
        return format.format(value);
    }

    private void say(String text) {
        message.setText(text);
        message.setVisibility(text == null ? View.GONE : View.VISIBLE);
    }

    @Override
    public boolean onCreateOptionsMenu(Menu menu) {
        getMenuInflater().inflate(R.menu.main, menu);
        return true;
    }

    @Override
    public boolean onOptionsItemSelected(MenuItem item) {
        if (items == null) {
            return super.onOptionsItemSelected(item); // nothing is loaded
        }
        if (item.getItemId() == R.id.benchmark) {
            startActivity(new Intent(this, BenchmarkActivity.class));
        } else if (item.getItemId() == R.id.update) {
            pick();
        } else if (item.getItemId() == R.id.built_in) {
            store.useBuiltIn();
        } else if (item.getItemId() == R.id.about) {
            about();
        } else {
            return super.onOptionsItemSelected(item);
        }
        return true;
    }

    private void pick() {
        Intent intent = new Intent(Intent.ACTION_OPEN_DOCUMENT);
        intent.addCategory(Intent.CATEGORY_OPENABLE);
        intent.setType("*/*"); // .odm has no registered type
        try {
            startActivityForResult(intent, PICK_MODEL);
        } catch (ActivityNotFoundException error) {
            say(getString(R.string.no_picker));
        }
    }

    @Override
    protected void onActivityResult(int request, int result, Intent data) {
        if (request == PICK_MODEL && result == RESULT_OK && data != null
                && data.getData() != null) {
            say(getString(R.string.updating));
            store.update(data.getData());
        }
    }

    @Override
    public void modelChanged(String problem) {
        say(problem == null ? getString(R.string.updated)
                : getString(R.string.not_updated, problem));
        if (items != null) {
            rank();
        }
    }

    private void about() {
        store.model(new Store.Answer<OnDeviceModel>() {
            @Override
            public void got(OnDeviceModel model, String problem) {
                if (!gone) {
                    TextDialog.show(MainActivity.this, getString(R.string.about_model),
                            model == null ? problem : model.describe().toString());
                }
            }
        });
    }
}
