"""libondevice_update through ctypes: the C library as an app calls it."""

import ctypes
import subprocess
from ctypes import c_char, c_char_p, c_int64, c_size_t, c_uint8, c_uint32, c_uint64, c_void_p

from support.engine import COMPILER, WARNED, listed

MOST_SIGNERS = 16
UNTRUSTED = 6
FORMAT = 2
MEMORY = 4
Allocate = ctypes.CFUNCTYPE(c_void_p, c_void_p, c_size_t)
Release = ctypes.CFUNCTYPE(None, c_void_p, c_void_p)


def compiled_update(folder, *flags):
    """libondevice_update as a shared library."""
    path = folder / "libondevice_update.so"
    command = [COMPILER, *WARNED, "-Werror", "-O2", "-fPIC", "-shared", "-fvisibility=hidden", "-s",
               *flags]  # fmt: skip
    subprocess.run([*command, *listed("update/sources.txt"), "-o", path], check=True)
    return path


class Error(ctypes.Structure):
    _fields_ = (("status", c_uint32), ("text", c_char * 248))


class Signers(ctypes.Structure):
    _fields_ = (("keys", c_uint8 * 32 * MOST_SIGNERS), ("count", c_uint32), ("threshold", c_uint32))


class Root(ctypes.Structure):
    _fields_ = (("version", c_uint64), ("expires", c_int64), ("root", Signers), ("models", Signers))


class Seen(ctypes.Structure):
    _fields_ = (("version", c_uint64), ("has_sha256", ctypes.c_int), ("sha256", c_uint8 * 32))


class FileRecord(ctypes.Structure):
    _fields_ = (("name", c_char_p), ("length", c_uint64), ("sha256", c_uint8 * 32))


class Allocator(ctypes.Structure):
    _fields_ = (("allocate", Allocate), ("release", Release), ("user", c_void_p))


class Refused(Exception):
    """A status that is not OD_OK, and its text."""

    def __init__(self, error):
        super().__init__(error.text.decode())
        self.status = error.status


class Update:
    """The functions, and memory that is counted: `held` blocks; at 0 `left` none is given."""

    def __init__(self, path):
        self.library = ctypes.CDLL(path)
        self.libc = ctypes.CDLL(None)
        self.libc.malloc.restype = c_void_p
        self.library.od_manifest_version.restype = c_uint64
        self.library.od_manifest_seen.restype = Seen
        self.library.od_manifest_file.restype = ctypes.POINTER(FileRecord)
        self.held, self.left = set(), None
        self.allocator = Allocator(Allocate(self._allocate), Release(self._release), None)

    def _allocate(self, _, size):
        if self.left is not None:
            if self.left == 0:
                return None
            self.left -= 1
        memory = self.libc.malloc(c_size_t(size))
        self.held.add(memory)
        return memory

    def _release(self, _, memory):
        self.held.remove(memory)
        self.libc.free(c_void_p(memory))

    def manifest(self, data, signers, least=0, now=0, digest=None):
        """The version and the files (name, length, digest) of a manifest. Raises Refused."""
        error, manifest = Error(), c_void_p()
        seen = Seen(least, digest is not None, (c_uint8 * 32)(*(digest or b"")))
        status = self.library.od_manifest_open(
            data, c_size_t(len(data)), ctypes.byref(signers), ctypes.byref(seen), c_int64(now),
            ctypes.byref(self.allocator), ctypes.byref(manifest), ctypes.byref(error),
        )  # fmt: skip
        if status:
            assert not manifest and error.status == status
            raise Refused(error)
        records = [self.library.od_manifest_file(manifest, c_size_t(i))[0] for i in
                   range(self.library.od_manifest_count(manifest))]  # fmt: skip
        files = {item.name.decode(): (item.length, bytes(item.sha256).hex()) for item in records}
        version = self.library.od_manifest_version(manifest)
        self.seen = self.library.od_manifest_seen(manifest)
        self.library.od_manifest_close(manifest)
        return version, files

    def check(self, data, signers, name, content):
        """Compare a file with a manifest. Raises Refused."""
        error, manifest = Error(), c_void_p()
        opened = self.library.od_manifest_open(
            data, c_size_t(len(data)), ctypes.byref(signers), None, c_int64(0),
            ctypes.byref(self.allocator), ctypes.byref(manifest), ctypes.byref(error),
        )  # fmt: skip
        assert opened == 0
        status = self.library.od_manifest_check(
            manifest, name, content, c_size_t(len(content)), ctypes.byref(error)
        )
        self.library.od_manifest_close(manifest)
        if status:
            raise Refused(error)

    def root(self, data, before=None):
        """A first root, or the one after `before`. Raises Refused."""
        function = self.library.od_root_first if before is None else self.library.od_root_next
        made, error = Root(), Error()
        if before is not None:
            ctypes.memmove(ctypes.byref(made), ctypes.byref(before), ctypes.sizeof(Root))
        old = bytes(made)
        arguments = data, c_size_t(len(data)), ctypes.byref(self.allocator), ctypes.byref(made)
        if function(*arguments, ctypes.byref(error)):
            assert bytes(made) == old
            raise Refused(error)
        return made


def signers(*keys, threshold=1):
    """Public keys (32 bytes each) as C takes them."""
    made = Signers(count=len(keys), threshold=threshold)
    for slot, key in zip(made.keys, keys, strict=False):
        slot[:] = key
    return made
