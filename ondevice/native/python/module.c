/* module.c: the Python binding (stable ABI, Python 3.11 and later).
 *
 * A request of 26 inputs through the buffer protocol would cost 26 x 0.1 us, half of what the
 * model itself takes. NumPy arrays are therefore read directly, by the layout that NumPy's C API
 * has kept since 1.7; at import that layout is compared with what a real array says of itself,
 * and where it differs the buffer protocol is used.
 */
#include "python/binding.h"

#include "core/base.h"
#include "core/limits.h"
#include "ondevice.h"
#include "platform/clock.h"

#include <string.h>

OD_FOR_SIZE

typedef struct {
  PyObject ob_base;
  char *data;
  int nd;
  Py_ssize_t *dimensions;
  Py_ssize_t *strides;
  PyObject *base;
  PyObject *descr;
  int flags;
  PyObject *weak_references;
} array_layout;

enum { C_CONTIGUOUS = 1, OWNS_DATA = 4, ALIGNED = 0x100, WRITEABLE = 0x400 };
enum { FRESH = C_CONTIGUOUS | OWNS_DATA | ALIGNED | WRITEABLE }; /* as numpy.empty makes them */
enum { RELEASE_ROWS = 16, SHARED_ROWS = 2 * OD_POOL_ROWS, MOST_KEPT_ROWS = 256 };

static struct {
  PyObject *ndarray, *int64, *uint64, *float32, *empty;
  PyObject *input_error, *format_error, *unsupported_error, *lock_error;
  int direct; /* the layout above is right */
} numpy;

typedef struct {
  PyObject ob_base;
  od_model *model;
  od_session **idle; /* sessions that no call is using; guarded by the interpreter lock */
  size_t idle_count, idle_room;
  size_t threads;
  od_pool *pool; /* of several threads, or NULL */
  int pool_busy; /* guarded by the interpreter lock */
  PyObject **names; /* input names */
  size_t inputs;
  PyObject *results[2]; /* arrays that `predict` and `rank` returned last, or NULL */
  PyObject *source; /* the Model or the bytes whose memory this one uses, or NULL */
} Model;

static PyObject *raise(const od_error *error) {
  PyObject *type = numpy.format_error;
  if (error->status == OD_E_INPUT) type = numpy.input_error;
  else if (error->status == OD_E_UNSUPPORTED) type = numpy.unsupported_error;
  else if (error->status == OD_E_LOCK) type = numpy.lock_error;
  else if (error->status == OD_E_MEMORY) type = PyExc_MemoryError;
  PyObject *text = PyUnicode_DecodeUTF8(error->text, (Py_ssize_t)strlen(error->text), "replace");
  if (text) {
    PyErr_SetObject(type, text);
    Py_DECREF(text);
  }
  return NULL;
}

static od_session *take_session(Model *self, od_error *error) {
  od_session *session;
  if (self->idle_count) return self->idle[--self->idle_count];
  return od_session_open(self->model, &session, error) == OD_OK ? session : NULL;
}

static void give_session(Model *self, od_session *session) {
  if (self->idle_count == self->idle_room) {
    size_t room = self->idle_room * 2 + 4;
    od_session **idle = PyMem_Realloc(self->idle, room * sizeof *idle);
    if (!idle) {
      od_session_close(session);
      return;
    }
    self->idle = idle;
    self->idle_room = room;
  }
  self->idle[self->idle_count++] = session;
}

/* The values of an input and its number of rows; 0 if it is not a plain array of its type. */
static int plain_values(PyObject *value, const od_tensor *tensor, const void **values,
                        Py_ssize_t *rows) {
  const array_layout *array = (const array_layout *)(void *)value;
  if ((PyObject *)Py_TYPE(value) != numpy.ndarray || !numpy.direct) return 0;
  if (tensor->is_float ? array->descr != numpy.float32
                       : array->descr != numpy.int64 && array->descr != numpy.uint64)
    return 0;
  if ((array->flags & (C_CONTIGUOUS | ALIGNED)) != (C_CONTIGUOUS | ALIGNED) ||
      (uint32_t)array->nd != tensor->rank)
    return 0;
  for (uint32_t i = 1; i < tensor->rank; i++)
    if (array->dimensions[i] != (Py_ssize_t)tensor->dims[i]) return 0;
  *values = array->data;
  *rows = array->dimensions[0];
  return *rows > 0;
}

