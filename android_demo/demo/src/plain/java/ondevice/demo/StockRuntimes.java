package ondevice.demo;

import android.content.Context;
import java.util.Collections;
import java.util.List;
import ondevice.ctr.UnsupportedModelException;
import ondevice.ctr.bench.Worker;

/** Stock runtimes to compare with: none in this flavour. */
final class StockRuntimes {
    private StockRuntimes() {}

    /** Assets that a stock runtime of this flavour runs. */
    static List<String> models(Context context) {
        return Collections.emptyList();
    }

    static Worker.Engine open(String model, Context context) {
        throw new UnsupportedModelException(model + ": this app has no stock runtime");
    }
}
