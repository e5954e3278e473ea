"""Conjugate gradients on a damped positive semi-definite operator, with an honest account of how far it got.

An inverse-Hessian-vector product that did not converge is a different number, not a worse one; so
the solution always travels with its residuals.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from sie_spark.gradients.errors import GradientError

__all__ = ["ConvergenceReport", "Operator", "Solution", "conjugate_gradient", "inner_product"]

Vector = dict[str, Tensor]
Operator = Callable[[Mapping[str, Tensor]], Mapping[str, Tensor]]


@dataclass(frozen=True)
class ConvergenceReport:
    """How an iterative solve ended.

    Attributes
    ----------
    converged:
        the relative residual reached the tolerance.
    iterations:
        operator products spent.
    residuals:
        ``|b - (A + damping) x| / |b|`` after each iteration, starting with 1.
    reason:
        "tolerance", "iterations", or "negative curvature" (the operator is not positive semi-definite, or the
        damping is below its rounding error).
    damping:
        the damping that was added.
    """

    converged: bool
    iterations: int
    residuals: tuple[float, ...]
    reason: str
    damping: float

    def __str__(self) -> str:
        outcome = "converged" if self.converged else "NOT converged"
        return (
            f"{outcome} ({self.reason}) after {self.iterations} iterations, "
            f"relative residual {self.residuals[-1]:.2e}, damping {self.damping:g}"
        )


@dataclass(frozen=True, eq=False)
class Solution:
    """``x`` with ``(A + damping I) x = b``, by parameter, and the report of how nearly."""

    x: Vector
    report: ConvergenceReport


def inner_product(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> float:
    """Sum over parameters of ``<a, b>``, accumulated in float64; a name that one lacks counts as zeros."""
    return math.fsum(float((a[name].double() * b[name].double()).sum()) for name in a if name in b)


def conjugate_gradient(
    operator: Operator,
    b: Mapping[str, Tensor],
    *,
    damping: float,
    max_iterations: int = 100,
    tolerance: float = 1e-6,
) -> Solution:
    """Solve ``(A + damping I) x = b`` (Hestenes & Stiefel 1952; for influence, Koh & Liang 2017).

    Use the Gauss-Newton operator: the Hessian of a deep model is indefinite, and conjugate gradients
    are not defined on it.

    Parameters
    ----------
    operator:
        v -> A v, both by parameter name, A positive semi-definite.
    b:
        right-hand side by parameter name.
    damping:
        added to the diagonal, at least 0.
    max_iterations:
        operator products at most.
    tolerance:
        relative residual at which to stop.

    Raises
    ------
    GradientError
        for a negative damping, and an empty or non-finite right-hand side.
    """
    size = math.sqrt(inner_product(b, b)) if b else math.nan
    if damping < 0 or not math.isfinite(size):
        raise GradientError(
            f"conjugate_gradient got damping={damping} and a right-hand side of norm {size}",
            remedy="use a damping of at least 0 and a finite, non-empty gradient",
        )
    x = {name: torch.zeros_like(value) for name, value in b.items()}
    if size == 0.0:
        return Solution(x, ConvergenceReport(True, 0, (0.0,), "tolerance", damping))
    residual = {name: value.detach().clone() for name, value in b.items()}
    direction = {name: value.clone() for name, value in residual.items()}
    energy, residuals, reason = size * size, [1.0], "iterations"
    for _ in range(max_iterations):
        product = operator(direction)
        curved = {name: product[name] + damping * value for name, value in direction.items()}
        curvature = inner_product(direction, curved)
        if not curvature > 0:
            reason = "negative curvature"
            break
        step = energy / curvature
        for name, value in direction.items():
            x[name].add_(value, alpha=step)
            residual[name].sub_(curved[name], alpha=step)
        previous, energy = energy, inner_product(residual, residual)
        residuals.append(math.sqrt(energy) / size)
        if residuals[-1] <= tolerance:
            reason = "tolerance"
            break
        direction = {name: residual[name] + (energy / previous) * value for name, value in direction.items()}
    iterations = len(residuals) - 1
    return Solution(
        x, ConvergenceReport(reason == "tolerance", iterations, tuple(residuals), reason, damping)
    )
