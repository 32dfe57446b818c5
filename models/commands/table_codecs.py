"""The option --tables: how tables are stored, all alike or each by the name of its field."""

from __future__ import annotations

import argparse
from collections.abc import Mapping

from ondevice.converters.tables.pack import OTHERS
from ondevice.errors import InputError, SpecError
from ondevice.sections import TableCodec, table_codec

METAVAR = "[FIELD=]CODEC"


def add_tables_option(parser: argparse.ArgumentParser, default: str) -> None:
    """Add --tables; `tables_of` reads it."""
    parser.add_argument(
        "--tables",
        action="append",
        type=_table,
        metavar=METAVAR,
        help="codec of all tables, or after FIELD= of that field's; a codec is a name such as q8, "
        "or sections by falling frequency, such as q8:1000,q4x8:20000,q1 (codec, x values of a "
        f"row, : rows); repeat it for several fields (default: {default})",
    )
    parser.set_defaults(default_tables=default)


def tables_of(
    args: argparse.Namespace, described: Mapping[str, TableCodec] | None = None
) -> TableCodec | dict[str, TableCodec]:
    """The codec of all tables, or codecs by field and OTHERS.

    Args:
        args: with --tables.
        described: codecs by field that a log's description asks for; --tables goes before them.

    Raises:
        InputError: two codecs for one field, or for all.
    """
    asked: dict[str, TableCodec] = {}
    for name, codec in args.tables or []:
        if name in asked:
            where = "all tables" if name == OTHERS else f"field {name!r}"
            raise InputError(f"--tables gives {where} two codecs")
        asked[name] = codec
    others = asked.pop(OTHERS, args.default_tables)
    by_field = {**(described or {}), **asked}
    return {OTHERS: others, **by_field} if by_field else others


def _table(text: str) -> tuple[str, TableCodec]:
    """A field's name or OTHERS, and its codec."""
    name, equals, codec = text.rpartition("=")
    if equals and not name:
        raise argparse.ArgumentTypeError(f"{text!r} lacks the field before =")
    try:
        return name or OTHERS, table_codec(codec)
    except SpecError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
