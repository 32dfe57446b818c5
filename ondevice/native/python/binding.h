/* binding.h: the stable ABI of Python 3.11, and what module.c takes from the other files. */
#ifndef ONDEVICE_BINDING_H
#define ONDEVICE_BINDING_H

#define Py_LIMITED_API 0x030b0000
#define PY_SSIZE_T_CLEAN
#include <Python.h>

/* Functions of the module; hashing.c describes them. */
PyObject *hash_bytes(PyObject *module, PyObject *arguments);
PyObject *hash_integers(PyObject *module, PyObject *arguments);
PyObject *hash_texts(PyObject *module, PyObject *arguments);

#endif
