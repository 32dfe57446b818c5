/* jni_faults.c: linked into the JNI library of x86_64, lets calls for memory and calls into Java fail;
 * calls that change files go through the C library, where support/crash/shim.c records them.
 *
 * The library's system calls come through od_system_call, whose definition in system.c is renamed to
 * od_plain_system_call for this. The functions that its own code calls of the Java machine are
 * replaced for the thread that arms a fault.
 */
#include <jni.h>

#include "system.h"

enum { MMAP = 9, MUNMAP = 11, CLOSE = 3, OPENAT = 257, FCNTL = 72, KILL = 62, GETPID = 39 };
enum { FSYNC = 74, LINKAT = 265, CREATE = 0100 };
enum { FIXED = 0x10, DUPLICATE = 1030, SIGKILL_ = 9 };
enum { MEMORY, JAVA, KILLED, KINDS };

extern __attribute__((visibility("hidden"))) const char __ehdr_start[], _end[]; /* where this library lies */
static const struct JNINativeInterface_ *plain;
static struct JNINativeInterface_ faulty;
static long failing[KINDS], calls[KINDS], held;

long od_plain_system_call(long number, long a, long b, long c, long d, long e, long f);

static int fails(int kind) { return __atomic_add_fetch(&calls[kind], 1, __ATOMIC_SEQ_CST) == failing[kind]; }

/* Of the C library, which the Java machine has loaded; weak, as the linker here knows none. */
#define FROM_LIBRARY __attribute__((weak)) extern
FROM_LIBRARY int openat(int, const char *, int, ...), fsync(int), *__errno_location(void);
FROM_LIBRARY int linkat(int, const char *, int, const char *, int);

static long recorded_call(long number, long a, long b, long c, long d, long e, long f) {
  int result;
  if (number == OPENAT && c & CREATE) result = openat((int)a, (const char *)b, (int)c, (int)d);
  else if (number == FSYNC) result = fsync((int)a);
  else if (number == LINKAT) result = linkat((int)a, (const char *)b, (int)c, (const char *)d, (int)e);
  else return od_plain_system_call(number, a, b, c, d, e, f);
  return result < 0 ? -*__errno_location() : result;
}

static void count(long number, long size, long flags, long command, long result) {
  if ((unsigned long)result >= (unsigned long)-4095) return;
  if (number == MMAP && !(flags & FIXED)) held += size;
  if (number == MUNMAP) held -= size;
  if (number == OPENAT || (number == FCNTL && command == DUPLICATE)) held += 1L << 40;
  if (number == CLOSE) held -= 1L << 40;
}

long od_system_call(long number, long a, long b, long c, long d, long e, long f) {
  if (fails(KILLED))
    od_plain_system_call(KILL, od_plain_system_call(GETPID, 0, 0, 0, 0, 0, 0), SIGKILL_, 0, 0, 0, 0);
  if (number == MMAP && !(d & FIXED) && fails(MEMORY)) return -12;
  long result = recorded_call(number, a, b, c, d, e, f);
  count(number, b, d, b, result);
  return result;
}

static int ours(const void *caller) {
  return (const char *)caller >= __ehdr_start && (const char *)caller < _end;
}

/* Whether the call is the one to fail; an exception is pending then. */
static int thrown(JNIEnv *env, const void *caller) {
  if (!ours(caller) || !fails(JAVA)) return 0;
  (*plain).ThrowNew(env, (*plain).FindClass(env, "java/lang/OutOfMemoryError"), "of a test");
  return 1;
}

static jbyteArray JNICALL new_bytes(JNIEnv *env, jsize size) {
  return thrown(env, __builtin_return_address(0)) ? NULL : plain->NewByteArray(env, size);
}

static void *JNICALL address(JNIEnv *env, jobject buffer) {
  if (ours(__builtin_return_address(0)) && fails(JAVA)) return NULL;
  return plain->GetDirectBufferAddress(env, buffer);
}

static void JNICALL get(JNIEnv *env, jbyteArray array, jsize at, jsize size, jbyte *to) {
  if (!thrown(env, __builtin_return_address(0))) plain->GetByteArrayRegion(env, array, at, size, to);
}

static void JNICALL set(JNIEnv *env, jbyteArray array, jsize at, jsize size, const jbyte *from) {
  if (!thrown(env, __builtin_return_address(0))) plain->SetByteArrayRegion(env, array, at, size, from);
}

static void JNICALL set_longs(JNIEnv *env, jlongArray array, jsize at, jsize size,
                              const jlong *from) {
  if (!thrown(env, __builtin_return_address(0))) plain->SetLongArrayRegion(env, array, at, size, from);
}

JNIEXPORT void JNICALL Java_ondevice_ctr_Faults_arm(JNIEnv *env, jclass cls, jint kind, jlong call) {
  (void)cls;
  if (!plain) {
    plain = *env;
    faulty = **env;
    faulty.NewByteArray = new_bytes;
    faulty.GetDirectBufferAddress = address;
    faulty.GetByteArrayRegion = get;
    faulty.SetByteArrayRegion = set;
    faulty.SetLongArrayRegion = set_longs;
  }
  *env = &faulty; /* of this thread only */
  failing[kind] = call;
  calls[kind] = 0;
}

JNIEXPORT jlong JNICALL Java_ondevice_ctr_Faults_calls(JNIEnv *env, jclass cls, jint kind) {
  (void)env, (void)cls;
  return calls[kind];
}

JNIEXPORT jlong JNICALL Java_ondevice_ctr_Faults_held(JNIEnv *env, jclass cls) {
  (void)env, (void)cls;
  return held;
}
