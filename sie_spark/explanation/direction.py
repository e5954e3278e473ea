"""The direction that neighbours are looked for along: the row's own gradient, through EK-FAC where it was fitted."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from sie_spark.gradients import Basis
from sie_spark.gradients.products import gradient
from sie_spark.importance.artefacts import place
from sie_spark.importance.contracts import Fit, Given, state_from_bytes
from sie_spark.importance.fits.ekfac_direction import preconditioned
from sie_spark.importance.fits.ekfac_moments import EkfacMoments
from sie_spark.importance.fits.kronecker_factors import KroneckerFactors
from sie_spark.models import Batch
from sie_spark.models.objective import BINARY, one_logit_a_row
from sie_spark.models.store import REFERENCE
from sie_spark.platform.context import Context
from sie_spark.platform.root import read_bytes

BASIS: tuple[Fit, ...] = (KroneckerFactors(), EkfacMoments())


def direction(model: nn.Module, row: Batch, basis: Basis | None, damping: float) -> dict[str, Tensor]:
    """``d loss / d theta`` of one row, or ``(F + damping)^-1`` of it: parameter -> tensor of its shape."""
    plain = replace(row, offset=torch.zeros_like(row.label), weight=torch.ones_like(row.label))
    own = gradient(model, row.inputs, lambda output: BINARY.losses(one_logit_a_row(output, row), plain))
    return own if basis is None else preconditioned(basis, own, damping)


def kept_basis(ctx: Context, given: Given) -> Basis | None:
    """EK-FAC's eigenbasis of the reference, where 'sie score' left one of this very model; else None."""
    made = ctx.load_details("score")
    names, models = made.get("artefacts", {}), made.get("models", {})
    places = [place(fit, names[fit.key]) for fit in BASIS if fit.key in names]
    same = models.get(REFERENCE) == given.models[REFERENCE].digest
    if not same or len(places) < len(BASIS) or not all(ctx.root.exists(*where) for where in places):
        return None
    states = {
        fit.key: state_from_bytes(read_bytes(ctx.root.path(*where)))
        for fit, where in zip(BASIS, places, strict=True)
    }
    return EkfacMoments().corrected(replace(given, states=states))
