"""Scores in; inclusion probabilities, log-odds offsets and weights out."""

from sie_spark.weighting.registry import POLICIES, WeightPolicy, register_policy
from sie_spark.weighting.terms import NUMPY, SPARK, Decision, Row

__all__ = ["NUMPY", "POLICIES", "SPARK", "Decision", "Row", "WeightPolicy", "register_policy"]
