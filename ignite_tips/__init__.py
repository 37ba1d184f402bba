"""Training tips as PyTorch-Ignite handlers that stay right."""

from ignite_tips._version import __version__
from ignite_tips.handlers.lr_logging import LearningRateLogger
from ignite_tips.handlers.summarizing import ModelSummarizer
from ignite_tips.summary import summarize_model
from ignite_tips.summary_table import LayerSummary, ModelSummary

__all__ = [
    "LayerSummary",
    "LearningRateLogger",
    "ModelSummarizer",
    "ModelSummary",
    "__version__",
    "summarize_model",
]
