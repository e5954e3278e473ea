"""Exact per-sample gradient quantities from one forward and one backward to the activations. Torch only."""

from sie_spark.gradients.conjugate import ConvergenceReport, Solution, conjugate_gradient
from sie_spark.gradients.engine import Engine, Result, per_sample
from sie_spark.gradients.errors import (
    GradientError,
    MergeError,
    UnsupportedLayer,
    UnsupportedLoss,
    UnsupportedParameter,
)
from sie_spark.gradients.forms import Dense, Form, Outer, Rows
from sie_spark.gradients.kfac import EKFAC, KFAC, Basis, fisher_loss
from sie_spark.gradients.products import GaussNewton, gnvp, gradient, hvp
from sie_spark.gradients.quantities import Dots, LastLayer, Measured, Norms, Projections, Quantity
from sie_spark.gradients.registry import Call, refuse, rule
from sie_spark.gradients.sketch import TensorSketch

__all__ = [
    "EKFAC",
    "KFAC",
    "Basis",
    "Call",
    "ConvergenceReport",
    "Dense",
    "Dots",
    "Engine",
    "Form",
    "GaussNewton",
    "GradientError",
    "LastLayer",
    "Measured",
    "MergeError",
    "Norms",
    "Outer",
    "Projections",
    "Quantity",
    "Result",
    "Rows",
    "Solution",
    "TensorSketch",
    "UnsupportedLayer",
    "UnsupportedLoss",
    "UnsupportedParameter",
    "conjugate_gradient",
    "fisher_loss",
    "gnvp",
    "gradient",
    "hvp",
    "per_sample",
    "refuse",
    "rule",
]
