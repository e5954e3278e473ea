"""Tensor sketches of per-sample gradients: one short vector for the whole model, from the factors alone.

A count sketch sends each coordinate to a bucket with a sign. The bucket of an entry (i, j) of a matrix is the sum of
a bucket of i and one of j, so that the sketch of ``delta x^T`` is the circular convolution of the sketches of delta
and x, a product of their Fourier transforms (Pham & Pagh 2013). All parameters share the buckets.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from sie_spark.gradients.errors import GradientError
from sie_spark.gradients.forms import Dense, Outer, Rows, matrix_shape
from sie_spark.gradients.projection import coordinate_hash
from sie_spark.gradients.quantities import Gradients, Trace

__all__ = ["TensorSketch"]

# Floats of transformed positions held at once.
_BLOCK = 1 << 22


@dataclass(frozen=True)
class TensorSketch:
    """One sketch of each sample's whole gradient, [N, size], that keeps inner products in expectation.

    ``E <S(g), S(h)> = <g, h>`` over seeds, with a variance of about ``(|g|^2 |h|^2 + <g, h>^2) / size``, as of a
    dense random projection with as many rows (Pham & Pagh 2013). :class:`Projections` of as many columns is much
    coarser, since each parameter has columns of its own there. A layer with a matrix [p, q] costs a sample
    O(p + q + size log size).

    Parameters
    ----------
    size:
        columns.
    seed:
        of buckets and signs; the same seed sketches alike in every process and batch.
    key:
        where the result is found.
    """

    size: int = 1024
    seed: int = 0
    key: str = "sketch"

    def needs(self, trace: Trace) -> frozenset[str]:
        """All watched parameters.

        Raises
        ------
        GradientError
            for a size below 1.
        """
        if self.size < 1:
            raise GradientError(f"TensorSketch(size={self.size})", remedy="use a size of at least 1")
        return frozenset(trace.shapes)

    def measure(self, gradients: Gradients) -> Tensor:
        """The sum of the parameters' sketches."""
        total = gradients.zeros.new_zeros(len(gradients.zeros), self.size)
        transformed: Tensor | None = None
        for name, shape in gradients.trace.shapes.items():
            p, q = matrix_shape(shape)
            right = torch.arange(q, device=total.device)
            for form in gradients.forms.get(name, ()):
                if isinstance(form, Outer):
                    part = self._outer(
                        form,
                        self._at(torch.arange(p, device=total.device), name, "left"),
                        self._at(right, name, "right"),
                    )
                    transformed = part if transformed is None else transformed + part
                    continue
                if isinstance(form, Rows):
                    each = form.expanded()
                    ids, values = each.ids, each.delta
                elif isinstance(form, Dense):
                    ids, values = (
                        torch.arange(p, device=total.device).unsqueeze(0),
                        form.grad.reshape(-1, p, q),
                    )
                buckets, signs = self._entries(self._at(ids, name, "left"), self._at(right, name, "right"))
                total.scatter_add_(
                    1, buckets.expand(values.shape).flatten(1), (values * signs).to(total).flatten(1)
                )
        return total if transformed is None else total + torch.fft.irfft(transformed, n=self.size)

    def _at(self, index: Tensor, name: str, side: str) -> tuple[Tensor, Tensor]:
        """Bucket, int64, and sign, int64, of each coordinate of one side of a parameter."""
        bits = coordinate_hash(index, seed=self.seed, name=name, side=f"sketch {side}")
        return (bits >> 1 & 0x7FFFFFFFFFFFFFFF) % self.size, (bits & 1) * 2 - 1

    def _entries(self, left: tuple[Tensor, Tensor], right: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        """Buckets and signs of the entries: [..., rows, q]."""
        return (left[0].unsqueeze(-1) + right[0]) % self.size, left[1].unsqueeze(-1) * right[1]

    def _outer(self, form: Outer, left: tuple[Tensor, Tensor], right: tuple[Tensor, Tensor]) -> Tensor:
        """The Fourier transform of the sketch, [N, size // 2 + 1], some samples at a time."""
        rows = max(1, _BLOCK // (form.delta.shape[1] * self.size))
        parts = zip(torch.split(form.delta, rows), torch.split(form.x, rows), strict=True)
        return torch.cat([(self._vector(d, left) * self._vector(x, right)).sum(dim=1) for d, x in parts])

    def _vector(self, x: Tensor, at: tuple[Tensor, Tensor]) -> Tensor:
        """The Fourier transform of the count sketch of [N, T, length]."""
        sketch = x.new_zeros(*x.shape[:-1], self.size).index_add_(2, at[0], x * at[1].to(x))
        return torch.fft.rfft(sketch)
