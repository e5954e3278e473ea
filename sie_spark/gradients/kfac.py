"""Kronecker-factored curvature: factors in one pass over the data, their eigenvalues in a second.

Both accumulators are quantities of the shared pass, so they cover exactly the parameters that norms
and dots cover; partial results of partitions add up, and travel as plain tensors.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from sie_spark.gradients.algebra import materialise, sum_equal_ids
from sie_spark.gradients.errors import GradientError, MergeError
from sie_spark.gradients.forms import Dense, Form, Outer, Rows, combine, matrix_shape
from sie_spark.gradients.quantities import Gradients, Trace

__all__ = ["EKFAC", "KFAC", "Basis", "fisher_loss"]

State = dict[str, Tensor]
# Floats of per-sample gradients formed at once in the second pass.
_BLOCK = 1 << 20


def fisher_loss(generator: torch.Generator) -> Callable[[Tensor], Tensor]:
    """Binary cross-entropy against labels drawn from the model itself: its gradients give the true Fisher.

    Observed labels would give the empirical Fisher, another matrix (Kunstner et al. 2019).
    """

    def loss(logit: Tensor) -> Tensor:
        label = torch.bernoulli(torch.sigmoid(logit.detach()), generator=generator)
        return functional.binary_cross_entropy_with_logits(logit, label, reduction="none")

    return loss


class KFAC:
    """First pass: ``E[g g^T] ~ L (x) R`` for every parameter (Martens & Grosse 2015).

    Pass it as a quantity to an :class:`~sie_spark.gradients.Engine` once a batch, then call
    :meth:`basis`. A looked-up table has a diagonal L (how often each row is read); a vector has
    L = 1, so that R is its exact second moment. Positions of a sequence count as independent, as in
    K-FAC-expand (Eschenhagen et al. 2023); of several tasks the summed loss is meant.

    Parameters
    ----------
    limit:
        a longer side of a matrix keeps a diagonal factor.
    key:
        tells it from other quantities of one call; it leaves no result there.
    """

    def __init__(self, *, limit: int = 2048, key: str = "kfac") -> None:
        self.key = key
        self.limit = limit
        self._sums: State = {}

    def needs(self, trace: Trace) -> frozenset[str]:
        """All watched parameters."""
        return frozenset(trace.shapes)

    def measure(self, gradients: Gradients) -> None:
        """Add one block of samples."""
        if not gradients.summed:
            return
        self._add("count", gradients.zeros.new_tensor(float(len(gradients.zeros)), dtype=torch.float64))
        for name, shape in gradients.trace.shapes.items():
            p, q = matrix_shape(shape)
            forms = gradients.forms.get(name, ())
            table = any(isinstance(form, Rows) for form in forms)
            for form in forms:
                left, right, positions = self._factors(form, p, q, diagonal=table or p > self.limit)
                self._add(f"left/{name}", left)
                self._add(f"right/{name}", right)
                self._add(f"positions/{name}", left.new_tensor(float(positions), dtype=torch.float64))

    def _factors(self, form: Form, p: int, q: int, *, diagonal: bool) -> tuple[Tensor, Tensor, int]:
        """Sums over positions of the outer squares of both factors, and the number of positions."""
        if isinstance(form, Dense):
            if p > 1:  # a materialised matrix: its rows as positions
                rows = form.grad.reshape(-1, p, q)
                left = rows.square().sum(dim=(0, 2)) if diagonal else torch.einsum("nij,nkj->ik", rows, rows)
                return left, self._second_moment(rows.flatten(0, 1)), len(rows)
            return (
                form.grad.new_full((1,), float(len(form.grad))),
                self._second_moment(form.grad),
                len(form.grad),
            )
        if isinstance(form, Outer):
            delta, x = form.delta.flatten(0, 1), form.x.flatten(0, 1)
            left = delta.square().sum(dim=0) if diagonal else delta.mT @ delta
            return left, self._second_moment(x), len(x)
        scale = form.delta.new_ones(form.ids.shape) if form.scale is None else form.scale
        read = scale != 0
        left = form.delta.new_zeros(p).scatter_add_(0, form.ids[read], scale[read].square())
        delta = form.delta.expand(-1, form.ids.shape[1], -1)[read]
        return left, self._second_moment(delta), int(read.sum())

    def _second_moment(self, x: Tensor) -> Tensor:
        return x.square().sum(dim=0) if x.shape[1] > self.limit else x.mT @ x

    def _add(self, key: str, value: Tensor) -> None:
        # float64: a sum over all blocks of a data set outgrows float32.
        self._sums[key] = self._sums[key] + value if key in self._sums else value.double()

    def __add__(self, other: KFAC) -> KFAC:
        """The factors of both parts of the data."""
        merged = KFAC(limit=self.limit, key=self.key)
        merged._sums = _added(self._sums, other._sums)
        return merged

    def state(self) -> State:
        """Plain tensors, by key."""
        return dict(self._sums)

    @classmethod
    def from_state(cls, state: Mapping[str, Tensor], *, limit: int = 2048) -> KFAC:
        """The inverse of :meth:`state`."""
        found = cls(limit=limit)
        found._sums = dict(state)
        return found

    def basis(self) -> Basis:
        """Eigenvectors of both factors, with the products of their eigenvalues.

        Raises
        ------
        GradientError
            when nothing was accumulated.
        """
        if "count" not in self._sums:
            raise GradientError(
                "K-FAC factors of no data", remedy="run engine(inputs, loss, kfac) over the data first"
            )
        count = float(self._sums["count"])
        tensors: State = {}
        for key in self._sums:
            side, _, name = key.partition("/")
            if side != "left":
                continue
            positions = max(float(self._sums[f"positions/{name}"]), 1.0)
            values = []
            for side in ("left", "right"):
                factor = self._sums[f"{side}/{name}"].double()
                if factor.dim() == 2:
                    eigenvalues, vectors = torch.linalg.eigh(factor)
                    tensors[f"{side}/{name}"] = vectors
                    factor = eigenvalues.clamp(min=0)
                values.append(factor)
            tensors[f"values/{name}"] = values[0].unsqueeze(1) * values[1] / (positions * count)
        return Basis(tensors)


@dataclass(frozen=True, eq=False)
class Basis:
    """A Kronecker eigenbasis by parameter, with eigenvalues of the mean Fisher matrix [p, q] in it.

    Attributes
    ----------
    tensors:
        ``left/name`` [p, p] and ``right/name`` [q, q] (absent: the identity) and ``values/name`` [p, q]; plain
        float64 tensors, ready to be saved.
    """

    tensors: State

    def rotate(self, name: str, matrix: Tensor, *, back: bool = False) -> Tensor:
        """``L^T G R`` for [..., p, q], or its inverse."""
        left, right = self.tensors.get(f"left/{name}"), self.tensors.get(f"right/{name}")
        if left is not None:
            matrix = (left if back else left.mT).to(matrix) @ matrix
        if right is not None:
            matrix = matrix @ (right.mT if back else right).to(matrix)
        return matrix

    def solve(self, vector: Mapping[str, Tensor], *, damping: float) -> State:
        """``(F + damping I)^-1 v`` by parameter; with EK-FAC's eigenvalues, as in Grosse et al. 2023.

        Raises
        ------
        GradientError
            without damping, or for a parameter that the basis lacks.
        """
        if damping <= 0:
            raise GradientError(
                f"solve(damping={damping})",
                remedy="use a positive damping; 0.1 x the mean eigenvalue is usual",
            )
        solved: State = {}
        for name, value in vector.items():
            if f"values/{name}" not in self.tensors:
                raise GradientError(
                    f"the basis knows no parameter {name!r}",
                    remedy="accumulate K-FAC factors of the same model, over data that reaches it",
                )
            matrix = value.double().reshape(matrix_shape(value.shape))
            rotated = self.rotate(name, matrix) / (self.tensors[f"values/{name}"] + damping)
            solved[name] = self.rotate(name, rotated, back=True).reshape(value.shape).to(value)
        return solved


class EKFAC:
    """Second pass: the exact second moments of the gradient in the Kronecker eigenbasis (George et al. 2018).

    Parameters
    ----------
    basis:
        of :meth:`KFAC.basis`, the same in every partition.
    key:
        as for :class:`KFAC`.
    """

    def __init__(self, basis: Basis, *, key: str = "ekfac") -> None:
        self.key = key
        self._basis = basis
        self._sums: State = {}

    def needs(self, trace: Trace) -> frozenset[str]:
        """All parameters of the basis."""
        return frozenset(name for name in trace.shapes if f"values/{name}" in self._basis.tensors)

    def measure(self, gradients: Gradients) -> None:
        """Add one block of samples."""
        if not gradients.summed:
            return
        size = gradients.zeros.new_tensor(float(len(gradients.zeros)), dtype=torch.float64)
        self._sums["count"] = self._sums.get("count", torch.zeros_like(size)) + size
        for name in self.needs(gradients.trace):
            shape = matrix_shape(gradients.trace.shapes[name])
            value = self._second_moments(name, combine(gradients.forms.get(name, ())), shape).double()
            self._sums[name] = self._sums[name] + value if name in self._sums else value

    def _second_moments(self, name: str, forms: list[Form], shape: tuple[int, int]) -> Tensor:
        """``sum_n (L^T G_n R)^2``, [p, q]."""
        if not forms:
            return torch.zeros(shape, dtype=torch.float64)
        form = forms[0]
        left, right = self._basis.tensors.get(f"left/{name}"), self._basis.tensors.get(f"right/{name}")
        if len(forms) == 1 and isinstance(form, Rows) and left is None:
            each = form.expanded()
            summed = sum_equal_ids(each.ids, each.delta)
            rotated = summed if right is None else summed @ right.to(summed)
            total = rotated.new_zeros(shape)
            return total.index_add_(0, each.ids.flatten(), rotated.square().flatten(0, 1))
        if len(forms) == 1 and isinstance(form, Outer) and form.x.shape[1] == 1:
            delta, x = form.delta[:, 0], form.x[:, 0]
            delta = delta if left is None else delta @ left.to(delta)
            x = x if right is None else x @ right.to(x)
            return delta.square().mT @ x.square()
        block = max(1, _BLOCK // (shape[0] * shape[1]))
        total = self._basis.tensors[f"values/{name}"].new_zeros(shape)
        for piece in _pieces(forms, block):
            total += self._basis.rotate(name, materialise(piece, shape)).square().sum(dim=0)
        return total

    def __add__(self, other: EKFAC) -> EKFAC:
        """The moments of both parts of the data, in the one basis."""
        if self._basis.tensors.keys() != other._basis.tensors.keys() or not all(
            torch.equal(value, other._basis.tensors[key]) for key, value in self._basis.tensors.items()
        ):
            raise MergeError(
                "EK-FAC eigenvalues of two different bases cannot be added",
                remedy="merge the K-FAC factors of all partitions first and hand every partition that basis",
            )
        merged = EKFAC(self._basis, key=self.key)
        merged._sums = _added(self._sums, other._sums)
        return merged

    def state(self) -> State:
        """Plain tensors, by key, without the basis."""
        return dict(self._sums)

    @classmethod
    def from_state(cls, basis: Basis, state: Mapping[str, Tensor]) -> EKFAC:
        """The inverse of :meth:`state`."""
        found = cls(basis)
        found._sums = dict(state)
        return found

    def basis(self) -> Basis:
        """The eigenbasis with corrected eigenvalues, ready to solve with.

        Raises
        ------
        GradientError
            when nothing was accumulated.
        """
        if "count" not in self._sums:
            raise GradientError(
                "EK-FAC eigenvalues of no data", remedy="run engine(inputs, loss, ekfac) over the data first"
            )
        tensors = dict(self._basis.tensors)
        for name, value in self._sums.items():
            if name != "count":
                tensors[f"values/{name}"] = value / self._sums["count"]
        return Basis(tensors)


def _added(one: Mapping[str, Tensor], two: Mapping[str, Tensor]) -> State:
    """Key by key; a key that one side lacks (a layer its data never reached) counts as zeros."""
    for key in one.keys() & two.keys():
        if one[key].shape != two[key].shape:
            raise MergeError(
                f"{key!r} has shape {list(one[key].shape)} in one part and {list(two[key].shape)} in the other",
                remedy="merge parts of the same model, accumulated with the same limit",
            )
    return {
        key: one[key] + two[key] if key in one and key in two else one[key] if key in one else two[key]
        for key in one.keys() | two.keys()
    }


def _pieces(forms: list[Form], block: int) -> list[list[Form]]:
    """The same forms, some samples at a time."""

    def cut(form: Form) -> list[Form]:
        if isinstance(form, Dense):
            return [Dense(grad) for grad in torch.split(form.grad, block)]
        if isinstance(form, Outer):
            both = zip(torch.split(form.delta, block), torch.split(form.x, block), strict=True)
            return [Outer(delta, x) for delta, x in both]
        each = form.expanded()
        parts = zip(torch.split(each.ids, block), torch.split(each.delta, block), strict=True)
        return [Rows(ids, delta) for ids, delta in parts]

    return [list(pieces) for pieces in zip(*(cut(form) for form in forms), strict=True)]