/* An array that was returned before and that nobody else has any more, or NULL. To make an array
 * takes a third of a small request that comes after a pause (docs/evidence/gaps.md). A caller who writes
 * `p = model.predict(...)` in a loop still has the last one, so there are two. */
static PyObject *returned_array(Model *self, Py_ssize_t rows, float **data) {
  for (size_t i = 0; i < sizeof self->results / sizeof *self->results; i++) {
    const array_layout *array = (const array_layout *)(void *)self->results[i];
    if (!array || Py_REFCNT((PyObject *)(uintptr_t)array) != 1 || array->nd != 1 ||
        array->dimensions[0] != rows || array->descr != numpy.float32 || array->base ||
        array->weak_references || (array->flags & FRESH) != FRESH)
      continue;
    Py_INCREF(self->results[i]);
    *data = (float *)(void *)array->data;
    return self->results[i];
  }
  return NULL;
}

/* Remember an array for `returned_array`, in the place of one that somebody else has. */
static void remember(Model *self, PyObject *array, Py_ssize_t rows) {
  if (!numpy.direct || rows > MOST_KEPT_ROWS || array == self->results[0] ||
      array == self->results[1])
    return;
  PyObject *oldest = self->results[1];
  self->results[1] = self->results[0];
  Py_INCREF(array);
  self->results[0] = array;
  Py_XDECREF(oldest);
}

static PyObject *new_array(Model *self, size_t output, Py_ssize_t rows, float **data) {
  const od_tensor *tensor = od_output(self->model, output);
  PyObject *array, *shape;
  if (tensor->rank == 1) {
    shape = PyLong_FromSsize_t(rows);
  } else {
    shape = PyTuple_New((Py_ssize_t)tensor->rank);
    if (!shape) return NULL;
    for (uint32_t i = 0; i < tensor->rank; i++)
      if (PyTuple_SetItem(shape, (Py_ssize_t)i,
                          PyLong_FromSsize_t(i ? (Py_ssize_t)tensor->dims[i] : rows)) < 0) {
        Py_DECREF(shape);
        return NULL;
      }
  }
  if (!shape) return NULL;
  array = PyObject_CallFunctionObjArgs(numpy.empty, shape, numpy.float32, NULL);
  Py_DECREF(shape);
  if (!array) return NULL;
  if (numpy.direct) {
    *data = (float *)(void *)((array_layout *)(void *)array)->data;
    return array;
  }
  Py_buffer view;
  if (PyObject_GetBuffer(array, &view, PyBUF_WRITABLE) < 0) {
    Py_DECREF(array);
    return NULL;
  }
  *data = view.buf; /* stays: nothing else knows the array */
  PyBuffer_Release(&view);
  return array;
}

