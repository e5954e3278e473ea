"""How important is each sample? Scorers share one pass of the pilot over the rows."""

from sie_spark.importance.contracts import Given, ModelRef, Scorer, Seen
from sie_spark.importance.registry import SCORERS, register_scorer

__all__ = ["SCORERS", "Given", "ModelRef", "Scorer", "Seen", "register_scorer"]
