/* jni_parts.h: what the files with native methods share. */
#ifndef ONDEVICE_JNI_PARTS_H
#define ONDEVICE_JNI_PARTS_H

#include <jni.h>

#include "system.h"

/* What the address of an opened model stands for. */
typedef struct {
  od_model *model;
  od_mapping mapping;
  void *memory; /* of od_page_allocator, where the model lies in a copy; or NULL */
} handle;

/* Put a status and its text into `error`, unless an exception is pending. */
void tell(JNIEnv *env, jbyteArray error, od_status status, const char *text);

/* A path of up to 4095 bytes; 0 when it is longer, or an exception is pending. */
int copy_path(JNIEnv *env, jbyteArray path, char *text);

/* Open a model in a mapping, which is the model's from then on and is unmapped on an error. `refused`
 * is 0, or the Linux error number of the mapping. Returns a handle, or 0 and fills `error`. */
jlong open_mapping(JNIEnv *env, int refused, od_mapping *mapping, jbyteArray error);

#endif
