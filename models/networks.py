"""The reference click networks, and how a model is built from its configuration."""

from __future__ import annotations

import operator
from collections.abc import Collection, Mapping
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from ondevice.converters.source.on_cpu import new_tensors_on_cpu
from ondevice.errors import InputError
from ondevice.models.click_log import ClickLog
from ondevice.models.layers.adaptive_mask import AdaptiveMask, LevelMasks, MaskGroup
from ondevice.models.layers.embeddings import Embedding
from ondevice.models.layers.interactions import (
    AttentionPooling,
    CrossNetwork,
    PaddingMask,
    VectorCrossNetwork,
    pair_interactions,
)
from ondevice.models.layers.joint_tables import JointTables
from ondevice.models.layers.masked_rows import HeldMasks
from ondevice.models.layers.row_index import row_counts
from ondevice.models.network_config import (
    ONE_LABEL,
    EmbeddingConfig,
    MaskConfig,
    ModelConfig,
    NetworkConfig,
)
from ondevice.spec import LookupSpec, Pooling

_WIDE = ("wide_deep", "deepfm")


class ClickModel(nn.Module):
    """Field vectors -> a network -> click probability; see NetworkConfig for the networks.

    Of several labels each has its output of the last layer, and of the wide part; all else they
    share.

    Parameters are called `embeddings.<field>.weight`, `network.<n>.weight` and so on; a field name
    that a module cannot carry is escaped (see `module_key`).
    """

    def __init__(
        self,
        embeddings: Mapping[str, Embedding],
        network: NetworkConfig | tuple[int, ...] = (128, 64),
        histories: Mapping[str, str] | None = None,
        labels: tuple[str, ...] = ONE_LABEL,
    ) -> None:
        """See ModelConfig for the settings; a tuple stands for a "dnn" of these hidden sizes.

        Raises:
            SpecError: the settings contradict one another.
        """
        super().__init__()
        self.fields = tuple(embeddings)
        self.settings = NetworkConfig(hidden=network) if isinstance(network, tuple) else network
        self.histories = dict(histories or {})
        self.labels = labels
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
            {
                module_key(name): Embedding(_wide_spec(spec, len(labels)))
                for name, spec in wide.items()
            }
        )
        self.cross = _cross(width, self.settings)
        beside = width if self.cross else 0
        self.network = _network(width, self.settings, beside, len(labels))
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
        return ModelConfig(tables, self.settings, self.histories, self.labels)

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
        tables = zip(self.fields, self.field_tables(), strict=True)
        return {name: table.mask for name, table in tables if table.mask is not None}

    def refresh(self) -> None:
        """Bring widths and codec scales up to date after weights were loaded or changed by hand."""
        for mask in self.masks().values():
            mask.refresh()
        for table in self.tables():
            table.refresh_rounding()

    def level_masks(self) -> dict[str, LevelMasks]:
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

    def forward(self, ids: dict[str, Tensor]) -> Tensor | dict[str, Tensor]:
        """Click probability float32 [batch] of ids; of several labels a dict of them by name.

        Raises:
            InputError: see `forward_logits`.
        """
        probabilities = torch.sigmoid(self.forward_logits(ids))
        if len(self.labels) == 1:
            return probabilities
        return {name: probabilities[:, place] for place, name in enumerate(self.labels)}

    def forward_logits(self, ids: dict[str, Tensor], held: HeldMasks | None = None) -> Tensor:
        """Log-odds of a click, float32 [batch], of several labels [batch, labels], of ids by input.

        Args:
            ids: int64 [batch] per field, int64 [batch, length] per history.
            held: the masks of this step, where they are held for several.

        Raises:
            InputError: an input is missing or unknown, or an ID is illegal (see Embedding).
        """
        if ids.keys() != set(self.inputs):
            raise InputError(f"expected the inputs {_listed(self.inputs)}; got {_listed(ids)}")
        levels = self.level_masks() if held is None else held.levels
        joined = self._vectors(ids, levels, held)
        if self.histories:
            vectors = dict(zip(self.fields, torch.split(joined, self._dims(), -1), strict=True))
            pooled = [
                self._pooled(name, ids[name], vectors, levels.get(target))
                for name, target in self.histories.items()
            ]
            joined = torch.cat([joined, *pooled], -1)
        deep: Tensor = self.network[:-1](joined)
        if self.cross is not None:
            deep = torch.cat([self.cross(joined), deep], -1)
        logits = self._by_label(self.network[-1](deep))
        for name, table in zip(self.fields, self.wide.values(), strict=False):
            logits = logits + self._by_label(table(ids[name]))
        if self.settings.kind == "deepfm":
            dim = self._dims()[0]
            pairs = pair_interactions(joined.reshape(-1, joined.shape[1] // dim, dim))
            logits = logits + (pairs if len(self.labels) == 1 else pairs.unsqueeze(-1))
        return logits

    def _by_label(self, values: Tensor) -> Tensor:
        """Values [batch, labels] as `forward_logits` gives them."""
        return values.squeeze(-1) if len(self.labels) == 1 else values

    def _dims(self) -> list[int]:
        """The width of each field's vector."""
        return [table.dim for table in self.field_tables()]

    def _vectors(
        self,
        ids: Mapping[str, Tensor],
        levels: Mapping[str, LevelMasks],
        held: HeldMasks | None,
    ) -> Tensor:
        """The vectors of all fields side by side, float32 [batch, sum of their widths]."""
        if torch.onnx.is_in_onnx_export():
            return torch.cat([self.embedding(name)(ids[name]) for name in self.fields], -1)
        tables = self.field_tables()
        if self._joint is None or not all(map(operator.is_, tables, self._joint.tables)):
            self._joint = JointTables(tables)
        inputs = [ids[name] for name in self.fields]
        masks = [levels.get(name) for name in self.fields]
        return self._joint.read(inputs, masks, held=held)

    def _pooled(
        self, history: str, ids: Tensor, vectors: Mapping[str, Tensor], levels: LevelMasks | None
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

    Masks start with whole rows and no counts: load their state, or learn them by
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
    return ClickModel(tables, config.network, config.histories, config.labels)


def table_counts(model: ClickModel, train: ClickLog) -> dict[str, npt.NDArray[np.int64]]:
    """How often the training split reads each row of each field's table, int64 [rows].

    Counted in chunks: a log mapped from a file is never in memory as a whole. Reads by histories
    are not counted, since their items are counted where they were clicked.

    Raises:
        InputError: IDs that the table refuses.
    """
    return {name: row_counts(model.embedding(name).spec, train.ids[name]) for name in model.fields}


@new_tensors_on_cpu()
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
        counts: what `table_counts` returned, to save counting again.
        temperature: T of the relaxed one-hot.
        hidden: hidden layer sizes of each twin.

    Raises:
        InputError: an unknown field, or IDs that the table refuses.
    """
    for name in model.fields if fields is None else fields:
        table = model.embedding(name)
        row_reads = row_counts(table.spec, train.ids[name]) if counts is None else counts[name]
        mask = AdaptiveMask(row_reads, table.spec.row_dim, temperature, hidden)
        table.mask = mask.to(table.weight.device).train(table.training)


def detach_masks(model: ClickModel) -> None:
    """Take the masks away; rows are whole again, with the weights that they have."""
    for table in model.field_tables():
        table.mask = None


def module_key(field: str) -> str:
    """A field name as a module name: '.' and '%' as %2E and %25, and the first character in the
    same way where the name would hide an attribute of nn.ModuleDict. One to one.
    """
    key = field.replace("%", "%25").replace(".", "%2E")
    if not key or hasattr(_EMPTY, key):
        return "".join(f"%{byte:02X}" for byte in key[:1].encode()) + key[1:]
    return key


_EMPTY = nn.ModuleDict()


def _network(width: int, settings: NetworkConfig, beside: int, outputs: int) -> nn.Sequential:
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
    return nn.Sequential(*layers, nn.Linear(width + beside, outputs))


def _cross(width: int, settings: NetworkConfig) -> CrossNetwork | VectorCrossNetwork | None:
    """The cross layers over `width`, if the network has any."""
    match settings.kind:
        case "dcn":
            return CrossNetwork(width, settings.cross_layers, settings.cross_rank)
        case "dcn_v1":
            return VectorCrossNetwork(width, settings.cross_layers)
    return None


def _wide_spec(spec: LookupSpec, labels: int) -> LookupSpec:
    """The lookup of one weight per value and label, in a table of the same rows."""
    return replace(spec, dim=labels, fuse="sum")


def _mask_config(mask: AdaptiveMask) -> MaskConfig:
    return MaskConfig(mask.levels, mask.temperature, mask.hidden)


def _listed(names: Collection[str]) -> str:
    return ", ".join(sorted(map(repr, names))) or "none"
