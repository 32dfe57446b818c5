package ondevice.ctr;

import java.io.File;

/** Verifies the model file of its argument in a process of its own, and prints what it found. */
final class VerifyFile {
    private VerifyFile() {}

    public static void main(String[] arguments) {
        OnDeviceModel model = OnDeviceModel.open(new File(arguments[0]));
        Verification found = model.verify();
        model.close();
        System.out.println(found.passed() + " " + found.maxDifference + " "
                + found.rankDifference);
    }
}
