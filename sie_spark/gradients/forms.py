"""The three shapes a per-sample gradient takes, kept as factors so that it is never materialised.

A rule returns one of these for each parameter; norms, dot products, projections and curvature are
then algebra on factors (``algebra.py``), and know nothing about layers.

Every parameter is seen as a matrix of shape [p, q]: a vector of n entries is [1, n], a tensor of
more dimensions is flattened to [1, numel]. Notation: N samples, T positions in a sample (sequence
steps, looked-up ids, repeated calls of one layer).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["Dense", "Form", "Outer", "Rows", "combine", "matrix_shape"]


def matrix_shape(shape: Sequence[int]) -> tuple[int, int]:
    """The [p, q] view of a parameter: ``(5, 3) -> (5, 3)``, ``(7,) -> (1, 7)``, ``(2, 3, 4) -> (1, 24)``."""
    if len(shape) == 2:
        return shape[0], shape[1]
    return 1, torch.Size(shape).numel()


@dataclass(frozen=True, eq=False)
class Outer:
    """``G_n = sum_t delta[n, t] x[n, t]^T``: a weight that multiplies activations.

    Attributes
    ----------
    delta:
        gradient of the layer's output, [N, T, p].
    x:
        the layer's input, [N, T, q].
    """

    delta: Tensor
    x: Tensor


@dataclass(frozen=True, eq=False)
class Rows:
    """``G_n = sum_t scale[n, t] e(ids[n, t]) delta[n, t]^T``: rows looked up in a table.

    Worked example: ids ``[[7, 2, 7]]`` and delta rows a, b, c give a gradient with a + c in row 7 and
    b in row 2, so the squared norm is ``|a + c|^2 + |b|^2`` - not ``|a|^2 + |b|^2 + |c|^2``.

    Attributes
    ----------
    ids:
        int64 [N, T], rows of the table.
    delta:
        [N, T, q], or [N, 1, q] when all positions of a sample share one gradient (a bag).
    scale:
        [N, T] or None for ones; 0 removes a position (padding).
    """

    ids: Tensor
    delta: Tensor
    scale: Tensor | None = None

    def expanded(self) -> Rows:
        """The same gradient with one delta a position and no scale."""
        delta = self.delta.expand(-1, self.ids.shape[1], -1)
        return Rows(self.ids, delta if self.scale is None else delta * self.scale.unsqueeze(-1))


@dataclass(frozen=True, eq=False)
class Dense:
    """``G_n`` itself, flattened: biases, normalisation scales, materialised parameters. ``grad`` is [N, q]."""

    grad: Tensor


Form = Outer | Rows | Dense


def combine(forms: Sequence[Form]) -> list[Form]:
    """Add the contributions of several calls, so that at most one form of each kind is left.

    A parameter used by several calls (a shared table, a layer called twice, tied weights) has as
    gradient the *sum* over calls; its norm is not the sum of norms. Positions are concatenated.
    """
    if len(forms) < 2:
        return list(forms)
    outers = [form for form in forms if isinstance(form, Outer)]
    rows = [form for form in forms if isinstance(form, Rows)]
    dense = [form.grad for form in forms if isinstance(form, Dense)]
    total = torch.stack(dense).sum(dim=0) if dense else None
    if total is not None and (outers or rows):
        # A vector that one layer multiplies and another adds: what is added is an outer product with 1.
        outers.append(Outer(total.new_ones(total.shape[0], 1, 1), total.unsqueeze(1)))
        total = None
    result: list[Form] = []
    if len(outers) == 1:
        result.append(outers[0])
    elif outers:
        result.append(Outer(torch.cat([f.delta for f in outers], 1), torch.cat([f.x for f in outers], 1)))
    if len(rows) == 1:
        result.append(rows[0])
    elif rows:
        each = [form.expanded() for form in rows]
        result.append(Rows(torch.cat([f.ids for f in each], 1), torch.cat([f.delta for f in each], 1)))
    if total is not None:
        result.append(Dense(total))
    return result
