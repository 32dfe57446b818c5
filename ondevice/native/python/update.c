/* update.c: the Python binding of the library beside the engine (stable ABI, Python 3.11). */
#include "python/binding.h"

#include "ondevice_update.h"

/* ed25519_verify(key, signature, message): whether the signature is the key's. */
static PyObject *verify(PyObject *module, PyObject *arguments) {
  Py_buffer key, signature, message;
  int valid = 0;
  (void)module;
  if (!PyArg_ParseTuple(arguments, "y*y*y*", &key, &signature, &message)) return NULL;
  if (key.len == 32 && signature.len == 64) {
    Py_BEGIN_ALLOW_THREADS;
    valid = od_ed25519_verify(signature.buf, message.buf, (size_t)message.len, key.buf);
    Py_END_ALLOW_THREADS;
  }
  PyBuffer_Release(&key);
  PyBuffer_Release(&signature);
  PyBuffer_Release(&message);
  return PyBool_FromLong(valid);
}

static PyMethodDef FUNCTIONS[] = {
    {"ed25519_verify", verify, METH_VARARGS, "ed25519_verify(key, signature, message): a bool."},
    {NULL, NULL, 0, NULL}};

static struct PyModuleDef MODULE = {PyModuleDef_HEAD_INIT, "ondevice._update",
                                    "Signatures and updates.", 0, FUNCTIONS,
                                    NULL, NULL, NULL, NULL};

PyMODINIT_FUNC PyInit__update(void) { return PyModule_Create(&MODULE); }
