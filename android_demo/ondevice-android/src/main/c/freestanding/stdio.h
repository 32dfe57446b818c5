/* stdio.h: empty. jni.h includes it without using it, and this library has no C library. */
