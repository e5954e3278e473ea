"""Torch modules only; no Spark."""

from sie_spark.models.batch import Batch
from sie_spark.models.registry import MODELS, build_model

__all__ = ["MODELS", "Batch", "build_model"]