/* Score by the pool if it is there and free, else by a session; a profile needs a session. */
static od_status score(Model *self, const void *const *ids, const uint8_t *context, size_t rows,
                       float *const *outputs, od_profile *profile, od_error *error) {
  od_status status;
  if (self->threads > 1 && !self->pool_busy && !profile && rows >= SHARED_ROWS) {
    if (!self->pool) { /* at the first request that needs it: a model may never get one */
      status = od_pool_open(self->model, self->threads, &self->pool, error);
      if (status != OD_OK) return status;
    }
    self->pool_busy = 1;
    Py_BEGIN_ALLOW_THREADS;
    status = od_pool_run(self->pool, ids, context, rows, outputs, error);
    Py_END_ALLOW_THREADS;
    self->pool_busy = 0;
    return status;
  }
  od_session *session = take_session(self, error);
  if (!session) return error->status;
  if (profile) od_session_profile(session, profile);
  if (rows >= RELEASE_ROWS) {
    Py_BEGIN_ALLOW_THREADS;
    status = context ? od_rank(session, ids, context, rows, outputs, error)
                     : od_run(session, ids, rows, outputs, error);
    Py_END_ALLOW_THREADS;
  } else { /* a few microseconds: releasing the lock costs more */
    status = context ? od_rank(session, ids, context, rows, outputs, error)
                     : od_run(session, ids, rows, outputs, error);
  }
  if (profile) od_session_profile(session, NULL);
  give_session(self, session);
  return status;
}

/* Run with `arrays` (borrowed) kept alive by the caller. `context` NULL: a plain request;
 * `profile` NULL: nothing is timed. */
static PyObject *run(Model *self, const void *const *ids, const uint8_t *context,
                     Py_ssize_t rows, int all, od_profile *profile) {
  float *outputs[OD_MAX_INPUTS]; /* NULL: not asked for */
  size_t count = od_output_count(self->model);
  PyObject *result = NULL, *arrays[OD_MAX_INPUTS];
  od_error error;
  od_status status;
  for (size_t i = 0; i < count; i++) outputs[i] = NULL;
  if (!all) count = 1;
  int vector = !all && od_output(self->model, 0)->rank == 1;
  for (size_t i = 0; i < count; i++) {
    arrays[i] = vector ? returned_array(self, rows, &outputs[i]) : NULL;
    if (!arrays[i]) arrays[i] = new_array(self, i, rows, &outputs[i]);
    if (!arrays[i]) {
      while (i--) Py_DECREF(arrays[i]);
      return NULL;
    }
  }
  status = score(self, ids, context, (size_t)rows, outputs, profile, &error);
  if (status != OD_OK) {
    raise(&error);
  } else if (!all) {
    result = arrays[0];
    Py_INCREF(result);
    if (vector) remember(self, result, rows);
  } else {
    result = PyTuple_New((Py_ssize_t)count);
    for (size_t i = 0; result && i < count; i++) {
      Py_INCREF(arrays[i]);
      PyTuple_SetItem(result, (Py_ssize_t)i, arrays[i]);
    }
  }
  for (size_t i = 0; i < count; i++) Py_DECREF(arrays[i]);
  return result;
}

/* predict(mapping): the first output, or None where the request is not plain: then the caller
 * checks and converts it, and says what is wrong with it. */
static PyObject *predict(PyObject *object, PyObject *mapping) {
  Model *self = (Model *)(void *)object;
  const void *ids[OD_MAX_INPUTS];
  PyObject *held[OD_MAX_INPUTS];
  Py_ssize_t rows = 0, value_rows;
  size_t count = 0;
  PyObject *result = NULL;
  if (!PyDict_CheckExact(mapping) || (size_t)PyDict_Size(mapping) != self->inputs) Py_RETURN_NONE;
  for (; count < self->inputs; count++) {
    PyObject *value = PyDict_GetItemWithError(mapping, self->names[count]);
    if (!value || !plain_values(value, od_input(self->model, count), &ids[count], &value_rows) ||
        (rows && value_rows != rows))
      break;
    rows = value_rows;
    held[count] = value;
    Py_INCREF(value); /* another thread may change the mapping meanwhile */
  }
  if (count == self->inputs) {
    result = run(self, ids, NULL, rows, 0, NULL);
  } else if (!PyErr_Occurred()) {
    result = Py_None;
    Py_INCREF(result);
  }
  while (count--) Py_DECREF(held[count]);
  return result;
}

