/* fake_jvm.c: calls libondevice.so as a Java virtual machine would, for tests under emulation.
 *
 *   fake_jvm LIBRARY MODEL OFFSET SIZE ROWS CONTEXT IDS SCORES
 *
 * Opens SIZE bytes of the file MODEL from OFFSET on, runs one request (CONTEXT: a digit for every
 * input, 1 where it is context, or "-") on the int64 IDs in the file IDS, writes the float32 scores,
 * and prints the kernels in use. Arrays are made here; what the library does not need is missing,
 * and would crash.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <jni.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct {
  jsize size;
  char data[8192];
} array;

typedef struct {
  void *address;
  jlong capacity;
} buffer;

static jbyteArray new_array(JNIEnv *env, jsize size) {
  (void)env;
  array *made = calloc(1, sizeof *made);
  if (!made || size > (jsize)sizeof made->data) abort();
  made->size = size;
  return (jbyteArray)made;
}

static jsize length(JNIEnv *env, jarray object) {
  (void)env;
  return ((array *)object)->size;
}

static void get_region(JNIEnv *env, jbyteArray object, jsize start, jsize size, jbyte *to) {
  array *a = (array *)object;
  (void)env;
  if (start < 0 || size < 0 || start + size > a->size) abort();
  memcpy(to, a->data + start, (size_t)size);
}

static void set_region(JNIEnv *env, jbyteArray object, jsize start, jsize size,
                       const jbyte *from) {
  array *a = (array *)object;
  (void)env;
  if (start < 0 || size < 0 || start + size > a->size) abort();
  memcpy(a->data + start, from, (size_t)size);
}

static void *address(JNIEnv *env, jobject object) {
  (void)env;
  return ((buffer *)object)->address;
}

static jlong capacity(JNIEnv *env, jobject object) {
  (void)env;
  return ((buffer *)object)->capacity;
}

static void *library;

static void *method(const char *name) {
  char symbol[100];
  snprintf(symbol, sizeof symbol, "Java_ondevice_ctr_%s", name);
  void *found = dlsym(library, symbol);
  if (!found) {
    fprintf(stderr, "%s is missing\n", symbol);
    exit(3);
  }
  return found;
}

#define METHOD(type, name, ...) ((type (*)(JNIEnv *, jclass, __VA_ARGS__))method("Native_" #name))
#define NEW(size) new_array(NULL, size)

static int failed(jbyteArray error) {
  array *text = (array *)error;
  fprintf(stderr, "status %d: %s\n", text->data[0], text->data + 1);
  return 1;
}

static jboolean no_exception(JNIEnv *env) {
  (void)env;
  return JNI_FALSE;
}

int main(int count, char **words) {
  static const struct JNINativeInterface_ table = {
      .NewByteArray = new_array,
      .GetArrayLength = length,
      .GetByteArrayRegion = get_region,
      .SetByteArrayRegion = set_region,
      .GetDirectBufferAddress = address,
      .GetDirectBufferCapacity = capacity,
      .ExceptionCheck = no_exception,
  };
  JNIEnv functions = &table, *env = &functions;
  if (count != 9) return 2;
  library = dlopen(words[1], RTLD_NOW | RTLD_LOCAL);
  if (!library) {
    fprintf(stderr, "%s\n", dlerror());
    return 3;
  }
  jbyteArray error = NEW(256);
  int file = open(words[2], O_RDONLY);
  jlong offset = atoll(words[3]), size = atoll(words[4]);
  jlong model = METHOD(jlong, openDescriptor, jint, jlong, jlong, jbyteArray)(
      env, NULL, file, offset, size, error);
  if (!model) return failed(error);
  if (METHOD(jlong, bytes, jlong)(env, NULL, model) != size) return 4;
  jlong session = METHOD(jlong, openSession, jlong, jbyteArray)(env, NULL, model, error);
  if (!session) return failed(error);
  jint rows = atoi(words[5]);
  jint row = METHOD(jint, rowSize, jlong, jboolean, jint)(env, NULL, model, 1, 0);
  jbyteArray context = NULL;
  if (strcmp(words[6], "-")) {
    context = NEW((jsize)strlen(words[6]));
    for (size_t i = 0; words[6][i]; i++) ((array *)context)->data[i] = words[6][i] == '1';
  }
  FILE *ids = fopen(words[7], "rb");
  fseek(ids, 0, SEEK_END);
  jlong id_bytes = ftell(ids), score_bytes = (jlong)rows * row * 4;
  buffer from = {malloc((size_t)id_bytes), id_bytes}, to = {malloc((size_t)score_bytes), score_bytes};
  rewind(ids);
  if (fread(from.address, 1, (size_t)id_bytes, ids) != (size_t)id_bytes) return 4;
  jint (*run)(JNIEnv *, jclass, jlong, jlong, jobject, jint, jbyteArray, jobject, jbyteArray) =
      method("Native_run");
  buffer small = {from.address, id_bytes - 8};
  if (run(env, NULL, model, session, (jobject)&small, rows, context, (jobject)&to, error) != 1)
    return 5; /* a buffer that is too small must be refused */
  if (run(env, NULL, model, session, (jobject)&from, rows, context, (jobject)&to, error))
    return failed(error);
  FILE *scores = fopen(words[8], "wb");
  fwrite(to.address, 1, (size_t)score_bytes, scores);
  fclose(scores);
  array *kernels = (array *)METHOD(jbyteArray, kernels, jlong)(env, NULL, model);
  printf("%.*s\n", (int)kernels->size, kernels->data);
  METHOD(void, closeSession, jlong)(env, NULL, session);
  METHOD(void, close, jlong)(env, NULL, model);
  /* times and pages, as the benchmark asks for them */
  jlong (*time)(JNIEnv *, jclass) = method("bench_SystemCalls_processTime");
  jlong (*drop)(JNIEnv *, jclass, jbyteArray) = method("bench_SystemCalls_dropPages");
  array *path = (array *)NEW((jsize)strlen(words[2]));
  memcpy(path->data, words[2], (size_t)path->size);
  return time(env, NULL) > 0 && drop(env, NULL, (jbyteArray)path) >= 0 ? 0 : 6;
}
