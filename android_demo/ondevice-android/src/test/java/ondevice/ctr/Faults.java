package ondevice.ctr;

/** Makes calls of a library that tests/android/jni_faults.c is linked into fail. */
final class Faults {
    /** Calls for memory of the system. */
    static final int MEMORY = 0;
    /** Calls of the library into the Java machine that may fail. */
    static final int JAVA = 1;
    /** All system calls of the library; the process is killed. */
    static final int KILL = 2;

    private Faults() {}

    /** Let call number {@code call} of a kind fail, counted from now on in this thread; 0: none. */
    static native void arm(int kind, long call);

    /** How many calls of a kind there were since. */
    static native long calls(int kind);

    /** Bytes of memory that the library has from the system, and 2^40 for every open file. */
    static native long held();
}