/* rank(context, candidates): likewise. */
static PyObject *rank(PyObject *object, PyObject *const *arguments, Py_ssize_t argument_count) {
  Model *self = (Model *)(void *)object;
  const void *ids[OD_MAX_INPUTS];
  uint8_t context[OD_MAX_INPUTS];
  PyObject *held[OD_MAX_INPUTS], *result = NULL;
  Py_ssize_t rows = 0, value_rows;
  size_t count = 0;
  if (argument_count != 2) {
    PyErr_SetString(PyExc_TypeError, "rank takes context and candidates");
    return NULL;
  }
  if (!PyDict_CheckExact(arguments[0]) || !PyDict_CheckExact(arguments[1]) ||
      PyDict_Size(arguments[1]) == 0 ||
      (size_t)(PyDict_Size(arguments[0]) + PyDict_Size(arguments[1])) != self->inputs)
    Py_RETURN_NONE;
  for (; count < self->inputs; count++) {
    PyObject *value = PyDict_GetItemWithError(arguments[0], self->names[count]);
    context[count] = value != NULL;
    if (!value) value = PyDict_GetItemWithError(arguments[1], self->names[count]);
    if (!value || !plain_values(value, od_input(self->model, count), &ids[count], &value_rows))
      break;
    if (context[count] ? value_rows != 1 : rows && value_rows != rows) break;
    if (!context[count]) rows = value_rows;
    held[count] = value;
    Py_INCREF(value);
  }
  if (count == self->inputs && rows) {
    result = run(self, ids, context, rows, 0, NULL);
  } else if (!PyErr_Occurred()) {
    result = Py_None;
    Py_INCREF(result);
  }
  while (count--) Py_DECREF(held[count]);
  return result;
}

/* run(arrays, context): outputs for checked arrays in the order of the inputs, through the
 * buffer protocol; `context` is bytes with 1 for each context input, or None. */
static PyObject *with_checked(Model *self, PyObject *const *arguments, Py_ssize_t argument_count,
                              od_profile *profile) {
  const void *ids[OD_MAX_INPUTS];
  Py_ssize_t rows = 0;
  char *context = NULL;
  PyObject *result = NULL;
  if (argument_count != 2 || !PyTuple_Check(arguments[0]) ||
      (size_t)PyTuple_Size(arguments[0]) != self->inputs) {
    PyErr_SetString(PyExc_TypeError, "run takes a tuple with an array for every input");
    return NULL;
  }
  if (arguments[1] != Py_None) {
    Py_ssize_t size;
    if (PyBytes_AsStringAndSize(arguments[1], &context, &size) < 0) return NULL;
    if ((size_t)size != self->inputs) {
      PyErr_SetString(PyExc_ValueError, "context needs a byte for every input");
      return NULL;
    }
  }
  Py_buffer *views = PyMem_Calloc(self->inputs + 1, sizeof *views);
  size_t count = 0;
  if (!views) return PyErr_NoMemory();
  for (; count < self->inputs; count++) {
    const od_tensor *tensor = od_input(self->model, count);
    if (PyObject_GetBuffer(PyTuple_GetItem(arguments[0], (Py_ssize_t)count), &views[count],
                           PyBUF_C_CONTIGUOUS) < 0)
      break;
    Py_ssize_t item = tensor->is_float ? 4 : 8, row_bytes = (Py_ssize_t)tensor->row_size * item;
    Py_ssize_t array_rows = views[count].len / row_bytes;
    int shared = context && context[count];
    ids[count] = views[count].buf;
    if (views[count].itemsize != item || views[count].len % row_bytes || array_rows < 1 ||
        (uintptr_t)views[count].buf % (size_t)item ||
        (shared ? array_rows != 1 : rows && array_rows != rows)) {
      PyErr_SetString(PyExc_ValueError, "arrays must be int64 or float32 as the input is, aligned, with equal rows");
      count++;
      break;
    }
    if (!shared) rows = array_rows;
  }
  if (!PyErr_Occurred()) {
    if (rows)
      result = run(self, ids, (const uint8_t *)context, rows, 1, profile);
    else
      PyErr_SetString(PyExc_ValueError, "no input with candidates");
  }
  while (count--) PyBuffer_Release(&views[count]);
  PyMem_Free(views);
  return result;
}

