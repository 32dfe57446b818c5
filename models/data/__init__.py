"""Click logs: loaders by path, the synthetic log, the fixed split and the encoding to IDs."""

from ondevice.models.data.buckets import SCALES, Scale, boundaries
from ondevice.models.data.chunks import BadRows
from ondevice.models.data.contests import avazu_log, criteo_log
from ondevice.models.data.description import LogDescription, LogField, LogLabel
from ondevice.models.data.hashed import (
    FieldSettings,
    HashedLog,
    cardinalities,
    encode,
    hashed_field,
    split,
    split_rows,
)
from ondevice.models.data.histories import History, add_history
from ondevice.models.data.log_source import Reading, read_log
from ondevice.models.data.movielens import epinions_log, ml1m_log, ml_latest_small_log
from ondevice.models.data.registry import DATASETS, open_log
from ondevice.models.data.splits import SplitRule
from ondevice.models.data.synthetic import (
    GroundTruth,
    SyntheticData,
    synthetic_data,
    synthetic_log,
)

__all__ = [
    "DATASETS",
    "SCALES",
    "BadRows",
    "FieldSettings",
    "GroundTruth",
    "HashedLog",
    "History",
    "LogDescription",
    "LogField",
    "LogLabel",
    "Reading",
    "Scale",
    "SplitRule",
    "SyntheticData",
    "add_history",
    "avazu_log",
    "boundaries",
    "cardinalities",
    "criteo_log",
    "encode",
    "epinions_log",
    "hashed_field",
    "ml1m_log",
    "ml_latest_small_log",
    "open_log",
    "read_log",
    "split",
    "split_rows",
    "synthetic_data",
    "synthetic_log",
]
