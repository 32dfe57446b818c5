"""The native engine against the converter's own .onnx and .tflite on ten networks, one thread each.

A network of dense layers hides what everything else costs: this benchmark has attention, recurrent
layers, products of fields and histories too. Every runtime gets the file that `convert` writes for
it and the same request, in the same precision (tables and dense layers in q8, or in f32), through
its Python interface; the native engine also runs the f32 file with dense layers in bfloat16
(`load(..., dense="bf16")`), beside the f32 ones of the others. The process is pinned to one core.
Calls take turns in short bursts; the figure of a runtime is the least burst mean of process CPU
time (or of wall clock), which other work on the machine disturbs least; its spread is the median
and the largest mean over the least. A ratio is that of the fastest other runtime over that of the
native engine: above 1 native is faster.

    python benchmarks/topologies.py [--json FILE] [--page FILE] [--files FOLDER]
        [--only NAME ...] [--batch 1 8 128 1024] [--seconds 0.5] [--peers] [--core N]

`--files` keeps the converted files for another run. `--page` writes docs/evidence/topologies.md.
`--peers` adds what topology_peers.py has: torch, files that the runtimes' own tools make, and
OpenVINO, ExecuTorch and MNN where they are installed; the page then has a table of them too, at one
and at 128 rows. Making their files takes up to some minutes a network.
"""

from __future__ import annotations

import argparse
import functools
import itertools
import json
import os
import statistics
import tempfile
import textwrap
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import topology_peers
import torch
from topology_peers import Call, Request, litert_call, onnx_call
from torch import nn

import ondevice
from ondevice.converters import convert

FIELDS, DIM, ROWS, STEPS, ITEMS = 26, 16, 1000, 26, 20_000
BATCHES = (1, 8, 128, 1024)
PRECISIONS = ("q8", "f32")
RATIOS = {"q8": "q8", "f32": "f32", "bf16": "f32"}  # what the native engine runs: the others' files
TOLERANCE = {
    "q8": 0.15,
    "f32": 1e-4,
    "bf16": 2**-7,
}  # q8: each runtime quantises activations in its own way
BURSTS = 8


