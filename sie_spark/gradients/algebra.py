"""Norms and inner products of factored per-sample gradients: one sum of squares or one product a form.

Where a form can be evaluated in two ways the cheaper one is taken: for positions T and a [p, q]
weight the Gram form costs T^2 (p + q) and may cancel, the materialised form costs T p q and is a sum
of squares. The switch is at T^2 = p q (Li et al. 2021; Bu et al. 2022).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from sie_spark.gradients.forms import Dense, Form, Outer, Rows, combine

__all__ = ["Squares", "materialise", "repeats", "squared_norm", "sum_equal_ids"]

# Floats in one temporary block; small enough to stay in the cache of one core, large enough to amortise calls.
_BLOCK = 1 << 20


class Squares:
    """Squared row norms, each computed once a pass: layers share inputs, weight and bias share deltas."""

    def __init__(self) -> None:
        self._known: dict[tuple[int, torch.Size, tuple[int, ...]], tuple[Tensor, Tensor]] = {}

    def __call__(self, x: Tensor) -> Tensor:
        """[N, ...] -> [N], the sum of squares over everything but the first dimension."""
        if x.dim() == 3 and x.shape[1] == 1:
            x = x[:, 0]
        key = (x.data_ptr(), x.shape, x.stride())
        if key not in self._known:
            # The tensor is kept with its norm: its address names it only while it lives.
            self._known[key] = (x, torch.linalg.vector_norm(x.flatten(1), dim=1).square_())
        return self._known[key][1]


def squared_norm(forms: Sequence[Form], squares: Squares) -> Tensor:
    """``||sum of forms||^2`` of each sample, [N], for the forms that one parameter received."""
    parts = combine(forms)
    total = _own(parts[0], squares)
    if len(parts) == 2:
        outer, rows = parts
        total = total + _own(rows, squares)
        if isinstance(outer, Outer) and isinstance(rows, Rows):
            total = total + 2 * _cross(outer, rows)
    # What cancels between the parts may round to just below zero; a squared norm may not.
    return total.clamp(min=0) if len(parts) == 2 else total


def _own(form: Form, squares: Squares) -> Tensor:
    if isinstance(form, Dense):
        return squares(form.grad)
    if isinstance(form, Rows):
        return _rows(form, squares)
    steps, p, q = form.delta.shape[1], form.delta.shape[2], form.x.shape[2]
    if steps == 1:
        return squares(form.delta) * squares(form.x)
    gram = steps * steps < p * q
    block = max(1, _BLOCK // (2 * steps * steps if gram else p * q))
    return torch.cat(
        [
            _block(d, x, gram)
            for d, x in zip(torch.split(form.delta, block), torch.split(form.x, block), strict=True)
        ]
    )


def _block(delta: Tensor, x: Tensor, gram: bool) -> Tensor:
    if gram:
        # A Gram sum may round to just below zero, a squared norm may not.
        return ((delta @ delta.mT) * (x @ x.mT)).sum(dim=(1, 2)).clamp_(min=0)
    norm: Tensor = torch.linalg.vector_norm(delta.mT @ x, dim=(1, 2))
    return norm.square_()


def _rows(form: Rows, squares: Squares) -> Tensor:
    n, positions = form.ids.shape
    if form.delta.shape[1] == 1 and positions != 1:
        # One gradient for the whole bag: |g|^2 sum_v c_v^2, c_v the summed scale of id v.
        scale = form.delta.new_ones(n, positions) if form.scale is None else form.scale
        return squares(form.delta) * sum_equal_ids(form.ids, scale.unsqueeze(-1)).square().sum(dim=(1, 2))
    delta = form.delta if form.scale is None else form.delta * form.scale.unsqueeze(-1)
    repeated = repeats(form.ids)
    if repeated is None:
        return squares(delta)
    total = squares(delta).clone()
    total[repeated] = sum_equal_ids(form.ids[repeated], delta[repeated]).square().sum(dim=(1, 2))
    return total


def repeats(ids: Tensor) -> Tensor | None:
    """Indices of the samples whose ids [N, T] repeat, or None when no sample has a repeat.

    Fields that own increasing ranges of one table cannot repeat; that is seen from the columns'
    extremes in one pass. Only otherwise is each sample's list of ids sorted.
    """
    if ids.shape[1] < 2 or not ids.numel():
        return None
    low, high = torch.aminmax(ids, dim=0)
    if bool((low[1:] > high[:-1]).all()):
        return None
    ordered = ids.sort(dim=1).values
    repeated = (ordered[:, 1:] == ordered[:, :-1]).any(dim=1).nonzero().squeeze(1)
    return repeated if len(repeated) else None


def sum_equal_ids(ids: Tensor, values: Tensor) -> Tensor:
    """Sum ``values`` [N, T, q] over positions with equal id inside each sample -> [N, T, q].

    The sum of an id stands at one of its positions; the others hold zeros.
    """
    if not ids.numel():
        return torch.zeros_like(values)
    ordered, order = ids.sort(dim=1)
    first = torch.ones_like(ids, dtype=torch.bool)
    first[:, 1:] = ordered[:, 1:] != ordered[:, :-1]
    # The place in ``ordered`` where each run of equal ids starts, then the position that stands there.
    start = torch.where(first, torch.arange(ids.shape[1], device=ids.device), 0).cummax(dim=1).values
    home = torch.empty_like(ids).scatter_(1, order, order.gather(1, start))
    return torch.zeros_like(values).scatter_add_(1, home.unsqueeze(-1).expand_as(values), values)


def _cross(outer: Outer, rows: Rows) -> Tensor:
    """Inner product of a table used as a lookup and as a matrix (tied weights), [N]."""
    rows = rows.expanded()
    steps = outer.delta.shape[1]
    at_ids = outer.delta.gather(2, rows.ids.unsqueeze(1).expand(-1, steps, -1))  # [N, S, T]
    return (at_ids.mT * (rows.delta @ outer.x.mT)).sum(dim=(1, 2))


def materialise(forms: Sequence[Form], shape: tuple[int, int]) -> Tensor:
    """The per-sample gradients [N, p, q] themselves; for small parameters and for tests only."""
    total: Tensor | None = None
    for form in forms:
        if isinstance(form, Outer):
            part = form.delta.mT @ form.x
        elif isinstance(form, Dense):
            part = form.grad.reshape(-1, *shape)
        else:
            each = form.expanded()
            part = each.delta.new_zeros(each.ids.shape[0], *shape)
            part.scatter_add_(1, each.ids.unsqueeze(-1).expand_as(each.delta), each.delta)
        total = part if total is None else total + part
    if total is None:
        raise ValueError("no form to materialise")
    return total
