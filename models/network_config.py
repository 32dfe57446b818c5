"""Configuration of a click model: what fixes the shapes of its network, tables and masks."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Literal, get_args

from ondevice.errors import SpecError
from ondevice.features import PADDING_ID
from ondevice.models.layers.adaptive_mask import MAX_LEVELS
from ondevice.spec import LookupSpec

MAX_LAYERS = 64
MAX_LAYER_SIZE = 65536
MAX_LABELS = 64
ONE_LABEL = ("label",)

Kind = Literal["dnn", "wide_deep", "deepfm", "dcn", "dcn_v1", "din"]
KINDS: tuple[Kind, ...] = get_args(Kind)


@dataclass(frozen=True)
class NetworkConfig:
    """What computes the log-odds of a click from the field vectors x (all of them in a row).

    Attributes:
        kind: "dnn": hidden layers over x, and a last linear one.
            "wide_deep": plus a weight per value of each field (H.-T. Cheng et al., "Wide & Deep
            Learning for Recommender Systems", 2016; its hand-made crossed features are fields).
            "deepfm": plus such weights and the pair interactions of a factorisation machine over
            the same vectors (H. Guo et al., "DeepFM", IJCAI 2017).
            "dcn": the hidden layers beside cross layers, both joined by the last linear layer
            (R. Wang et al., "DCN V2", WWW 2021, the parallel structure).
            "dcn_v1": as "dcn", with a vector in place of each cross layer's matrix (R. Wang et al.,
            "Deep & Cross Network for Ad Click Predictions", ADKDD 2017).
            "din": as "dnn", histories weighted by attention (G. Zhou et al., "Deep Interest
            Network", KDD 2018). Other kinds take the mean of a history.
        hidden: sizes of the hidden layers.
        dropout: share of hidden activations dropped in training, 0 <= dropout < 1.
        batch_norm: whether each hidden layer is batch-normalised before its ReLU.
        cross_layers: "dcn", "dcn_v1": how many cross layers.
        cross_rank: "dcn": rank of their matrices, 0 for full ones.
        attention: "din": sizes of the attention unit's hidden layers.

    Raises:
        SpecError: a setting out of range.
    """

    kind: Kind = "dnn"
    hidden: tuple[int, ...] = (128, 64)
    dropout: float = 0.0
    batch_norm: bool = False
    cross_layers: int = 3
    cross_rank: int = 0
    attention: tuple[int, ...] = (36,)

    def __post_init__(self) -> None:
        if faults := _network_faults(self):
            raise SpecError("network: " + "; ".join(faults))

    @classmethod
    def from_dict(cls, data: object) -> NetworkConfig:
        """Build from decoded JSON, which names every setting. Raises SpecError."""
        keys = set(cls.__dataclass_fields__)
        if not isinstance(data, dict) or set(data) != keys:
            raise SpecError(f"network: expected an object with keys {sorted(keys)}")
        lists = {name: _int_tuple(data[name], name) for name in ("hidden", "attention")}
        return cls(**{**data, **lists})


@dataclass(frozen=True)
class MaskConfig:
    """Shape of a table's AdaptiveMask: `levels` distinct counts, 0 once it is frozen."""

    levels: int = 0
    temperature: float = 1.0
    hidden: tuple[int, ...] = (32, 32)


@dataclass(frozen=True)
class EmbeddingConfig:
    """One field's table: its lookup, and its mask if it has one."""

    spec: LookupSpec
    mask: MaskConfig | None = None

    @property
    def masked(self) -> bool:
        """Whether the rows are cut to kept widths."""
        return self.mask is not None


@dataclass(frozen=True)
class ModelConfig:
    """Everything that fixes the shapes of a ClickModel.

    Attributes:
        embeddings: a table per field, in the order in which their vectors are concatenated.
        network: what computes the click from the vectors.
        histories: by name of a history (IDs int64 [batch, length], padded with 0), the field
            whose table it shares.
        labels: names of what is predicted; the network has an output of its last layer for each.

    Raises:
        SpecError: no or doubled fields or labels, or a setting out of range.
    """

    embeddings: Mapping[str, EmbeddingConfig]
    network: NetworkConfig = field(default_factory=NetworkConfig)
    histories: Mapping[str, str] = field(default_factory=dict)
    labels: tuple[str, ...] = ONE_LABEL

    def __post_init__(self) -> None:
        faults = _config_faults(self)
        if faults:
            raise SpecError("model configuration: " + "; ".join(faults))

    def to_json(self) -> str:
        """JSON text that `from_json` reads."""
        fields = [
            {
                "field": name,
                "lookup": asdict(table.spec),
                "mask": None if table.mask is None else asdict(table.mask),
            }
            for name, table in self.embeddings.items()
        ]
        rest = {"network": asdict(self.network), "histories": dict(self.histories)}
        return json.dumps({"embeddings": fields, **rest, "labels": list(self.labels)})

    @classmethod
    def from_json(cls, text: str) -> ModelConfig:
        """Read what `to_json` wrote. Raises SpecError."""
        try:
            return cls.from_dict(json.loads(text))
        except (ValueError, RecursionError) as error:
            raise SpecError(f"model configuration is not JSON: {error}") from error

    @classmethod
    def from_dict(cls, data: object) -> ModelConfig:
        """Build from decoded JSON, checking every type; without labels it has one.

        Raises:
            SpecError: an unknown or missing key, a wrong type, or settings that do not fit.
        """
        keys = {"embeddings", "network", "histories", "labels"}
        if not isinstance(data, dict) or {"labels", *data} != keys:
            raise SpecError(f"model configuration: expected an object with keys {sorted(keys)}")
        labels = data.get("labels", list(ONE_LABEL))
        if not isinstance(labels, list):
            raise SpecError(f"model configuration: 'labels' must be a list, got {labels!r}")
        if not isinstance(data["embeddings"], list):
            raise SpecError("model configuration: 'embeddings' must be a list")
        if not isinstance(data["histories"], dict):
            raise SpecError("model configuration: 'histories' must be an object")
        tables: dict[str, EmbeddingConfig] = {}
        for item in data["embeddings"]:
            name, table = _embedding_from_dict(item)
            if name in tables:
                raise SpecError(f"model configuration: field {name!r} appears twice")
            tables[name] = table
        network = NetworkConfig.from_dict(data["network"])
        return cls(tables, network, data["histories"], tuple(labels))


def _config_faults(config: ModelConfig) -> list[str]:
    """What is wrong with a configuration: names, masks, histories, and widths of vectors that its
    network cannot take.
    """
    faults = []
    if not config.embeddings:
        faults.append("at least one field is needed")
    if any(not isinstance(name, str) or not name for name in config.embeddings):
        faults.append("field names must be non-empty strings")
    for name, table in config.embeddings.items():
        if (mask := table.mask) is None:
            continue
        faults += _size_faults(mask.hidden, f"hidden sizes of {name!r}'s mask")
        most = min(table.spec.rows, MAX_LEVELS)
        if not _is_int(mask.levels) or not 0 <= mask.levels <= most:
            faults.append(f"{name!r}: levels must be 0..{most}, got {mask.levels!r}")
        if not _is_number(mask.temperature) or not 0 < mask.temperature < math.inf:
            faults.append(f"{name!r}: temperature must be positive, got {mask.temperature!r}")
    for name, target in config.histories.items():
        if not name or name in config.embeddings:
            faults.append(f"a history needs a name that no field has, got {name!r}")
        if target not in config.embeddings:
            faults.append(f"history {name!r} is of field {target!r}, which is not there")
        elif config.embeddings[target].spec.padding_id != PADDING_ID:
            faults.append(
                f"history {name!r}: the table of {target!r} needs padding_id {PADDING_ID}"
            )
        elif config.embeddings[target].spec.pooling != "none":
            faults.append(f"history {name!r}: the table of {target!r} is pooled itself")
    labels = config.labels
    if not 1 <= len(labels) <= MAX_LABELS or not all(
        isinstance(name, str) and name for name in labels
    ):
        faults.append(f"1..{MAX_LABELS} labels with names needed, got {list(labels)}")
    elif len(set(labels)) < len(labels):
        faults.append(f"labels named twice: {', '.join(labels)}")
    dims = {table.spec.dim for table in config.embeddings.values()}
    if config.network.kind == "deepfm" and len(dims) > 1:
        faults.append(f"deepfm needs vectors of one width, got {sorted(dims)}")
    if config.network.kind == "din" and not config.histories:
        faults.append("din attends over a history; give it one")
    return faults


def _network_faults(network: NetworkConfig) -> list[str]:
    faults = []
    if network.kind not in KINDS:
        faults.append(f"kind must be one of {', '.join(KINDS)}, got {network.kind!r}")
    faults += _size_faults(network.hidden, "hidden")
    faults += _size_faults(network.attention, "attention")
    if not network.attention:
        faults.append("attention needs at least one layer")
    if not _is_number(network.dropout) or not 0 <= network.dropout < 1:
        faults.append(f"dropout must be 0 <= dropout < 1, got {network.dropout!r}")
    if not isinstance(network.batch_norm, bool):
        faults.append(f"batch_norm must be true or false, got {network.batch_norm!r}")
    layers, rank = network.cross_layers, network.cross_rank
    if not _is_int(layers) or not 1 <= layers <= MAX_LAYERS:
        faults.append(f"cross_layers must be 1..{MAX_LAYERS}, got {layers!r}")
    if not _is_int(rank) or not 0 <= rank <= MAX_LAYER_SIZE:
        faults.append(f"cross_rank must be 0..{MAX_LAYER_SIZE}, got {rank!r}")
    return faults


def _size_faults(sizes: tuple[int, ...], what: str) -> list[str]:
    if len(sizes) > MAX_LAYERS:
        return [f"{what}: at most {MAX_LAYERS} layers, got {len(sizes)}"]
    wrong = [size for size in sizes if not _is_int(size) or not 1 <= size <= MAX_LAYER_SIZE]
    return [f"{what} must be 1..{MAX_LAYER_SIZE}, got {size!r}" for size in wrong]


def _embedding_from_dict(item: object) -> tuple[str, EmbeddingConfig]:
    if not isinstance(item, dict) or set(item) != {"field", "lookup", "mask"}:
        raise SpecError("model configuration: each embedding needs the keys field, lookup, mask")
    name, mask = item["field"], item["mask"]
    if not isinstance(name, str):
        raise SpecError(f"model configuration: a field name must be a string, got {name!r}")
    spec = LookupSpec.from_dict(item["lookup"])
    if mask is None:
        return name, EmbeddingConfig(spec)
    if not isinstance(mask, dict) or set(mask) != {"levels", "temperature", "hidden"}:
        raise SpecError(f"model configuration: {name!r}: a mask has levels, temperature, hidden")
    hidden = _int_tuple(mask["hidden"], f"{name!r}: hidden")
    return name, EmbeddingConfig(spec, MaskConfig(mask["levels"], mask["temperature"], hidden))


def _int_tuple(values: object, what: str) -> tuple[int, ...]:
    if not isinstance(values, list):
        raise SpecError(f"model configuration: {what} must be a list, got {values!r}")
    return tuple(values)


def _is_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
