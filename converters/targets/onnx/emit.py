"""Write a packed model as ONNX: every lookup becomes a few standard operators.

Tables are external data beside the file, which names the SHA-256 of both.
"""

from __future__ import annotations

import base64
import functools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import ml_dtypes  # noqa: F401 - registers the dtypes that onnx_ir refers to
import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from ondevice.codecs import BITS, CODE_RANGE, NARROW_CODECS, Codec, StoredSection, StoredTable
from ondevice.converters.dense.layers import ALL_FLOAT, DensePlan
from ondevice.converters.graph import PackedLookup, PackedModel
from ondevice.converters.initializers import add_initializer, add_tensor
from ondevice.converters.tables.byte_codes import (
    byte_codes,
    codes_per_byte,
    fill_bytes,
    pack_codes,
)
from ondevice.converters.tables.column_blocks import (
    BlockWriter,
    ColumnBlocks,
    cut,
    is_bit_stream,
)
from ondevice.converters.tables.draft import Draft
from ondevice.converters.tables.row_arithmetic import (
    ResidueArithmetic,
    RowArithmetic,
    cell_arithmetic,
    head_arithmetic,
    residue_arithmetic,
    row_arithmetic,
    split_words,
    squeeze_single_input,
)
from ondevice.converters.targets.onnx.dense import quantise_dense
from ondevice.converters.targets.onnx.external_data import ExternalData
from ondevice.converters.targets.onnx.trees import ML_DOMAIN, ML_OPSET, standard_trees
from ondevice.converters.targets.section_merge import level_firsts
from ondevice.deflated import deflate
from ondevice.info import description_parts
from ondevice.manifest import record_of
from ondevice.onnx_content import DATA_MARK, METADATA_KEY, SEAL_KEY
from ondevice.sealed import DIGITS, UNSEALED, seal
from ondevice.spec import HIGH_BITS, Retrieval

OPSET = 21
IR_VERSION = 10
LEAST_EXTERNAL = 256  # bytes; smaller constants stay in the .onnx file

# A gather's source: narrow codes travel as bytes.
VALUE_DTYPES: dict[Codec, np.dtype[Any]] = {
    "f32": np.dtype(np.float32),
    "f16": np.dtype(np.float16),
    "q8": np.dtype(np.int8),
    **dict.fromkeys(NARROW_CODECS, np.dtype(np.uint8)),
}

LOOKUP_NAMES = {  # of its operators, by scheme
    "full": "TableLookup",
    "binary_code": "BinaryCodeLookup",
    "hash": "HashLookup",
    "retrieval": "RetrievalLookup",
}


def emit_onnx(packed: PackedModel, path: Path, info: bytes, plan: DensePlan = ALL_FLOAT) -> Draft:
    """Write an .onnx file and its external data, `path` + ".data", with room for the tables.

    Args:
        packed: the model; it is not changed.
        path: the .onnx file to write; the caller writes to a temporary folder and renames.
        info: description (`ModelInfo.to_bytes`), for the metadata.
        plan: how dense layers are stored.
    """
    model = packed.model.clone()
    graph = model.graph
    layers = quantise_dense(graph, plan)
    data = ExternalData(path.with_name(f"{path.name}.data"))
    nodes = {node.name: node for node in graph}
    stored = {
        name: _StoredTable(graph, data, name, table)
        for name, table in sorted(packed.tables.items())
    }
    prefixes = _prefixes(graph)
    for number, lookup in enumerate(packed.lookups, 1):
        name = f"{LOOKUP_NAMES[lookup.spec.scheme]}_{number}"
        while name in prefixes:
            name += "_"
        _replace_lookup(graph, nodes[lookup.node.name], lookup, stored[lookup.table], name)
    _drop_single_concats(graph)
    has_trees = standard_trees(graph)
    graph.opset_imports.clear()
    graph.opset_imports.update({"": OPSET})
    if has_trees:
        graph.opset_imports[ML_DOMAIN] = ML_OPSET
    for name, value in graph.initializers.items():
        tensor = value.const_value
        if tensor is not None and not isinstance(tensor, ir.ExternalTensor):
            array = np.array(tensor.numpy())  # plain arrays: torch tensors would be read again
            external = array.nbytes >= LEAST_EXTERNAL
            value.const_value = data.add(name, array) if external else ir.tensor(array, name=name)
    _strip_provenance(model)
    described = deflate(*description_parts(info))
    model.metadata_props[METADATA_KEY] = base64.b64encode(described).decode("ascii")
    model.metadata_props[SEAL_KEY] = (UNSEALED + DATA_MARK).decode() + "0" * DIGITS
    model.ir_version = IR_VERSION
    data.write()
    ir.save(model, path)
    sections = [section for table in stored.values() for section in table.sections]
    writers = [BlockWriter(item.blocks, item.offsets, item.payload) for item in sections]
    return Draft(data.path, layers, writers, _Seal(path))


