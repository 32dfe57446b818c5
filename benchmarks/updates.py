"""Bytes of a daily update of an ml1m model, beside xdelta3 and zstd: python benchmarks/updates.py

Trains a model on all ratings but two thirtieths, trains it on with one of these as the next day,
and writes deltas between the converted files; the AUC is measured on the other thirtieth. In the
second case the 200 users who joined last are missing from the first training and come with the day.

    python benchmarks/updates.py --path ml-1m --work DIR [--seeds 3] [--page docs/updates.md]

Each figure is the mean of runs with the seeds 0, 1, ..., of the training and of which rows are the
day; their range is in parentheses. Checkpoints that --work holds already are not trained again.
Needs xdelta3 and zstd (Debian).
"""

from __future__ import annotations

import argparse
import json
import lzma
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv as pc
import pyarrow.parquet as pq

from ondevice.delta.create import create_delta

TEXTS = ("zip", "genres", "year", "occupation", "genre1", "age", "gender")
NEW_USERS = 200  # ml1m numbers its users against the order in which they came
START, END = "<!-- benchmarks/updates.py -->", "<!-- end -->"
TITLES = ("tables", "network", "vocabulary", "conversion", "file", "delta", "xdelta3", "zstd",
          "AUC before", "AUC after", "rows' bytes equal")  # fmt: skip
HEAD = f"| {' | '.join(TITLES)} |\n{'|---' * len(TITLES)}|\n"


@dataclass(frozen=True)
class Case:
    """A model of one day and of the next: the folders of their rows, and how they are converted."""

    tables: str
    dense: str
    grows: bool
    slack: float | None

    @property
    def suffix(self) -> str:
        return "v" if self.grows else ""


CASES = [
    Case("q4", "q8", False, None),
    Case("q4", "q8", False, 0.0),
    Case("q4", "q8", False, 0.25),
    Case("q4", "q8", True, None),
    Case("q4", "q8", True, 0.25),
    Case("q8", "q8", False, None),
    Case("q8", "q8", False, 0.25),
    Case("q2", "q8", False, None),
    Case("q2", "q8", False, 0.25),
]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--path", type=Path, required=True, help="folder with ml1m's data.csv.xz")
    parser.add_argument("--work", type=Path, required=True, help="folder for what is made")
    parser.add_argument("--page", type=Path, help="page whose table is replaced")
    parser.add_argument("--seeds", type=int, default=3, help="runs (3)")
    args = parser.parse_args()
    works = [args.work / str(seed) for seed in range(args.seeds)]
    for seed, work in enumerate(works):
        if not (work / "next.csv").exists():
            work.mkdir(parents=True, exist_ok=True)
            divide(args.path / "data.csv.xz", work, seed)
        for suffix in ("", "v"):
            train(work, suffix, seed)
    lines = []
    for case in CASES:
        lines.append(line(case, [measured(work, case) for work in works]))
        print(lines[-1], flush=True)
    if args.page:
        text = args.page.read_text("utf-8")
        before, rest = text.split(START)
        after = rest.split(END)[1]
        table = HEAD + "\n".join(lines)
        args.page.write_text(f"{before}{START}\n\n{table}\n\n{END}{after}", "utf-8")


def divide(path: Path, work: Path, seed: int) -> None:
    """Write the rows of the first training, of the day, and of the measurement, for both cases."""
    with lzma.open(path) as file:
        rows = pc.read_csv(file)
    for name in TEXTS:
        rows = rows.set_column(rows.column_names.index(name), name, rows[name].cast(pa.string()))
    share = len(rows) // 30
    place = np.empty(len(rows), np.int64)
    place[np.random.default_rng(seed).permutation(len(rows))] = np.arange(len(rows))
    day, measured_rows = place < share, (place >= share) & (place < 2 * share)
    late = rows["user"].to_numpy() <= NEW_USERS
    first = ~day & ~measured_rows
    parts = {"base": first, "day1": day, "basev": first & ~late,
             "day1v": (day | late) & ~measured_rows}  # fmt: skip
    for name, chosen in parts.items():
        (work / name).mkdir(exist_ok=True)
        pq.write_table(rows.filter(pa.array(chosen)), work / name / "p.parquet")
    columns = [name for name in rows.column_names if name not in ("rating", "time_rank")]
    pc.write_csv(rows.filter(pa.array(measured_rows)).select(columns), work / "next.csv")
    fields = {"user": "integer", "movie": "integer", **dict.fromkeys(TEXTS, "string")}
    for suffix in ("", "v"):
        described = {
            name: {"kind": kind, "vocabulary": True} if suffix and kind == "integer" else kind
            for name, kind in fields.items()
        }
        columns_json = {"label": "label", "ignore": ["rating", "time_rank"], "fields": described}
        (work / f"cols{suffix}.json").write_text(json.dumps(columns_json), "utf-8")


