import java.io.File;
import java.nio.file.Files;
import java.security.MessageDigest;

import ondevice.ctr.ModelDelta;
import ondevice.ctr.ModelFileException;

/** DeltaCheck DELTA OLD ...: applies each delta, prints the SHA-256 of the new file or "refused". */
public final class DeltaCheck {
    public static void main(String[] paths) throws Exception {
        File fresh = File.createTempFile("new", ".odm");
        for (int i = 0; i + 1 < paths.length; i += 2) {
            System.out.println(applied(new File(paths[i]), new File(paths[i + 1]), fresh));
        }
        fresh.delete();
    }

    private static String applied(File delta, File old, File fresh) throws Exception {
        try (ModelDelta opened = new ModelDelta(delta)) {
            opened.apply(old, fresh);
        } catch (ModelFileException error) {
            return fresh.exists() && fresh.length() > 0 ? "left a file behind" : "refused";
        }
        byte[] digest = MessageDigest.getInstance("SHA-256").digest(Files.readAllBytes(fresh.toPath()));
        StringBuilder text = new StringBuilder();
        for (byte item : digest) {
            text.append(String.format("%02x", item));
        }
        fresh.delete();
        return text.toString();
    }
}
