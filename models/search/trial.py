"""One compression trial: its settings, and the bytes and AUC of its written file."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from ondevice.codecs import DENSE_CODECS, DenseCodec
from ondevice.converters.verify.requests import VECTOR_ROWS
from ondevice.errors import SpecError
from ondevice.features import PADDING_ID
from ondevice.models.search.bootstrap import standard_error
from ondevice.models.search.measure import (
    RETRIEVAL_FROM,
    ROW_MAPS,
    SHIPPED_FILES,
    Measure,
    RowMap,
    ShippedFile,
)
from ondevice.models.search.table_design import TableDesign
from ondevice.models.training.distillation import Distillation
from ondevice.models.training.refit import Refit
from ondevice.models.training.trainer import TrainConfig
from ondevice.models.training.widths import Widths
from ondevice.sections import TableCodec
from ondevice.spec import LookupSpec

WHOLE = Widths("whole")


@dataclass(frozen=True)
class Trial:
    """Settings of one trial.

    Attributes:
        tables: the design of each field's table; every bucket of a number owns a row (head None).
        ranked: IDs arrive as frequency-ranked indices: 2 for the most frequent training value, 3
            for the next, and so on, 1 for unseen ones; no vocabulary is shipped. Otherwise raw
            values arrive: values that own a row are found in a vocabulary, which has a group for
            each section of a table's rows.
        hidden: sizes of the network's hidden layers.
        seed: of initial weights and training.
        epochs, batch, learning_rate: see TrainConfig.
        widths: how kept widths of the rows are found.
        refit: how rows are refitted with the network fixed; None for not at all.
        round_epochs: how many more epochs to train with tables rounded as they will be stored, at
            a quarter of the learning rate, refitted rows at a tenth with the network fixed; they
            count if they validate better than rounding afterwards.
        dense: codec of the network's layers in the file.
        map: how raw values find their rows in the file; "retrieval": in hashed cells, in fields
            whose values each own a row or share one, from RETRIEVAL_FROM values with rows on. A
            missing value then reads zeros.
        start: the folder name of a trained trial from which this one goes on (see
            `models.search.adapted`): its rows and network are taken, and rows are refitted. Empty:
            trained from new.
        pruned: with `start`: its hidden layers are cut to `hidden`, and all is trained on for
            `epochs` before rows are refitted.
        vectors: rows of test vectors in the file.
        distillation: the full models whose probabilities are learned beside the labels; None: the
            labels only.
        ships: the file whose bytes count; it is written beside model.odm, which scores.

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
    dense: DenseCodec = "f32"
    map: RowMap = "vocabulary"
    start: str = ""
    pruned: bool = False
    vectors: int = VECTOR_ROWS
    distillation: Distillation | None = None
    ships: ShippedFile = "odm"

    def __post_init__(self) -> None:
        _ = self.training
        if self.dense not in DENSE_CODECS:
            raise SpecError(f"dense must be one of {', '.join(DENSE_CODECS)}, got {self.dense!r}")
        if self.ships not in SHIPPED_FILES:
            raise SpecError(
                f"the file that ships must be {' or '.join(SHIPPED_FILES)}, got {self.ships!r}"
            )
        if self.map not in ROW_MAPS or (self.map == "retrieval" and self.ranked):
            raise SpecError(
                f"map must be one of {', '.join(ROW_MAPS)}, retrieval for raw values only; got "
                f"{self.map!r} with {'ranked' if self.ranked else 'raw'} values"
            )
        if self.round_epochs < 0:
            raise SpecError(f"rounding epochs must not be negative, got {self.round_epochs}")
        if self.map == "retrieval" and any(design.sections for design in self.tables.values()):
            raise SpecError("cells hold rows of one codec: sections need the map 'vocabulary'")

    def retrieved(self, name: str, values: int) -> bool:
        """Whether a field's values find their rows in cells; `values`: of training, no number's."""
        design = self.tables[name]
        return (
            self.map == "retrieval"
            and design.tail == "shared"
            and design.rows_owned(values) >= RETRIEVAL_FROM
        )

    def spec(self, name: str, values: int, *, number: bool) -> LookupSpec:
        """The lookup of a field while the trial trains.

        Args:
            name: of the field.
            values: of training, or buckets of a number.
            number: whether it is one.
        """
        spec = self.tables[name].spec(values, ranked=self.ranked)
        if not number and self.retrieved(name, values):
            return replace(spec, padding_id=PADDING_ID)
        return spec

    @property
    def is_refit(self) -> bool:
        """Whether it only refits rows of another trial, with other values owning rows."""
        return bool(self.start) and not self.pruned

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
            for name in ("sections", "places"):
                if not design[name]:
                    del design[name]
        settings = {**asdict(replace(self, tables={})), "tables": plain}
        if self.distillation is None:
            del settings["distillation"]
        if not self.widths.raise_penalty:
            del settings["widths"]["raise_penalty"]
        for name, off in (
            ("dense", "f32"),
            ("map", "vocabulary"),
            ("start", ""),
            ("pruned", False),
            ("vectors", VECTOR_ROWS),
            ("ships", "odm"),
        ):
            if settings[name] == off:
                del settings[name]
        as_read: dict[str, Any] = json.loads(json.dumps(settings))  # tuples become lists
        return as_read

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Trial:
        """Read what `to_json` gave. Raises SpecError."""
        try:
            tables = {name: TableDesign.from_json(item) for name, item in data["tables"].items()}
            refit, teachers = data["refit"], data.get("distillation")
            if refit is not None:
                refit = Refit(**{**refit, "penalties": tuple(refit["penalties"])})
            settings = {
                **data,
                "tables": tables,
                "hidden": tuple(data["hidden"]),
                "widths": Widths(**data["widths"]),
                "refit": refit,
                "distillation": None if teachers is None else Distillation(**teachers),
            }
            return cls(**settings)
        except (KeyError, TypeError, AttributeError) as error:
            raise SpecError(f"not the settings of a trial: {error}") from error


@dataclass(frozen=True)
class TrialResult:
    """What the written file of a trial holds and reaches.

    Attributes:
        table_bytes: all tables with scales and width indexes.
        map_bytes: vocabularies and bucket boundaries, which find the rows of raw values.
        network_bytes: weights that are no tables, and the plan or graph that runs them.
        file_bytes: the whole file: these three, test vectors, description and padding.
        validation_auc: decides in a search.
        test_auc: only for reports.
        resampled: the test AUC on bootstrap samples of the rows, the same rows for every trial.
        seconds: how long training, writing and measuring took.
    """

    trial: Trial
    table_bytes: int
    map_bytes: int
    network_bytes: int
    file_bytes: int
    validation_auc: float
    test_auc: float
    resampled: tuple[float, ...] = ()
    seconds: float = field(default=0.0, compare=False)

    def bytes(self, measure: Measure) -> int:
        """The bytes of the whole file, or of its tables."""
        return self.file_bytes if measure == "file" else self.table_bytes

    @property
    def header_bytes(self) -> int:
        """What of the file is no table, map or network: test vectors, plan, padding."""
        return self.file_bytes - self.table_bytes - self.map_bytes - self.network_bytes

    @property
    def test_error(self) -> float:
        """The standard error of the test AUC."""
        return standard_error(self.resampled)

    def to_json(self) -> dict[str, Any]:
        """A JSON-ready object."""
        return {**self.__dict__, "resampled": list(self.resampled), "trial": self.trial.to_json()}
