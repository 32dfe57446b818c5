"""The reference click networks, their configuration, and how a model is built from one."""

from __future__ import annotations

import json
import math
import operator
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from ondevice.errors import InputError, SpecError
from ondevice.features import PADDING_ID
from ondevice.models.click_log import ClickLog
from ondevice.models.layers.adaptive_mask import MAX_LEVELS, AdaptiveMask, MaskGroup
from ondevice.models.layers.embeddings import Embedding, row_counts
from ondevice.models.layers.interactions import (
    AttentionPooling,
    CrossNetwork,
    PaddingMask,
    pair_interactions,
)
from ondevice.models.layers.joint_tables import JointTables
from ondevice.spec import LookupSpec, Pooling

MAX_LAYERS = 64
MAX_LAYER_SIZE = 65536

Kind = Literal["dnn", "wide_deep", "deepfm", "dcn", "din"]
KINDS: tuple[Kind, ...] = get_args(Kind)
_WIDE = ("wide_deep", "deepfm")


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
            "din": as "dnn", histories weighted by attention (G. Zhou et al., "Deep Interest
            Network", KDD 2018). Other kinds take the mean of a history.
        hidden: sizes of the hidden layers.
        dropout: share of hidden activations dropped in training, 0 <= dropout < 1.
        batch_norm: whether each hidden layer is batch-normalised before its ReLU.
        cross_layers: "dcn": how many cross layers.
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

    Raises:
        SpecError: no or doubled fields, or a setting out of range.
    """

    embeddings: Mapping[str, EmbeddingConfig]
    network: NetworkConfig = field(default_factory=NetworkConfig)
    histories: Mapping[str, str] = field(default_factory=dict)

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
        return json.dumps({"embeddings": fields, **rest})

    @classmethod
    def from_json(cls, text: str) -> ModelConfig:
        """Read what `to_json` wrote. Raises SpecError."""
        try:
            return cls.from_dict(json.loads(text))
        except (json.JSONDecodeError, RecursionError) as error:
            raise SpecError(f"model configuration is not JSON: {error}") from error

    @classmethod
    def from_dict(cls, data: object) -> ModelConfig:
        """Build from decoded JSON, checking every type. Raises SpecError."""
        keys = {"embeddings", "network", "histories"}
        if not isinstance(data, dict) or set(data) != keys:
            raise SpecError(f"model configuration: expected an object with keys {sorted(keys)}")
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
        return cls(tables, NetworkConfig.from_dict(data["network"]), data["histories"])


class ClickModel(nn.Module):
    """Field vectors -> a network -> click probability; see NetworkConfig for the networks.

    Parameters are called `embeddings.<field>.weight`, `network.<n>.weight` and so on; a field name
    that a module cannot carry is escaped (see `module_key`).
    """

    def __init__(
        self,
        embeddings: Mapping[str, Embedding],
        network: NetworkConfig | tuple[int, ...] = (128, 64),
        histories: Mapping[str, str] | None = None,
    ) -> None:
        """See ModelConfig for the settings; a tuple stands for a "dnn" of these hidden sizes.

        Raises:
            SpecError: the settings contradict one another.
        """
        super().__init__()
        self.fields = tuple(embeddings)
        self.settings = NetworkConfig(hidden=network) if isinstance(network, tuple) else network
        self.histories = dict(histories or {})
        self.embeddings = nn.ModuleDict(
            {module_key(name): table for name, table in embeddings.items()}
        )
        _ = self.config  # checks the settings before they size any layer
        specs = {name: table.spec for name, table in embeddings.items()}
        kind = self.settings.kind
        attended = self.histories if kind == "din" else {}
        self.pooling = nn.ModuleDict(
            {
                module_key(name): AttentionPooling(specs[target].dim, self.settings.attention)
                for name, target in attended.items()
            }
        )
        self.present = PaddingMask() if attended else None
        width = sum(spec.dim for spec in specs.values())
        width += sum(specs[target].dim for target in self.histories.values())
        wide = specs if kind in _WIDE else {}
        self.wide = nn.ModuleDict(
            {module_key(name): Embedding(_wide_spec(spec)) for name, spec in wide.items()}
        )
        self.cross = None
        if kind == "dcn":
            self.cross = CrossNetwork(width, self.settings.cross_layers, self.settings.cross_rank)
        self.network = _network(width, self.settings, width if self.cross else 0)
        self._joint: JointTables | None = None
        self._mask_group: MaskGroup | None = None

    @property
    def inputs(self) -> tuple[str, ...]:
        """Names of all inputs: the fields, then the histories."""
        return (*self.fields, *self.histories)

    @property
    def config(self) -> ModelConfig:
        """The configuration from which `build` makes a model of these shapes."""
        tables = {}
        for name in self.fields:
            table = self.embedding(name)
            mask = None if table.mask is None else _mask_config(table.mask)
            tables[name] = EmbeddingConfig(table.spec, mask)
        return ModelConfig(tables, self.settings, self.histories)

    def embedding(self, field: str) -> Embedding:
        """The table of `field`. Raises InputError when there is none."""
        table = self.embeddings[module_key(field)] if field in self.fields else None
        if not isinstance(table, Embedding):
            raise InputError(f"no field {field!r}; the model's fields are: {_listed(self.fields)}")
        return table

    def field_tables(self) -> list[Embedding]:
        """The tables of the fields, in their order."""
        return [table for table in self.embeddings.values() if isinstance(table, Embedding)]

    def masks(self) -> dict[str, AdaptiveMask]:
        """The masks of the masked fields."""
        found = zip(self.fields, self.field_tables(), strict=True)
        return {name: table.mask for name, table in found if table.mask is not None}

    def refresh(self) -> None:
        """Bring widths and codec scales up to date after weights were loaded or changed by hand."""
        for mask in self.masks().values():
            mask.refresh()
        for table in self.tables():
            table.refresh_rounding()

    def level_masks(self) -> dict[str, Tensor]:
        """The level masks of the fields whose widths are being learned, at this moment."""
        live = {name: mask for name, mask in self.masks().items() if mask.live}
        masks = list(live.values())
        if not masks:
            return {}
        if self._mask_group is None or not self._mask_group.fits(masks):
            self._mask_group = MaskGroup(masks)
        return dict(zip(live, self._mask_group.level_masks(), strict=True))

    def tables(self) -> list[Embedding]:
        """All trained tables: those of the fields, and the weights per value of the wide part."""
        tables = [*self.embeddings.values(), *self.wide.values()]
        return [table for table in tables if isinstance(table, Embedding)]

    def forward(self, ids: dict[str, Tensor]) -> Tensor:
        """Click probability float32 [batch] of ids; see `forward_logits`. Raises InputError."""
        return torch.sigmoid(self.forward_logits(ids))

    def forward_logits(
        self, ids: dict[str, Tensor], levels: Mapping[str, Tensor] | None = None
    ) -> Tensor:
        """Log-odds of a click, float32 [batch], of ids by input name.

        Args:
            ids: int64 [batch] per field, int64 [batch, length] per history.
            levels: what `level_masks` returned in this step, if it was called already.

        Raises:
            InputError: an input is missing or unknown, or an ID is illegal (see Embedding).
        """
        if ids.keys() != set(self.inputs):
            raise InputError(f"expected the inputs {_listed(self.inputs)}; got {_listed(ids)}")
        levels = self.level_masks() if levels is None else levels
        vectors = self._vectors(ids, levels)
        pooled = [
            self._pooled(name, ids[name], vectors, levels.get(target))
            for name, target in self.histories.items()
        ]
        joined = torch.cat([*vectors.values(), *pooled], -1)
        deep: Tensor = self.network[:-1](joined)
        if self.cross is not None:
            deep = torch.cat([self.cross(joined), deep], -1)
        logits: Tensor = self.network[-1](deep).squeeze(-1)
        for name, table in zip(self.fields, self.wide.values(), strict=False):
            logits = logits + table(ids[name]).squeeze(-1)
        if self.settings.kind == "deepfm":
            dim = vectors[self.fields[0]].shape[-1]
            logits = logits + pair_interactions(joined.reshape(-1, joined.shape[1] // dim, dim))
        return logits

    def _vectors(
        self, ids: Mapping[str, Tensor], levels: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        """The vector of each field, float32 [batch, dim]."""
        if torch.onnx.is_in_onnx_export():
            return {name: self.embedding(name)(ids[name]) for name in self.fields}
        tables = self.field_tables()
        if self._joint is None or not all(map(operator.is_, tables, self._joint.tables)):
            self._joint = JointTables(tables)
        inputs = [ids[name] for name in self.fields]
        known = [levels.get(name) for name in self.fields]
        return dict(zip(self.fields, self._joint.read(inputs, known), strict=True))

    def _pooled(
        self, history: str, ids: Tensor, vectors: Mapping[str, Tensor], levels: Tensor | None
    ) -> Tensor:
        target = self.histories[history]
        table = self.embedding(target)
        pooling: Pooling = "mean" if self.present is None else "none"
        items = table(ids, pooling) if levels is None else table.vectors(ids, levels, pooling)
        if self.present is None:
            return items
        present = self.present(ids)
        vector: Tensor = self.pooling[module_key(history)](vectors[target], items, present)
        return vector


def build(config: ModelConfig) -> ClickModel:
    """A model of the configured shapes with fresh weights.

    Masks are made with whole rows and no counts: load their state, or learn them by
    `attach_masks`.
    """
    tables = {}
    for name, table in config.embeddings.items():
        spec, mask = table.spec, None
        if table.mask is not None:
            settings = table.mask
            mask = AdaptiveMask.blank(
                spec.rows, spec.row_dim, settings.levels, settings.temperature, settings.hidden
            )
        tables[name] = Embedding(spec, mask=mask)
    return ClickModel(tables, config.network, config.histories)


def table_counts(model: ClickModel, train: ClickLog) -> dict[str, npt.NDArray[np.int64]]:
    """How often the training split reads each row of each field's table, int64 [rows].

    Counted in chunks: a log mapped from a file is never in memory as a whole. Reads by histories
    are not counted, since their items are counted where they were clicked.

    Raises:
        InputError: IDs that the table refuses.
    """
    return {name: row_counts(model.embedding(name).spec, train.ids[name]) for name in model.fields}


def attach_masks(
    model: ClickModel,
    train: ClickLog,
    fields: Collection[str] | None = None,
    *,
    counts: Mapping[str, npt.NDArray[np.int64]] | None = None,
    temperature: float = 1.0,
    hidden: tuple[int, ...] = (32, 32),
) -> None:
    """Give tables a fresh AdaptiveMask each, counted on the training split; replaces old masks.

    The model may be new or already trained (warm start): every row starts whole, so a trained
    model's predictions do not change until training continues.

    Args:
        model: changed in place.
        train: the training split, and nothing else.
        fields: which tables to mask; all by default.
        counts: what `table_counts` found, to save counting again.
        temperature: T of the relaxed one-hot.
        hidden: hidden layer sizes of each twin.

    Raises:
        InputError: an unknown field, or IDs that the table refuses.
    """
    for name in model.fields if fields is None else fields:
        table = model.embedding(name)
        known = row_counts(table.spec, train.ids[name]) if counts is None else counts[name]
        mask = AdaptiveMask(known, table.spec.row_dim, temperature, hidden)
        table.mask = mask.to(table.weight.device).train(table.training)


def module_key(field: str) -> str:
    """A field name as a module name: '.' and '%' as %2E and %25, and the first character in the
    same way where the name would hide an attribute of nn.ModuleDict. One to one.
    """
    key = field.replace("%", "%25").replace(".", "%2E")
    if not key or hasattr(_EMPTY, key):
        return "".join(f"%{byte:02X}" for byte in key[:1].encode()) + key[1:]
    return key


_EMPTY = nn.ModuleDict()


def _network(width: int, settings: NetworkConfig, beside: int) -> nn.Sequential:
    """Hidden layers over `width`, and a linear layer over their output and `beside` more."""
    layers: list[nn.Module] = []
    for size in settings.hidden:
        layers.append(nn.Linear(width, size))
        if settings.batch_norm:
            layers.append(nn.BatchNorm1d(size))
        layers.append(nn.ReLU())
        if settings.dropout:
            layers.append(nn.Dropout(settings.dropout))
        width = size
    return nn.Sequential(*layers, nn.Linear(width + beside, 1))


def _wide_spec(spec: LookupSpec) -> LookupSpec:
    """The lookup of one weight per value, in a table of the same rows."""
    return replace(spec, dim=1, fuse="sum")


def _mask_config(mask: AdaptiveMask) -> MaskConfig:
    return MaskConfig(mask.levels, mask.temperature, mask.hidden)


def _config_faults(config: ModelConfig) -> list[str]:
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


def _listed(names: Collection[str]) -> str:
    return ", ".join(sorted(map(repr, names))) or "none"
