"""The reference click network, its configuration, and how a model is built from one."""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass

import torch
from torch import Tensor, nn

from ondevice.errors import InputError, SpecError
from ondevice.models.adaptive_mask import AdaptiveMask
from ondevice.models.embeddings import Embedding, row_counts
from ondevice.models.log import ClickLog
from ondevice.spec import LookupSpec

MAX_LAYERS = 64
MAX_LAYER_SIZE = 65536


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
        hidden: sizes of the hidden layers.
        dropout: share of hidden activations dropped in training, 0 <= dropout < 1.
        batch_norm: whether each hidden layer is batch-normalised before its ReLU.

    Raises:
        SpecError: no or doubled fields, or a setting out of range.
    """

    embeddings: Mapping[str, EmbeddingConfig]
    hidden: tuple[int, ...] = (128, 64)
    dropout: float = 0.0
    batch_norm: bool = False

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
        settings = {"hidden": self.hidden, "dropout": self.dropout, "batch_norm": self.batch_norm}
        return json.dumps({"embeddings": fields, **settings})

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
        keys = {"embeddings", "hidden", "dropout", "batch_norm"}
        if not isinstance(data, dict) or set(data) != keys:
            raise SpecError(f"model configuration: expected an object with keys {sorted(keys)}")
        if not isinstance(data["embeddings"], list):
            raise SpecError("model configuration: 'embeddings' must be a list")
        tables: dict[str, EmbeddingConfig] = {}
        for item in data["embeddings"]:
            name, table = _embedding_from_dict(item)
            if name in tables:
                raise SpecError(f"model configuration: field {name!r} appears twice")
            tables[name] = table
        hidden = _int_tuple(data["hidden"], "hidden")
        return cls(tables, hidden, data["dropout"], data["batch_norm"])


class ClickModel(nn.Module):
    """Concatenated field vectors -> hidden layers (Linear, ReLU) -> click probability.

    Parameters are called `embeddings.<field>.weight`, `network.<n>.weight` and so on; a field name
    that a module cannot carry is escaped (see `module_key`).
    """

    def __init__(
        self,
        embeddings: Mapping[str, Embedding],
        hidden: tuple[int, ...] = (128, 64),
        *,
        dropout: float = 0.0,
        batch_norm: bool = False,
    ) -> None:
        """See ModelConfig for the settings. Raises SpecError."""
        super().__init__()
        self.fields = tuple(embeddings)
        self.hidden, self.dropout, self.batch_norm = tuple(hidden), dropout, batch_norm
        self.embeddings = nn.ModuleDict(
            {module_key(name): table for name, table in embeddings.items()}
        )
        _ = self.config  # checks the settings before they size any layer
        width = sum(table.spec.dim for table in embeddings.values())
        self.network = _network(width, self.hidden, dropout, batch_norm)

    @property
    def config(self) -> ModelConfig:
        """The configuration from which `build` makes a model of these shapes."""
        tables = {}
        for name in self.fields:
            table = self.embedding(name)
            mask = None if table.mask is None else _mask_config(table.mask)
            tables[name] = EmbeddingConfig(table.spec, mask)
        return ModelConfig(tables, self.hidden, self.dropout, self.batch_norm)

    def embedding(self, field: str) -> Embedding:
        """The table of `field`. Raises InputError when there is none."""
        table = self.embeddings[module_key(field)] if field in self.fields else None
        if not isinstance(table, Embedding):
            raise InputError(f"no field {field!r}; the model's fields are: {_listed(self.fields)}")
        return table

    def masks(self) -> dict[str, AdaptiveMask]:
        """The masks of the masked fields."""
        found = {name: self.embedding(name).mask for name in self.fields}
        return {name: mask for name, mask in found.items() if mask is not None}

    def forward(self, ids: dict[str, Tensor]) -> Tensor:
        """Click probability float32 [batch] of ids, int64 [batch] per field. Raises InputError."""
        return torch.sigmoid(self.forward_logits(ids))

    def forward_logits(self, ids: dict[str, Tensor]) -> Tensor:
        """Log-odds of a click, float32 [batch], of ids, int64 [batch] per field.

        Raises:
            InputError: a field is missing or unknown, or an ID is illegal (see Embedding).
        """
        if ids.keys() != set(self.fields):
            raise InputError(f"expected the fields {_listed(self.fields)}; got {_listed(ids)}")
        tables = self.embeddings.values()
        vectors = [table(ids[name]) for name, table in zip(self.fields, tables, strict=True)]
        logits: Tensor = self.network(torch.cat(vectors, -1))
        return logits.squeeze(-1)


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
    return ClickModel(tables, config.hidden, dropout=config.dropout, batch_norm=config.batch_norm)


def attach_masks(
    model: ClickModel,
    train: ClickLog,
    fields: Collection[str] | None = None,
    *,
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
        temperature: T of the relaxed one-hot.
        hidden: hidden layer sizes of each twin.

    Raises:
        InputError: an unknown field, or IDs that the table refuses.
    """
    for name in model.fields if fields is None else fields:
        table = model.embedding(name)
        counts = row_counts(table.spec, train.ids[name])
        mask = AdaptiveMask(counts, table.spec.row_dim, temperature, hidden)
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


def _network(
    width: int, hidden: tuple[int, ...], dropout: float, batch_norm: bool
) -> nn.Sequential:
    layers: list[nn.Module] = []
    for size in hidden:
        layers.append(nn.Linear(width, size))
        if batch_norm:
            layers.append(nn.BatchNorm1d(size))
        layers.append(nn.ReLU())
        if dropout:
            layers.append(nn.Dropout(dropout))
        width = size
    return nn.Sequential(*layers, nn.Linear(width, 1))


def _mask_config(mask: AdaptiveMask) -> MaskConfig:
    return MaskConfig(mask.levels, mask.temperature, mask.hidden)


def _config_faults(config: ModelConfig) -> list[str]:
    faults = []
    if not config.embeddings:
        faults.append("at least one field is needed")
    if any(not isinstance(name, str) or not name for name in config.embeddings):
        faults.append("field names must be non-empty strings")
    faults += _size_faults(config.hidden, "hidden")
    for name, table in config.embeddings.items():
        if (mask := table.mask) is None:
            continue
        faults += _size_faults(mask.hidden, f"hidden sizes of {name!r}'s mask")
        if not _is_int(mask.levels) or not 0 <= mask.levels <= table.spec.rows:
            faults.append(f"{name!r}: levels must be 0..{table.spec.rows}, got {mask.levels!r}")
        if not _is_number(mask.temperature) or not 0 < mask.temperature < math.inf:
            faults.append(f"{name!r}: temperature must be positive, got {mask.temperature!r}")
    if not _is_number(config.dropout) or not 0 <= config.dropout < 1:
        faults.append(f"dropout must be 0 <= dropout < 1, got {config.dropout!r}")
    if not isinstance(config.batch_norm, bool):
        faults.append(f"batch_norm must be true or false, got {config.batch_norm!r}")
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
