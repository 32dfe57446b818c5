package ondevice.demo;

import android.app.Activity;
import android.app.AlertDialog;
import android.app.Dialog;
import android.app.DialogFragment;
import android.os.Bundle;

/** A title and a text, with a button to close them; a fragment, so that it survives rotation. */
public final class TextDialog extends DialogFragment {
    private static final String TITLE = "title";
    private static final String TEXT = "text";

    static void show(Activity activity, String title, String text) {
        Bundle content = new Bundle();
        content.putString(TITLE, title);
        content.putString(TEXT, text);
        TextDialog dialog = new TextDialog();
        dialog.setArguments(content);
        // an answer may come when the screen has just gone to the background: then it may be lost
        activity.getFragmentManager().beginTransaction().add(dialog, TEXT)
                .commitAllowingStateLoss();
    }

    @Override
    public Dialog onCreateDialog(Bundle state) {
        return new AlertDialog.Builder(getActivity())
                .setTitle(getArguments().getString(TITLE))
                .setMessage(getArguments().getString(TEXT))
                .setPositiveButton(R.string.close, null)
                .create();
    }
}
