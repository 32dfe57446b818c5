"""Bits by frequency and distillation: how much AUC tables of so many bytes keep, row per seed.

python benchmarks/small_tables.py --data epinions --path DIR --work FOLDER --out small.csv

For each seed three models on frequency-ranked IDs: the full one (16 float dimensions, refitted)
from labels, the full one distilled, and the small one. Its bits are planned once, on a distilled
model of one float dimension with a row for every value (seed 0; --form codes: codes of the values'
places instead, planned on such a model trained from labels, as `ondevice compress` does it); then
it is trained from the start with the rows and codecs planned. Nothing is chosen by hand or by test
rows. Teachers, trials and the plan are kept under --work, so a second call continues.
--validation-only writes no test AUC, --labels-only leaves the distillation out.
"""

import argparse
import csv
import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from ondevice.atomic import atomic_path
from ondevice.models.checkpoint import load_checkpoint
from ondevice.models.data import DATASETS, open_log
from ondevice.models.data.synthetic import DEFAULT_ROWS, synthetic_log
from ondevice.models.search.bit_plan import plan_bits
from ondevice.models.search.frontier import described
from ondevice.models.search.place_codes import coded_designs, field_weights
from ondevice.models.search.run_trial import folder_of, run_trial
from ondevice.models.search.table_design import TableDesign
from ondevice.models.search.trial import Trial, TrialResult
from ondevice.models.search.trial_data import TrialData, prepare
from ondevice.models.training.distillation import Distillation
from ondevice.models.training.refit import Refit

DIM = 16


def main() -> None:
    """Train, measure and write the CSV, rewritten after each seed."""
    args = _arguments()
    torch.set_num_threads(1)
    if args.zipf is None:
        log = open_log(args.data, args.path, max_rows=args.rows)
    else:
        log = synthetic_log(args.rows or DEFAULT_ROWS, zipf=args.zipf)
    data = prepare(log)
    base = Trial(
        {},
        ranked=True,
        epochs=args.epochs,
        batch=args.batch,
        learning_rate=args.learning_rate,
        refit=Refit(),
    )
    rows = []
    for seed in args.seeds:
        rows += _measured(data, replace(base, seed=seed), args)
        with atomic_path(args.out) as temporary, temporary.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", choices=DATASETS, default="synthetic")
    parser.add_argument("--path", type=Path)
    parser.add_argument("--rows", type=int, help="of the synthetic log")
    parser.add_argument("--zipf", type=float, help="exponent of the synthetic log")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--ratio", type=float, default=1000)
    parser.add_argument("--epochs", type=int, default=15, help="at most; one without gain ends it")
    parser.add_argument("--batch", type=int, default=1024)
    parser.add_argument("--learning-rate", type=float, default=2e-3)
    parser.add_argument("--form", choices=("bits", "codes"), default="bits")
    parser.add_argument(
        "--teacher-seeds", type=int, default=Distillation().seeds, help="four teachers for each"
    )
    parser.add_argument("--labels-only", action="store_true", help="no distillation")
    parser.add_argument("--small-only", action="store_true", help="leave out the full models")
    parser.add_argument("--validation-only", action="store_true", help="no test AUC")
    parser.add_argument("--out", type=Path, required=True, help="CSV file")
    parser.add_argument("--work", type=Path, required=True, help="folder of the trials")
    return parser.parse_args()


def _measured(data: TrialData, base: Trial, args: argparse.Namespace) -> list[dict[str, Any]]:
    """The rows of one seed."""
    whole = {name: TableDesign(DIM, "f32") for name in data.fields}
    full = replace(base, tables=whole)
    teachers = None if args.labels_only else Distillation(seeds=args.teacher_seeds)
    distilled = replace(base, distillation=teachers)
    full_bytes = 4 * DIM * sum(spec.rows for spec in _specs(data, whole))
    trials = {}
    if not args.small_only:
        trials = {"full": full}
        if not args.labels_only:
            trials["full, distilled"] = replace(distilled, tables=whole)
    budget = full_bytes / args.ratio
    if args.form == "codes":
        tables = _coded(data, base, budget, args.work)
    else:
        tables = _planned(data, distilled, budget, args.work)
    small = "small, from labels" if args.labels_only else "small"
    trials[small] = replace(distilled, tables=tables, round_epochs=2)
    rows = []
    for name, trial in trials.items():
        result = run_trial(data, trial, args.work, progress=False)
        rows.append(_row(name, trial, result, full_bytes, args))
        print(rows[-1], flush=True)
    return rows


def _planned(data: TrialData, trial: Trial, budget: float, work: Path) -> dict[str, TableDesign]:
    """Tables of at most `budget` bytes, planned on a probe of one dimension."""
    one = {name: TableDesign(1, "f32") for name in data.fields}
    probe = replace(trial, tables=one, seed=0)
    folder = folder_of(data, probe, work)
    stored = folder / f"plan-{int(budget)}.json"
    if not stored.is_file():
        run_trial(data, probe, work, progress=False)
        model = load_checkpoint(folder / "checkpoint").model
        owned = {name: data.rows_of_values(name) for name in data.fields}
        tables = plan_bits(model, data.ranked, budget, owned)
        tables |= {name: replace(tables[name], head=None) for name in data.numbers}
        with atomic_path(stored) as temporary:
            plain = {name: asdict(design) for name, design in tables.items()}
            temporary.write_text(json.dumps(plain), encoding="utf-8")
    designs = json.loads(stored.read_text(encoding="utf-8"))
    return {name: TableDesign(**design) for name, design in designs.items()}


def _coded(data: TrialData, trial: Trial, budget: float, work: Path) -> dict[str, TableDesign]:
    """Codes of places in tables of at most `budget` bytes, planned on a probe of one dimension."""
    one = {name: TableDesign(1, "f32") for name in data.fields}
    probe = replace(trial, tables=one, seed=0)
    run_trial(data, probe, work, progress=False)
    model = load_checkpoint(folder_of(data, probe, work) / "checkpoint").model
    tables = coded_designs(field_weights(model, data), data, int(budget))
    if tables is None:
        raise SystemExit(f"{budget:.0f} bytes are too few for codes, or enough for a row a value")
    return tables


def _specs(data: TrialData, tables: dict[str, TableDesign]) -> list[Any]:
    return [design.spec(data.rows_of_values(name), ranked=True) for name, design in tables.items()]


def _row(
    name: str, trial: Trial, result: TrialResult, full_bytes: int, args: argparse.Namespace
) -> dict[str, Any]:
    cells = {
        "data": args.data,
        "seed": trial.seed,
        "model": name,
        "table_bytes": result.table_bytes,
        "ratio": round(full_bytes / result.table_bytes, 1),
        "map_bytes": result.map_bytes,
        "validation_auc": round(result.validation_auc, 5),
    }
    if not args.validation_only:
        cells["test_auc"] = round(result.test_auc, 5)
    tables = {field: asdict(design) for field, design in trial.tables.items()}
    cells["sections"] = "; ".join(
        f"{field} " + ", ".join(f"{rows} {codec}" for rows, codec in design["sections"])
        for field, design in tables.items()
    )
    if args.form == "codes" and name.startswith("small"):
        cells["sections"] = described(trial.tables)
    return cells


if __name__ == "__main__":
    main()
