"""How mixed the labels are of training rows like the row."""

from __future__ import annotations

import torch
from torch import Tensor

from sie_spark.importance.contracts import Fit, Given, Scorer, Seen
from sie_spark.importance.fits.impurity_tree import ImpurityTree
from sie_spark.importance.registry import register_scorer


@register_scorer
class TreeImpurity(Scorer):
    """Gini impurity ``2 q (1 - q)`` of the leaf of a decision tree that the row falls in, q its click rate.

    The tree is grown on ``importance.sample_rows`` training rows at most, with leaves of 1 % of them and more: see
    :class:`ImpurityTree`.
    """

    name = "tree_impurity"
    version = 1
    citation = "Breiman et al. 1984, classification trees"
    uses = ("subsample", "weight")
    reads = "importance.sample_rows training rows; no model"
    cost = ".05, and scikit-learn on the driver"
    options = ("sample_rows",)
    uses_label = False

    def models(self, given: Given) -> tuple[str, ...]:
        """None: features alone."""
        return ()

    def fits(self, given: Given) -> tuple[Fit, ...]:
        """The tree."""
        return (ImpurityTree(given.settings.sample_rows),)

    def score(self, seen: Seen, given: Given) -> Tensor:
        """In [0, 1/2], float64 [N]."""
        return torch.from_numpy(ImpurityTree(given.settings.sample_rows).values(seen, given))