def mlp(*sizes: int) -> nn.Sequential:
    """Dense layers with ReLU between them."""
    layers: list[nn.Module] = []
    for wide, narrow in itertools.pairwise(sizes):
        layers += [nn.Linear(wide, narrow), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


class Fields(nn.Module):
    """A network that reads one matrix of IDs: fields int64 [batch, FIELDS]."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(FIELDS * ROWS, DIM)
        self.register_buffer("first", torch.arange(FIELDS) * ROWS, persistent=False)
        nn.init.normal_(self.table.weight, std=0.3)

    def vectors(self, fields: torch.Tensor) -> torch.Tensor:
        """float32 [batch, FIELDS, DIM]"""
        return self.table(fields + self.first)

    def forward(self, fields: torch.Tensor) -> torch.Tensor:
        return torch.sigmoid(self.score(self.vectors(fields))).squeeze(-1)

    def score(self, v: torch.Tensor) -> torch.Tensor:
        """Logits [batch, 1] of vectors [batch, FIELDS, DIM]."""
        raise NotImplementedError

    @staticmethod
    def request(rng: np.random.Generator, batch: int) -> Request:
        """Random IDs."""
        return {"fields": rng.integers(0, ROWS, (batch, FIELDS))}


class Mlp(Fields):
    """Tables and dense layers only."""

    def __init__(self) -> None:
        super().__init__()
        self.mlp = mlp(FIELDS * DIM, 400, 400, 400, 1)

    def score(self, v: torch.Tensor) -> torch.Tensor:
        return self.mlp(v.flatten(1))


class Fm(Fields):
    """Factorisation machine: half of the square of the sum minus the sum of squares."""

    def score(self, v: torch.Tensor) -> torch.Tensor:
        pairs = v.sum(1) ** 2 - (v**2).sum(1)
        return 0.5 * pairs.sum(1, keepdim=True)


class Pnn(Fields):
    """Inner products of all pairs of fields, then dense layers."""

    def __init__(self) -> None:
        super().__init__()
        self.mlp = mlp(FIELDS * DIM + FIELDS * (FIELDS - 1) // 2, 200, 80, 1)

    def score(self, v: torch.Tensor) -> torch.Tensor:
        row, column = torch.triu_indices(FIELDS, FIELDS, 1)
        inner = (v[:, row] * v[:, column]).sum(2)
        return self.mlp(torch.cat([v.flatten(1), inner], 1))


class Dcn(Fields):
    """DCN-v2: three cross layers beside dense layers."""

    def __init__(self) -> None:
        super().__init__()
        size = FIELDS * DIM
        self.cross = nn.ModuleList([nn.Linear(size, size) for _ in range(3)])
        self.deep = mlp(size, 200, 80)
        self.out = nn.Linear(size + 80, 1)

    def score(self, v: torch.Tensor) -> torch.Tensor:
        first = x = v.flatten(1)
        for layer in self.cross:
            x = first * layer(x) + x
        return self.out(torch.cat([x, self.deep(first)], 1))


class AutoInt(Fields):
    """Two layers of self-attention over the fields, two heads of 16."""

    def __init__(self) -> None:
        super().__init__()
        sizes = (DIM, 32)
        self.parts = nn.ModuleList(
            [nn.ModuleList([nn.Linear(size, 32, bias=False) for _ in range(4)]) for size in sizes]
        )
        self.out = nn.Linear(FIELDS * 32, 1)

    @staticmethod
    def heads(x: torch.Tensor) -> torch.Tensor:
        """[batch, FIELDS, 32] as [batch, 2, FIELDS, 16]."""
        return x.unflatten(-1, (2, 16)).transpose(1, 2)

    def score(self, v: torch.Tensor) -> torch.Tensor:
        x = v
        for query, key, value, residual in self.parts:
            q, k, u = (self.heads(layer(x)) for layer in (query, key, value))
            weights = torch.softmax(q @ k.transpose(-1, -2) / 4, -1)
            x = torch.relu((weights @ u).transpose(1, 2).flatten(2) + residual(x))
        return self.out(x.flatten(1))


class History(nn.Module):
    """A network that reads an item int64 [batch] and a history int64 [batch, steps]; 0 pads."""

    steps = STEPS

    def __init__(self) -> None:
        super().__init__()
        self.items = nn.Embedding(ITEMS, DIM, padding_idx=0)

    @classmethod
    def request(cls, rng: np.random.Generator, batch: int) -> Request:
        """Random IDs; the second half of each history may be padding."""
        history = rng.integers(1, ITEMS, (batch, cls.steps))
        lengths = rng.integers(cls.steps // 2, cls.steps + 1, (batch, 1))
        history[np.arange(cls.steps) >= lengths] = 0
        return {"item": rng.integers(1, ITEMS, batch), "history": history}


class Din(History):
    """Deep interest network: an activation unit scores every step against the item."""

    steps = 50

    def __init__(self) -> None:
        super().__init__()
        self.unit = nn.Sequential(
            nn.Linear(4 * DIM, 36), nn.Sigmoid(), nn.Linear(36, 16), nn.PReLU(), nn.Linear(16, 1)
        )
        self.mlp = mlp(2 * DIM, 200, 80, 1)

    def forward(self, item: torch.Tensor, history: torch.Tensor) -> torch.Tensor:
        query, keys = self.items(item), self.items(history)
        queries = query.unsqueeze(1).expand(-1, keys.shape[1], -1)
        scores = self.unit(torch.cat([queries, keys, queries - keys, queries * keys], -1))
        scores = torch.where((history > 0).unsqueeze(1), scores.transpose(1, 2), 0.0)
        interest = (scores @ keys).squeeze(1)
        return torch.sigmoid(self.mlp(torch.cat([query, interest], 1))).squeeze(-1)


class Din200(Din):
    """The same with 200 steps."""

    steps = 200


class Gru(History):
    """A gated recurrent layer of 32 units over the history; its last state against the item."""

    def __init__(self) -> None:
        super().__init__()
        self.gru = nn.GRU(DIM, 32, batch_first=True)
        self.mlp = mlp(DIM + 32, 80, 1)

    def forward(self, item: torch.Tensor, history: torch.Tensor) -> torch.Tensor:
        states, _ = self.gru(self.items(history))
        return torch.sigmoid(self.mlp(torch.cat([self.items(item), states[:, -1]], 1))).squeeze(-1)


class Transformer(History):
    """Behaviour sequence transformer: one encoder layer, two heads, over history and item."""

    def __init__(self) -> None:
        super().__init__()
        self.positions = nn.Parameter(torch.randn(STEPS + 1, DIM) * 0.1)
        layer = nn.TransformerEncoderLayer(DIM, 2, 64, 0.1, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 1, enable_nested_tensor=False)
        self.mlp = mlp((STEPS + 1) * DIM, 64, 1)

    def forward(self, item: torch.Tensor, history: torch.Tensor) -> torch.Tensor:
        ids = torch.cat([history, item.unsqueeze(1)], 1)
        x = self.encoder(self.items(ids) + self.positions, src_key_padding_mask=ids == 0)
        return torch.sigmoid(self.mlp(x.flatten(1))).squeeze(-1)


class Towers(Fields):
    """A user's tower and an item's tower, and the product of their vectors."""

    def __init__(self) -> None:
        super().__init__()
        self.user, self.item = (mlp(FIELDS // 2 * DIM, 128, 32) for _ in range(2))

    def forward(self, user: torch.Tensor, item: torch.Tensor) -> torch.Tensor:
        half = FIELDS // 2
        u = self.user(self.table(user + self.first[:half]).flatten(1))
        v = self.item(self.table(item + self.first[half:]).flatten(1))
        return torch.sigmoid((u * v).sum(1))

    @staticmethod
    def request(rng: np.random.Generator, batch: int) -> Request:
        """One user's fields, repeated, and a batch of items."""
        user = rng.integers(0, ROWS, (1, FIELDS // 2)).repeat(batch, 0)
        return {"user": user, "item": rng.integers(0, ROWS, (batch, FIELDS // 2))}


TOPOLOGIES: dict[str, type[Fields] | type[History]] = {
    "MLP": Mlp, "FM": Fm, "PNN": Pnn, "DCN-v2": Dcn, "DIN 50": Din, "DIN 200": Din200,
    "GRU": Gru, "AutoInt": AutoInt, "transformer": Transformer, "towers, rank": Towers,
}  # fmt: skip


def converted(name: str, precision: str, folder: Path) -> Path:
    """The folder with model.odm, model.onnx and model.tflite, written unless they are there."""
    torch.manual_seed(0)
    kind = TOPOLOGIES[name]
    target = folder / f"{name} {precision}"
    if not (target / "model.odm").exists():
        request = kind.request(np.random.default_rng(0), 4)
        example = {key: torch.from_numpy(value) for key, value in request.items()}
        convert(kind().eval(), example, target, tables=precision, dense=precision)  # type: ignore[arg-type]
    return target


def native_call(path: Path, request: Request, rank: bool, dense: str | None = None) -> Call:
    """The .odm file: a prediction, or a ranking for the one user; `dense` as in `ondevice.load`."""
    model = ondevice.load(path, engine="native", dense=dense)  # type: ignore[arg-type]
    if not rank:
        return lambda: model.predict(request)
    context, items = {"user": request["user"][:1]}, {"item": request["item"]}
    return lambda: model.rank(context, items)


def measure(calls: dict[str, Call], seconds: float) -> dict[str, dict[str, float]]:
    """Microseconds a call by clock: the least, median and largest burst means.

    Args:
        calls: by runtime; their bursts take turns.
        seconds: for each of them in all.
    """
    counts, bursts = {}, {name: ([], []) for name in calls}  # type: dict[str, int], dict[str, Any]
    for name, call in calls.items():
        call()
        start = time.process_time()
        call()
        counts[name] = max(1, int(seconds / BURSTS / max(time.process_time() - start, 1e-6)))
    for _, (name, call) in itertools.product(range(BURSTS), calls.items()):
        wall, cpu = time.perf_counter(), time.process_time()
        for _ in range(counts[name]):
            call()
        bursts[name][0].append((time.process_time() - cpu) / counts[name] * 1e6)
        bursts[name][1].append((time.perf_counter() - wall) / counts[name] * 1e6)
    return {name: clocks("cpu", cpu) | clocks("wall", wall) for name, (cpu, wall) in bursts.items()}


def clocks(name: str, means: list[float]) -> dict[str, float]:
    """The least of burst means under the name of a clock, the median and the largest beside it."""
    return {
        name: min(means), f"{name}_median": statistics.median(means), f"{name}_most": max(means)
    }  # fmt: skip


def compare(
    name: str, batch: int, folder: Path, seconds: float, with_peers: bool
) -> dict[str, dict[str, float]]:
    """Times of every runtime and precision on one request; all must agree on its scores."""
    request = TOPOLOGIES[name].request(np.random.default_rng(1), batch)
    calls: dict[str, Call] = {}
    for precision in PRECISIONS:
        files = converted(name, precision, folder)
        calls |= {
            f"native {precision}": native_call(files / "model.odm", request, "rank" in name),
            f"onnxruntime {precision}": onnx_call(files / "model.onnx", request),
            f"litert {precision}": litert_call(files / "model.tflite", request),
        }
        if precision == "f32":
            calls["native bf16"] = native_call(files / "model.odm", request, "rank" in name, "bf16")
            change = float(np.abs(calls["native bf16"]() - calls["native f32"]()).max())
            assert change < TOLERANCE["bf16"], (name, change)
        if with_peers:
            torch.manual_seed(0)  # the weights of `converted`
            module = TOPOLOGIES[name]().eval()
            float_onnx = converted(name, "f32", folder) / "model.onnx"
            calls |= topology_peers.peers(module, precision, files, float_onnx, request)
        expected = calls[f"native {precision}"]()
        for label, call in calls.items():
            if label.endswith(precision):
                worst = float(np.abs(call() - expected).max())
                assert worst < TOLERANCE[precision], (name, label, worst)
    return measure(calls, seconds)


def ratio(times: dict[str, dict[str, float]], precision: str, clock: str = "cpu") -> float:
    """The fastest other runtime over the native engine, by what RATIOS has."""
    peers = [
        figures[clock] for label, figures in times.items()
        if label.endswith(RATIOS[precision]) and not label.startswith("native")
    ]  # fmt: skip
    return min(peers) / times[f"native {precision}"][clock]


def markdown(report: dict[str, Any]) -> str:
    """The ratios of a report as a table: a row for each topology, all precisions a batch size."""
    ratios = report["ratios"]
    batches = list(next(iter(ratios.values())))
    lines = [f"| network | {' | '.join(f'batch {b}' for b in batches)} |"]
    lines.append("|---|" + "---|" * len(batches))
    for name, by_batch in ratios.items():
        cells = [" / ".join(f"{by_batch[b][p]:.2f}" for p in RATIOS) for b in batches]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def peer_table(report: dict[str, Any]) -> str:
    """Every runtime's time over that of the native engine, q8 / f32, at one and at 128 rows."""
    times = report["times_us"]
    names = list(dict.fromkeys(
        label.rsplit(" ", 1)[0] for by_batch in times.values() for runtimes in by_batch.values()
        for label in runtimes if not label.startswith("native")
    ))  # fmt: skip
    lines = [f"| network, rows | {' | '.join(names)} |", "|---|" + "---|" * len(names)]
    for network, batch in itertools.product(times, ("1", "128")):
        runtimes = times[network].get(batch, {})
        cells = []
        for name in names:
            over = [
                f"{runtimes[label]['cpu'] / runtimes[f'native {p}']['cpu']:.1f}"
                if (label := f"{name} {p}") in runtimes else "-"
                for p in PRECISIONS
            ]  # fmt: skip
            cells.append(" / ".join(over))
        if runtimes:
            lines.append(f"| {network}, {batch} | {' | '.join(cells)} |")
    return "\n".join(lines)


def page(report: dict[str, Any], command: str) -> str:
    """The tables with what they say and how they were made, as a page of the docs."""
    loads = [load for by_batch in report["load"].values() for load in by_batch.values()]
    others = (
        "of the other runtimes below, files made by hand among them" if report["peers"]
        else "other runtime with the files that `convert` writes (ONNX Runtime with the .onnx, "
        "LiteRT with the .tflite)"
    )  # fmt: skip
    sections = [
        "# Ten networks in three runtimes" if not report["peers"] else
        "# Ten networks in every runtime at hand",
        f"How many times faster the native engine is than the fastest {others}, one thread each, "
        "q8 / f32 / bf16: dense layers of that codec in all of them, tables in the files that "
        "`convert` writes; the third is the f32 file with `load(..., dense=\"bf16\")`, which is an "
        "option, over the others in f32. Process CPU time of a whole Python call, least mean of "
        "interleaved bursts; below 1 the native engine is slower. Load of the machine while it "
        f"ran: {' to '.join(sorted({f'{load:.0f}' for load in (min(loads), max(loads))}))}.",
        markdown(report).rstrip(),
    ]  # fmt: skip
    if report["peers"]:
        sections += [
            "Each runtime's time over that of the native engine. `onnxruntime` and `litert` run "
            "the converter's files. The others have tables in float32: torch traced and frozen, "
            "with int8 layers (dynamic) for q8; by hand, torch's own export quantised by ONNX "
            "Runtime's tool, and a .tflite with float rows; OpenVINO with the converter's .onnx; "
            "ExecuTorch with XNNPACK; MNN with its own conversion, weights in 8 bits for q8. A "
            "dash: the runtime's tools refuse the network.",
            peer_table(report),
        ]
    sections.append(f"Made by `{command}`.")
    filled = [s if s.startswith(("|", "#")) else textwrap.fill(s, 120) for s in sections]
    return "\n\n".join(filled) + "\n"


def figure(label: str, times: dict[str, float]) -> str:
    """A runtime's least CPU time, and the median and the largest mean over it."""
    median, most = (times[key] / times["cpu"] for key in ("cpu_median", "cpu_most"))
    return f"{label} {times['cpu']:.1f} (x{median:.2f}-{most:.2f})"


def run(
    names: list[str],
    batches: list[int],
    folder: Path,
    seconds: float,
    note: Callable[[str], None],
    with_peers: bool = False,
) -> dict[str, Any]:
    """Measure; returns times_us[topology][batch][runtime] and ratios[topology][batch][precision].

    Args:
        names: topologies.
        batches: rows of a request.
        folder: of the converted files.
        seconds: for each runtime, precision and batch.
        note: called with a line for each row of the result.
        with_peers: whether to measure `peers` too.
    """
    report: dict[str, Any] = {
        "times_us": {}, "ratios": {}, "wall_ratios": {}, "load": {}, "peers": with_peers
    }  # fmt: skip
    for name, batch in itertools.product(names, batches):
        times = compare(name, batch, folder, seconds, with_peers)
        for key, value in (
            ("times_us", times), ("load", os.getloadavg()[0]),
            ("ratios", {p: ratio(times, p) for p in RATIOS}),
            ("wall_ratios", {p: ratio(times, p, "wall") for p in RATIOS}),
        ):  # fmt: skip
            report[key].setdefault(name, {})[str(batch)] = value
        figures = "  ".join(map(figure, times, times.values()))
        ratios = " ".join(f"{p} {r:.2f}" for p, r in report["ratios"][name][str(batch)].items())
        note(f"{name:12} {batch:5}  {ratios}   us: {figures}")
    return report


def pin(core: int | None) -> int | None:
    """Keep this process on one core, by default the last one that it may use; None: not here."""
    if not hasattr(os, "sched_setaffinity"):
        return None
    chosen = max(os.sched_getaffinity(0)) if core is None else core
    os.sched_setaffinity(0, {chosen})
    return chosen


def main() -> None:
    """Convert, check that the runtimes agree, measure, print, and write the files asked for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--json", type=Path)
    parser.add_argument("--page", type=Path)
    parser.add_argument("--files", type=Path)
    parser.add_argument("--only", nargs="+", choices=list(TOPOLOGIES), default=list(TOPOLOGIES))
    parser.add_argument("--batch", type=int, nargs="+", default=list(BATCHES))
    parser.add_argument("--seconds", type=float, default=0.5, help="per runtime and batch size")
    parser.add_argument("--peers", action="store_true", help="other runtimes too")
    parser.add_argument(
        "--core", type=int, help="to which the process is pinned (default: the last)"
    )
    args = parser.parse_args()
    torch.set_num_threads(1)
    core = pin(args.core)
    with tempfile.TemporaryDirectory() as temporary:
        folder = args.files or Path(temporary)
        note = functools.partial(print, flush=True)
        report = run(args.only, args.batch, folder, args.seconds, note, args.peers)
    report["core"] = core
    print(markdown(report))
    if args.json:
        args.json.write_text(json.dumps(report, indent=1) + "\n")
    if args.page:
        options = ["--peers"] * args.peers
        if args.batch != list(BATCHES):
            options += ["--batch", *map(str, args.batch)]
        options += ["--page", f"docs/evidence/{args.page.name}"]
        command = " ".join(["python benchmarks/topologies.py", *options])
        args.page.write_text(page(report, command))


if __name__ == "__main__":
    main()
