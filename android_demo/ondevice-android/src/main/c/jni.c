/* jni.c: the native methods of ondevice.ctr.Native and ondevice.ctr.bench.SystemCalls.
 *
 * Errors travel as bytes, status first, because their texts can hold any UTF-8 (names come from
 * files), which NewStringUTF does not take. A handle is the address of a `handle` or an od_session;
 * the Java side never passes one after closing it.
 */
#include "jni_parts.h"

#include "core/model.h"
#include "system.h"

enum { MOST_TENSORS = 1024, ERROR_BYTES = 256 };

static handle *model_of(jlong address) { return (handle *)(uintptr_t)address; }
static od_session *session_of(jlong address) { return (od_session *)(uintptr_t)address; }

static size_t length_of(const char *text) {
  size_t size = 0;
  while (text[size]) size++;
  return size;
}

static jbyteArray bytes_of(JNIEnv *env, const char *text, size_t size) {
  if (size > INT32_MAX) return NULL;
  jbyteArray array = (*env)->NewByteArray(env, (jsize)size);
  if (array) (*env)->SetByteArrayRegion(env, array, 0, (jsize)size, (const jbyte *)text);
  return array;
}

void tell(JNIEnv *env, jbyteArray error, od_status status, const char *text) {
  jbyte first = (jbyte)status;
  jsize size = (jsize)length_of(text) + 1; /* with the final zero */
  if ((*env)->ExceptionCheck(env)) return; /* that is what Java gets */
  (*env)->SetByteArrayRegion(env, error, 0, 1, &first);
  (*env)->SetByteArrayRegion(env, error, 1, size, (const jbyte *)text);
}

int copy_path(JNIEnv *env, jbyteArray path, char *text) {
  jsize size = (*env)->GetArrayLength(env, path);
  if (size > 4095) return 0;
  (*env)->GetByteArrayRegion(env, path, 0, size, (jbyte *)text);
  text[size] = 0;
  return !(*env)->ExceptionCheck(env);
}

jlong open_mapping(JNIEnv *env, int refused, od_mapping *mapping, jbyteArray error) {
  od_error why;
  od_options options = {.allocator = &od_page_allocator, .full_check = -1};
  if (refused) {
    tell(env, error, refused == OD_NO_MEMORY ? OD_E_MEMORY : OD_E_SYSTEM, od_error_text(refused));
    return 0;
  }
  handle *opened = od_page_allocator.allocate(NULL, sizeof *opened);
  if (!opened) {
    od_unmap(mapping);
    tell(env, error, OD_E_MEMORY, "out of memory for the model");
    return 0;
  }
  opened->mapping = *mapping;
  opened->memory = NULL;
  od_status status =
      od_open_memory(mapping->data, mapping->size, &options, &opened->model, &why);
  if (status == OD_OK) {
    opened->model->changed = od_mapping_changed;
    opened->model->source = &opened->mapping;
  }
  if (status == OD_OK && od_mapping_changed(mapping)) {
    od_close(opened->model);
    status = od_fail(&why, OD_E_FORMAT, "the file was changed while it was opened");
  }
  if (status == OD_OK && (od_input_count(opened->model) > MOST_TENSORS ||
                          od_output_count(opened->model) > MOST_TENSORS)) {
    od_close(opened->model);
    status = OD_E_UNSUPPORTED;
    tell(env, error, status, "more than 1024 inputs or outputs");
  } else if (status != OD_OK) {
    tell(env, error, status, why.text);
  }
  if (status == OD_OK) return (jlong)(uintptr_t)opened;
  od_unmap(mapping);
  od_page_allocator.release(NULL, opened);
  return 0;
}

JNIEXPORT jlong JNICALL Java_ondevice_ctr_Native_openPath(JNIEnv *env, jclass cls, jbyteArray path,
                                                          jbyteArray error) {
  char text[4096];
  od_mapping mapping;
  (void)cls;
  if (!copy_path(env, path, text)) {
    tell(env, error, OD_E_SYSTEM, "the path is too long");
    return 0;
  }
  int refused = od_map_path(text, &mapping);
  return open_mapping(env, refused, &mapping, error);
}

JNIEXPORT jlong JNICALL Java_ondevice_ctr_Native_openDescriptor(JNIEnv *env, jclass cls, jint file,
                                                                jlong offset, jlong size,
                                                                jbyteArray error) {
  od_mapping mapping;
  (void)cls;
  int refused = od_map_descriptor(file, offset, size, &mapping);
  return open_mapping(env, refused, &mapping, error);
}

JNIEXPORT void JNICALL Java_ondevice_ctr_Native_close(JNIEnv *env, jclass cls, jlong model) {
  handle *opened = model_of(model);
  (void)env, (void)cls;
  od_close(opened->model);
  od_unmap(&opened->mapping);
  od_page_allocator.release(NULL, opened->memory);
  od_page_allocator.release(NULL, opened);
}

JNIEXPORT jlong JNICALL Java_ondevice_ctr_Native_bytes(JNIEnv *env, jclass cls, jlong model) {
  (void)env, (void)cls;
  return (jlong)model_of(model)->mapping.size;
}

JNIEXPORT jbyteArray JNICALL Java_ondevice_ctr_Native_info(JNIEnv *env, jclass cls, jlong model) {
  size_t size;
  const char *text = od_info(model_of(model)->model, &size);
  (void)cls;
  return bytes_of(env, text, size);
}

JNIEXPORT jbyteArray JNICALL Java_ondevice_ctr_Native_kernels(JNIEnv *env, jclass cls,
                                                              jlong model) {
  const char *name = od_kernels_in_use(model_of(model)->model);
  (void)cls;
  return bytes_of(env, name, length_of(name));
}

