"""PyTorch embedding layers, reference networks, training and data."""

from ondevice.errors import needs_extra

with needs_extra("ondevice.models", "train"):
    from ondevice.converters.report import FittedTable
    from ondevice.models.adaptive_mask import AdaptiveMask
    from ondevice.models.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
    from ondevice.models.embeddings import (
        BinaryCodeEmbedding,
        Embedding,
        FullEmbedding,
        HashEmbedding,
        MultiHashEmbedding,
        QuotientRemainderEmbedding,
        row_counts,
    )
    from ondevice.models.log import ClickLog, Splits
    from ondevice.models.networks import (
        ClickModel,
        EmbeddingConfig,
        MaskConfig,
        ModelConfig,
        NetworkConfig,
        attach_masks,
        build,
    )
    from ondevice.models.table_fitting import compress_embeddings
    from ondevice.models.trainer import (
        History,
        Metrics,
        TrainConfig,
        TrainingError,
        evaluate,
        predict,
        train,
    )

__all__ = [
    "AdaptiveMask",
    "BinaryCodeEmbedding",
    "Checkpoint",
    "ClickLog",
    "ClickModel",
    "Embedding",
    "EmbeddingConfig",
    "FittedTable",
    "FullEmbedding",
    "HashEmbedding",
    "History",
    "MaskConfig",
    "Metrics",
    "ModelConfig",
    "MultiHashEmbedding",
    "NetworkConfig",
    "QuotientRemainderEmbedding",
    "Splits",
    "TrainConfig",
    "TrainingError",
    "attach_masks",
    "compress_embeddings",
    "build",
    "evaluate",
    "load_checkpoint",
    "predict",
    "row_counts",
    "save_checkpoint",
    "train",
]
