"""The two stages of a model inside the converter: captured (float tables) and packed."""

from __future__ import annotations

import ast
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from ondevice.codecs import StoredTable
from ondevice.converters.tables.table_source import TableSource
from ondevice.spec import LookupSpec

DOMAIN = "ondevice"
LOOKUP = "Lookup"
REPORTED_BYTES = 4096  # smaller constants are not worth a report, nor a table
TREE_ENSEMBLE = "TreeEnsemble"  # its operands and attributes: ondevice.trees


@dataclass(frozen=True)
class CapturedLookup:
    """One lookup node of a captured graph, with the float table it reads.

    Attributes:
        node: its input is ids int64 [...], its output float32 [..., dim].
        spec: how IDs become rows.
        table: name of the source module's parameter, also the table's name in every target.
        widths: uint8 or uint16 [rows], how many dimensions of each row are stored; or None.
        scales: of a retrieval structure, whose table holds codes: what their sums are multiplied
            by [row_dim], or levels that they count to [row_dim, 2**bits]; otherwise None.
    """

    node: ir.Node
    spec: LookupSpec
    table: str
    widths: npt.NDArray[np.integer] | None
    scales: npt.NDArray[np.float32] | None = None


@dataclass(frozen=True)
class UncompressedTable:
    """A large constant that IDs of the request select from, and that files hold as it is.

    Attributes:
        name: of the constant.
        bytes: what it takes.
        reason: why it is no embedding table.
    """

    name: str
    bytes: int
    reason: str


@dataclass(frozen=True)
class CapturedModel:
    """An ONNX graph whose lookups are `ondevice::Lookup` nodes over float32 tables [rows, dim]."""

    model: ir.Model
    lookups: tuple[CapturedLookup, ...]
    tables: Mapping[str, TableSource]
    uncompressed: tuple[UncompressedTable, ...] = ()

    def cloned(self) -> CapturedModel:
        """A copy with another graph, for a stage that changes it; tables are shared."""
        model, nodes = _clone(self.model)
        lookups = (replace(item, node=nodes[item.node.name]) for item in self.lookups)
        return replace(self, model=model, lookups=tuple(lookups))


@dataclass(frozen=True)
class PackedLookup:
    """One lookup node whose table is quantised and truncated.

    Attributes:
        node: an `ondevice::Lookup` node. Its inputs are IDs, one tensor for each specification, or
            one matrix with a column for each; its output is their vectors, concatenated along the
            last axis.
        specs: what each input reads; more than one only after merge_lookups.
        starts: the row of `table` at which the rows of each specification begin.
        table: key of PackedModel.tables; lookups may share a table.
        pieces: of tables in sections that were joined, for each specification the first rows of
            consecutive pieces of its own rows, and the rows of `table` at which they begin; None
            where rows follow one another from `starts` on.
        column_scales: float32 [len(specs), row_dim], the column scales of each input where their
            tables were joined; None otherwise.
        cell_values: of a retrieval structure whose table is `split_cells`: what sums of codes
            stand for, scales float32 [dim] or levels [dim, 2**bits]; None otherwise.
        words: whether the node's inputs are two tensors int32 instead, of the same shape: the low
            words of the IDs, and the high ones.
    """

    node: ir.Node
    specs: tuple[LookupSpec, ...]
    table: str
    column_scales: npt.NDArray[np.float32] | None = None
    starts: tuple[int, ...] = (0,)
    cell_values: npt.NDArray[np.float32] | None = None
    words: bool = False
    pieces: tuple[tuple[tuple[int, int], ...], ...] | None = None

    def row_in_table(self, number: int, row: int) -> int:
        """The row of `table` that is a row of a specification, by its number."""
        if self.pieces is None:
            return self.starts[number] + row
        first, start = next(piece for piece in reversed(self.pieces[number]) if piece[0] <= row)
        return start + row - first

    def row_shifts(self) -> list[tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]]:
        """How rows of specifications become rows of `table`: the last rule that applies counts.

        Each is a pair int64 [len(specs)]: from these rows on, these numbers are added.
        """
        pieces = self.pieces or tuple(((0, start),) for start in self.starts)
        rules = []
        for place in range(max(map(len, pieces))):
            chosen = [items[min(place, len(items) - 1)] for items in pieces]
            firsts = np.array([first for first, _ in chosen], dtype=np.int64)
            starts = np.array([start for _, start in chosen], dtype=np.int64)
            rules.append((firsts, starts - firsts))
        return rules

    @property
    def spec(self) -> LookupSpec:
        """The first specification; all have its scheme, dim and fuse, and padding or none."""
        return self.specs[0]


@dataclass(frozen=True)
class PackedModel:
    """What the emitters write: the graph, its lookups, and each table in its stored form."""

    model: ir.Model
    lookups: tuple[PackedLookup, ...]
    tables: Mapping[str, StoredTable]

    def cloned(self) -> PackedModel:
        """A copy with another graph, for a stage that changes it; tables are shared."""
        model, nodes = _clone(self.model)
        lookups = (replace(item, node=nodes[item.node.name]) for item in self.lookups)
        return replace(self, model=model, lookups=tuple(lookups))


def _clone(model: ir.Model) -> tuple[ir.Model, dict[str | None, ir.Node]]:
    """A copy of a model, and its nodes by name."""
    copy = model.clone()
    return copy, {node.name: node for node in copy.graph}


def module_path(node: ir.Node) -> str:
    """The path of the source module that a node comes from, such as "mlp.0".

    torch's exporter stores the chain of module scopes, which ends in the operation itself. Without
    it, the node's name is returned.
    """
    scopes = node.metadata_props.get("pkg.torch.onnx.name_scopes")
    if scopes:
        try:
            modules = [str(name) for name in ast.literal_eval(scopes) if name][:-1]
        except (ValueError, SyntaxError):
            modules = []
        if modules and not modules[-1].startswith("_"):  # torch marks what is no module so
            return modules[-1]
    return node.name or node.op_type
