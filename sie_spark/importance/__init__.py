"""Scores of training samples, computed by Arrow workers in one pass."""

from sie_spark.importance.registry import SCORERS, Backward, Scorer, register_scorer

__all__ = ["SCORERS", "Backward", "Scorer", "register_scorer"]
