"""The direction that neighbours are looked for along: the row's own gradient, through EK-FAC where it was fitted."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from sie_spark.gradients import Basis
from sie_spark.gradients.products import gradient
from sie_spark.importance.artefacts import digests, place, there
from sie_spark.importance.contracts import Fit, Given, state_from_bytes
from sie_spark.importance.fits.ekfac_direction import preconditioned
from sie_spark.importance.fits.ekfac_moments import EkfacMoments
from sie_spark.importance.fits.kronecker_factors import KroneckerFactors
from sie_spark.importance.plan import Plan
from sie_spark.importance.score import CODE
from sie_spark.models import Batch
from sie_spark.models.objective import BINARY, one_logit_a_row
from sie_spark.models.registry import model_code
from sie_spark.platform.code import code_digest
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
    base = ctx.load_details("score").get("base")
    if base is None:
        return None
    plan = Plan(levels=tuple((fit,) for fit in BASIS), scorers=())
    code = code_digest(*sorted(model_code(ctx.config.model, *CODE)))
    names = digests(plan, given, rows=base, code=code)
    found = there(ctx, plan, names)
    if not all(found[fit.key] for fit in BASIS):
        return None
    states = {
        fit.key: state_from_bytes(read_bytes(ctx.root.path(*place(fit, names[fit.key])))) for fit in BASIS
    }
    return EkfacMoments().corrected(replace(given, states=states))
