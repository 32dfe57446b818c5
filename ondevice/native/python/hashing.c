/* hashing.c: XXH64 of bytes, of an array of integers, and of the texts in a list. */
#include "python/binding.h"

#include "ondevice.h"

#include <string.h>

enum { HASHED = 0, MISSING = 1, UNREAD = 2 }; /* the states of ondevice/hashing.py */

typedef struct {
  const char *data;
  Py_ssize_t size;
} utf8_text;

/* xxh64(data, seed): an unsigned integer. */
PyObject *hash_bytes(PyObject *module, PyObject *arguments) {
  Py_buffer data;
  unsigned long long seed;
  (void)module;
  if (!PyArg_ParseTuple(arguments, "y*K", &data, &seed)) return NULL;
  uint64_t value = od_hash(data.buf, (size_t)data.len, seed);
  PyBuffer_Release(&data);
  return PyLong_FromUnsignedLongLong(value);
}

/* hash_integers(values, seed, hashes): both arrays contiguous, int64, of one length. */
PyObject *hash_integers(PyObject *module, PyObject *arguments) {
  Py_buffer values, hashes;
  unsigned long long seed;
  (void)module;
  if (!PyArg_ParseTuple(arguments, "y*Kw*", &values, &seed, &hashes)) return NULL;
  int fits = values.len == hashes.len && values.len % 8 == 0;
  for (Py_ssize_t at = 0; fits && at < values.len; at += 8) {
    uint64_t hash = od_hash((const char *)values.buf + at, 8, seed);
    memcpy((char *)hashes.buf + at, &hash, 8);
  }
  PyBuffer_Release(&values);
  PyBuffer_Release(&hashes);
  if (fits) Py_RETURN_NONE;
  PyErr_SetString(PyExc_ValueError, "values and hashes must be int64 arrays of one length");
  return NULL;
}

/* The UTF-8 bytes of `value`, which own no memory. 1: read; 0: no text, or one with lone
 * surrogates; -1: an error is set. */
static int read_text(PyObject *value, utf8_text *text) {
  if (!PyUnicode_Check(value)) return 0;
  text->data = PyUnicode_AsUTF8AndSize(value, &text->size);
  if (text->data) return 1;
  if (!PyErr_ExceptionMatches(PyExc_UnicodeEncodeError)) return -1;
  PyErr_Clear();
  return 0;
}

/* Markers of missing values: the tuple, and those of its texts that have UTF-8. */
typedef struct {
  PyObject *tuple;
  utf8_text *texts;
  Py_ssize_t count;
  int has_none;
} marker_set;

/* 0, or -1 with an error set. */
static int read_markers(PyObject *tuple, marker_set *markers) {
  Py_ssize_t size = PyTuple_Size(tuple);
  *markers = (marker_set){tuple, PyMem_Calloc((size_t)size + 1, sizeof(utf8_text)), 0, 0};
  if (!markers->texts) {
    PyErr_NoMemory();
    return -1;
  }
  for (Py_ssize_t i = 0; i < size; i++) {
    PyObject *marker = PyTuple_GetItem(tuple, i);
    int read = read_text(marker, &markers->texts[markers->count]);
    if (read < 0) return -1;
    markers->count += read;
    markers->has_none |= marker == Py_None;
  }
  return 0;
}

static int is_marker(utf8_text text, const marker_set *markers) {
  for (Py_ssize_t i = 0; i < markers->count; i++) {
    utf8_text marker = markers->texts[i];
    if (marker.size == text.size && !memcmp(marker.data, text.data, (size_t)text.size)) return 1;
  }
  return 0;
}

/* Whether a value without UTF-8 is a marker: None, or a text with lone surrogates. */
static int is_other_marker(PyObject *value, const marker_set *markers) {
  if (value == Py_None) return markers->has_none;
  if (!PyUnicode_Check(value)) return 0;
  for (Py_ssize_t i = 0; i < PyTuple_Size(markers->tuple); i++) {
    PyObject *marker = PyTuple_GetItem(markers->tuple, i);
    if (PyUnicode_Check(marker) && !PyUnicode_Compare(marker, value)) return 1;
  }
  return 0;
}

/* The state of a value, and its hash, 0 where it is not hashed; -1 with an error set. */
static int hash_value(PyObject *value, uint64_t seed, const marker_set *markers, uint64_t *hash) {
  utf8_text text;
  int read = read_text(value, &text);
  *hash = 0;
  if (read < 0) return -1;
  if (!read) return is_other_marker(value, markers) ? MISSING : UNREAD;
  if (is_marker(text, markers)) return MISSING;
  *hash = od_hash(text.data, (size_t)text.size, seed);
  return HASHED;
}

/* hash_texts(values, seed, missing, hashes, states): how many elements of the list `values` are not
 * hashed: those of the tuple `missing` (texts and None), and the unread ones, which are no texts
 * or not valid Unicode. `hashes` int64 and `states` uint8 have an element for every value; the
 * hash of a value that is not hashed is 0. */
PyObject *hash_texts(PyObject *module, PyObject *arguments) {
  PyObject *values, *missing;
  unsigned long long seed;
  Py_buffer hashes, states;
  marker_set markers;
  Py_ssize_t unhashed = 0;
  (void)module;
  if (!PyArg_ParseTuple(arguments, "O!KO!w*w*", &PyList_Type, &values, &seed, &PyTuple_Type,
                        &missing, &hashes, &states))
    return NULL;
  int state = read_markers(missing, &markers);
  if (state == 0 && (states.len != PyList_Size(values) || hashes.len != 8 * states.len)) {
    PyErr_SetString(PyExc_ValueError, "hashes must be int64, states uint8, one for every value");
    state = -1;
  }
  for (Py_ssize_t i = 0; state >= 0 && i < states.len; i++) {
    uint64_t hash = 0;
    PyObject *value = PyList_GetItem(values, i);
    Py_XINCREF(value); /* an error's allocation may run a finaliser that changes the list */
    state = value ? hash_value(value, seed, &markers, &hash) : -1;
    Py_XDECREF(value);
    if (state < 0) break;
    ((uint8_t *)states.buf)[i] = (uint8_t)state;
    memcpy((char *)hashes.buf + 8 * i, &hash, 8);
    unhashed += state != HASHED;
  }
  PyMem_Free(markers.texts);
  PyBuffer_Release(&hashes);
  PyBuffer_Release(&states);
  return state < 0 ? NULL : PyLong_FromSsize_t(unhashed);
}
