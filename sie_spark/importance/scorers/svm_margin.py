"""How near the row lies to where clicks and other rows part."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from sie_spark.importance.contracts import Fit, Given, Scorer, Seen
from sie_spark.importance.fits.linear import LinearModel
from sie_spark.importance.registry import register_scorer


@register_scorer
class SvmMargin(Scorer):
    """``-|f(x)| / ||theta||``: the distance to the boundary of a linear support vector machine, negated.

    It is fitted on ids and standardised numbers of ``importance.sample_rows`` training rows at most, both classes
    with the same total weight: see :class:`LinearModel`.
    """

    name = "svm_margin"
    version = 1
    citation = "Tong & Koller 2001, simple margin"
    uses = ("weight",)
    reads = "importance.sample_rows training rows; no model"
    cost = ".07, and scikit-learn on the driver"
    options = ("sample_rows",)
    uses_label = False
    signed = True

    def models(self, given: Given) -> tuple[str, ...]:
        """None: features alone."""
        return ()

    def fits(self, given: Given) -> tuple[Fit, ...]:
        """The machine."""
        return (LinearModel("svm", given.settings.sample_rows),)

    def score(self, seen: Seen, given: Given) -> Tensor:
        """At most 0, float64 [N]; 0 on the boundary, or where no column tells the labels apart."""
        fit = LinearModel("svm", given.settings.sample_rows)
        length = float(np.linalg.norm(given.states[fit.key]["theta"]))
        distance = np.abs(fit.values(seen, given)) / length if length else np.zeros(len(seen.batch))
        return torch.from_numpy(-distance)
