"""The execution plan of a native file: nodes in order, over inputs, weights and tables."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from ondevice.attributes import Attribute, check_attributes
from ondevice.errors import PARSE_ERRORS, FileFormatError, SpecError
from ondevice.limits import MAX_INPUTS, MAX_NODES
from ondevice.records import RecordLayout
from ondevice.section_records import Layout, layout_from_json, layout_to_json
from ondevice.spec import LookupSpec
from ondevice.strict_json import parse_strictly

LOOKUP = "Lookup"

_PLAN_KEYS = {"inputs", "outputs", "weights", "tables", "nodes"}
_NODE_KEYS = {"op", "inputs", "outputs", "attributes", "table", "lookup"}


@dataclass(frozen=True)
class Node:
    """One operation. `op` is "Lookup" or an ONNX operator name with ONNX's meaning (opset 21).

    A Lookup reads ids (its only input) through `lookup` from the table named `table`.
    """

    op: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: dict[str, Attribute]
    table: str | None = None
    lookup: LookupSpec | None = None


@dataclass(frozen=True)
class Plan:
    """Nodes in execution order; names refer to inputs, weights or earlier outputs."""

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    nodes: tuple[Node, ...]
    weights: tuple[str, ...]
    tables: dict[str, Layout]

    def __post_init__(self) -> None:
        if len(self.nodes) > MAX_NODES or max(len(self.inputs), len(self.outputs)) > MAX_INPUTS:
            raise FileFormatError(
                f"plan: more than {MAX_NODES} nodes, or {MAX_INPUTS} inputs or outputs"
            )
        if len(set(self.inputs)) != len(self.inputs):
            raise FileFormatError(f"plan: an input occurs twice: {', '.join(self.inputs)}")
        known = {*self.inputs, *self.weights}
        for number, node in enumerate(self.nodes):
            where = f"plan: node {number} ({node.op})"
            if unknown := [name for name in node.inputs if name not in known]:
                raise FileFormatError(f"{where} reads {unknown[0]!r} before it exists")
            if doubled := [name for name in node.outputs if name in known]:
                raise FileFormatError(f"{where} writes {doubled[0]!r} again")
            if len(node.outputs) != 1:
                raise FileFormatError(f"{where} must have one output, got {len(node.outputs)}")
            known.update(node.outputs)
            _check_lookup(where, node, self.tables)
        if missing := [name for name in self.outputs if name not in known]:
            raise FileFormatError(f"plan: output {missing[0]!r} is never computed")

    def to_text(self) -> str:
        """JSON text."""
        nodes = []
        for node in self.nodes:
            item: dict[str, Any] = {
                "op": node.op,
                "inputs": list(node.inputs),
                "outputs": list(node.outputs),
            }
            if node.attributes:
                item["attributes"] = node.attributes
            if node.lookup is not None:
                item["table"] = node.table
                item["lookup"] = node.lookup.to_dict()
            nodes.append(item)
        data = {
            "inputs": list(self.inputs),
            "outputs": list(self.outputs),
            "weights": list(self.weights),
            "tables": {name: layout_to_json(layout) for name, layout in self.tables.items()},
            "nodes": nodes,
        }
        return json.dumps(data, separators=(",", ":"))

    @classmethod
    def from_text(cls, text: str | bytes) -> Plan:
        """Read what `to_text` wrote. Raises FileFormatError for anything else."""
        try:
            data = parse_strictly(text)
            if unknown := data.keys() - _PLAN_KEYS:
                raise KeyError(f"unknown key {min(unknown)!r}")
            return cls(
                inputs=_names(data["inputs"]),
                outputs=_names(data["outputs"]),
                nodes=tuple(_node(item) for item in data["nodes"]),
                weights=_names(data["weights"]),
                tables={name: layout_from_json(item) for name, item in data["tables"].items()},
            )
        except PARSE_ERRORS as error:
            raise FileFormatError(f"plan: {error!r}") from error
        except SpecError as error:
            raise FileFormatError(f"plan: {error}") from error


def _check_lookup(where: str, node: Node, tables: dict[str, Layout]) -> None:
    if (node.op == LOOKUP) != (node.lookup is not None):
        raise FileFormatError(f"{where}: exactly the Lookup nodes have a lookup specification")
    if node.lookup is None:
        return
    if len(node.inputs) != 1:
        raise FileFormatError(f"{where}: needs one input, its IDs, got {list(node.inputs)}")
    if node.table not in tables:
        raise FileFormatError(f"{where}: table {node.table!r} is missing")
    layout = tables[node.table]
    expected = (node.lookup.rows, node.lookup.row_dim)
    if (layout.rows, layout.dim) != expected:
        raise FileFormatError(
            f"{where}: table {node.table!r} is {layout.rows} x {layout.dim}, "
            f"its lookup expects {expected[0]} x {expected[1]}"
        )
    if node.lookup.retrieval is not None:
        if not isinstance(layout, RecordLayout):
            raise FileFormatError(f"{where}: cells of a retrieval structure are in no sections")
        layout.check_cells(node.lookup.retrieval.bits)


def _node(item: Any) -> Node:
    if unknown := item.keys() - _NODE_KEYS:
        raise KeyError(f"unknown key {min(unknown)!r} of a node")
    lookup = item.get("lookup")
    attributes = item.get("attributes", {})
    if not isinstance(item["op"], str):
        raise TypeError(f"op is {item['op']!r}")
    if item["op"] != LOOKUP and ("lookup" in item or "table" in item):
        raise ValueError("exactly the Lookup nodes have a lookup specification and a table")
    check_attributes(item["op"], attributes)
    return Node(
        op=item["op"],
        inputs=_names(item["inputs"]),
        outputs=_names(item["outputs"]),
        attributes=attributes,
        table=item.get("table"),
        lookup=None if lookup is None else LookupSpec.from_dict(lookup),
    )


def _names(values: Any) -> tuple[str, ...]:
    if not isinstance(values, list) or not {str}.issuperset(map(type, values)):
        raise TypeError(f"expected a list of names, got {values!r}")
    "".join(values).encode()  # a lone surrogate is a ValueError: it can't be printed or stored
    return tuple(values)
