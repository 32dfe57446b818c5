/* jni_files.c: the native methods of ondevice.ctr.SystemFiles. Each returns what files.h says. */
#include "jni_parts.h"

#include "files.h"

enum { PATH_BYTES = 4096, TOO_LONG = -36 };

JNIEXPORT jint JNICALL Java_ondevice_ctr_SystemFiles_lock(JNIEnv *env, jclass cls, jbyteArray path,
                                                          jboolean create, jboolean wait) {
  char text[PATH_BYTES];
  (void)cls;
  return copy_path(env, path, text) ? od_lock(text, create, wait) : TOO_LONG;
}

JNIEXPORT void JNICALL Java_ondevice_ctr_SystemFiles_unlock(JNIEnv *env, jclass cls, jint lock) {
  (void)env, (void)cls;
  od_unlock(lock);
}

JNIEXPORT jint JNICALL Java_ondevice_ctr_SystemFiles_isLocked(JNIEnv *env, jclass cls, jint lock,
                                                              jbyteArray path) {
  char text[PATH_BYTES];
  (void)cls;
  return copy_path(env, path, text) ? od_is_locked(lock, text) : TOO_LONG;
}

JNIEXPORT jint JNICALL Java_ondevice_ctr_SystemFiles_sync(JNIEnv *env, jclass cls,
                                                          jbyteArray path) {
  char text[PATH_BYTES];
  (void)cls;
  return copy_path(env, path, text) ? od_sync(text) : TOO_LONG;
}

JNIEXPORT jint JNICALL Java_ondevice_ctr_SystemFiles_link(JNIEnv *env, jclass cls, jbyteArray file,
                                                          jbyteArray second) {
  char first[PATH_BYTES], text[PATH_BYTES];
  (void)cls;
  if (!copy_path(env, file, first) || !copy_path(env, second, text)) return TOO_LONG;
  return od_link(first, text);
}

JNIEXPORT jint JNICALL Java_ondevice_ctr_SystemFiles_stamp(JNIEnv *env, jclass cls,
                                                           jbyteArray path, jlongArray stamp) {
  char text[PATH_BYTES];
  int64_t values[5];
  (void)cls;
  if (!copy_path(env, path, text)) return TOO_LONG;
  int result = od_stamp(text, values);
  if (!result) (*env)->SetLongArrayRegion(env, stamp, 0, 5, (const jlong *)values);
  return result;
}

JNIEXPORT jint JNICALL Java_ondevice_ctr_SystemFiles_copyPermissions(JNIEnv *env, jclass cls,
                                                                     jbyteArray from,
                                                                     jbyteArray to) {
  char first[PATH_BYTES], text[PATH_BYTES];
  (void)cls;
  if (!copy_path(env, from, first) || !copy_path(env, to, text)) return TOO_LONG;
  return od_copy_permissions(first, text);
}

JNIEXPORT jint JNICALL Java_ondevice_ctr_SystemFiles_isOwnFolder(JNIEnv *env, jclass cls,
                                                                 jbyteArray path,
                                                                 jbyteArray parent) {
  char first[PATH_BYTES], text[PATH_BYTES];
  (void)cls;
  if (!copy_path(env, path, first) || !copy_path(env, parent, text)) return TOO_LONG;
  return od_is_own_folder(first, text);
}
