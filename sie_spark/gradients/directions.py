"""Inner products of every sample's gradient with fixed vectors: one matrix product a layer, one gather a table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torch.nn import functional

from sie_spark.gradients.errors import GradientError
from sie_spark.gradients.forms import Dense, Form, Rows, matrix_shape

__all__ = ["Directions"]

# Floats in one temporary block, so that a product and its reduction meet in the cache of one core.
_BLOCK = 1 << 20


class Directions:
    """Vectors stacked by parameter in the layout that the products read, built once and reused every pass.

    Parameters
    ----------
    vectors:
        name of a vector -> (name of a parameter -> tensor of that parameter's shape). A parameter that a vector
        leaves out counts as zeros. They must not change afterwards.
    """

    def __init__(self, vectors: Mapping[str, Mapping[str, Tensor]]) -> None:
        self.names = tuple(vectors)
        self._vectors = vectors
        self.parameters = frozenset(name for vector in vectors.values() for name in vector)
        self._stacked: dict[tuple[str, bool, torch.dtype, torch.device], tuple[Tensor, list[int]]] = {}

    def equal(self, other: Directions) -> bool:
        """Whether both have the same vectors, by name, order and value."""
        return self.names == other.names and all(
            one.keys() == two.keys() and all(_same(value, two[name]) for name, value in one.items())
            for one, two in zip(self._vectors.values(), other._vectors.values(), strict=True)
        )

    def check(self, shapes: Mapping[str, torch.Size]) -> None:
        """Raise :class:`GradientError` for a vector of an unknown parameter or of another shape."""
        for label, vector in self._vectors.items():
            for name, value in vector.items():
                if shapes.get(name) != value.shape:
                    expected = (
                        f"has shape {list(shapes[name])}" if name in shapes else "is no watched parameter"
                    )
                    raise GradientError(
                        f"vector {label!r} gives {name!r} the shape {list(value.shape)}, but {name!r} {expected}",
                        remedy="build the vector from the same model (its trainable named_parameters())",
                    )

    def dots(self, name: str, forms: Sequence[Form], into: Tensor) -> None:
        """Add ``<gradient of parameter name, vector>`` to the columns of ``into`` [N, vectors]."""
        for form in forms:
            if isinstance(form, Rows):
                stacked, columns = self._stack(name, form.delta, transpose=False)
                products = _rows(form, stacked)
            elif isinstance(form, Dense):
                stacked, columns = self._stack(name, form.grad, transpose=False)
                products = form.grad @ stacked.transpose(0, 1).flatten(1).mT
            else:
                # Contract the longer side by a matrix product, so that the shorter is left to reduce.
                swap = form.delta.shape[2] < form.x.shape[2]
                stacked, columns = self._stack(name, form.delta, transpose=swap)
                products = (
                    _outer(form.x, form.delta, stacked) if swap else _outer(form.delta, form.x, stacked)
                )
            into[:, columns] += products

    def _stack(self, name: str, like: Tensor, *, transpose: bool) -> tuple[Tensor, list[int]]:
        """The vectors of one parameter as [p, K, q] (or [q, K, p]), with the columns they fill.

        Side by side, one random access to a table's row serves all vectors; a single one is not copied.
        """
        key = (name, transpose, like.dtype, like.device)
        if key not in self._stacked:
            chosen = [(k, vector[name]) for k, vector in enumerate(self._vectors.values()) if name in vector]
            matrices = [v.detach().to(like).reshape(matrix_shape(v.shape)) for _, v in chosen]
            matrices = [m.mT if transpose else m for m in matrices]
            stacked = matrices[0].unsqueeze(1) if len(matrices) == 1 else torch.stack(matrices, dim=1)
            self._stacked[key] = stacked.contiguous(), [k for k, _ in chosen]
        return self._stacked[key]


def _same(a: Tensor, b: Tensor) -> bool:
    return a is b or (a.dtype == b.dtype and a.device == b.device and torch.equal(a, b))


def _outer(left: Tensor, right: Tensor, stacked: Tensor) -> Tensor:
    """``sum_t left_t^T V_k right_t`` for stacked [a, K, b], left [N, T, a], right [N, T, b] -> [N, K]."""
    a, k, b = stacked.shape
    steps = left.shape[1]
    block = max(1, _BLOCK // max(1, steps * k * b))
    flat = stacked.view(a, k * b)
    parts = [
        torch.unflatten(u @ flat, -1, (k, b)).mul_(v.unsqueeze(2)).sum(dim=(1, 3))
        for u, v in zip(torch.split(left, block), torch.split(right, block), strict=True)
    ]
    return torch.cat(parts)


def _rows(form: Rows, stacked: Tensor) -> Tensor:
    """``sum_t scale_t <delta_t, V_k[id_t]>`` for stacked [p, K, q] -> [N, K]."""
    p, k, q = stacked.shape
    flat = stacked.view(p, k * q)
    positions = form.ids.shape[1]
    if form.delta.shape[1] == 1 and positions != 1:
        scale = form.delta.new_ones(form.ids.shape) if form.scale is None else form.scale
        pooled = functional.embedding_bag(form.ids, flat, per_sample_weights=scale, mode="sum")
        return (pooled.view(-1, k, q) * form.delta).sum(dim=2)
    delta = form.delta if form.scale is None else form.delta * form.scale.unsqueeze(-1)
    block = max(1, _BLOCK // max(1, positions * k * q))
    parts = [
        # Two sums: over positions with k q entries side by side, then the few that are left.
        torch.unflatten(functional.embedding(ids, flat), -1, (k, q))
        .mul_(d.unsqueeze(2))
        .sum(dim=1)
        .sum(dim=2)
        for ids, d in zip(torch.split(form.ids, block), torch.split(delta, block), strict=True)
    ]
    return torch.cat(parts)
