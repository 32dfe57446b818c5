"""Changed plans: a valid model with one to three faults of structure, types, shapes or numbers."""

import contextlib
import copy

import numpy as np

from ondevice.attributes import ATTRIBUTES
from ondevice.dense import DENSE
from ondevice.ops import OPERATORS

STRANGE = (0, -1, 1, 2, 3, 7, 64, 2**31, 2**63, 1.5, "x", "", None, True, [], {}, [0], [1, 0])
DTYPES = (np.float32, np.int64, np.uint8, np.int32, np.float16, np.float64)


def _strange(rng):
    """A copy: a list or object that is changed later must not change in other mutants, too."""
    return copy.deepcopy(STRANGE[rng.integers(len(STRANGE))])


def _nodes(parts):
    return parts.plan["nodes"]


def _operator(parts, rng):
    node = _nodes(parts)[rng.integers(len(_nodes(parts)))]
    node["op"] = str(rng.choice([*OPERATORS, DENSE, "Lookup", "Exec"]))


def _attribute(parts, rng):
    node = _nodes(parts)[rng.integers(len(_nodes(parts)))]
    fitting = [name for name, (_, operators) in ATTRIBUTES.items() if node["op"] in operators]
    name = str(rng.choice(fitting if fitting and rng.random() < 0.8 else [*ATTRIBUTES, "other"]))
    node.setdefault("attributes", {})[name] = _strange(rng)


def _operand(parts, rng):
    node = _nodes(parts)[rng.integers(len(_nodes(parts)))]
    names = [*parts.plan["inputs"], *parts.plan["weights"]]
    names += [name for other in _nodes(parts) for name in other["outputs"]]
    name = names[rng.integers(len(names))]
    kind = rng.integers(3)
    if kind == 0 or not node["inputs"]:
        node["inputs"].append(name)
    elif kind == 1:
        node["inputs"].pop(int(rng.integers(len(node["inputs"]))))
    else:
        node["inputs"][rng.integers(len(node["inputs"]))] = name


def _weight(parts, rng):
    names = sorted(name for name in parts.arrays if name.startswith("weight."))
    if not names:
        return
    name = names[rng.integers(len(names))]
    array = np.array(parts.arrays[name])
    kind = rng.integers(4)
    if kind == 0:
        with np.errstate(all="ignore"):
            array = array.astype(DTYPES[rng.integers(len(DTYPES))])
    elif kind == 1:
        array = array.reshape(-1)[: rng.integers(array.size + 1)]
    elif kind == 2:
        array = array[None] if rng.random() < 0.5 else array.reshape(-1)
    elif array.size:
        value = np.int64(rng.choice([-3, -1, 0, 1, 2, 100]))
        array.reshape(-1)[rng.integers(array.size)] = value.astype(array.dtype)  # -3 wraps in uint8
    parts.arrays[name] = np.ascontiguousarray(array)


def _fresh(parts, rng):
    """A new node of any operator behind the others, with an output of its own."""
    names = [*parts.plan["inputs"], *parts.plan["weights"]]
    names += [name for other in _nodes(parts) for name in other["outputs"]]
    chosen = [names[i] for i in rng.integers(len(names), size=rng.integers(1, 4))]
    op = str(rng.choice(list(OPERATORS)))
    node = {"op": op, "inputs": chosen, "outputs": [f"fresh{len(_nodes(parts))}"]}
    fitting = [name for name, (_, operators) in ATTRIBUTES.items() if op in operators]
    if fitting and rng.random() < 0.7:
        node["attributes"] = {name: int(rng.choice([0, 1, 2, -1, 7])) for name in fitting[:2]}
    _nodes(parts).append(node)
    if rng.random() < 0.7:
        for part in (parts.plan, parts.info):
            part["outputs"].append(node["outputs"][0])


def _number(parts, rng):
    """Any value of the plan."""
    value, place = parts.plan, None
    while isinstance(value, dict | list) and value:
        key = list(value)[rng.integers(len(value))] if isinstance(value, dict) else int(
            rng.integers(len(value))
        )  # fmt: skip
        place, value = (value, key), value[key]
    if place:
        place[0][place[1]] = _strange(rng)


def _key(parts, rng):
    targets = [parts.plan, _nodes(parts)[0], parts.info["inputs"][0]]
    targets += [node["lookup"] for node in _nodes(parts) if "lookup" in node][:1]
    targets[rng.integers(len(targets))][str(rng.choice(["more", "table", "lookup", "name"]))] = 1


def _input(parts, rng):
    item = parts.info["inputs"][rng.integers(len(parts.info["inputs"]))]
    kind = rng.integers(3)
    if kind == 0:
        item["dtype"] = str(rng.choice(["int64", "float32", "int32"]))
    elif kind == 1:
        item["shape"] = ["batch", *(int(size) for size in rng.integers(1, 4, rng.integers(3)))]
    else:
        item[str(rng.choice(list(item)))] = _strange(rng)


def _order(parts, rng):
    nodes = _nodes(parts)
    i, j = rng.integers(len(nodes), size=2)
    if rng.random() < 0.5:
        nodes[i], nodes[j] = nodes[j], nodes[i]
    else:
        nodes.pop(int(i))


CHANGES = (
    *(_fresh,) * 5, *(_operand,) * 3, *(_weight,) * 3, *(_operator,) * 3, *(_attribute,) * 3,
    *(_number,) * 2, _key, _input, _order,
)  # fmt: skip


def mutant(parts, rng):
    """A changed copy of a model's parts; changes that earlier ones make impossible are left out."""
    changed = copy.deepcopy(parts)
    for _ in range(rng.integers(1, 4)):
        with contextlib.suppress(TypeError, ValueError, AttributeError, KeyError, IndexError):
            CHANGES[rng.integers(len(CHANGES))](
                changed, rng
            )  # an earlier change broke its structure
    return changed
