"""`ondevice describe`: look at a log and write the description of its columns."""

from __future__ import annotations

import argparse
import json
import math
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ondevice.atomic import atomic_path
from ondevice.commands.json_output import add_json_option, write_json
from ondevice.errors import InputError
from ondevice.models.data.parts import find_files
from ondevice.models.data.profile import LEAK_AUC, ColumnProfile, LogProfile, profile_log
from ondevice.printable import printable
from ondevice.text_table import table

EPILOG = """examples:
  ondevice describe clicks.parquet
  ondevice describe logs/ --where 'dt >= 2026-10-01' --out columns.toml
  ondevice train --data log --path logs/ --columns columns.toml --out checkpoint

Kinds are guessed from the first rows; read the file before you train. A column that predicts the
label by itself is probably known only after the click: it is written as ignored, with its AUC."""

MAX_ROWS = 200_000


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("log", nargs="+", help="files, folders or globs")
    parser.add_argument("--out", type=Path, help="write the description here (.toml)")
    parser.add_argument("--force", action="store_true", help="replace an existing --out")
    parser.add_argument("--label", help="the label's column (default: guessed)")
    parser.add_argument("--where", help="which folders, for example 'dt >= 2026-10-01'")
    parser.add_argument(
        "--max-rows", type=int, default=MAX_ROWS, help=f"rows to look at (default: {MAX_ROWS:,})"
    )
    add_json_option(parser, "the profile")


def run(args: argparse.Namespace) -> int:
    """Print the profile and write the description."""
    if args.max_rows < 2:
        raise InputError(f"--max-rows must be at least 2, got {args.max_rows}")
    if args.out is not None and args.out.exists() and not args.force:
        raise InputError(f"{args.out} exists; give --force to replace it")
    files = find_files(args.log, args.where)
    profile = profile_log(None, files, args.max_rows, args.label)
    print(printable(profile_text(profile)))  # noqa: T201
    if args.json is not None:
        write_json(json.loads(json.dumps(asdict(profile), default=str)), args.json)
    if args.out is not None:
        with atomic_path(args.out) as temporary:
            temporary.write_text(description_toml(profile), encoding="utf-8")
        paths = " ".join(args.log)
        text = (
            f"\nwritten: {args.out}; read it, then: ondevice train --data log --path {paths} "
            f"--columns {args.out} --out checkpoint"
        )
        print(printable(text))  # noqa: T201
    return 0


def profile_text(profile: LogProfile) -> str:
    """The profile as a table, and what to look at before training."""
    rows = [
        (
            _one_line(item.name),
            _kind_text(item),
            f"{item.distinct:,}",
            f"{item.missing / item.rows:.1%}",
            "-" if item.alone_auc is None else f"{item.alone_auc:.3f}",
            _one_line(", ".join(map(str, item.examples))[:40]),
        )
        for item in profile.columns
    ]
    text = table(("column", "kind", "distinct", "missing", "AUC alone", "frequent values"), rows)
    notes = [f"{profile.rows:,} rows looked at"]
    notes.append(_label_note(profile))
    for item in profile.columns:
        if _role(item, profile) == "leak":
            notes.append(
                f"WARNING: {_one_line(item.name)} predicts the label by itself "
                f"(AUC {item.alone_auc:.3f}): is it known before the click?"
            )
    notes += [
        f"WARNING: {item.absent:,} rows have no {_one_line(item.name)} at all, which training and "
        "`run` refuse: a missing value is written as null"
        for item in profile.columns
        if item.absent and _role(item, profile) in ("field", "role")
    ]
    notes += [
        f"WARNING: {_one_line(item.name)} is named by folders only, and rows that are scored "
        "need it: ignore it, or write it into them"
        for item in profile.columns
        if item.of_folders and _role(item, profile) == "field"
    ]
    return text + "\n\n" + "\n".join(notes)


def _one_line(text: str) -> str:
    """A text of the log as a cell of the table."""
    return text.replace("\n", "\\n").replace("\t", "\\t")


def _label_note(profile: LogProfile) -> str:
    """What the label is, or why no model can be trained on it as it stands."""
    label = next((item for item in profile.columns if item.name == profile.label), None)
    if label is None:
        return "no label found: no column of 0 and 1 is called click or label; give --label"
    name = _one_line(label.name)
    if label.distinct > 2:
        return (
            f"WARNING: the label {name} has {label.distinct:,} values, not only 0 and 1: say "
            f"from which number on it is 1, as label = {{ column = {_toml(label.name)}, "
            "at_least = NUMBER }"
        )
    if profile.label_rate in (0, 1):
        return (
            f"WARNING: the label {name} is {', '.join(map(str, label.examples))} in all of "
            "these rows, and a model needs both 0 and 1: look at more rows (--max-rows), or give "
            "another --label"
        )
    text = f"label: {name}, 1 in {profile.label_rate:.2%} of the rows"
    if profile.label_values is not None:
        zero, one = profile.label_values
        text += f" (taken for 0: {zero!r}, for 1: {one!r}; the order of values says so)"
    if label.missing:
        text += (
            f"\nWARNING: {label.missing:,} rows have no label, which training refuses: "
            f"`ondevice train --bad-rows skip:{label.missing}` leaves as many out"
        )
    return text


