"""One compression trial: its settings, and the bytes and AUC of its written file."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from ondevice.errors import SpecError
from ondevice.models.search.table_design import TableDesign
from ondevice.models.training.distillation import Distillation
from ondevice.models.training.refit import Refit
from ondevice.models.training.trainer import TrainConfig
from ondevice.models.training.widths import Widths
from ondevice.sections import TableCodec

WHOLE = Widths("whole")


@dataclass(frozen=True)
class Trial:
    """Settings of one trial.

    Attributes:
        tables: the design of each field's table; every bucket of a number owns a row (head None).
        ranked: IDs arrive as frequency-ranked indices: 2 for the most frequent training value, 3
            for the next, and so on, 1 for unseen ones; no vocabulary is shipped. Otherwise raw
            values arrive: values that own a row are found in a vocabulary.
        hidden: sizes of the network's hidden layers.
        seed: of initial weights and training.
        epochs, batch, learning_rate: see TrainConfig.
        widths: how kept widths of the rows are found.
        refit: how rows are refitted with the network fixed; None for not at all.
        round_epochs: how many more epochs to train with tables rounded as they will be stored, at
            a quarter of the learning rate, refitted rows at a tenth with the network fixed; they
            count if they validate better than rounding afterwards.
        distillation: the full models whose probabilities are learned beside the labels; None: the
            labels only.

    Raises:
        SpecError: a setting out of range.
    """

    tables: Mapping[str, TableDesign]
    ranked: bool = False
    hidden: tuple[int, ...] = (128, 64)
    seed: int = 0
    epochs: int = 5
    batch: int = 4096
    learning_rate: float = 2e-3
    widths: Widths = WHOLE
    refit: Refit | None = None
    round_epochs: int = 0
    distillation: Distillation | None = None

    def __post_init__(self) -> None:
        _ = self.training
        if self.round_epochs < 0:
            raise SpecError(f"rounding epochs must not be negative, got {self.round_epochs}")
        if not self.ranked and any(design.sections for design in self.tables.values()):
            raise SpecError(
                "sections are of rows by falling frequency; a vocabulary's rows are in the order "
                "of its hashes: use frequency-ranked IDs (ranked=True)"
            )

    @property
    def training(self) -> TrainConfig:
        """How the trial trains."""
        return TrainConfig(
            epochs=self.epochs,
            batch=self.batch,
            learning_rate=self.learning_rate,
            patience=1,
            seed=self.seed,
        )

    @property
    def codecs(self) -> dict[str, TableCodec]:
        """The codec of each field's table or its sections, for `convert`."""
        return {name: design.stored for name, design in self.tables.items()}

    def to_json(self) -> dict[str, Any]:
        """A JSON-ready object; it lacks what is off and came later than stored results."""
        plain = {name: asdict(design) for name, design in self.tables.items()}
        for design in plain.values():
            if not design["sections"]:
                del design["sections"]
        settings = {**asdict(replace(self, tables={})), "tables": plain}
        if self.distillation is None:
            del settings["distillation"]
        as_read: dict[str, Any] = json.loads(json.dumps(settings))  # tuples become lists
        return as_read


@dataclass(frozen=True)
class TrialResult:
    """What the written .odm file of a trial holds and reaches.

    Attributes:
        table_bytes: all tables with scales and width indexes.
        map_bytes: 8 for each value that owns a row, what raw IDs need on top; nothing if IDs
            arrive as frequency-ranked indices.
        validation_auc: decides in a search.
        test_auc: only for reports.
    """

    trial: Trial
    table_bytes: int
    map_bytes: int
    validation_auc: float
    test_auc: float

    def to_json(self) -> dict[str, Any]:
        """A JSON-ready object."""
        return {**self.__dict__, "trial": self.trial.to_json()}
