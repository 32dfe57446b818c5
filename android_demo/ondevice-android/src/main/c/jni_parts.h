/* jni_parts.h: what the files with native methods share. */
#ifndef ONDEVICE_JNI_PARTS_H
#define ONDEVICE_JNI_PARTS_H

#include <jni.h>

#include "system.h"

enum { OD_PATH_BYTES = 4096 };

/* Put a status and its text into `error`. */
void od_tell(JNIEnv *env, jbyteArray error, od_status status, const char *text);

/* A text of fewer than OD_PATH_BYTES bytes, zero-terminated; 0 when it is longer. */
int od_copy_text(JNIEnv *env, jbyteArray path, char *text);

/* Open a model in a mapping, which is the model's from then on and is unmapped on an error. `refused`
 * is 0, or the Linux error number of the mapping. Returns a handle, or 0 and fills `error`. */
jlong od_open_mapping(JNIEnv *env, int refused, od_mapping *mapping, jbyteArray error);

#endif