static PyObject *run_checked(PyObject *object, PyObject *const *arguments,
                             Py_ssize_t argument_count) {
  return with_checked((Model *)(void *)object, arguments, argument_count, NULL);
}

static PyObject *operator_list(const od_profile *profile, size_t size) {
  PyObject *list = PyList_New(0);
  for (size_t i = 0; list && i < size; i++) {
    const od_operator *o = &profile->operators[i];
    if (!o->bytes) continue; /* it did not run */
    PyObject *item = Py_BuildValue("LKK", (long long)o->node, (unsigned long long)o->time,
                                   (unsigned long long)o->bytes);
    if (!item || PyList_Append(list, item) < 0) Py_CLEAR(list);
    Py_XDECREF(item);
  }
  return list;
}

/* profile(arrays, context): like run(), but returns what reading the clock takes and a list of
 * (node, nanoseconds, bytes) for each operator that ran; node -1 stands for all lookups. */
static PyObject *profile_checked(PyObject *object, PyObject *const *arguments,
                                 Py_ssize_t argument_count) {
  Model *self = (Model *)(void *)object;
  size_t size = od_profile_size(self->model);
  od_profile profile = {od_clock_ns, PyMem_Calloc(size, sizeof *profile.operators)};
  PyObject *result = NULL;
  if (!profile.operators) return PyErr_NoMemory();
  PyObject *outputs = with_checked(self, arguments, argument_count, &profile);
  if (outputs) {
    uint64_t before = od_clock_ns(), timer = od_clock_ns() - before;
    PyObject *list = operator_list(&profile, size);
    if (list) result = Py_BuildValue("KN", (unsigned long long)timer, list);
    Py_DECREF(outputs);
  }
  PyMem_Free(profile.operators);
  return result;
}

static PyObject *description(PyObject *object, void *closure) {
  size_t size;
  const char *text = od_info(((Model *)(void *)object)->model, &size);
  (void)closure;
  return PyBytes_FromStringAndSize(text, (Py_ssize_t)size);
}

static PyObject *kernels_name(PyObject *object, void *closure) {
  (void)closure;
  return PyUnicode_FromString(od_kernels_in_use(((Model *)(void *)object)->model));
}

static PyObject *output_names(PyObject *object, void *closure) {
  const od_model *model = ((Model *)(void *)object)->model;
  PyObject *names = PyTuple_New((Py_ssize_t)od_output_count(model));
  (void)closure;
  for (size_t i = 0; names && i < od_output_count(model); i++)
    PyTuple_SetItem(names, (Py_ssize_t)i, PyUnicode_FromString(od_output(model, i)->name));
  return names;
}

static PyObject *input_names(PyObject *object, void *closure) {
  Model *self = (Model *)(void *)object;
  PyObject *names = PyTuple_New((Py_ssize_t)self->inputs);
  (void)closure;
  for (size_t i = 0; names && i < self->inputs; i++) {
    Py_INCREF(self->names[i]);
    PyTuple_SetItem(names, (Py_ssize_t)i, self->names[i]);
  }
  return names;
}

static void destroy(PyObject *object) {
  Model *self = (Model *)(void *)object;
  PyTypeObject *type = Py_TYPE(object);
  od_pool_close(self->pool);
  for (size_t i = 0; i < sizeof self->results / sizeof *self->results; i++)
    Py_XDECREF(self->results[i]);
  while (self->idle_count) od_session_close(self->idle[--self->idle_count]);
  PyMem_Free(self->idle);
  for (size_t i = 0; self->names && i < self->inputs; i++) Py_XDECREF(self->names[i]);
  PyMem_Free(self->names);
  od_close(self->model);
  Py_XDECREF(self->source);
  freefunc release = (freefunc)PyType_GetSlot(type, Py_tp_free);
  release(object);
  Py_DECREF(type);
}

