"""What leaving the row out would do to the validation loss, with the Gauss-Newton matrix of a sample."""

from __future__ import annotations

from sie_spark.importance.contracts import Fit, Given, damping_of
from sie_spark.importance.directed import Directed
from sie_spark.importance.fits.conjugate_direction import ConjugateDirection
from sie_spark.importance.registry import register_scorer

USUAL = 2.0  # damping that was best on held-out targets (benchmarks/attribution.py)


@register_scorer
class InfluenceCG(Directed):
    """``<d loss_i / d theta, (G + damping)^-1 v>`` with G the mean Gauss-Newton matrix of ``importance.sample_rows`` rows.

    The Hessian of a deep model is indefinite, and conjugate gradients are not defined on it; G is not.
    """

    name = "influence_cg"
    citation = "Koh & Liang 2017, on the Gauss-Newton matrix"
    reads = "the reference; validation rows; a sample on the driver"
    cost = ".95, and a solve on the driver"
    options = ("damping", "iterations", "sample_rows")

    def direction(self, given: Given) -> Fit:
        """The preconditioned validation gradient."""
        settings = given.settings
        return ConjugateDirection(settings.sample_rows, damping_of(given, USUAL), settings.iterations)
