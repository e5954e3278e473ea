"""Scores that an auxiliary network predicts from the features, without the big model."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from torch import Tensor

from sie_spark.importance.contracts import Fit, Given, Scorer, Seen, Use
from sie_spark.importance.fits.auxiliary_network import CENTRE, SPREAD, AuxiliaryNetwork, restored


class Distilled(Scorer):
    """``exp`` of what the network says of the logarithm of ``target``."""

    target: ClassVar[Literal["norm", "p_norm"]]
    uses: ClassVar[tuple[Use, ...]] = ("subsample", "weight")
    reads: ClassVar[str] = "exact scores of a sample of rows, from the pilot"
    cost: ClassVar[str] = ".02"
    options: ClassVar[tuple[str, ...]] = ("auxiliary_rows",)
    uses_label: ClassVar[bool] = False

    def network(self, given: Given) -> Fit:
        """The fitted network."""
        return AuxiliaryNetwork(self.target, given.settings.auxiliary_rows)

    def models(self, given: Given) -> tuple[str, ...]:
        """None: features alone."""
        return ()

    def fits(self, given: Given) -> tuple[Fit, ...]:
        """The network."""
        return (self.network(given),)

    def score(self, seen: Seen, given: Given) -> Tensor:
        """At least 0, [N]."""
        key = self.network(given).key
        state = given.states[key]
        network = given.once(key, lambda: restored(given.inputs, state))
        with torch.inference_mode():
            log = network(**seen.batch.inputs).double()
        return (log * float(state[SPREAD]) + float(state[CENTRE])).exp()
