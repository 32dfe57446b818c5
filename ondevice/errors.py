"""Every error that ondevice raises on purpose; the command line prints them as one line."""

from __future__ import annotations

import contextlib
import zlib
from collections.abc import Iterator
from pathlib import Path


class OnDeviceError(Exception):
    """Base class of all errors raised by ondevice."""


class InputError(OnDeviceError):
    """Data given to a model has a wrong name, shape, dtype or value."""


class FileFormatError(OnDeviceError):
    """A file is damaged, truncated, hostile or of another format or version."""


class SpecError(OnDeviceError):
    """A specification or setting contradicts itself; the message lists every fault."""


class DataError(OnDeviceError):
    """A data file has a bad row; the message names file, line and column."""


class UnsupportedError(OnDeviceError):
    """A model uses something that a target cannot express; the message lists every case."""


class LockError(OnDeviceError):
    """The operating system does not let a model be locked in memory."""


class OutputError(OnDeviceError):
    """An output, which the message names, cannot be written: a full disk, no permission."""


class BaseMismatchError(OnDeviceError):
    """A delta was computed from another file than the one that it is to change."""


class DowngradeError(OnDeviceError):
    """An update is older than what is installed, or was rolled back before."""


class ParityError(OnDeviceError):
    """A converted file does not reproduce its source model within tolerance."""


class TrustError(OnDeviceError):
    """Files are not signed by a trusted key, have expired, or are older than what was seen."""


class MissingDependencyError(OnDeviceError):
    """An optional package is not installed; the message says how to install it."""


# What Python, numpy and zlib raise over damaged or hostile data. Whoever reads data from outside
# catches them all where the reading begins, and raises an OnDeviceError that names the source.
PARSE_ERRORS: tuple[type[Exception], ...] = (
    ArithmeticError,
    AttributeError,
    EOFError,
    LookupError,
    OSError,
    RuntimeError,  # RecursionError among them
    SpecError,
    TypeError,
    SyntaxError,  # of numpy, over the header of an array
    ValueError,
    zlib.error,
)


@contextlib.contextmanager
def needs_extra(what: str, extra: str) -> Iterator[None]:
    """Turn an ImportError inside the block into one line that says what to install.

    Of blocks inside one another the outermost says it: its extra includes the others'.

    Raises:
        MissingDependencyError: a module imported inside the block is not installed.
    """
    try:
        yield
    except (ImportError, MissingDependencyError) as error:
        missing = error if isinstance(error, ImportError) else error.__cause__
        if not isinstance(missing, ImportError):
            raise
        name = missing.name or str(missing)
        raise MissingDependencyError(
            f"{what} needs the package {name!r}: pip install 'ondevice-ctr[{extra}]'"
        ) from error


@contextlib.contextmanager
def writing(output: str | Path) -> Iterator[None]:
    """Turn a failed write inside the block into an error that names the output.

    Raises:
        OutputError: the operating system refuses to write.
        BrokenPipeError: the reader of a pipe has gone; the command line ends quietly.
    """
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        raise OutputError(f"{output}: cannot be written: {error.strerror or error}") from error
