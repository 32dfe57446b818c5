"""The logs of the Criteo and Avazu contests: one file, or a folder of train, dev and test."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from ondevice.cells import Cells
from ondevice.delimited import DelimitedFormat
from ondevice.errors import DataError
from ondevice.features import FeatureSpec
from ondevice.models.data.builder import LogBuilder
from ondevice.models.data.columns import LabelRule, Rule, rule, zero_one
from ondevice.models.data.hashed import HashedLog
from ondevice.models.data.rows import find_file, read_rows

CRITEO_INTEGERS = tuple(f"I{number}" for number in range(1, 14))
CRITEO_CATEGORIES = tuple(f"C{number}" for number in range(1, 27))
CRITEO_COLUMNS = ("label", *CRITEO_INTEGERS, *CRITEO_CATEGORIES)
_AVAZU_CATEGORIES = (
    "site_id",
    "site_domain",
    "site_category",
    "app_id",
    "app_domain",
    "app_category",
    "device_id",
    "device_ip",
    "device_model",
)
_AVAZU_INTEGERS = ("device_type", "device_conn_type", *(f"C{n}" for n in range(14, 22)))
AVAZU_COLUMNS = (
    "id",
    "click",
    "hour",
    "C1",
    "banner_pos",
    *_AVAZU_CATEGORIES,
    *_AVAZU_INTEGERS,
)

_TABS = DelimitedFormat(delimiter="\t", quote=None)
_COMMAS = DelimitedFormat(quote=None)
_PARTS = ("train", "dev", "test")


def criteo_log(path: Path, *, max_rows: int | None = None) -> HashedLog:
    """The Criteo Kaggle log: I1..I13 (number) and C1..C26 (string); an empty cell is missing.

    The integers are numbers, to be put into buckets. The files have no header:
    https://www.kaggle.com/c/criteo-display-ad-challenge.

    Args:
        path: one file, or a folder with train, dev and test (.tsv, .txt or .csv, each also .xz
            or .gz). All three are taken as training, validation and test rows. A
            folder without a dev file is read only for train: the contest's own test file has
            no labels.
        max_rows: read only so many rows.

    Raises:
        DataError: a file is absent or damaged, or a bad row, with line and column.
    """
    rules = [rule(name, "number") for name in CRITEO_INTEGERS]
    rules += [rule(name, "string") for name in CRITEO_CATEGORIES]
    files = _files(path, ("tsv", "txt", "csv"))
    label = LabelRule("label", zero_one)
    return _read("criteo", files, _TABS, CRITEO_COLUMNS, False, rules, label, max_rows)


def avazu_log(path: Path, *, max_rows: int | None = None) -> HashedLog:
    """The Avazu Kaggle log: hour of day, weekday (Monday is 0) and all columns but the id.

    The column hour (YYMMDDHH) becomes the fields hour and weekday; C1, banner_pos,
    device_type, device_conn_type and C14..C21 are integers, the rest strings. A first row that
    is the header is skipped, file by file: https://www.kaggle.com/c/avazu-ctr-prediction.

    Args:
        path: one file, or a folder with train, dev and test (.csv or no suffix, each also .xz
            or .gz). All three are taken as training, validation and test rows. A
            folder without a dev file is read only for train: the contest's own test file has
            no clicks.
        max_rows: read only so many rows.

    Raises:
        DataError: a file is absent or damaged, or a bad row, with line and column.
    """
    rules = [
        rule("hour", "integer", Cells((), part="hour")),
        rule("weekday", "integer", Cells((), column="hour", part="weekday")),
        rule("C1", "integer"),
        rule("banner_pos", "integer"),
        *(rule(name, "string") for name in _AVAZU_CATEGORIES),
        *(rule(name, "integer") for name in _AVAZU_INTEGERS),
    ]
    label = LabelRule("click", zero_one)
    files = _files(path, ("csv", ""))
    return _read("avazu", files, _COMMAS, AVAZU_COLUMNS, None, rules, label, max_rows)


def _files(path: Path, suffixes: Collection[str]) -> list[Path]:
    if not path.is_dir():
        return [path]

    def names(part: str) -> list[str]:
        return [f"{part}.{suffix}" if suffix else part for suffix in suffixes]

    train = find_file(path, *names("train"))
    try:
        dev = find_file(path, *names("dev"))
    except DataError:
        return [train]
    return [train, dev, find_file(path, *names("test"))]


def _read(
    name: str,
    files: Collection[Path],
    text_format: DelimitedFormat,
    columns: tuple[str, ...],
    header: bool | None,
    rules: Collection[Rule],
    label: LabelRule,
    max_rows: int | None,
) -> HashedLog:
    fields = tuple(item.field for item in rules)
    builder = LogBuilder(FeatureSpec(fields, text_format, None if header else columns))
    ends: list[int] = []
    for path in files:
        left = None if max_rows is None else max_rows - len(builder)
        if left == 0:
            break
        for chunk in read_rows(path, text_format, columns=columns, header=header, max_rows=left):
            builder.add_chunk(chunk, rules, label)
        ends.append(len(builder))
    whole = len(files) == len(_PARTS) == len(ends) and max_rows is None
    return builder.build(name, (ends[0], ends[1]) if whole else None)