def train(work: Path, suffix: str, seed: int) -> None:
    """The first checkpoint of a seed, and the one of the day after."""
    log = ["--data", "log", "--columns", f"cols{suffix}.json", "--split", "random"]
    log += ["--seed", str(seed)]
    first, second = f"ck0{suffix}", f"ck1{suffix}"
    if not (work / first).exists():
        ondevice(work, "train", *log, "--path", f"base{suffix}", "--epochs", "3", "--round", "q4",
                 "--out", first)  # fmt: skip
    if not (work / second).exists():
        ondevice(work, "train", "--from", first, *log, "--path", f"day1{suffix}",
                 "--epochs", "2", "--learning-rate", "0.0002", "--out", second)  # fmt: skip


@dataclass(frozen=True)
class Measured:
    """Of a case and a seed: bytes of the new file; shares of them that updates take; AUC."""

    size: int
    delta: float
    xdelta: float
    zstd: float
    old_auc: float
    auc: float
    equal: float


def measured(work: Path, case: Case) -> Measured:
    """Convert both checkpoints of a seed, and compute deltas of them."""
    name = f"{case.tables}-{case.dense}{case.suffix}"
    old, old_auc = converted(work, f"ck0{case.suffix}", case, f"old-{name}")
    like = [] if case.slack is None else ["--like", str(old), "--slack", str(case.slack)]
    new, auc = converted(work, f"ck1{case.suffix}", case, f"new-{name}", *like)
    size = new.stat().st_size
    xdelta = ["xdelta3", "-e", "-9", "-S", "djw", "-c", "-s", old, new]
    zstd = ["zstd", "-19", "--ultra", "-q", "-c", f"--patch-from={old}", new]
    sizes = [len(create_delta(old, new))]
    sizes += [len(subprocess.run(command, capture_output=True, check=True).stdout)
              for command in (xdelta, zstd)]  # fmt: skip
    return Measured(size, *(item / size for item in sizes), old_auc, auc, same_rows(old, new))


def line(case: Case, runs: list[Measured]) -> str:
    """A line of the table."""
    how = "plain" if case.slack is None else f"`--like`, slack {case.slack:g}"
    grown = "grows" if case.grows else "same"
    size = sum(run.size for run in runs) / len(runs)
    cells = [case.tables, case.dense, grown, how, f"{size:,.0f} B"]
    cells += [spread([getattr(run, name) for run in runs], 100, 1) + " %"
              for name in ("delta", "xdelta", "zstd")]  # fmt: skip
    cells += [spread([getattr(run, name) for run in runs], 1, 4) for name in ("old_auc", "auc")]
    cells.append(spread([run.equal for run in runs], 100, 0) + " %")
    return f"| {' | '.join(cells)} |"


def spread(values: list[float], factor: float, digits: int) -> str:
    """The mean, and the lowest and highest in parentheses where they differ."""
    mean, low, high = (
        f"{factor * value:.{digits}f}"
        for value in (sum(values) / len(values), min(values), max(values))
    )
    return mean if low == high else f"{mean} ({low} to {high})"


def converted(work: Path, checkpoint: str, case: Case, out: str, *like: str) -> tuple[Path, float]:
    """The .odm file of a checkpoint, and its AUC; one that is there already is taken."""
    known = work / out / "auc.txt"
    is_first = checkpoint.startswith("ck0")  # converted once for all cases
    if is_first and known.exists():
        return work / out / "model.odm", float(known.read_text("utf-8"))
    said = ondevice(work, "convert", checkpoint, "--tables", case.tables, "--dense", case.dense,
                    "--targets", "odm", "--validation", "next.csv", "--out", out, "--force",
                    *like)  # fmt: skip
    found = re.search(r"model\.odm ([0-9.]+) ", said)
    if found is None:
        sys.exit(f"no AUC in what ondevice convert printed:\n{said}")
    if is_first:
        known.write_text(found[1], "utf-8")
    return work / out / "model.odm", float(found[1])


def same_rows(old: Path, new: Path) -> float:
    """The share of bytes of tables' records that are the same, of arrays of the same size."""
    from ondevice.odm import open_odm

    same = total = 0
    before, after = open_odm(old).container, open_odm(new).container
    for name in after.entries:
        if name.endswith(".records") and name in before.entries:
            first, second = before.array(name), after.array(name)
            if first.size == second.size:
                same += int((first == second).sum())
                total += first.size
    return same / total


def ondevice(work: Path, *arguments: str) -> str:
    command = [sys.executable, "-m", "ondevice", *arguments]
    done = subprocess.run(command, cwd=work, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"ondevice {' '.join(arguments)}: {done.stderr[-500:]}")
    return done.stdout


if __name__ == "__main__":
    main()