def description_toml(profile: LogProfile) -> str:
    """The description as commented TOML, which `LogDescription.from_file` reads."""
    label = profile.label or "FILL IN: the column of 0 and 1"
    rule = _toml(label)
    if profile.label_values is not None:
        rule = f"{{ column = {rule}, values = {_toml(list(profile.label_values))} }}"
    lines = ["# How the columns of the log are read: see docs/data.md.", f"label = {rule}"]
    if not math.isnan(profile.label_rate):
        lines[-1] += f"  # 1 in {profile.label_rate:.2%} of the rows"
    if profile.delimiter not in (None, ","):
        lines.append(f"delimiter = {_toml(profile.delimiter)}")
    time = next((item for item in profile.columns if item.name == profile.time), None)
    if time is not None:
        lines.append(f"time = {_toml(time.name)}  # orders the rows: the last ones are the test")
        lines.append(f"time_format = {_toml(time.time_format)}")
    ignored = [item for item in profile.columns if _role(item, profile) not in ("field", "role")]
    if ignored:
        lines += ["", "ignore = ["]
        lines += [f"  {_toml(item.name)},  # {_reason(item, profile)}" for item in ignored]
        lines.append("]")
    lines += ["", "[fields]"]
    for item in profile.columns:
        if _role(item, profile) == "field" or (item is time and _is_whole_time(item)):
            lines.append(f"{_key(item.name)} = {_field_toml(item)}  # {_facts(item)}")
    return "\n".join(lines) + "\n"


def _role(item: ColumnProfile, profile: LogProfile) -> str:
    """What a column is: field, role (label or time), or why it is no field."""
    if item.name in (profile.label, profile.time):
        return "role"
    if not item.name:
        return "nameless"
    if item.of_folders and item.kind == "timestamp":
        return "folder"
    if item.kind is None:
        return "mixed"
    if item.distinct < 2:
        return "constant"
    if item.alone_auc is not None and item.alone_auc >= LEAK_AUC:
        return "leak"
    is_name = item.kind in ("string", "integer") and not item.is_list
    is_key = is_name and item.distinct == item.rows and item.rows > 100
    return "key" if is_key else "field"


def _reason(item: ColumnProfile, profile: LogProfile) -> str:
    return {
        "folder": "a time that folders are named by, which rows that are scored lack",
        "nameless": "a field needs a name",
        "mixed": "values of several types, or of one that no field has",
        "constant": "one value in all rows" if item.distinct else "no value in any row",
        "leak": f"predicts the label by itself: AUC {item.alone_auc}; known before the click?",
        "key": "another value in every row",
    }[_role(item, profile)]


def _is_whole_time(item: ColumnProfile) -> bool:
    return item.kind == "timestamp" and not item.of_folders


def _facts(item: ColumnProfile) -> str:
    text = f"{item.distinct:,} values"
    return text + (f", {item.missing / item.rows:.1%} missing" if item.missing else "")


def _kind_text(item: ColumnProfile) -> str:
    kind = item.kind or "mixed"
    return f"list of {kind}" if item.is_list else kind


def _field_toml(item: ColumnProfile) -> str:
    """One field: its kind as a text, or a table of settings."""
    settings: dict[str, Any] = {"kind": item.kind}
    if item.kind == "timestamp":
        settings["format"] = item.time_format
    if item.is_list:
        settings["list"] = True
        if item.separator not in (None, "|"):
            settings["separator"] = item.separator
    if markers := [marker for marker in item.markers if marker]:
        settings["missing"] = ["", *markers]
    if len(settings) == 1:
        return _toml(item.kind)
    return "{ " + ", ".join(f"{key} = {_toml(value)}" for key, value in settings.items()) + " }"


def _key(name: str) -> str:
    is_bare = name.isascii() and name.replace("_", "").replace("-", "").isalnum()
    return name if is_bare else _toml(name)


def _toml(value: Any) -> str:
    """A text, boolean or list of texts as TOML: as JSON, but for what only JSON writes so.

    JSON escapes a character beyond U+FFFF, as of emoji, as two halves, of which TOML takes neither,
    and leaves U+007F as it is, which TOML refuses.
    """
    text = json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    return "".join(each if each.isprintable() else f"\\U{ord(each):08x}" for each in text)
