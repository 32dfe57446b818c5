package ondevice.demo;

import android.content.Context;
import android.text.BidiFormatter;
import android.view.LayoutInflater;
import android.view.View;
import android.view.ViewGroup;
import android.widget.BaseAdapter;
import android.widget.ProgressBar;
import android.widget.TextView;
import java.text.NumberFormat;

/** The rows of a ranking: place, title, score as a bar and as a number. */
final class ItemAdapter extends BaseAdapter {
    private final Context context;
    private final Catalogue catalogue;
    private final NumberFormat percent = NumberFormat.getPercentInstance();
    private Ranking ranking; // null: nothing to show yet

    ItemAdapter(Context context, Catalogue catalogue) {
        this.context = context;
        this.catalogue = catalogue;
        percent.setMinimumFractionDigits(1);
        percent.setMaximumFractionDigits(1);
    }

    void show(Ranking fresh) {
        ranking = fresh;
        notifyDataSetChanged();
    }

    @Override
    public int getCount() {
        return ranking == null ? 0 : ranking.order.length;
    }

    @Override
    public Object getItem(int position) {
        return ranking.order[position];
    }

    @Override
    public long getItemId(int position) {
        return ranking.order[position];
    }

    @Override
    public boolean hasStableIds() {
        return true;
    }

    String title(int position) {
        return catalogue.items.get(ranking.order[position]);
    }

    /** The raw values that the model was given, and the score in full. */
    String details(int position) {
        int item = ranking.order[position];
        return catalogue.itemText(item) + "\n"
                + context.getString(R.string.exact_score, String.valueOf(ranking.scores[item]));
    }

    @Override
    public View getView(int position, View old, ViewGroup parent) {
        View row = old != null ? old
                : LayoutInflater.from(context).inflate(R.layout.item, parent, false);
        int item = ranking.order[position];
        String place = NumberFormat.getIntegerInstance().format(position + 1);
        String title = BidiFormatter.getInstance().unicodeWrap(catalogue.items.get(item));
        String score = percent.format(ranking.scores[item]);
        ((TextView) row.findViewById(R.id.rank)).setText(place);
        ((TextView) row.findViewById(R.id.title)).setText(title);
        ((TextView) row.findViewById(R.id.score)).setText(score);
        ((ProgressBar) row.findViewById(R.id.bar))
                .setProgress(Math.round(1000 * ranking.scores[item]));
        // what TalkBack says of the row; its parts are silent
        row.setContentDescription(context.getString(R.string.rank_and_score, place, title, score));
        return row;
    }
}
