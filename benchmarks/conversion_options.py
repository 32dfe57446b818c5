"""What conversion options cost and save: forms of dense layers, and tables fitted after training.

ondevice train dnn --full --data ml1m --path DIR --hidden 400 400 400 --out checkpoint
python benchmarks/conversion_options.py checkpoint --data ml1m --path DIR --work FOLDER

Prints the Markdown tables of docs/evidence/conversion.md. AUC is that of the written files on
the test split; calibration rows come from the training split.
"""

import argparse
from pathlib import Path

import numpy as np
from sklearn.metrics import roc_auc_score

import ondevice
from ondevice.bench.measure.plan import Plan
from ondevice.bench.measure.rounds import run_plan
from ondevice.bench.targets.local import LocalMachine
from ondevice.converters import convert
from ondevice.converters.verify.report import markdown_table
from ondevice.models import compress_embeddings, load_checkpoint, predict
from ondevice.models.commands.convert import examples, training_counts
from ondevice.models.data import DATASETS, open_log, split
from ondevice.models.data.hashed import encoded

CALIBRATION_ROWS = 4096
SCORE_BATCH = 8192
FORMS = {
    "f32": ("f32", False),
    "f16": ("f16", False),
    "q8": ("q8", False),
    "q8 static": ("q8", True),
}
FITS = [
    {"width_error": 0.1},
    {"width_error": 0.2},
    {"width_error": 0.3},
    {"width_error": 0.5},
    {"width_error": 0.3, "rotate": False},
    {"row_ratio": 2},
    {"row_ratio": 4},
    {"row_ratio": 2, "width_error": 0.3},
]

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("checkpoint", type=Path)
parser.add_argument("--data", choices=DATASETS, default="synthetic")
parser.add_argument("--path", type=Path)
parser.add_argument("--work", type=Path, required=True, help="folder for the model files")
parser.add_argument("--only", choices=("dense", "fitted"), help="one of the two tables")
parser.add_argument("--seconds", type=float, default=1.0, help="measuring time for each latency")
args = parser.parse_args()

checkpoint = load_checkpoint(args.checkpoint)
log = open_log(args.data, args.path)
parts = split(log)
training, test = (encoded(parts[i], checkpoint.features) for i in (0, 2))
example = (examples(checkpoint, args.checkpoint),)
calibration = {name: ids[:CALIBRATION_ROWS] for name, ids in training.ids.items()}
float_scores = predict(checkpoint.model, test)
float_auc = float(roc_auc_score(test.labels, float_scores))


def scores(path: Path) -> np.ndarray:
    """Probabilities of a model file on the test split."""
    model = ondevice.load(path)
    starts = range(0, len(test), SCORE_BATCH)
    batches = [{k: v[i : i + SCORE_BATCH] for k, v in test.ids.items()} for i in starts]
    return np.concatenate([model.predict(batch) for batch in batches])


def dense_forms() -> None:
    """Print size, latency and change of AUC of every form of the dense layers, by target."""
    rows = [["dense", "file", "layers", "batch 1 p50", "batch 128 p50", "AUC", "largest change"]]
    reports = {}
    for form, (codec, static) in FORMS.items():
        reports[form] = convert(
            checkpoint.model,
            example,
            args.work,
            dense=codec,
            calibration=calibration if static else None,
            name="-".join(form.split()),
        )
    models = tuple(item.path for report in reports.values() for item in report.targets.values())
    measured = run_plan(Plan(models, gaps_ms=(0.0,), seconds=args.seconds), LocalMachine())
    p50 = {
        (measured.models[item.model].name, item.rows): item.latency_us.p50
        for item in measured.latencies
    }
    for form, report in reports.items():
        for target, item in report.targets.items():
            probabilities = scores(item.path)
            tables = item.table_bytes
            rows.append(
                [
                    form,
                    f".{target}",
                    f"{(item.bytes - tables) / 1000:.0f} kB",
                    f"{p50[item.path.name, 1]:.1f} us",
                    f"{p50[item.path.name, 128]:.0f} us",
                    f"{roc_auc_score(test.labels, probabilities) - float_auc:+.5f}",
                    f"{np.abs(probabilities - float_scores).max():.1e}",
                ]
            )
    print(f"\n{measured.device.cpu}; test AUC of the float32 module {float_auc:.4f}\n")
    print(markdown_table(rows), flush=True)


def fitted_tables() -> None:
    """Print size and change of AUC of the .odm file for every way to fit the tables."""
    counts = training_counts(log, checkpoint)
    before = 4 * sum(table.weight.numel() for table in checkpoint.model.tables())
    change = f"AUC, change from {float_auc:.4f}"
    rows = [["fitted", "counts", "tables of .odm", "times smaller", change]]
    for options in [{}, *FITS]:
        for weighted in (False, True) if options else (False,):
            module = checkpoint.model
            if options:
                chosen = counts if weighted else None
                module, _ = compress_embeddings(module, counts=chosen, **options)
            report = convert(module, example, args.work, targets=("odm",), name="fitted")
            item = report.targets["odm"]
            rows.append(
                [
                    ", ".join(f"{key}={value}" for key, value in options.items()) or "only q8",
                    "yes" if weighted else "no",
                    f"{item.table_bytes / 1000:.0f} kB",
                    f"{before / item.table_bytes:.1f}",
                    f"{roc_auc_score(test.labels, scores(item.path)) - float_auc:+.4f}",
                ]
            )
            print(rows[-1], flush=True)
    print(f"\nfloat32 tables {before / 1000:.0f} kB\n")
    print(markdown_table(rows))


args.work.mkdir(parents=True, exist_ok=True)
if args.only != "fitted":
    dense_forms()
if args.only != "dense":
    fitted_tables()
