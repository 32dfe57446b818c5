"""What the bytes of a goal are counted of, and how raw values find their rows."""

from __future__ import annotations

from typing import Literal, get_args

# The whole file that ships, or its embedding tables only.
Measure = Literal["file", "tables"]
MEASURES: tuple[Measure, ...] = get_args(Measure)
# The file that ships, by its suffix; an .onnx file counts with its external data.
ShippedFile = Literal["odm", "onnx", "tflite"]
SHIPPED_FILES: tuple[ShippedFile, ...] = get_args(ShippedFile)
# How raw values find their rows: in a vocabulary of hashes, or in hashed cells that hold the rows
# and no key (docs/methods.md).
RowMap = Literal["vocabulary", "retrieval"]
ROW_MAPS: tuple[RowMap, ...] = get_args(RowMap)
# Fields with fewer values that own a row keep their vocabulary, which is small then.
RETRIEVAL_FROM = 64
FINGERPRINT_BITS = 4  # one unseen value in 16 reads a wrong row
