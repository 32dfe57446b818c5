/* jni_signed.c: the native methods that open signed models; see ondevice_update.h. */
#include "jni_parts.h"

#include "core/limits.h"
#include "ondevice_update.h"

enum { PATH_BYTES = 4096 };

/* The bytes of an array, in pages of their own; NULL: `error` is filled, or an exception pending. */
static char *bytes_in(JNIEnv *env, jbyteArray array, size_t *size, jbyteArray error) {
  jsize count = (*env)->GetArrayLength(env, array);
  *size = (size_t)count;
  if (count > OD_MAX_MANIFEST_BYTES) {
    tell(env, error, OD_E_FORMAT, "a signed document is too large");
    return NULL;
  }
  char *bytes = od_page_allocator.allocate(NULL, (size_t)count + 1);
  if (!bytes) tell(env, error, OD_E_MEMORY, "out of memory for a signed document");
  if (bytes) (*env)->GetByteArrayRegion(env, array, 0, count, (jbyte *)bytes);
  if (bytes && (*env)->ExceptionCheck(env)) {
    od_page_allocator.release(NULL, bytes);
    return NULL;
  }
  return bytes;
}

JNIEXPORT jint JNICALL Java_ondevice_ctr_Native_rootBytes(JNIEnv *env, jclass cls) {
  (void)env, (void)cls;
  return (jint)sizeof(od_root);
}

/* Put a root document, the first or the one after `root`, into `root`. */
JNIEXPORT jint JNICALL Java_ondevice_ctr_Native_readRoot(JNIEnv *env, jclass cls, jbyteArray text,
                                                         jboolean next, jbyteArray root,
                                                         jbyteArray error) {
  size_t size;
  od_root read;
  od_error why;
  char *bytes = bytes_in(env, text, &size, error);
  (void)cls;
  if (!bytes) return OD_E_FORMAT;
  (*env)->GetByteArrayRegion(env, root, 0, sizeof read, (jbyte *)&read);
  if ((*env)->ExceptionCheck(env)) {
    od_page_allocator.release(NULL, bytes);
    return OD_E_FORMAT;
  }
  od_status status = next ? od_root_next(bytes, size, &od_page_allocator, &read, &why)
                          : od_root_first(bytes, size, &od_page_allocator, &read, &why);
  od_page_allocator.release(NULL, bytes);
  if (status == OD_OK)
    (*env)->SetByteArrayRegion(env, root, 0, sizeof read, (const jbyte *)&read);
  else
    tell(env, error, status, why.text);
  return (jint)status;
}

/* Version, expiry, and threshold of the models' role. */
JNIEXPORT void JNICALL Java_ondevice_ctr_Native_rootFacts(JNIEnv *env, jclass cls, jbyteArray root,
                                                          jlongArray facts) {
  od_root read;
  (void)cls;
  (*env)->GetByteArrayRegion(env, root, 0, sizeof read, (jbyte *)&read);
  if ((*env)->ExceptionCheck(env)) return;
  const jlong values[3] = {(jlong)read.version, (jlong)read.expires,
                           (jlong)read.models.threshold};
  (*env)->SetLongArrayRegion(env, facts, 0, 3, values);
}

/* The keys of the models' role, 32 bytes each. */
JNIEXPORT jbyteArray JNICALL Java_ondevice_ctr_Native_rootKeys(JNIEnv *env, jclass cls,
                                                               jbyteArray root) {
  od_root read;
  (void)cls;
  (*env)->GetByteArrayRegion(env, root, 0, sizeof read, (jbyte *)&read);
  if ((*env)->ExceptionCheck(env)) return NULL;
  jsize size = (jsize)(32 * read.models.count);
  jbyteArray keys = (*env)->NewByteArray(env, size);
  if (keys)
    (*env)->SetByteArrayRegion(env, keys, 0, size, (const jbyte *)read.models.keys);
  return keys;
}

/* Read a manifest that the signers signed; NULL: `error` is filled. */
static od_manifest *manifest_in(JNIEnv *env, jbyteArray text, const od_signers *signers,
                                const od_seen *seen, int64_t now, jbyteArray error) {
  size_t size;
  od_error why;
  od_manifest *manifest;
  char *bytes = bytes_in(env, text, &size, error);
  if (!bytes) return NULL;
  od_status status = od_manifest_open(bytes, size, signers, seen, now, &od_page_allocator,
                                      &manifest, &why);
  od_page_allocator.release(NULL, bytes);
  if (status != OD_OK) tell(env, error, status, why.text);
  return manifest;
}

