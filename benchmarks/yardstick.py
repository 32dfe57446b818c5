"""Frappe_x1, a log with published results: our recipes beside them, and what compression costs.

python benchmarks/yardstick.py --path 'DIR/*.csv' --work FOLDER

Trains examples/frappe_x1/*.toml as `ondevice train` does, then smaller networks with compressed
tables under the same settings, and writes docs/evidence/yardstick.csv, its plot and its part of
docs/evidence/compression.md. AUC and bytes of compressed models are those of the written file.
Checkpoints and files are kept under --work and rows in the CSV, so a second call continues and
adds seeds and networks.
"""

import argparse
import csv
import json
import re
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter
from sklearn.metrics import log_loss, roc_auc_score

import ondevice
from ondevice.atomic import atomic_path
from ondevice.codecs import Codec
from ondevice.converters import convert
from ondevice.inspection import inspect
from ondevice.models.checkpoint import load_checkpoint, save_checkpoint
from ondevice.models.commands.options import open_source
from ondevice.models.data import HashedLog
from ondevice.models.data.hashed import encoded
from ondevice.models.designs import Design
from ondevice.models.layers.rounding import Rounding
from ondevice.models.recipe import open_recipe
from ondevice.models.training.experiment import (
    Experiment,
    Trained,
    checkpoint_extra,
    train_compressed,
    train_full,
)
from ondevice.models.training.training_state import TrainingState
from ondevice.models.training.widths import Widths

ROOT = Path(__file__).resolve().parent.parent
EVIDENCE = ROOT / "docs" / "evidence"
RECIPES = ROOT / "examples" / "frappe_x1"
# Test AUC and log loss on Frappe_x1, averages of repeated runs: J. Zhu et al., "BARS: Towards Open
# Benchmarking for Recommender Systems", SIGIR 2022 (openbenchmark.github.io/BARS).
PUBLISHED = {
    "dnn": ("DNN", 0.98405),
    "deepfm": ("DeepFM", 0.98395),
    "dcn": ("DCN-v2", 0.98382),
    "dcn_v1": ("DCN", 0.98342),
}


@dataclass(frozen=True)
class Variant:
    """A smaller model: sizes of the hidden layers, dimensions, codec of the tables, and values per
    row of the users and items (1: each has its own).
    """

    hidden: tuple[int, ...]
    dim: int
    codec: Codec
    ratio: float = 1.0

    @property
    def name(self) -> str:
        """Of the folder and in the table."""
        layers = "-".join(map(str, self.hidden))
        parts = [layers, f"{self.dim} dim", self.codec]
        parts += [f"{self.ratio:g} values a row"] * (self.ratio > 1)
        return ", ".join(parts)

    def experiment(self, base: Experiment) -> Experiment:
        """The recipe's experiment with this model."""
        shared = self.ratio > 1
        design = Design(self.dim, 500 if shared else 1_000_000, self.ratio)
        return replace(
            base,
            design=design,
            network=replace(base.network, hidden=self.hidden),
            widths=Widths("whole"),
            rounding=Rounding(self.codec, epochs=3),
        )


SMALL = (128, 64)
VARIANTS = (
    Variant(SMALL, 4, "q4"),
    Variant(SMALL, 1, "q4"),
    Variant(SMALL, 2, "q4"),
    Variant(SMALL, 10, "q2"),
    Variant(SMALL, 1, "q2", ratio=4.0),
    Variant(SMALL, 4, "q2"),
    Variant(SMALL, 10, "q4"),
)