def _prefixes(graph: ir.Graph) -> set[str]:
    """What names of nodes and values begin with: a file that ondevice wrote has such of lookups."""
    values = [value.name for node in graph for value in node.outputs]
    names = [node.name for node in graph] + values + list(graph.initializers)
    return {str(name).partition(".")[0] for name in names}


@dataclass(frozen=True)
class _Seal:
    """The digests of the external data and of the .onnx file itself, once all is written."""

    path: Path

    def finish(self, file: BinaryIO) -> None:
        """Write both into the .onnx file; `file` is the external data."""
        file.flush()
        file.seek(0)
        digest = record_of(file).sha256
        data = self.path.read_bytes()
        with self.path.open("r+b") as described:
            described.seek(data.index(UNSEALED + DATA_MARK) + len(UNSEALED + DATA_MARK))
            described.write(digest.encode())
        seal(self.path)


class _StoredTable:
    """The initializers of a table, shared by all lookups that read it."""

    def __init__(self, graph: ir.Graph, data: ExternalData, name: str, table: StoredTable) -> None:
        self.rows, self.dim = table.rows, table.dim
        several = len(table.sections) > 1
        self.sections = [
            _StoredSection(graph, data, f"{name}.{number}" if several else name, section)
            for number, section in enumerate(table.sections)
        ]

    @property
    def values(self) -> list[ir.Value]:
        """The initializers of all sections, in order."""
        return [value for section in self.sections for value in section.values]


