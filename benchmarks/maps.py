"""Bytes and AUC of files whose raw values find rows by a vocabulary, or by a retrieval structure.

python benchmarks/maps.py --path EPINIONS --out maps_epinions.csv --work FOLDER
python benchmarks/maps.py --build 1000000 10000000

Models of the Epinions log of one dimension: all users and the items seen three times or more own
rows. Beside them, hashed rows of about the bytes of the structure with four bits of fingerprint.
Trials are kept under --work, so a second call continues. --build measures instead how long building
takes and how many cells an ID takes; --speed PATH PATH, how long a request takes of raw values.
"""

import argparse
import csv
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.metrics import roc_auc_score

import ondevice
from ondevice.atomic import atomic_path
from ondevice.codecs import QuantTable
from ondevice.converters import convert
from ondevice.converters.tables.retrieval import build_retrieval
from ondevice.features import vocabulary_ids
from ondevice.inspection import inspect
from ondevice.models.checkpoint import load_checkpoint
from ondevice.models.data import open_log
from ondevice.models.data.hashed import encoded
from ondevice.models.retrieval import without_vocabularies
from ondevice.models.search.run_trial import SCORE_BATCH, folder_of, run_trial
from ondevice.models.search.table_design import TableDesign
from ondevice.models.search.trial import Trial
from ondevice.models.search.trial_data import prepare
from ondevice.models.training.experiment import example_ids
from ondevice.models.training.refit import Refit

FULL_BYTES, FULL_AUC = 17_763_200, 0.7494  # docs/evidence/compression.md
LEAST = 3  # impressions of an item that owns a row
FINGERPRINTS = (0, 1, 2, 4, 8)
HASHED = {
    "multi_hash": {"user": 22_000, "item": 51_000},  # rows of each of two hashes
    "binary_code": {"user": 14, "item": 15},  # bits of each of three blocks
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--path", type=Path, help="folder of the Epinions log")
    parser.add_argument("--codecs", nargs="+", default=["q4", "q2"])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--out", type=Path, help="CSV file")
    parser.add_argument("--work", type=Path, help="folder of the trials")
    parser.add_argument("--speed", type=Path, nargs="+", help="model files, for raw requests")
    parser.add_argument("--build", type=int, nargs="+", help="numbers of IDs")
    args = parser.parse_args()
    torch.set_num_threads(1)
    if args.speed:
        log = open_log("epinions", args.path)
        for path in args.speed:
            print(path.name, speed(path, log), flush=True)
        return
    if args.build:
        for count in args.build:
            print(build(count), flush=True)
        return
    data = prepare(open_log("epinions", args.path))
    rows = []
    for seed in args.seeds:
        for codec in args.codecs:
            rows += measured(data, trial_of(data, codec, seed), args.work)
        rows += [hashed(data, tail, seed, args.work) for tail in HASHED]
        with atomic_path(args.out) as temporary, temporary.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)


def trial_of(data: Any, codec: Any, seed: int) -> Trial:
    tables = {
        name: TableDesign(1, codec if len(known) > 1000 else "q8")
        for name, known in data.values.items()
    }
    frequent = int((data.counts["item"] >= LEAST).sum())
    tables["item"] = replace(tables["item"], head=frequent)
    return Trial(tables, seed=seed, epochs=15, batch=1024, learning_rate=2e-3, refit=Refit())


def hashed(data: Any, tail: Any, seed: int, work: Path) -> dict[str, Any]:
    """Rows of the raw hashes, without a map."""
    tables = trial_of(data, "q4", seed).tables | {
        name: TableDesign(1, "q4", 0, tail, size) for name, size in HASHED[tail].items()
    }
    result = run_trial(data, replace(trial_of(data, "q4", seed), tables=tables), work)
    folder = folder_of(data, result.trial, work)
    values = sum(map(len, data.values.values()))
    cells = row("q4", seed, tail, values, folder / "model.odm")
    return cells | quality(result.test_auc)


def measured(data: Any, trial: Trial, work: Path) -> list[dict[str, Any]]:
    result = run_trial(data, trial, work)
    folder = folder_of(data, trial, work)
    checkpoint = load_checkpoint(folder / "checkpoint")
    owned = result.map_bytes // 8
    rows = []
    for bits in (None, *FINGERPRINTS):
        model, features = checkpoint.model, checkpoint.features
        if bits is not None:
            model, features = without_vocabularies(
                model, features, trial.codecs, fingerprint_bits=bits
            )
        test = encoded(data.parts[2], features)
        examples = {name: torch.tensor(ids) for name, ids in example_ids(test).items()}
        name = "vocabulary" if bits is None else f"retrieval_{bits}"
        report = convert(
            model,
            (examples,),
            folder,
            targets=("odm",),
            tables=trial.codecs,
            features=features,
            name=name,
        )
        path = report.targets["odm"].path
        cells = row(trial.tables["item"].codec, trial.seed, name, owned, path)
        rows.append(cells | quality(auc(path, test)))
        print(rows[-1], flush=True)
    return rows


def row(codec: str, seed: int, how: str, owned: int, path: Path) -> dict[str, Any]:
    parts = inspect(path).parts
    together = parts.tables + parts.map
    return {
        "codec": codec,
        "seed": seed,
        "map": how,
        "values": owned,
        "table_bytes": parts.tables,
        "map_bytes": parts.map,
        "file_bytes": path.stat().st_size,
        "bytes_per_value": round(together / owned, 3),
        "times_smaller": round(FULL_BYTES / together, 1),
    }


def quality(value: float) -> dict[str, float]:
    return {"test_auc": round(value, 5), "auc_share": round(value / FULL_AUC, 5)}


def auc(path: Path, log: Any) -> float:
    model = ondevice.load(path)
    scores = [
        model.predict({name: ids[start : start + SCORE_BATCH] for name, ids in log.ids.items()})
        for start in range(0, len(log), SCORE_BATCH)
    ]
    return float(roc_auc_score(log.labels, np.concatenate(scores)))


def speed(path: Path, log: Any) -> dict[str, float]:
    """Microseconds of a request of 128 rows: from hashes to IDs, and from IDs to scores."""
    model = ondevice.load(path)
    hashes = {name: values[:128] for name, values in log.hashes.items()}
    ids = {name: encoded_ids(model.features[name], values) for name, values in hashes.items()}
    timings = {"encode": [], "predict": []}
    for _ in range(300):
        begun = time.perf_counter()
        for name, values in hashes.items():
            encoded_ids(model.features[name], values)
        between = time.perf_counter()
        model.predict(ids)
        timings["encode"].append(between - begun)
        timings["predict"].append(time.perf_counter() - between)
    return {name: round(1e6 * float(np.median(times)), 1) for name, times in timings.items()}


def encoded_ids(field: Any, hashes: Any) -> Any:
    known = field.vocabulary
    return hashes if known is None else vocabulary_ids(known, hashes)


def build(count: int) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    ids = np.unique(rng.integers(-(2**63), 2**63, count + count // 1000))[:count]
    rows = QuantTable("q4", rng.integers(-8, 8, (count, 1)).astype(np.int8), np.ones(1, np.float32))
    begun = time.process_time()
    built = build_retrieval(ids, rows, fingerprint_bits=4)
    seconds = time.process_time() - begun
    cells = built.spec.cells / count
    return {"ids": count, "cpu_seconds": round(seconds, 1), "cells_per_id": round(cells, 4)}


if __name__ == "__main__":
    main()
