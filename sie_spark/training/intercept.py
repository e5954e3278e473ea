"""The intercept of a fitted model: where a fit begins, and an optional correction on the validation rows."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from sie_spark.models import Batch
from sie_spark.models.objective import one_logit_a_row
from sie_spark.platform.bisection import solve_increasing
from sie_spark.platform.errors import ModelError

LEAST_POSITIVES = 1000  # below, the standard error is too wide for a correction to be worth it


def set_output_bias(model: nn.Module, batch: Batch, target: float) -> bool:
    """Shift the model's output bias so that its mean logit on a batch is ``target``.

    Returns False, and changes nothing, where a model has no such bias.
    """
    bias = _output_bias(model, batch)
    if bias is None:
        return False
    with torch.no_grad():
        mean = float(model(**batch.inputs).mean())
        bias.add_(target - mean)
        if abs(float(model(**batch.inputs).mean()) - target) < 1e-2:
            return True
        bias.sub_(target - mean)
    return False


def shift_output_bias(model: nn.Module, batch: Batch, shift: float) -> None:
    """Add ``shift`` to every logit of a model.

    Raises
    ------
    ModelError
        where a model has no output bias.
    """
    bias = _output_bias(model, batch)
    if bias is None:
        raise ModelError(
            f"{type(model).__name__} has no output bias, a scalar parameter added to every logit",
            remedy="give the model one, or set training.correct_intercept=false",
        )
    with torch.no_grad():
        bias.add_(shift)


def intercept_correction(
    model: nn.Module, rows: Batch, total: Callable[[Tensor], Tensor] = lambda value: value
) -> float:
    """How far to move a model's logits so that it predicts as many positives as the validation rows have.

    The shift d solves ``sum w sigma(g + d) = sum w y``. With its standard error s it is shrunk to
    ``d max(0, 1 - s^2 / d^2)`` (positive-part James-Stein), so that noise moves nothing.

    Parameters
    ----------
    rows:
        with offset 0 and weight 1 / sampling_rate.
    total:
        sums a tensor over the ranks that share the rows.

    Returns
    -------
    float
        in logits; 0 under 1,000 positive rows.
    """
    model.eval()
    with torch.inference_mode():
        logit = one_logit_a_row(model(**rows.inputs), rows).double()
    weight, label = rows.weight.double(), rows.label.double()
    positives, wanted = total(torch.stack([(label > 0).double().sum(), (weight * label).sum()])).tolist()
    if positives < LEAST_POSITIVES:
        return 0.0

    def predicted(shift: float) -> float:
        return float(total((weight * torch.sigmoid(logit + shift)).sum()))

    shift = solve_increasing(predicted, wanted, -10.0, 10.0)
    p = torch.sigmoid(logit + shift)
    slope, spread = total(
        torch.stack([(weight * p * (1 - p)).sum(), (weight**2 * (label - p) ** 2).sum()])
    ).tolist()
    error = math.sqrt(spread) / slope
    return shift * max(0.0, 1.0 - (error / shift) ** 2) if shift else 0.0


def freeze(model: nn.Module, names: list[str]) -> None:
    """Take the parameters whose names begin with one of these out of the fit.

    Raises
    ------
    ModelError
        for a name that no parameter begins with, or where nothing is left to fit.
    """
    known = dict(model.named_parameters())
    for name in names:
        found = [parameter for key, parameter in known.items() if f"{key}.".startswith(f"{name}.")]
        if not found:
            raise ModelError(
                f"arms: freeze names '{name}', which no parameter of {type(model).__name__} begins with",
                remedy=f"name one of {', '.join(sorted({key.split('.')[0] for key in known}))}, or a longer name",
            )
        for parameter in found:
            parameter.requires_grad_(False)
    if not any(parameter.requires_grad for parameter in known.values()):
        raise ModelError("arms: freeze leaves no parameter to fit", remedy="name fewer")


def _output_bias(model: nn.Module, batch: Batch) -> nn.Parameter | None:
    """The one scalar parameter on which every logit depends with slope 1, or None."""
    scalars = [
        parameter for parameter in model.parameters() if parameter.numel() == 1 and parameter.requires_grad
    ]
    if not scalars:
        return None
    model.eval()
    logit = model(**batch.inputs)
    gradients = torch.autograd.grad(logit.sum(), scalars, allow_unused=True)
    for parameter, gradient in zip(scalars, gradients, strict=True):
        if gradient is not None and abs(float(gradient) / len(batch) - 1.0) < 1e-4:
            return parameter
    return None