/* A copy of a file in memory of the process, if it is as the manifest says; NULL: `error` is filled.
 * The mapping is given back, and then has the copy as its data. */
static void *checked_copy(JNIEnv *env, const od_manifest *manifest, const char *name,
                          od_mapping *mapping, jbyteArray error) {
  od_error why;
  size_t size = mapping->size;
  void *copy = NULL;
  if (od_manifest_find(manifest, name)->length != size)
    tell(env, error, OD_E_FORMAT, "has another length than its manifest says");
  else if (!(copy = od_page_allocator.allocate(NULL, size)))
    tell(env, error, OD_E_MEMORY, "out of memory for the model");
  else
    __builtin_memcpy(copy, mapping->data, size);
  od_unmap(mapping);
  if (copy && od_manifest_check(manifest, name, copy, size, &why) != OD_OK) {
    tell(env, error, why.status, why.text);
    od_page_allocator.release(NULL, copy);
    copy = NULL;
  }
  mapping->data = copy;
  return copy;
}

/* Copy the file of a manifest and open the copy, if it is as signed. */
static jlong open_listed(JNIEnv *env, const od_manifest *manifest, const char *name,
                         const char *path, jbyteArray error) {
  od_mapping mapping;
  if (!od_manifest_find(manifest, name)) {
    tell(env, error, OD_E_UNTRUSTED, "the signed manifest does not list it");
    return 0;
  }
  int refused = od_map_path(path, &mapping);
  if (refused) return open_mapping(env, refused, &mapping, error);
  void *copy = checked_copy(env, manifest, name, &mapping, error);
  jlong opened = copy ? open_mapping(env, 0, &mapping, error) : 0;
  if (opened)
    ((handle *)(uintptr_t)opened)->memory = copy;
  else
    od_page_allocator.release(NULL, copy);
  return opened;
}

/* Open the file `name` at `path`, if the manifest lists it and enough of the keys (32 bytes each)
 * signed the manifest, whose version is put into `version`. */
JNIEXPORT jlong JNICALL Java_ondevice_ctr_Native_openSigned(JNIEnv *env, jclass cls,
                                                            jbyteArray path, jbyteArray name,
                                                            jbyteArray text, jbyteArray keys,
                                                            jint threshold, jlong now,
                                                            jlongArray version, jbyteArray digest,
                                                            jbyteArray error) {
  char where[PATH_BYTES], file[PATH_BYTES];
  od_signers signers;
  jsize size = (*env)->GetArrayLength(env, keys);
  (void)cls;
  if (!copy_path(env, path, where) || !copy_path(env, name, file)) {
    tell(env, error, OD_E_SYSTEM, "the path is too long");
    return 0;
  }
  if (size > (jsize)sizeof signers.keys) {
    tell(env, error, OD_E_INPUT, "more than 16 keys");
    return 0;
  }
  signers.count = (uint32_t)size / 32;
  signers.threshold = (uint32_t)threshold;
  (*env)->GetByteArrayRegion(env, keys, 0, size, (jbyte *)signers.keys);
  od_seen seen = {.version = 0};
  jbyte known[1 + sizeof seen.sha256];
  jlong number;
  if ((*env)->ExceptionCheck(env)) return 0;
  (*env)->GetLongArrayRegion(env, version, 0, 1, &number);
  if ((*env)->ExceptionCheck(env)) return 0;
  (*env)->GetByteArrayRegion(env, digest, 0, sizeof known, known);
  if ((*env)->ExceptionCheck(env)) return 0;
  seen.version = (uint64_t)number;
  seen.has_sha256 = known[0];
  __builtin_memcpy(seen.sha256, known + 1, sizeof seen.sha256);
  od_manifest *manifest = manifest_in(env, text, &signers, &seen, now, error);
  if (!manifest) return 0;
  seen = od_manifest_seen(manifest);
  number = (jlong)seen.version;
  known[0] = 1;
  __builtin_memcpy(known + 1, seen.sha256, sizeof seen.sha256);
  (*env)->SetLongArrayRegion(env, version, 0, 1, &number);
  if (!(*env)->ExceptionCheck(env))
    (*env)->SetByteArrayRegion(env, digest, 0, sizeof known, known);
  jlong opened =
      (*env)->ExceptionCheck(env) ? 0 : open_listed(env, manifest, file, where, error);
  od_manifest_close(manifest);
  return opened;
}