/* check(): compare every byte of the file in use with its checksums. */
static PyObject *check(PyObject *object, PyObject *unused) {
  Model *self = (Model *)(void *)object;
  od_error error;
  od_status status;
  (void)unused;
  Py_BEGIN_ALLOW_THREADS;
  status = od_check(self->model, &error);
  Py_END_ALLOW_THREADS;
  if (status != OD_OK) return raise(&error);
  Py_RETURN_NONE;
}

static PyObject *resized(PyObject *object, PyObject *sizes);

static PyMethodDef METHODS[] = {
    {"predict", predict, METH_O, "The first output for a dict of plain arrays, or None."},
    {"rank", (PyCFunction)(void (*)(void))rank, METH_FASTCALL,
     "The first output for one context and its candidates, or None."},
    {"check", check, METH_NOARGS, "Compare every byte with the checksums in the file."},
    {"resized", resized, METH_O, "resized(sizes): a Model of the same file, as from open()."},
    {"run", (PyCFunction)(void (*)(void))run_checked, METH_FASTCALL,
     "All outputs for a tuple of checked arrays."},
    {"profile", (PyCFunction)(void (*)(void))profile_checked, METH_FASTCALL,
     "Time and bytes of every operator for a tuple of checked arrays."},
    {NULL, NULL, 0, NULL}};

static PyGetSetDef GETTERS[] = {
    {"description", description, NULL, "The model's description: JSON, then arrays.", NULL},
    {"kernels", kernels_name, NULL, "Name of the kernels in use.", NULL},
    {"inputs", input_names, NULL, "Names of the inputs, in order.", NULL},
    {"outputs", output_names, NULL, "Names of the outputs, in order.", NULL},
    {NULL, NULL, NULL, NULL, NULL}};

static PyType_Slot SLOTS[] = {{Py_tp_dealloc, destroy},
                              {Py_tp_methods, METHODS},
                              {Py_tp_getset, GETTERS},
                              {Py_tp_doc, "A model of the native engine."},
                              {0, NULL}};
static PyType_Spec SPEC = {"ondevice._native.Model", sizeof(Model), 0,
                           Py_TPFLAGS_DEFAULT | Py_TPFLAGS_DISALLOW_INSTANTIATION, SLOTS};
static PyObject *model_type;

/* The sizes of free axes: a sequence of (name, size), whose texts `sizes` keeps alive. */
static int read_sizes(PyObject *sizes, od_axis_size *read, size_t *count) {
  Py_ssize_t size = PyTuple_Check(sizes) ? PyTuple_Size(sizes) : -1;
  if (size < 0 || size > OD_MAX_INPUTS) {
    PyErr_SetString(PyExc_TypeError, "sizes are a tuple of names with sizes");
    return 0;
  }
  for (Py_ssize_t i = 0; i < size; i++) {
    PyObject *item = PyTuple_GetItem(sizes, i);
    if (!PyTuple_Check(item) ||
        !PyArg_ParseTuple(item, "sI", &read[i].name, &read[i].size)) {
      if (!PyErr_Occurred()) PyErr_SetString(PyExc_TypeError, "a size is a name and a number");
      return 0;
    }
  }
  *count = (size_t)size;
  return 1;
}

