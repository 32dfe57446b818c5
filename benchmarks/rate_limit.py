"""What any code of so many bits could keep: the rate-distortion limit of tables of one dimension.

python benchmarks/rate_limit.py --data ml1m --path DIR --work FOLDER --batch 2048 \
    --learning-rate 0.005 --ratios 1000 500

A model of one float dimension with a row for every value is trained, from labels or --distilled
(kept in --work, as `small_tables.py` keeps it). Its values are taken as Gaussian around the mean of
values of about the same frequency, and an error of a value costs what its row's Fisher information
says. The bits of a budget are divided by reverse water-filling, and each value is replaced by what
the best code imaginable, of all values together, would give: the value drawn towards its mean, plus
noise ("any code"). "Scalar" is the same with the best levels for each value by itself, of whole
bits, as tables have them. Printed is the AUC on the validation part, the network unchanged; fitting
the network to the codes, distillation, and values that are not Gaussian can give more.
"""

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from ondevice.models.checkpoint import load_checkpoint
from ondevice.models.data import DATASETS, open_log
from ondevice.models.networks import ClickModel
from ondevice.models.search.bit_plan import row_information
from ondevice.models.search.run_trial import folder_of, run_trial
from ondevice.models.search.table_design import TableDesign
from ondevice.models.search.trial import Trial
from ondevice.models.search.trial_data import TrialData, prepare
from ondevice.models.training.distillation import Distillation
from ondevice.models.training.refit import Refit
from ondevice.models.training.trainer import evaluate

FULL_DIM = 16
WINDOWS = 24  # of ranks, in which mean and variance are taken
# Error of the best levels of 0 to 6 bits for a Gaussian of variance 1 (J. Max, 1960).
LEVELS = np.array([1, 0.3634, 0.1175, 0.03454, 0.009497, 0.0025, 0.00065])
NOISES = 3

Doubles = npt.NDArray[np.float64]


def main() -> None:
    """Print the AUC of every ratio."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", choices=DATASETS, required=True)
    parser.add_argument("--path", type=Path)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--batch", type=int, default=1024)
    parser.add_argument("--learning-rate", type=float, default=2e-3)
    parser.add_argument("--epochs", type=int, default=15)
    parser.add_argument("--distilled", action="store_true", help="as in small_tables.py")
    parser.add_argument("--ratios", type=float, nargs="+", default=[1000])
    args = parser.parse_args()
    torch.set_num_threads(1)
    data = prepare(open_log(args.data, args.path))
    training = {"epochs": args.epochs, "batch": args.batch, "learning_rate": args.learning_rate}
    tables = {name: TableDesign(1, "f32") for name in data.fields}
    teachers = Distillation() if args.distilled else None
    trial = Trial(tables, ranked=True, refit=Refit(), distillation=teachers, **training)
    run_trial(data, trial, args.work, progress=False)
    model = load_checkpoint(folder_of(data, trial, args.work) / "checkpoint").model
    fields = [
        _field(name, model, values) for name, values in row_information(model, data.ranked).items()
    ]
    print(f"float: {evaluate(model, data.ranked.validation).auc:.4f}")
    rows = sum(model.embedding(name).spec.rows for name in data.fields)
    for ratio in args.ratios:
        bits = 8 * 4 * FULL_DIM * rows / ratio
        for what, errors in (("any code", _any_code), ("scalar", _scalar)):
            aucs = _aucs(model, data, fields, _within(errors, fields, bits))
            print(f"{ratio:g}x, {what}: {np.mean(aucs):.4f} +- {np.std(aucs):.4f}", flush=True)


@dataclass(frozen=True)
class _Field:
    """Values float64 [rows] by falling frequency, their information, mean and variance nearby."""

    name: str
    values: Doubles
    information: Doubles
    mean: Doubles
    variance: Doubles


def _field(name: str, model: ClickModel, information: Doubles) -> _Field:
    values = model.embedding(name).weight.numpy(force=True)[:, 0].astype(np.float64)
    window = np.ones(min(len(values), max(16, len(values) // WINDOWS)))
    weights = information + 1e-9
    total = np.convolve(weights, window, "same")
    mean = np.convolve(values * weights, window, "same") / total
    variance = np.convolve((values - mean) ** 2 * weights, window, "same") / total
    return _Field(name, values, information, mean, variance)


def _any_code(field: _Field, price: float) -> tuple[Doubles, float]:
    """The error of each value as a share of its variance, and the bits of the field, at a price."""
    shares = np.minimum(1, price / np.maximum(field.information * field.variance, 1e-15))
    return shares, float(-0.5 * np.log2(shares).sum())


def _scalar(field: _Field, price: float) -> tuple[Doubles, float]:
    """As `_any_code`, with levels of whole bits."""
    bits = np.arange(len(LEVELS))
    matter = (field.information * field.variance)[:, None]
    chosen = (matter * LEVELS + price * bits).argmin(1)
    return LEVELS[chosen], float(chosen.sum())


def _within(
    errors: Callable[[_Field, float], tuple[Doubles, float]], fields: list[_Field], bits: float
) -> list[Doubles]:
    """The errors of all fields at the lowest price whose bits fit."""
    low, high = 1e-12, 1e9
    for _ in range(90):
        middle = float(np.sqrt(low * high))
        used = sum(errors(field, middle)[1] for field in fields)
        low, high = (middle, high) if used > bits else (low, middle)
    return [errors(field, high)[0] for field in fields]


def _aucs(
    model: ClickModel, data: TrialData, fields: list[_Field], errors: list[Doubles]
) -> list[float]:
    """Validation AUC with values of these errors, for each of NOISES draws."""
    aucs = []
    for seed in range(NOISES):
        rng = np.random.default_rng(seed)
        for field, share in zip(fields, errors, strict=True):
            noise = rng.normal(size=len(share)) * np.sqrt(share * (1 - share) * field.variance)
            values = field.mean + (1 - share) * (field.values - field.mean) + noise
            with torch.no_grad():
                weight = model.embedding(field.name).weight
                weight.copy_(torch.from_numpy(values.astype(np.float32))[:, None])
        aucs.append(evaluate(model, data.ranked.validation).auc)
    return aucs


if __name__ == "__main__":
    main()
