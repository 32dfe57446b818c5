package ondevice.demo;

import android.content.Context;
import android.os.Build;
import android.os.PowerManager;
import java.util.Collections;
import java.util.List;
import ondevice.ctr.bench.Device;

/** What Android says of the device; calls of newer versions go by reflection. */
final class PhoneDevice extends Device {
    // PowerManager.THERMAL_STATUS_*, from 1 on.
    private static final String[] THERMAL = {"light", "moderate", "severe", "critical",
        "emergency", "shutdown"};

    private final Context context;

    PhoneDevice(Context context) {
        this.context = context;
    }

    @Override
    public String name() {
        return Build.MANUFACTURER + " " + Build.MODEL;
    }

    @Override
    public String system() {
        return "Android " + Build.VERSION.RELEASE;
    }

    /** The chip's name (Android 12 and later), and its cores' part numbers. */
    @Override
    public String processor() {
        try {
            Object maker = Build.class.getField("SOC_MANUFACTURER").get(null);
            Object model = Build.class.getField("SOC_MODEL").get(null);
            return maker + " " + model + ", " + super.processor();
        } catch (ReflectiveOperationException older) {
            return super.processor();
        }
    }

    /** The thermal status (Android 10 and later). */
    @Override
    public List<String> throttled() {
        Object power = context.getSystemService(Context.POWER_SERVICE);
        try {
            int status = (Integer) PowerManager.class.getMethod("getCurrentThermalStatus")
                    .invoke(power);
            return status < 1 || status > THERMAL.length ? Collections.<String>emptyList()
                    : Collections.singletonList("thermal status " + THERMAL[status - 1]);
        } catch (ReflectiveOperationException older) {
            return null;
        }
    }
}