def main() -> None:
    """Train what is missing, measure all, write CSV, plot and page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--path", nargs="+", required=True, help="train, valid and test files")
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--recipes", choices=PUBLISHED, nargs="+", default=list(PUBLISHED))
    parser.add_argument("--no-compressed", action="store_true", help="only the recipes")
    args = parser.parse_args()
    torch.set_num_threads(1)
    recipes = {name: open_recipe(str(RECIPES / f"{name}.toml")) for name in args.recipes}
    base = open_recipe(str(RECIPES / "dnn.toml"))
    log = open_source(replace(base.source, path=tuple(args.path)))
    for seed in args.seeds:
        experiment = seeded(base.experiment, seed)
        cases = {name: recipe_case(name, recipe.experiment) for name, recipe in recipes.items()}
        if not args.no_compressed:
            cases |= {f"dnn, {codec}": codec_case(codec) for codec in ("q8", "q4")}
            cases |= {variant.name: variant_case(variant, experiment) for variant in VARIANTS}
        for name, case in cases.items():
            known = written()
            if (name, str(seed)) in {(row["model"], row["seed"]) for row in known}:
                continue
            write([*known, {"model": name, "seed": str(seed), **case(log, args.work, seed)}])
            page()
    page()


Case = Callable[[HashedLog, Path, int], dict[str, str]]  # log, --work and seed -> a row of the CSV


def recipe_case(name: str, experiment: Experiment) -> Case:
    """A recipe trained as it stands."""

    def figures(log: HashedLog, work: Path, seed: int) -> dict[str, str]:
        folder = work / f"{name}{seed}"
        ensure(log, seeded(experiment, seed), folder, full=True)
        return recorded(folder)

    return figures


def codec_case(codec: Codec) -> Case:
    """The trained DNN, its tables rounded."""
    return lambda log, work, seed: measured(work / f"dnn{seed}", codec, log)


def variant_case(variant: Variant, experiment: Experiment) -> Case:
    """A smaller model, trained with tables as they are stored."""

    def figures(log: HashedLog, work: Path, seed: int) -> dict[str, str]:
        folder = work / f"{variant.name}-{seed}".replace(", ", "_").replace(" ", "-")
        ensure(log, variant.experiment(experiment), folder, full=False)
        return measured(folder, variant.codec, log)

    return figures


def written() -> list[dict[str, str]]:
    """The rows of the CSV."""
    path = EVIDENCE / "yardstick.csv"
    if not path.is_file():
        return []
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def seeded(experiment: Experiment, seed: int) -> Experiment:
    """The experiment with another seed."""
    return replace(experiment, training=replace(experiment.training, seed=seed))


def ensure(log: HashedLog, experiment: Experiment, folder: Path, *, full: bool) -> None:
    """Train a model and save it in `folder`, unless it is there; goes on where it was stopped."""
    if folder.exists():
        return
    state_folder = folder.with_name(f".{folder.name}.state")
    state = TrainingState(state_folder, {"experiment": asdict(experiment)})
    train = train_full if full else train_compressed
    trained: Trained = train(log, experiment, progress=False, state=state)
    extra = checkpoint_extra(trained, log)
    features = trained.splits.train.features
    save_checkpoint(folder, trained.model, features, extra, counts=trained.fitted.counts)
    TrainingState.remove(state_folder)


def recorded(folder: Path) -> dict[str, str]:
    """What a checkpoint's model reached, and the bytes of its float32 parameters."""
    checkpoint = load_checkpoint(folder)
    tables = sum(table.weight.numel() for table in checkpoint.model.tables())
    whole = sum(item.numel() for item in checkpoint.model.parameters())
    test = checkpoint.extra["test"]
    return figures_of(test["auc"], test["logloss"], 4 * tables, 4 * whole)


def figures_of(auc: float, logloss: float, table_bytes: int, file_bytes: int) -> dict[str, str]:
    """A row of the CSV."""
    return {
        "table_bytes": str(table_bytes),
        "file_bytes": str(file_bytes),
        "test_auc": f"{auc:.5f}",
        "test_logloss": f"{logloss:.5f}",
    }


def measured(folder: Path, codec: Codec, log: HashedLog) -> dict[str, str]:
    """Convert a checkpoint, tables to `codec`, dense layers to f16, and test the written file."""
    stored = folder.with_name(f"{folder.name}-{codec}-figures.json")
    if stored.exists():
        figures: dict[str, str] = json.loads(stored.read_text(encoding="utf-8"))
        return figures
    checkpoint = load_checkpoint(folder)
    examples = {name: torch.tensor(ids) for name, ids in checkpoint.extra["examples"].items()}
    out = folder.with_name(f"{folder.name}-{codec}")
    options = {"tables": codec, "dense": "f16", "features": checkpoint.features}
    report = convert(checkpoint.model, (examples,), out, targets=("odm",), **options)
    path = report.targets["odm"].path
    test = encoded(log.part(2), checkpoint.features)
    scores = ondevice.load(path).predict(test.ids)
    inspection = inspect(path)
    tables = sum(table.total for table in inspection.tables)
    auc, loss = roc_auc_score(test.labels, scores), log_loss(test.labels, scores)
    figures = figures_of(float(auc), float(loss), tables, inspection.file_bytes)
    stored.write_text(json.dumps(figures), encoding="utf-8")
    return figures


def write(rows: list[dict[str, str]]) -> None:
    """Write the CSV anew."""
    path = EVIDENCE / "yardstick.csv"
    with atomic_path(path) as temporary, temporary.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def page() -> None:
    """Rewrite the tables between `<!-- yardstick -->` and `<!-- end -->`, and the plot."""
    by_model: BySeed = {}
    for row in written():
        figures = [float(row[key]) for key in FIGURES]
        by_model.setdefault(row["model"], {})[row["seed"]] = figures
    means = {name: np.mean([*figures.values()], axis=0) for name, figures in by_model.items()}
    path = EVIDENCE / "compression.md"
    pattern = r"(<!-- yardstick -->\n).*?(<!-- end -->)"
    text = path.read_text(encoding="utf-8")
    tables = published_table(by_model) + "\n" + compressed_table(by_model, means)
    text = re.sub(pattern, lambda match: match[1] + tables + match[2], text, flags=re.DOTALL)
    path.write_text(text, encoding="utf-8")
    plot(means)