/* A Model of an opened model, which it closes. */
static PyObject *new_model(od_model *model, PyObject *source, size_t threads) {
  allocfunc make = (allocfunc)PyType_GetSlot((PyTypeObject *)(void *)model_type, Py_tp_alloc);
  Model *self = (Model *)(void *)make((PyTypeObject *)(void *)model_type, 0);
  if (!self) {
    od_close(model);
    return NULL;
  }
  self->model = model;
  self->source = source;
  Py_XINCREF(source);
  self->inputs = od_input_count(model);
  self->threads = threads;
  if (self->inputs > OD_MAX_INPUTS) {
    Py_DECREF((PyObject *)self);
    PyErr_SetString(numpy.unsupported_error, "more than " OD_DIGITS(OD_MAX_INPUTS) " inputs");
    return NULL;
  }
  self->names = PyMem_Calloc(self->inputs + 1, sizeof *self->names);
  if (!self->names) {
    Py_DECREF((PyObject *)self);
    return PyErr_NoMemory();
  }
  for (size_t i = 0; i < self->inputs; i++) {
    self->names[i] = PyUnicode_InternFromString(od_input(model, i)->name);
    if (!self->names[i]) {
      Py_DECREF((PyObject *)self);
      return NULL;
    }
  }
  return (PyObject *)self;
}

static PyObject *resized(PyObject *object, PyObject *sizes) {
  Model *self = (Model *)(void *)object;
  od_axis_size read[OD_MAX_INPUTS];
  od_options options = {.sizes = read};
  od_error error;
  od_model *model;
  if (!read_sizes(sizes, read, &options.size_count)) return NULL;
  if (od_open_again(self->model, &options, &model, &error) != OD_OK) return raise(&error);
  return new_model(model, self->source ? self->source : object, self->threads);
}

/* open(path, kernels, full_check, sizes, threads, dense, lock) */
static PyObject *open_model(PyObject *module, PyObject *arguments) {
  PyObject *path, *sizes;
  const char *kernels, *dense;
  int full_check, lock;
  unsigned threads;
  od_error error;
  od_model *model;
  od_status status;
  od_axis_size read[OD_MAX_INPUTS];
  (void)module;
  if (!PyArg_ParseTuple(arguments, "O&ziOIzp", PyUnicode_FSConverter, &path, &kernels, &full_check,
                        &sizes, &threads, &dense, &lock))
    return NULL;
  od_options options = {
      .kernels = kernels, .full_check = full_check, .sizes = read, .dense = dense, .lock = lock};
  if (!read_sizes(sizes, read, &options.size_count)) {
    Py_DECREF(path);
    return NULL;
  }
  const char *name = PyBytes_AsString(path);
  Py_BEGIN_ALLOW_THREADS;
  status = od_open_path(name, &options, &model, &error);
  Py_END_ALLOW_THREADS;
  Py_DECREF(path);
  return status == OD_OK ? new_model(model, NULL, threads) : raise(&error);
}

/* open_bytes(data, kernels, full_check, sizes, threads, dense, lock): the Model keeps the bytes
 * alive, unless it has a locked copy. */
static PyObject *open_bytes(PyObject *module, PyObject *arguments) {
  PyObject *data, *sizes;
  const char *kernels, *dense;
  int full_check, lock;
  unsigned threads;
  od_error error;
  od_model *model;
  od_status status;
  od_axis_size read[OD_MAX_INPUTS];
  (void)module;
  if (!PyArg_ParseTuple(arguments, "SziOIzp", &data, &kernels, &full_check, &sizes, &threads,
                        &dense, &lock))
    return NULL;
  od_options options = {
      .kernels = kernels, .full_check = full_check, .sizes = read, .dense = dense, .lock = lock};
  if (!read_sizes(sizes, read, &options.size_count)) return NULL;
  const char *bytes = PyBytes_AsString(data);
  size_t size = (size_t)PyBytes_Size(data);
  Py_BEGIN_ALLOW_THREADS;
  status = od_open_memory(bytes, size, &options, &model, &error);
  Py_END_ALLOW_THREADS;
  return status == OD_OK ? new_model(model, lock ? NULL : data, threads) : raise(&error);
}

static PyObject *available(PyObject *module, PyObject *unused) {
  PyObject *list = PyList_New(0);
  const char *name;
  (void)module, (void)unused;
  for (size_t i = 0; list && (name = od_kernels_available(i)); i++) {
    PyObject *text = PyUnicode_FromString(name);
    if (!text || PyList_Append(list, text) < 0) Py_CLEAR(list);
    Py_XDECREF(text);
  }
  return list;
}

