/* stdio.h: empty, since jni.h includes it without using it, and there is no C library. */