FIGURES = ("table_bytes", "file_bytes", "test_auc", "test_logloss")
BySeed = dict[str, dict[str, list[float]]]  # by model and seed, in the order of FIGURES
Means = dict[str, Any]  # by model float64 [4], in the order of FIGURES


def published_table(by_model: BySeed) -> str:
    """Markdown: our recipes beside the published results."""
    lines = ["| network | published AUC | AUC | difference | log loss | seeds |\n"]
    lines += ["|---|---|---|---|---|---|\n"]
    for name, (label, published) in PUBLISHED.items():
        if name not in by_model:
            continue
        aucs, losses = np.transpose([*by_model[name].values()])[2:]
        ours = aucs.mean()
        spread = f" ± {aucs.std(ddof=1):.4f}" if len(aucs) > 1 else ""
        lines.append(
            f"| {label} | {published:.4f} | {ours:.4f}{spread} | {ours - published:+.4f} "
            f"| {losses.mean():.4f} | {len(aucs)} |\n"
        )
    return "".join(lines)


def compressed_table(by_model: BySeed, means: Means) -> str:
    """Markdown: AUC of compressed models against the bytes of tables and of the whole file.

    What is lost is against the DNN of the same seeds.
    """
    lines = ["| hidden layers, tables | tables | smaller | file | smaller | AUC | lost | seeds |\n"]
    lines += ["|---|---|---|---|---|---|---|---|\n"]
    full = means["dnn"]
    for model, (tables, size, auc, _) in sorted(means.items(), key=lambda item: -item[1][0]):
        if model in PUBLISHED and model != "dnn":
            continue
        lost = np.mean([by_model["dnn"][seed][2] for seed in by_model[model]]) - auc
        label = {"dnn": "400-400-400, 10 dim, f32"}.get(model, model)
        label = label.replace("dnn,", "400-400-400, 10 dim,")
        lines.append(
            f"| {label} | {tables:,.0f} | {full[0] / tables:.0f}x | {size:,.0f} "
            f"| {full[1] / size:.0f}x | {auc:.4f} | {lost:.4f} | {len(by_model[model])} |\n"
        )
    return "".join(lines)


def plot(means: Means) -> None:
    """Draw AUC against the bytes of tables and of the file, and the published results."""
    figure = Figure(figsize=(9, 3.8), layout="constrained")
    panels = figure.subplots(1, 2, sharey=True)
    names = [model for model in means if model not in PUBLISHED or model == "dnn"]
    for axes, place, what in zip(panels, (0, 1), ("all tables", "the whole file"), strict=True):
        for model in names:
            mark = "s" if model == "dnn" else "^" if model.startswith("dnn") else "o"
            colour = "C1" if model.startswith("dnn") else "C0"
            axes.plot(means[model][place], means[model][2], mark, color=colour, ms=6)
            if not model.startswith("dnn"):
                text = model.partition(", ")[2]
                spot = (means[model][place], means[model][2])
                side = {"q4": ((-6, -3), "right")}.get(text[-2:], ((6, -3), "left"))
                axes.annotate(
                    *(text, spot, side[0]), ha=side[1], textcoords="offset points", fontsize=7
                )
        # a line each would be one thick line: they differ by less than its width
        published = [auc for _, auc in PUBLISHED.values()]
        names_published = ", ".join(label for label, _ in PUBLISHED.values())
        span = f"published: {names_published}\n({min(published):.4f} to {max(published):.4f})"
        axes.axhspan(min(published), max(published), color="C2", alpha=0.6, label=span)
        axes.set_xscale("log")
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.set_xlabel(f"bytes of {what}")
        axes.grid(alpha=0.3)
    panels[0].plot([], [], "s", color="C1", label="our DNN 400-400-400, float32")
    panels[0].plot([], [], "^", color="C1", label="the same, tables q8 and q4")
    panels[0].plot([], [], "o", color="C0", label="hidden layers 128-64")
    panels[0].set_ylabel("test AUC on Frappe_x1")
    panels[0].legend(fontsize=7, loc="lower right")
    figure.savefig(EVIDENCE / "yardstick.png", dpi=110, metadata={"Software": None})


if __name__ == "__main__":
    main()
