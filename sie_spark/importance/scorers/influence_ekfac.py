"""What leaving the row out would do to the validation loss, with Kronecker-factored curvature."""

from __future__ import annotations

from sie_spark.importance.contracts import Fit, Given, damping_of
from sie_spark.importance.directed import Directed
from sie_spark.importance.fits.ekfac_direction import USUAL, EkfacDirection
from sie_spark.importance.registry import register_scorer


@register_scorer
class InfluenceEkfac(Directed):
    """``<d loss_i / d theta, (F + damping)^-1 v>`` with F the Fisher matrix as EK-FAC approximates it.

    Two passes over ``importance.fit_rows`` training rows: the factors of each layer, then the second moments of the
    gradients in their eigenbasis.
    """

    name = "influence_ekfac"
    citation = "Grosse et al. 2023"
    reads = "the reference; validation rows; two passes for curvature"
    cost = ".95, and two passes over importance.fit_rows"
    options = ("damping",)

    def direction(self, given: Given) -> Fit:
        """The preconditioned validation gradient."""
        return EkfacDirection(damping=damping_of(given, USUAL))
