"""Click logs: loaders by path, the synthetic log, the fixed split and the encoding to IDs."""

from ondevice.models.data.buckets import SCALES, Scale, boundaries
from ondevice.models.data.contests import avazu_log, criteo_log
from ondevice.models.data.csv_source import CsvDescription, CsvField, csv_log
from ondevice.models.data.hashed import (
    HashedLog,
    cardinalities,
    encode,
    hashed_field,
    split,
    split_rows,
)
from ondevice.models.data.histories import History, add_history
from ondevice.models.data.movielens import epinions_log, ml1m_log, ml_latest_small_log
from ondevice.models.data.registry import DATASETS, open_log
from ondevice.models.data.synthetic import (
    GroundTruth,
    SyntheticData,
    synthetic_data,
    synthetic_log,
)

__all__ = [
    "DATASETS",
    "SCALES",
    "CsvDescription",
    "CsvField",
    "GroundTruth",
    "HashedLog",
    "History",
    "Scale",
    "SyntheticData",
    "add_history",
    "avazu_log",
    "boundaries",
    "cardinalities",
    "criteo_log",
    "csv_log",
    "encode",
    "epinions_log",
    "hashed_field",
    "ml1m_log",
    "ml_latest_small_log",
    "open_log",
    "split",
    "split_rows",
    "synthetic_data",
    "synthetic_log",
]