JNIEXPORT jint JNICALL Java_ondevice_ctr_Native_count(JNIEnv *env, jclass cls, jlong model,
                                                      jboolean outputs) {
  const od_model *opened = model_of(model)->model;
  (void)env, (void)cls;
  return (jint)(outputs ? od_output_count(opened) : od_input_count(opened));
}

static const od_tensor *tensor_of(jlong model, jboolean output, jint index) {
  const od_model *opened = model_of(model)->model;
  return output ? od_output(opened, (size_t)index) : od_input(opened, (size_t)index);
}

JNIEXPORT jbyteArray JNICALL Java_ondevice_ctr_Native_name(JNIEnv *env, jclass cls, jlong model,
                                                           jboolean output, jint index) {
  const od_tensor *tensor = tensor_of(model, output, index);
  (void)cls;
  return tensor ? bytes_of(env, tensor->name, length_of(tensor->name)) : NULL;
}

/* Elements of one row; 0: there is no such tensor. */
JNIEXPORT jint JNICALL Java_ondevice_ctr_Native_rowSize(JNIEnv *env, jclass cls, jlong model,
                                                        jboolean output, jint index) {
  const od_tensor *tensor = tensor_of(model, output, index);
  (void)env, (void)cls;
  return tensor && tensor->row_size <= INT32_MAX ? (jint)tensor->row_size : 0;
}

JNIEXPORT jlong JNICALL Java_ondevice_ctr_Native_openSession(JNIEnv *env, jclass cls, jlong model,
                                                             jbyteArray error) {
  od_session *session;
  od_error why;
  (void)cls;
  od_status status = od_session_open(model_of(model)->model, &session, &why);
  if (status == OD_OK) return (jlong)(uintptr_t)session;
  tell(env, error, status, why.text);
  return 0;
}

JNIEXPORT void JNICALL Java_ondevice_ctr_Native_closeSession(JNIEnv *env, jclass cls,
                                                             jlong session) {
  (void)env, (void)cls;
  od_session_close(session_of(session));
}

/* Where every input's values are in a buffer: in turn, each at a multiple of 8 bytes, one row of a
 * context input. Returns how many bytes that takes, or one more than `room`. */
static uint64_t find_inputs(const od_model *model, const uint8_t *shared, uint64_t rows,
                            const char *at, uint64_t room, const void **places) {
  uint64_t need = 0;
  for (size_t i = 0; i < od_input_count(model); i++) {
    const od_tensor *input = od_input(model, i);
    uint64_t bytes = (shared[i] ? 1 : rows) * input->row_size * (input->is_float ? 4 : 8);
    places[i] = at + need;
    need += (bytes + 7) / 8 * 8;
    if (need > room) return room + 1;
  }
  return need;
}

/* Likewise every output's scores. */
static uint64_t find_outputs(const od_model *model, uint64_t rows, char *at, uint64_t room,
                             float **places) {
  uint64_t need = 0;
  for (size_t i = 0; i < od_output_count(model); i++) {
    places[i] = (float *)(void *)(at + need);
    need += rows * od_output(model, i)->row_size * 4;
    if (need > room) return room + 1;
  }
  return need;
}

/* Score rows. `values` and `scores` are direct buffers of the session's own, which nobody else
 * changes meanwhile: the values of every input in turn, each at a multiple of 8 bytes, one row for a
 * context input (`context` is null, or has a byte for each input); the scores of every output.
 * Returns a status. */
JNIEXPORT jint JNICALL Java_ondevice_ctr_Native_run(JNIEnv *env, jclass cls, jlong model,
                                                    jlong session, jobject values, jint rows,
                                                    jbyteArray context, jobject scores,
                                                    jbyteArray error) {
  const od_model *opened = model_of(model)->model;
  const char *from = (*env)->GetDirectBufferAddress(env, values);
  char *to = (*env)->GetDirectBufferAddress(env, scores);
  uint64_t room = (uint64_t)(*env)->GetDirectBufferCapacity(env, values);
  uint64_t score_room = (uint64_t)(*env)->GetDirectBufferCapacity(env, scores);
  const void *places[MOST_TENSORS];
  float *results[MOST_TENSORS];
  uint8_t shared[MOST_TENSORS] = {0};
  od_error why;
  (void)cls;
  if (context)
    (*env)->GetByteArrayRegion(env, context, 0, (jsize)od_input_count(opened), (jbyte *)shared);
  if ((*env)->ExceptionCheck(env) || !from || !to) {
    tell(env, error, OD_E_MEMORY, "the buffers cannot be reached");
    return OD_E_MEMORY;
  }
  if (rows < 1 || (uintptr_t)from % 8 || (uintptr_t)to % 4 ||
      find_inputs(opened, shared, (uint64_t)rows, from, room, places) > room ||
      find_outputs(opened, (uint64_t)rows, to, score_room, results) > score_room) {
    tell(env, error, OD_E_INPUT, "the buffers do not fit the request");
    return OD_E_INPUT;
  }
  od_status status = context
                         ? od_rank(session_of(session), places, shared, (size_t)rows, results, &why)
                         : od_run(session_of(session), places, (size_t)rows, results, &why);
  if (status != OD_OK) tell(env, error, status, why.text);
  return (jint)status;
}

JNIEXPORT jlong JNICALL Java_ondevice_ctr_bench_SystemCalls_processTime(JNIEnv *env, jclass cls) {
  (void)env, (void)cls;
  return od_process_time();
}

JNIEXPORT jlong JNICALL Java_ondevice_ctr_bench_SystemCalls_dropPages(JNIEnv *env, jclass cls,
                                                                      jbyteArray path) {
  char text[4096];
  (void)cls;
  return copy_path(env, path, text) ? od_drop_pages(text) : -1;
}