static PyMethodDef FUNCTIONS[] = {
    {"open", open_model, METH_VARARGS, 
     "open(path, kernels, full_check, sizes, threads, dense, lock): a Model."},
    {"open_bytes", open_bytes, METH_VARARGS,
     "open_bytes(data, kernels, full_check, sizes, threads, dense, lock): a Model."},
    {"kernels_available", available, METH_NOARGS, "Kernels this processor can run, best first."},
    {"xxh64", hash_bytes, METH_VARARGS, "xxh64(data, seed)."},
    {"hash_integers", hash_integers, METH_VARARGS, "hash_integers(values, seed, hashes)."},
    {"hash_texts", hash_texts, METH_VARARGS,
     "hash_texts(values, seed, missing, hashes, states): how many values are not hashed."},
    {NULL, NULL, 0, NULL}};

static struct PyModuleDef MODULE = {PyModuleDef_HEAD_INIT, "ondevice._native",
                                    "The native engine.",  -1, FUNCTIONS, NULL, NULL, NULL, NULL};

static PyObject *attribute_of(const char *module, const char *name) {
  PyObject *imported = PyImport_ImportModule(module), *attribute = NULL;
  if (imported) attribute = PyObject_GetAttrString(imported, name);
  Py_XDECREF(imported);
  return attribute;
}

static PyObject *dtype_of(const char *name) {
  PyObject *constructor = attribute_of("numpy", "dtype"), *dtype = NULL;
  if (constructor) dtype = PyObject_CallFunction(constructor, "s", name);
  Py_XDECREF(constructor);
  return dtype;
}

/* Compare the assumed layout with what an array of shape [3, 5] says through the buffer
 * protocol. */
static int layout_holds(void) {
  PyObject *array = PyObject_CallFunction(numpy.empty, "(ii)O", 3, 5, numpy.int64);
  Py_buffer view;
  int holds = 0;
  if (!array) return 0;
  if ((PyObject *)Py_TYPE(array) == numpy.ndarray &&
      PyObject_GetBuffer(array, &view, PyBUF_FULL_RO) == 0) {
    const array_layout *a = (const array_layout *)(void *)array;
    holds = a->data == view.buf && a->nd == 2 && a->dimensions[0] == 3 && a->dimensions[1] == 5 &&
            a->strides[0] == 40 && a->strides[1] == 8 && a->base == NULL &&
            a->descr == numpy.int64 && a->weak_references == NULL &&
            (a->flags & (C_CONTIGUOUS | ALIGNED)) == (C_CONTIGUOUS | ALIGNED);
    PyBuffer_Release(&view);
  }
  Py_DECREF(array);
  return holds;
}

PyMODINIT_FUNC PyInit__native(void) {
  numpy.ndarray = attribute_of("numpy", "ndarray");
  numpy.empty = attribute_of("numpy", "empty");
  numpy.int64 = dtype_of("int64");
  numpy.uint64 = dtype_of("uint64");
  numpy.float32 = dtype_of("float32");
  numpy.input_error = attribute_of("ondevice.errors", "InputError");
  numpy.format_error = attribute_of("ondevice.errors", "FileFormatError");
  numpy.unsupported_error = attribute_of("ondevice.errors", "UnsupportedError");
  numpy.lock_error = attribute_of("ondevice.errors", "LockError");
  if (!numpy.ndarray || !numpy.empty || !numpy.int64 || !numpy.uint64 || !numpy.float32 ||
      !numpy.input_error || !numpy.format_error || !numpy.unsupported_error ||
      !numpy.lock_error)
    return NULL;
  numpy.direct = layout_holds();
  PyErr_Clear();
  model_type = PyType_FromSpec(&SPEC);
  return model_type ? PyModule_Create(&MODULE) : NULL;
}
