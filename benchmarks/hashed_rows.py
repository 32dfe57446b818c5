"""The row methods on hashed IDs at equal bytes: AUC of every form, at 10, 100 and 1000 times less.

python benchmarks/hashed_rows.py --data epinions --path DIR --out hashed_epinions.csv --work FOLDER

No ranking of the values is known: IDs are 64-bit hashes, drawn anew with each seed, so the spread
over seeds is that of the collisions too. Tables are float16, so that their bytes are those planned
and rounding plays no part. A field whose values all get a row keeps its vocabulary, whatever the
form. Trials are kept under --work and rows in --out, so a second call continues and adds seeds,
ratios and forms; the CSV is rewritten after each.
"""

import argparse
import csv
import json
import resource
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ondevice.atomic import atomic_path
from ondevice.codecs import BITS, Codec
from ondevice.features import PADDING_ID
from ondevice.hashing import hash_int64
from ondevice.lookup import table_rows
from ondevice.models.data import DATASETS, HashedLog, open_log
from ondevice.models.data.synthetic import synthetic_log
from ondevice.models.search.hashed_rows import FEWEST_ROWS, FORMS, hashed_designs
from ondevice.models.search.run_trial import folder_of, run_trial
from ondevice.models.search.table_design import TableDesign
from ondevice.models.search.trial import Trial, TrialResult
from ondevice.models.search.trial_data import TrialData, prepare
from ondevice.models.training.refit import Refit

CODEC: Codec = "f16"
WHOLE = "full"  # in the column "form": a row for every training value


@dataclass(frozen=True)
class Full:
    """What the full model of a seed takes and reaches."""

    table_bytes: int
    test_auc: float

    @classmethod
    def of(cls, row: dict[str, str]) -> "Full":
        """From its row of the CSV."""
        return cls(int(row["table_bytes"]), float(row["test_auc"]))


@dataclass(frozen=True)
class Settings:
    """What all trials of a run have in common.

    Attributes:
        dim: width of the full model's rows.
        training: the settings of a Trial that say how to train.
        work: the folder of the trials.
    """

    dim: int
    training: dict[str, Any]
    work: Path


def main() -> None:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", choices=DATASETS, default="synthetic")
    parser.add_argument("--path", nargs="+")
    parser.add_argument("--columns", type=Path, help="the description of a log")
    parser.add_argument("--name", help="in the CSV; by default that of the data")
    parser.add_argument("--rows", type=int, help="of the synthetic log")
    parser.add_argument("--zipf", type=float, default=1.1, help="exponent of the synthetic log")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--ratios", type=int, nargs="+", default=[10, 100, 1000])
    parser.add_argument("--forms", choices=FORMS, nargs="+", default=list(FORMS))
    parser.add_argument("--dim", type=int, default=16)
    parser.add_argument("--hidden", type=int, nargs="+", default=[128, 64])
    parser.add_argument("--epochs", type=int, default=15, help="at most; one without gain ends it")
    parser.add_argument("--batch", type=int, default=1024)
    parser.add_argument("--learning-rate", type=float, default=2e-3)
    parser.add_argument("--refit", action="store_true", help="refit rows, the network fixed")
    parser.add_argument("--out", type=Path, required=True, help="CSV file")
    parser.add_argument("--work", type=Path, required=True, help="folder of the trials")
    args = parser.parse_args()
    torch.set_num_threads(1)
    if args.data == "synthetic":
        log = synthetic_log(args.rows or 300_000, zipf=args.zipf)
    else:
        log = open_log(args.data, args.path, columns=args.columns)
    training = {
        "hidden": tuple(args.hidden),
        "epochs": args.epochs,
        "batch": args.batch,
        "learning_rate": args.learning_rate,
        "refit": Refit() if args.refit else None,
    }
    settings = Settings(args.dim, training, args.work)
    name = args.name or args.data
    rows = written_rows(args.out, name)
    for seed in args.seeds:
        data = prepare(rehashed(log, seed))
        done = [row for row in rows if row["seed"] == str(seed)]
        for row in measured(data, seed, args.ratios, args.forms, settings, done):
            rows.append({"data": name, **{key: str(cell) for key, cell in row.items()}})
            print(rows[-1], flush=True)
            write(sorted(rows, key=place), args.out)


def written_rows(path: Path, name: str) -> list[dict[str, str]]:
    """The rows that an earlier call wrote. Exits where they are of other data."""
    if not path.is_file():
        return []
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    if others := {row["data"] for row in rows} - {name}:
        raise SystemExit(f"{path} holds rows of {', '.join(sorted(others))}, not of {name}")
    return rows


def place(row: dict[str, str]) -> tuple[int, int, str]:
    """Where a row stands in the CSV."""
    return int(row["seed"]), int(row["wanted_ratio"]), row["form"]