class _StoredSection:
    """The initializers of a section of a table."""

    def __init__(
        self, graph: ir.Graph, data: ExternalData, name: str, table: StoredSection
    ) -> None:
        self.table = table
        self.blocks: ColumnBlocks = cut(table)
        self.offsets: dict[int | str, int] = {}
        self.values: list[ir.Value] = []
        dtype = VALUE_DTYPES[table.codec]
        for number in range(len(self.blocks.blocks)):
            self._add(graph, data, f"{name}.values.{number}", number, dtype)
        if table.levels is not None:
            levels = table.levels.reshape(-1)
            self.values.append(add_initializer(graph, f"{name}.levels", levels))
        elif not fill_bytes(table.codec):
            self.values.append(_signed_codes(graph, table.codec))
        elif table.codec in NARROW_CODECS:
            self.values.append(_shared_codes(graph, table.codec))
        if self.blocks.row_scales:
            self._add(graph, data, f"{name}.scales", "scales", np.dtype(np.float16))
        elif table.column_scales is not None:
            self.values.append(add_initializer(graph, f"{name}.scales", table.column_scales))
        if self.blocks.positions is not None:
            self._add(graph, data, f"{name}.positions", "positions", self.blocks.positions)

    def payload(self, values: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Rows of a block as they are stored."""
        if self.table.codec not in NARROW_CODECS:
            return values
        return pack_codes(values, self.table.codec, self.blocks.shared_bytes)

    def _add(
        self,
        graph: ir.Graph,
        data: ExternalData,
        name: str,
        place: int | str,
        dtype: np.dtype[Any],
    ) -> None:
        shape = self.blocks.block_shape(place) if isinstance(place, int) else (self.table.rows,)
        tensor = data.reserve(name, dtype, shape)
        self.offsets[place] = tensor.offset or 0
        self.values.append(add_tensor(graph, tensor))


def _shared_codes(graph: ir.Graph, codec: Codec) -> ir.Value:
    """The codes of all 256 bytes, one array for all tables of a codec."""
    name = f"ondevice.codes.{codec}"
    return graph.initializers.get(name) or add_initializer(graph, name, byte_codes(codec))


def _signed_codes(graph: ir.Graph, codec: Codec) -> ir.Value:
    """The values of the codes 0, 1, ... of a codec's two's complement."""
    name = f"ondevice.signed.{codec}"
    low, high = CODE_RANGE[codec]
    values = np.array([*range(high + 1), *range(low, 0)], dtype=np.float32)
    return graph.initializers.get(name) or add_initializer(graph, name, values)


def _replace_lookup(
    graph: ir.Graph, node: ir.Node, lookup: PackedLookup, stored: _StoredTable, name: str
) -> None:
    """Replace a lookup node by standard operators.

    They stand in the graph itself: not every runtime reads functions of a model (OpenVINO does
    not).

    Args:
        graph: where the node is.
        node: the `ondevice::Lookup` node.
        lookup: what it computes.
        stored: the table that it reads.
        name: beginning of the names of nodes and values.
    """
    body = _Body(lookup, stored, [value for value in node.inputs if value is not None], name)
    body.output.dtype, body.output.shape = ir.DataType.FLOAT, node.outputs[0].shape
    ir.convenience.replace_nodes_and_values(
        graph, node, [node], body.nodes, node.outputs, [body.output]
    )


def _drop_single_concats(graph: ir.Graph) -> None:
    """Remove each Concat of a single value, which merging leaves: the runtime would copy it."""
    for node in list(graph):
        if node.op_type != "Concat" or node.domain or len(node.inputs) != 1:
            continue
        value, output = node.inputs[0], node.outputs[0]
        if value is None or output.is_graph_output():
            continue
        ir.convenience.replace_all_uses_with(output, value)
        graph.remove(node, safe=True)


def _strip_provenance(model: ir.Model) -> None:
    """Drop the exporter's notes: stack traces hold paths of the machine that converted."""
    for node in model.graph.all_nodes():
        node.metadata_props.clear()
        node.doc_string = None
    for value in (*model.graph.inputs, *model.graph.outputs, *model.graph.initializers.values()):
        value.metadata_props.clear()
    model.graph.metadata_props.clear()
    model.metadata_props.clear()


class _Body:
    """The operators of one lookup: IDs and table arrays in, float32 vectors out."""

    def __init__(
        self, lookup: PackedLookup, stored: _StoredTable, inputs: list[ir.Value], name: str
    ) -> None:
        """Write the body.

        Args:
            lookup: what it computes.
            stored: the table that it reads.
            inputs: the IDs: one for each specification, of rank 1 where there are several; or
                the matrix [batch, specifications]. With `lookup.words`: their low words, and
                their high ones.
            name: beginning of all names.
        """
        self.specs = lookup.specs
        self.spec = lookup.spec
        self._starts = lookup.starts
        self._lookup = lookup
        self._tape = ir.tape.Tape()
        self._name = name
        self._inputs = inputs
        self._tables = stored.values
        several = len(self.specs) > 1
        self._high: ir.Value | None = None
        if lookup.words:
            self.ids, self._high = inputs
        else:
            self.ids = self._stacked() if len(inputs) > 1 else inputs[0]
        shape = inputs[0].shape
        self.rank = 2 if several else 1 if shape is None else len(shape)
        # Rows that are added up lie on the first axis: Split and Sum of its entries take a tenth
        # of the time of ReduceSum over an axis before the last.
        self._rows_first = self._adds_rows()
        # plain tables need no axis for the rows of an ID: two operators fewer
        self._row_axes = 0 if self.spec.scheme == "full" else 1
        # a row beyond the table, also where its last bytes have room for more rows
        self._outside = stored.rows + 8
        if self.spec.retrieval is not None:
            fused = self._retrieved(self.spec.retrieval, lookup, stored)
        else:
            fused = self._read_and_fuse(lookup, stored)
        vectors = self._pool(self._zero_padding(fused))
        if several:
            vectors = self._op("Reshape", vectors, self._constant([0, -1]))
        self.output = vectors

    @property
    def nodes(self) -> Sequence[ir.Node]:
        """All operators, in order."""
        return self._tape.nodes

    def _adds_rows(self) -> bool:
        """Whether an ID's vector is the sum or mean of several rows."""
        several = max(spec.rows_per_id for spec in self.specs) > 1
        return self.spec.retrieval is None and several and self.spec.fuse in ("sum", "mean")

    def _read_and_fuse(self, lookup: PackedLookup, stored: _StoredTable) -> ir.Value:
        """Vectors of all schemes but retrieval: the rows of the IDs, fused."""
        values = self._read(self._table_rows(stored.rows - 1), stored)
        if lookup.column_scales is None:
            return self._fuse(values)
        if self._rows_first:  # scales commute with sums, and there are fewer of these
            scales = self._constant(squeeze_single_input(lookup.column_scales), np.float32)
            return self._op("Mul", self._fuse(values), scales)
        of_rows = lookup.column_scales[:, None, :] if self._row_axes else lookup.column_scales
        return self._fuse(self._op("Mul", values, self._constant(of_rows, np.float32)))

    def _op(self, op: str, *inputs: ir.Value, **attributes: Any) -> ir.Value:
        output = self._tape.op(op, inputs, attributes)
        self._name_outputs(op, [output])
        return output

    def _constant(self, array: npt.ArrayLike, dtype: npt.DTypeLike = np.int64) -> ir.Value:
        values = np.asarray(array, dtype=dtype)
        output = self._tape.op("Constant", [], {"value": ir.tensor(values)})
        self._name_outputs("Constant", [output])
        return output

    def _name_outputs(self, op: str, outputs: Sequence[ir.Value]) -> None:
        """Name the last node and its outputs."""
        node = self._tape.nodes[-1]
        node.name = f"{self._name}.{op}_{len(self._tape.nodes)}"
        for number, output in enumerate(outputs):
            output.name = node.name if len(outputs) == 1 else f"{node.name}.{number}"

    def _cast(self, value: ir.Value, dtype: ir.DataType) -> ir.Value:
        return self._op("Cast", value, to=int(dtype))

    def _stacked(self) -> ir.Value:
        """IDs of several inputs as int64 [batch, inputs], always in three operators."""
        flat = self._op("Concat", *self._inputs, axis=0)
        by_input = self._op("Reshape", flat, self._constant([len(self._inputs), -1]))
        return self._op("Transpose", by_input, perm=[1, 0])

    def _each_row(self, ids: ir.Value) -> ir.Value:
        """IDs [...] with an axis for the rows of each: the first one, or the last."""
        return self._op("Unsqueeze", ids, self._constant([0 if self._rows_first else -1]))

    def _by_row(self, array: npt.NDArray[Any]) -> ir.Value:
        """A constant [inputs, rows_per_id], of its dtype, that broadcasts to `_each_row`.

        One of several bit runs, [inputs, rows_per_id, runs], gets an axis of them before.
        """
        runs = [array] if array.ndim == 2 else list(np.moveaxis(array, 2, 0))
        inputs, rows = runs[0].shape
        single = (1,) * (self.rank - (inputs > 1))
        if self._rows_first:
            placed = [run.T.reshape(rows, *single, *(inputs,) * (inputs > 1)) for run in runs]
        else:
            placed = [run.reshape(*single, *(inputs,) * (inputs > 1), rows) for run in runs]
        return self._constant(placed[0] if len(runs) == 1 else np.stack(placed), array.dtype)

    def _table_rows(self, zero_row: int) -> ir.Value:
        """Row numbers int64 [rows_per_id, ...] or [..., rows_per_id]; see `_each_row`.

        Of plain tables [...], without an axis for the rows of an ID.
        """
        if self.spec.scheme == "full":
            return self._full_rows()
        if self.spec.scheme == "hash":
            rows = self._hash_rows(zero_row)
        else:
            rows = self._code_rows(zero_row)
        head = head_arithmetic(self.specs, zero_row, self._starts)
        if head is None:
            return rows
        in_head = self._below(squeeze_single_input(head.heads))
        head_rows = self._op("Mul", self._each_row(self._whole_ids()), self._by_row(head.factors))
        head_rows = self._op("Add", head_rows, self._by_row(head.offsets))
        return self._op("Where", self._each_row(in_head), head_rows, rows)

    def _whole_ids(self) -> ir.Value:
        """The IDs int64; of words those that fit into the low one: see `_below`."""
        return self.ids if self._high is None else self._cast(self.ids, ir.DataType.INT64)

    def _below(self, counts: npt.NDArray[np.int64]) -> ir.Value:
        """Whether IDs are in [0, count): bool, as the IDs are."""
        ids = self._whole_ids()
        inside = self._op(
            "And",
            self._op("GreaterOrEqual", ids, self._constant(0)),
            self._op("Less", ids, self._constant(counts)),
        )
        if self._high is None:
            return inside
        return self._op("And", inside, self._op("Equal", self._high, self._constant(0, np.int32)))

    def _equal(self, ids: npt.NDArray[np.int64]) -> ir.Value:
        """Whether IDs are these, by input: bool."""
        if self._high is None:
            return self._op("Equal", self.ids, self._constant(ids))
        low, high = (
            self._op("Equal", words, self._constant(part, np.int32))
            for words, part in zip(
                (self.ids, self._high), np.moveaxis(split_words(ids), -1, 0), strict=True
            )
        )
        return self._op("And", low, high)

    def _hash_rows(self, zero_row: int) -> ir.Value:
        """Rows of hashes."""
        return self._residues(residue_arithmetic(self.specs, zero_row, self._starts))

    def _residues(self, numbers: ResidueArithmetic) -> ir.Value:
        """IDs [...] to a row for each residue. Mod of int64 is floored: the modulus's sign."""
        code = self._each_row(self.ids)
        if numbers.high or (numbers.multipliers != 1).any():
            code = self._cast(code, ir.DataType.UINT64)
            code = self._op("Mul", code, self._by_row(numbers.multipliers))
            if numbers.high:
                shift = self._constant(64 - HIGH_BITS, np.uint64)
                code = self._op("BitShift", code, shift, direction="RIGHT")
            code = self._cast(code, ir.DataType.INT64)
        rows = self._op("Mod", code, self._by_row(numbers.moduli))
        if (numbers.divisors != 1).any():
            rows = self._op("Div", rows, self._by_row(numbers.divisors))
        if not numbers.offsets.any():
            return rows
        return self._op("Add", rows, self._by_row(numbers.offsets))

    def _retrieved(self, cells: Retrieval, lookup: PackedLookup, stored: _StoredTable) -> ir.Value:
        """Rows float32 [..., dim] of a retrieval structure: sums of codes, unless unknown.

        Codes are whole numbers in float32, so their sums and differences are exact.
        """
        spec = self.spec
        numbers = self._residues(cell_arithmetic(spec))
        places = self._op(
            "Add",
            self._columns(numbers, 0, cells.hashes),
            self._columns(numbers, cells.hashes, cells.hashes + 1),
        )
        if spec.cells_wrap:
            places = self._op("Mod", places, self._constant(spec.cells))
        total = self._op("ReduceSum", self._read(places, stored), self._constant([-2]), keepdims=0)
        if not cells.fingerprints:
            return self._cell_values(total, cells.bits, lookup)
        expected = self._columns(numbers, cells.hashes + 1, len(spec.retrieval_residues()))
        present = self._columns(total, spec.dim, spec.row_dim)
        difference = self._op("Sub", present, self._cast(expected, ir.DataType.FLOAT))
        wrong = self._op(
            "ReduceMax", self._modulo(difference, cells.bits), self._constant([-1]), keepdims=1
        )
        unknown = self._op("Greater", wrong, self._constant(0.0, np.float32))
        place = self._constant(np.full((1,) * (self.rank + 1), spec.cells))
        last = self._op("Squeeze", self._read(place, stored), self._constant([-2]))
        codes = self._op("Where", unknown, last, total)
        return self._cell_values(self._columns(codes, 0, spec.dim), cells.bits, lookup)

    def _cell_values(self, codes: ir.Value, bits: int, lookup: PackedLookup) -> ir.Value:
        """What sums of codes float32 [..., dim] stand for, modulo 2**bits."""
        values = np.asarray(lookup.cell_values, dtype=np.float32)
        if values.ndim == 1:
            half = self._constant(2 ** (bits - 1), np.float32)
            codes = self._op("Sub", self._modulo(self._op("Add", codes, half), bits), half)
            return self._op("Mul", codes, self._constant(values, np.float32))
        numbers = self._cast(self._modulo(codes, bits), ir.DataType.INT64)
        numbers = self._op("Add", numbers, self._constant(np.arange(len(values)) << bits))
        return self._op("Gather", self._constant(values.reshape(-1), np.float32), numbers, axis=0)

    def _modulo(self, values: ir.Value, bits: int) -> ir.Value:
        """Whole numbers float32 modulo 2**bits: 0..2**bits-1."""
        size = self._constant(2**bits, np.float32)
        share = self._op("Mul", values, self._constant(2.0**-bits, np.float32))
        return self._op("Sub", values, self._op("Mul", self._op("Floor", share), size))

    def _columns(self, values: ir.Value, start: int, stop: int) -> ir.Value:
        """Entries start..stop-1 of the last axis."""
        bounds = (self._constant([place]) for place in (start, stop))
        return self._op("Slice", values, *bounds, self._constant([-1]))

    def _code_rows(self, zero_row: int) -> ir.Value:
        """Rows of binary codes; in 32 bits where codes have no more: not every runtime has 64."""
        halves = row_arithmetic(self.specs, 32, zero_row, self._starts)
        if self._high is not None:
            numbers, values = halves, self._word_bits(halves, self._high)
        elif not halves.words[halves.masks > 0].any():
            numbers, values = halves, self._low_bits(halves)
        else:
            numbers = row_arithmetic(self.specs, 64, zero_row, self._starts)
            values = self._wide_bits(numbers)
        values = self._cast(values, ir.DataType.INT64)
        if numbers.masks.shape[2] == 1:
            if not numbers.offsets.any():
                return values
            return self._op("Add", values, self._by_row(numbers.offsets))
        # offsets before the sum: an Add behind it is wrong in OpenVINO 2026.4, which fuses the two
        offsets = np.zeros_like(numbers.weights)
        offsets[..., 0] = numbers.offsets
        values = self._op("Mul", values, self._by_row(numbers.weights))
        values = self._op("Add", values, self._by_row(offsets))
        return self._op("ReduceSum", values, self._constant([0]), keepdims=0)

    def _wide_bits(self, numbers: RowArithmetic) -> ir.Value:
        """The bits uint64 of every run of codes of 64 bits, in the shape of `_by_row`."""
        code = self._code(numbers, np.dtype(np.uint64))
        shifts, masks = (
            self._by_row(array.astype(np.uint64)) for array in (numbers.shifts, numbers.masks)
        )
        bits = self._op("BitShift", code, shifts, direction="RIGHT")
        return self._op("BitwiseAnd", bits, masks)

    def _low_bits(self, numbers: RowArithmetic) -> ir.Value:
        """The bits int32 of every run of the low halves of codes, in the shape of `_by_row`.

        Operators of int32 only: OpenVINO computes those of 64 bits and of unsigned integers in
        int32.
        """
        return self._bits(self._code(numbers, np.dtype(np.int32)), numbers)

    def _bits(self, code: ir.Value, numbers: RowArithmetic) -> ir.Value:
        """The bits int32 of every run of codes int32 that have the shape of `_by_row`.

        Masked bits are divided by a power of two without a rest, which float32 does exactly too,
        as OpenVINO divides; and masked again in case the sign was among them.
        """
        masks, places = numbers.masks.astype(np.uint32), numbers.shifts.astype(np.uint32)
        in_place = masks << places
        bits = self._op("BitwiseAnd", code, self._by_row(in_place.view(np.int32)))
        if places.any():
            powers = (np.uint32(1) << places).view(np.int32)
            bits = self._op("Div", bits, self._by_row(powers))
        if (in_place >> np.uint32(31)).any():
            bits = self._op("BitwiseAnd", bits, self._by_row(masks.view(np.int32)))
        return bits

    def _word_bits(self, numbers: RowArithmetic, high: ir.Value) -> ir.Value:
        """The bits int32 of every run of codes of 64 bits, of IDs as two words."""
        code = self._code(numbers, np.dtype(np.int32))
        needed = (numbers.words > 0) & (numbers.masks > 0)
        if needed.any():
            high = self._runs(self._high_word(numbers, high), numbers)
            code = self._op("Where", self._by_row(needed), high, code)
        return self._bits(code, numbers)

    def _high_word(self, numbers: RowArithmetic, high: ir.Value) -> ir.Value:
        """The high words int32 of the products of IDs and multipliers, as the IDs are.

        By parts of 16 bits: OpenVINO computes Add after another operator, and Div, in float32, so
        only Mul, BitwiseAnd and BitwiseOr may see more than 24 bits.
        """
        size, low_half, high_half = (
            self._constant(number, np.int32) for number in (2**16, 2**16 - 1, -(2**16))
        )

        def parts(words: ir.Value) -> tuple[ir.Value, ir.Value]:
            """The low 16 bits of words, and the high ones, both unsigned."""
            upper = self._op("Div", self._op("BitwiseAnd", words, high_half), size)
            return self._op("BitwiseAnd", words, low_half), self._op("BitwiseAnd", upper, low_half)

        multipliers = squeeze_single_input(numbers.multipliers)
        factors = [
            self._constant((multipliers >> np.uint64(shift)) & np.uint64(0xFFFF), np.int32)
            for shift in (0, 16, 32, 48)
        ]
        sums: list[list[ir.Value]] = [[] for _ in range(5)]  # of the parts of the product
        for i, part in enumerate((*parts(self.ids), *parts(high))):
            for j, factor in enumerate(factors[: 4 - i]):
                low, upper = parts(self._op("Mul", part, factor))
                sums[i + j].append(low)
                sums[i + j + 1].append(upper)
        results = []
        for place in (1, 2, 3):
            total = functools.reduce(lambda a, b: self._op("Add", a, b), sums[place])
            part, carry = parts(total)
            sums[place + 1].append(carry)
            results.append(part)
        return self._op("BitwiseOr", self._op("Mul", results[2], size), results[1])

    def _code(self, numbers: RowArithmetic, dtype: np.dtype[Any]) -> ir.Value:
        """Codes of a dtype with the axes of `_each_row`, and one of runs before where several."""
        code = self._cast(self.ids, ir.DataType.from_numpy(dtype))
        if (numbers.multipliers != 1).any():
            low = numbers.multipliers & np.uint64(2 ** (8 * dtype.itemsize) - 1)
            factors = low.astype(f"uint{8 * dtype.itemsize}").view(dtype)
            code = self._op("Mul", code, self._constant(squeeze_single_input(factors), dtype))
        return self._runs(code, numbers)

    def _runs(self, code: ir.Value, numbers: RowArithmetic) -> ir.Value:
        """Codes with the axes of `_each_row`, and one of runs before where several."""
        code = self._each_row(code)
        if numbers.masks.shape[2] > 1:
            code = self._op("Unsqueeze", code, self._constant([0]))
        return code

    def _full_rows(self) -> ir.Value:
        """The ID where it is a row, else the out-of-vocabulary row.

        Without one, an ID out of range becomes a row that Gather rejects: a negative ID must not
        wrap to the end of the table. A padding ID may be out of range.
        """
        specs = self.specs
        inside = self._below(squeeze_single_input(np.array([spec.rows for spec in specs])))
        ids = self._whole_ids()
        fallback = [
            self._outside if spec.oov_row is None else self._lookup.row_in_table(n, spec.oov_row)
            for n, spec in enumerate(specs)
        ]
        rows = self._shifted(ids)
        rows = self._op("Where", inside, rows, self._by_input(fallback))
        if any(spec.padding_outside for spec in specs):
            paddings = np.array([spec.first_row_id for spec in specs], dtype=np.int64)
            is_padding = self._equal(squeeze_single_input(paddings))
            rows = self._op("Where", is_padding, self._by_input(self._starts), rows)
        return rows

    def _shifted(self, ids: ir.Value) -> ir.Value:
        """Rows of the inputs' own tables as rows of the table that is read."""
        rows = ids
        for number, (firsts, shifts) in enumerate(self._lookup.row_shifts()):
            moved = self._op("Add", ids, self._by_input(shifts)) if shifts.any() else ids
            if number:
                beyond = self._op("GreaterOrEqual", ids, self._by_input(firsts))
                moved = self._op("Where", beyond, moved, rows)
            rows = moved
        return rows

    def _by_input(self, values: npt.ArrayLike) -> ir.Value:
        """An int64 constant for each input."""
        return self._constant(squeeze_single_input(np.asarray(values, dtype=np.int64)))

    def _read(self, rows: ir.Value, stored: _StoredTable) -> ir.Value:
        """Dequantised rows float32 [..., rows_per_id, row_dim]: gather first, dequantise after.

        Every section is read; a row outside one reads its first or last row, which is dropped. A
        row beyond the table fails in the last section.
        """
        tables = list(self._tables)
        values: list[ir.Value] = []
        start, last = 0, len(stored.sections) - 1
        for number, section in enumerate(stored.sections):
            inside = rows
            if start:
                inside = self._op("Sub", rows, self._constant(start))
                inside = self._op("Max", inside, self._constant(0))
            if number < last:
                inside = self._op("Min", inside, self._constant(section.table.rows - 1))
            read = self._read_section(inside, section, tables)
            values.append(self._whole(read, section.table.dim, stored.dim))
            start += section.table.rows
        chosen, stop = values.pop(), start - stored.sections[-1].table.rows
        for section in reversed(stored.sections[:-1]):
            before = self._op("Less", rows, self._constant(stop))
            before = self._op("Unsqueeze", before, self._constant([-1]))
            chosen = self._op("Where", before, values.pop(), chosen)
            stop -= section.table.rows
        return chosen

    def _whole(self, values: ir.Value, width: int, dim: int) -> ir.Value:
        """Values of a section, filled with zeros to whole rows."""
        if width == dim:
            return values
        pads = [0] * (2 * (self.rank + self._row_axes + 1))
        pads[-1] = dim - width
        return self._op("Pad", values, self._constant(pads), self._constant(0.0, np.float32))

    def _read_section(
        self, rows: ir.Value, stored: _StoredSection, tables: list[ir.Value]
    ) -> ir.Value:
        """Dequantised rows of a section; its inputs are taken from the front of `tables`."""
        table, parts = stored.table, stored.blocks
        blocks = [tables.pop(0) for _ in parts.blocks]
        codes_of_byte = tables.pop(0) if table.codec in NARROW_CODECS else None
        scaled = parts.row_scales or table.column_scales is not None
        scales = tables.pop(0) if scaled else None
        if parts.positions is not None:
            rows = self._cast(self._op("Gather", tables.pop(0), rows, axis=0), ir.DataType.INT64)
        values = []
        for block, source in zip(parts.blocks, blocks, strict=True):
            place = rows
            if parts.zero_row and block.count < table.rows:
                place = self._op("Min", rows, self._constant(block.rows - 1))
            if codes_of_byte is not None and is_bit_stream(table):
                values.append(self._read_stream(source, place, codes_of_byte, table))
                continue
            if codes_of_byte is not None and parts.shared_bytes:
                values.append(self._read_shared(source, place, codes_of_byte, table))
                continue
            codes = self._op("Gather", source, place, axis=0)
            if codes_of_byte is not None:
                values.append(self._unpack(codes, codes_of_byte, block.columns, table.codec))
            else:
                values.append(
                    codes if table.codec == "f32" else self._cast(codes, ir.DataType.FLOAT)
                )
        joined = values[0] if len(values) == 1 else self._op("Concat", *values, axis=-1)
        if scales is None:
            return joined
        if table.scale_axis == "row":
            scales = self._cast(self._op("Gather", scales, rows, axis=0), ir.DataType.FLOAT)
            scales = self._op("Unsqueeze", scales, self._constant([-1]))
        return self._op("Mul", joined, scales)

    def _code_places(self, rows: ir.Value, dim: int) -> ir.Value:
        """The number of each code of rows in their table: int64 [...] -> int64 [..., dim]."""
        places = self._op("Unsqueeze", rows, self._constant([-1]))
        if dim > 1:
            places = self._op("Mul", places, self._constant(dim))
            places = self._op("Add", places, self._constant(np.arange(dim)))
        return places

    def _read_stream(
        self, block: ir.Value, rows: ir.Value, values: ir.Value, table: StoredSection
    ) -> ir.Value:
        """Values float32 [..., dim] of codes that are taken out of a stream of bits.

        `values` has the levels of all columns, or the value of each code.
        """
        bits = BITS[table.codec]
        places = self._code_places(rows, table.dim)
        # eight codes are as many bytes as a code has bits
        eight = self._constant(8)
        bit = self._op("Mul", self._op("Mod", places, eight), self._constant(bits))
        group = self._op("Mul", self._op("Div", places, eight), self._constant(bits))
        byte = self._op("Add", group, self._op("Div", bit, eight))
        word = self._cast(self._op("Gather", block, byte, axis=0), ir.DataType.INT64)
        if not fill_bytes(table.codec):
            following = self._op("Add", byte, self._constant(1))
            high = self._cast(self._op("Gather", block, following, axis=0), ir.DataType.INT64)
            word = self._op("Add", word, self._op("Mul", high, self._constant(256)))
        powers = self._constant(2 ** np.arange(8))
        divisor = self._op("Gather", powers, self._op("Mod", bit, eight), axis=0)
        code = self._op("Mod", self._op("Div", word, divisor), self._constant(2**bits))
        firsts = level_firsts(table)  # of a joined section [inputs, dim]
        if firsts is not None:
            code = self._op("Add", code, self._constant(firsts))
        return self._op("Gather", values, code, axis=0)

    def _read_shared(
        self, block: ir.Value, rows: ir.Value, codes_of_byte: ir.Value, table: StoredSection
    ) -> ir.Value:
        """Values float32 [..., dim] of rows that share bytes: the byte of a code, then the code."""
        places = self._code_places(rows, table.dim)
        count = self._constant(codes_per_byte(table.codec))
        stored_byte = self._op("Gather", block, self._op("Div", places, count), axis=0)
        first = self._op("Mul", self._cast(stored_byte, ir.DataType.INT64), count)
        code = self._op("Add", first, self._op("Mod", places, count))
        flat = self._op("Reshape", codes_of_byte, self._constant([-1]))
        return self._op("Gather", flat, code, axis=0)

    def _unpack(
        self, codes: ir.Value, codes_of_byte: ir.Value, width: int, codec: Codec
    ) -> ir.Value:
        """Values float32 [..., width] of narrow codes, looked up in the table of all 256 bytes."""
        values = self._op("Gather", codes_of_byte, self._cast(codes, ir.DataType.INT32), axis=0)
        shape = self._constant([0] * (self.rank + self._row_axes) + [-1])
        values = self._op("Reshape", values, shape)
        if width % codes_per_byte(codec) == 0:
            return values
        first, stop, axis = self._constant([0]), self._constant([width]), self._constant([-1])
        return self._op("Slice", values, first, stop, axis)

    def _fuse(self, values: ir.Value) -> ir.Value:
        if not self._row_axes:
            return values
        count = max(spec.rows_per_id for spec in self.specs)
        if self.spec.fuse == "concat":
            return self._op("Reshape", values, self._constant([0] * self.rank + [self.spec.dim]))
        if count == 1:
            return self._op("Squeeze", values, self._constant([-2]))
        if self.spec.fuse == "mul":
            return self._op("ReduceProd", values, self._constant([-2]), keepdims=0)
        zero = self._constant([0])
        fused = self._op("Squeeze", self._op("Sum", *self._split(values, count)), zero)
        if self.spec.fuse == "mean":
            fused = self._op("Mul", fused, self._constant(1 / count, np.float32))
        return fused

    def _split(self, values: ir.Value, count: int) -> list[ir.Value]:
        """The `count` entries of the first axis, each [1, ...]."""
        attributes = {"axis": 0, "num_outputs": count}
        outputs = self._tape.op_multi_out("Split", [values], attributes, num_outputs=count)
        self._name_outputs("Split", outputs)
        return list(outputs)

    def _zero_padding(self, vectors: ir.Value) -> ir.Value:
        if self.spec.padding_id is None:
            return vectors
        zero = self._constant(0.0, np.float32)
        return self._op("Where", self._is_padding(), zero, vectors)

    def _is_padding(self) -> ir.Value:
        paddings = np.array([spec.padding_id for spec in self.specs], dtype=np.int64)
        return self._op(
            "Unsqueeze", self._equal(squeeze_single_input(paddings)), self._constant([-1])
        )

    def _pool(self, vectors: ir.Value) -> ir.Value:
        """The sum or mean over the last axis of the IDs."""
        if self.spec.pooling == "none":
            return vectors
        total = self._op("ReduceSum", vectors, self._constant([-2]), keepdims=0)
        if self.spec.pooling == "sum":
            return total
        present = self._cast(self._op("Not", self._is_padding()), ir.DataType.FLOAT)
        count = self._op("ReduceSum", present, self._constant([-2]), keepdims=0)
        return self._op("Div", total, self._op("Max", count, self._constant(1.0, np.float32)))
