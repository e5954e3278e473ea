"""Exact per-sample gradient quantities from one forward and one backward to the activations. Torch only."""

from sie_spark.gradients.engine import Engine, Result, per_sample
from sie_spark.gradients.errors import (
    GradientError,
    MergeError,
    UnsupportedLayer,
    UnsupportedLoss,
    UnsupportedParameter,
)
from sie_spark.gradients.forms import Dense, Form, Outer, Rows
from sie_spark.gradients.quantities import Dots, LastLayer, Measured, Norms, Projections
from sie_spark.gradients.registry import Call, refuse, rule

__all__ = [
    "Call",
    "Dense",
    "Dots",
    "Engine",
    "Form",
    "GradientError",
    "LastLayer",
    "Measured",
    "MergeError",
    "Norms",
    "Outer",
    "Projections",
    "Result",
    "Rows",
    "UnsupportedLayer",
    "UnsupportedLoss",
    "UnsupportedParameter",
    "per_sample",
    "refuse",
    "rule",
]
