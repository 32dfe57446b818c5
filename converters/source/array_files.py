"""What numpy raises over damaged or hostile .npy and .npz files."""

from __future__ import annotations

import tokenize
import zipfile

from ondevice.errors import PARSE_ERRORS

ARRAY_FILE_ERRORS: tuple[type[Exception], ...] = (
    *PARSE_ERRORS,
    tokenize.TokenError,  # of a header
    zipfile.BadZipFile,
)
