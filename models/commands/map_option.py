"""The option --map: how raw values find their rows, by a vocabulary or without one."""

from __future__ import annotations

import argparse
import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from ondevice.codecs import Codec
from ondevice.converters.tables.pack import OTHERS
from ondevice.errors import InputError
from ondevice.models.checkpoint import Checkpoint
from ondevice.models.retrieval import hashed_ids, replaceable, without_vocabularies
from ondevice.sections import TableCodec

VOCABULARY = "vocabulary"
FINGERPRINT_BITS = 4


def add_map_option(parser: argparse.ArgumentParser) -> None:
    """Add --map; `map_of` reads it."""
    parser.add_argument(
        "--map",
        type=_map,
        metavar="MAP",
        help="of a checkpoint: how raw values find their rows. vocabulary: by a packed list of "
        "hashes, about 2.5 bytes a value; retrieval[:F]: hashed cells hold the rows, no value is "
        "stored, and one unseen value in 2^F reads a wrong row "
        f"(F: 0 to 8, {FINGERPRINT_BITS} by default)",
    )


def without_map(
    checkpoint: Checkpoint, bits: int, tables: TableCodec | Mapping[str, TableCodec]
) -> Checkpoint:
    """A checkpoint whose fields are hashed and whose tables are retrieval structures.

    Args:
        checkpoint: a trained model; it stays as it is.
        bits: of a fingerprint.
        tables: the codec of all tables, or by field and OTHERS.

    Raises:
        InputError: no field has a vocabulary that can go, or a codec that is not for cells.
    """
    model, features = checkpoint.model, checkpoint.features
    names = replaceable(model, features)
    if not names:
        raise InputError(
            "--map retrieval: no field has a vocabulary whose values each own a row of a full table"
        )
    codecs = {name: _codec(name, tables) for name in names}
    smaller, hashed = without_vocabularies(model, features, codecs, fingerprint_bits=bits)
    examples = dict(checkpoint.extra.get("examples") or {})
    for item in features.fields:
        replaced = item.vocabulary is not None and hashed[item.name].vocabulary is None
        if item.name in examples and replaced:
            ids = np.asarray(examples[item.name], dtype=np.int64)
            examples[item.name] = hashed_ids(item, ids).tolist()
    extra: dict[str, Any] = {**checkpoint.extra, "examples": examples}
    return replace(checkpoint, model=smaller, features=hashed, extra=extra, counts={})


def _codec(name: str, tables: TableCodec | Mapping[str, TableCodec]) -> Codec:
    codec = tables.get(name, tables.get(OTHERS)) if isinstance(tables, Mapping) else tables
    if not isinstance(codec, str):
        raise InputError(f"--map retrieval: field {name!r} needs one codec for all rows")
    return codec


def _map(text: str) -> int | None:
    """Bits of a fingerprint, or None for a vocabulary."""
    if text == VOCABULARY:
        return None
    match = re.fullmatch(r"retrieval(?::([0-8]))?", text)
    if match is None:
        raise argparse.ArgumentTypeError(
            f"expected vocabulary, retrieval or retrieval:F with F from 0 to 8, got {text!r}"
        )
    return FINGERPRINT_BITS if match[1] is None else int(match[1])
