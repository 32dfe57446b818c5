"""PyTorch embedding layers, reference networks, training and data."""

from ondevice.errors import needs_extra

with needs_extra("ondevice.models", "train"):
    from ondevice.converters.verify.report import FittedTable
    from ondevice.models.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
    from ondevice.models.click_log import ClickLog, Splits
    from ondevice.models.layers.adaptive_mask import AdaptiveMask
    from ondevice.models.layers.embeddings import (
        BinaryCodeEmbedding,
        Embedding,
        FullEmbedding,
        HashEmbedding,
        MultiHashEmbedding,
        QuotientRemainderEmbedding,
    )
    from ondevice.models.layers.row_index import row_counts
    from ondevice.models.network_config import (
        EmbeddingConfig,
        MaskConfig,
        ModelConfig,
        NetworkConfig,
    )
    from ondevice.models.networks import ClickModel, attach_masks, build
    from ondevice.models.shrink import compress_embeddings
    from ondevice.models.training.history import History
    from ondevice.models.training.metrics import Metrics
    from ondevice.models.training.trainer import (
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