def rehashed(log: HashedLog, seed: int) -> HashedLog:
    """The log with its categorical values hashed once more, under another seed."""
    hashes = dict(log.hashes)
    for item in log.features.fields:
        if item.encoding == "hash":
            drawn = hash_int64(log.hashes[item.name], seed)
            missing = log.hashes[item.name] == PADDING_ID
            hashes[item.name] = np.where(missing, PADDING_ID, drawn)
    return replace(log, hashes=hashes)


def measured(
    data: TrialData,
    seed: int,
    ratios: list[int],
    forms: list[str],
    settings: Settings,
    done: list[dict[str, str]],
) -> Iterator[dict[str, Any]]:
    """The full model's row of the CSV, then that of each form at each ratio, but for those done."""
    full = {row["form"]: Full.of(row) for row in done}.get(WHOLE)
    if full is None:
        whole = {name: TableDesign(settings.dim, "f32") for name in data.fields}
        trial = Trial(whole, seed=seed, **settings.training)
        result, seconds = timed_trial(data, trial, settings.work)
        full = Full(result.table_bytes, result.test_auc)
        yield cells(data, WHOLE, 1, result, full, seconds)
    values = {name: len(known) for name, known in data.values.items()}
    finished = {(row["form"], int(row["wanted_ratio"])) for row in done}
    for ratio in ratios:
        budget = full.table_bytes / ratio
        dim = width(budget, len(values), settings.dim)
        for form in forms:
            if (form, ratio) in finished:
                continue
            rows = int(budget * 8 / (BITS[CODEC] * dim))
            tables = hashed_designs(FORMS[form], values, rows, dim, CODEC)
            if tables is None or data.numbers:
                raise SystemExit(f"{form}: no tables of {budget:.0f} bytes, or fields of numbers")
            trial = Trial(tables, seed=seed, **settings.training)
            result, seconds = timed_trial(data, trial, settings.work)
            yield cells(data, form, ratio, result, full, seconds)


def width(budget: float, fields: int, dim: int) -> int:
    """The width of compressed rows: halved until every field can have FEWEST_ROWS."""
    while budget * 8 / (BITS[CODEC] * dim) < FEWEST_ROWS * fields and dim > 1:
        dim //= 2
    return dim


def timed_trial(data: TrialData, trial: Trial, work: Path) -> tuple[TrialResult, float]:
    """A trial, and the CPU seconds that it took when it ran."""
    stored = folder_of(data, trial, work) / "seconds.json"
    before = resource.getrusage(resource.RUSAGE_SELF).ru_utime
    result = run_trial(data, trial, work, progress=False)
    if not stored.is_file():
        seconds = resource.getrusage(resource.RUSAGE_SELF).ru_utime - before
        stored.write_text(json.dumps(round(seconds, 1)))
    return result, float(json.loads(stored.read_text()))


def cells(
    data: TrialData,
    form: str,
    ratio: int,
    result: TrialResult,
    full: Full,
    seconds: float,
) -> dict[str, Any]:
    """A row of the CSV, without the name of the data."""
    designs = result.trial.tables
    shared = {name: item.lookup for name, item in designs.items() if item.lookup is not None}
    collided = [collisions(data, name, lookup) for name, lookup in shared.items()]
    return {
        "seed": result.trial.seed,
        "form": form,
        "wanted_ratio": ratio,
        "dim": max(item.dim for item in designs.values()),
        "table_bytes": result.table_bytes,
        "rows_per_id": max((item.rows_per_id for item in shared.values()), default=1),
        "values_apart": round(float(np.mean([item[0] for item in collided] or [1])), 4),
        "reads_apart": round(float(np.mean([item[1] for item in collided] or [1])), 4),
        "validation_auc": round(result.validation_auc, 5),
        "test_auc": round(result.test_auc, 5),
        "auc_share": round(result.test_auc / full.test_auc, 5),
        "lift_ratio": round((result.test_auc - 0.5) / (full.test_auc - 0.5), 5),
        "cpu_seconds": seconds,
    }


def collisions(data: TrialData, name: str, lookup: Any) -> tuple[float, float]:
    """Shares of a field's training values, and of its training rows, that no value else reads.

    A value is apart if the set of rows that it reads is that of no other training value.
    """
    rows = table_rows(lookup, data.values[name])
    _, group, members = np.unique(rows, axis=0, return_inverse=True, return_counts=True)
    apart = members[group.ravel()] == 1
    counts = data.counts[name]
    return float(apart.mean()), float(counts[apart].sum() / counts.sum())


def write(rows: list[dict[str, str]], path: Path) -> None:
    """Write the CSV anew."""
    with atomic_path(path) as temporary, temporary.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


if __name__ == "__main__":
    main()
