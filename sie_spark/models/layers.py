"""Building blocks that the CTR models share: one table for all fields, crosses, FM, attention, a bias.

They exist apart from the models because the gradient engine states an exact per-sample rule for each
block that owns parameters; everything else here is composed of ordinary torch layers on purpose.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn

__all__ = ["FM", "Bias", "CrossV1", "CrossV2", "FieldEmbedding", "MultiHeadAttention", "PiecewiseLinear"]


class FieldEmbedding(nn.Module):
    """One embedding table for every categorical field, so that a row costs one gather.

    Field f owns the rows ``offsets[f] .. offsets[f] + sizes[f] - 1`` of the table.

    Args:
        sizes: rows of each field, each at least 1.
        dim: embedding width d.
        sparse: sparse gradients for the table (``nn.Embedding(sparse=True)``).

    Shapes: ``cat`` int64 [N, F], each value in ``[0, sizes[f])`` -> float [N, F, d].

    Raises:
        ValueError: no field, a field without rows, or a batch with another number of fields.
    """

    offsets: Tensor

    def __init__(self, sizes: Sequence[int], dim: int, *, sparse: bool = False) -> None:
        super().__init__()
        if not sizes or min(sizes) < 1:
            raise ValueError(f"FieldEmbedding needs at least one row a field, got sizes={list(sizes)}")
        starts = [sum(sizes[:f]) for f in range(len(sizes))]
        self.register_buffer("offsets", torch.tensor(starts, dtype=torch.int64))
        self.table = nn.Embedding(sum(sizes), dim, sparse=sparse)

    def forward(self, cat: Tensor) -> Tensor:
        """Look up every field of every row."""
        if cat.shape[-1] != self.offsets.numel():
            raise ValueError(
                f"FieldEmbedding has {self.offsets.numel()} fields, the batch has {cat.shape[-1]}: "
                "encode the batch with the encoder that this model was built from"
            )
        return cast(Tensor, self.table(cat + self.offsets))


class PiecewiseLinear(nn.Module):
    """Numbers cut into pieces: how far each has come through every one of its bins (Gorishniy et al. 2022).

    A linear layer over the pieces is any function that is linear within each bin, so that a network need not
    learn where a number's effect bends. It has no parameters: the edges are quantiles of the rows that a fit
    begins with, and a buffer of the model.

    Parameters
    ----------
    numbers:
        D, how many there are.
    bins:
        T, pieces of each.

    Shapes: float [N, D] -> float [N, D * T], each value in [0, 1].
    """

    edges: Tensor

    def __init__(self, numbers: int, bins: int) -> None:
        super().__init__()
        self.width = numbers * bins
        self.register_buffer("edges", torch.linspace(-2.0, 2.0, bins + 1).repeat(numbers, 1))

    def find_edges(self, dense: Tensor) -> None:
        """Set the edges to the quantiles of some rows, float [N, D]; a bin without width becomes a step."""
        at = torch.linspace(0.0, 1.0, self.edges.shape[1], dtype=torch.float64)
        self.edges.copy_(torch.quantile(dense.double(), at, dim=0).T.to(self.edges.dtype))

    def forward(self, dense: Tensor) -> Tensor:
        """Share of each bin that lies below the number."""
        low, wide = self.edges[:, :-1], self.edges[:, 1:] - self.edges[:, :-1]
        above = dense.unsqueeze(2) - low
        share = above / torch.where(wide > 0, wide, torch.ones_like(wide))
        return torch.where(wide > 0, share.clamp(0.0, 1.0), (above > 0).to(dense.dtype)).flatten(1)


class CrossV1(nn.Module):
    """Cross layer of DCN: ``x0 (x . weight) + bias + x`` (Wang et al. 2017).

    Shapes: x0, x float [N, d] -> [N, d]; parameters ``weight`` [d], ``bias`` [d].
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(dim).uniform_(-1.0, 1.0) / math.sqrt(dim))
        self.bias = nn.Parameter(torch.zeros(dim))

    def forward(self, x0: Tensor, x: Tensor) -> Tensor:
        """Cross ``x`` with the layer stack's first input ``x0``."""
        return x0 * (x @ self.weight).unsqueeze(-1) + self.bias + x


class CrossV2(nn.Module):
    """Cross layer of DCN-v2: ``x0 * (W x + b) + x`` (Wang et al. 2021). Shapes: x0, x [N, d] -> [N, d]."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.linear = nn.Linear(dim, dim)

    def forward(self, x0: Tensor, x: Tensor) -> Tensor:
        """Cross ``x`` with the layer stack's first input ``x0``."""
        # Not addcmul: its derivative multiplies by its scalar factor, two more passes over [N, d].
        return x0 * cast(Tensor, self.linear(x)) + x


class FM(nn.Module):
    """Second-order factorisation machine, all pairs in O(F d) (Rendle 2010). Shape: [N, F, d] -> [N].

    It owns no parameter: the factors are the embedding rows it is given.
    """

    def forward(self, factors: Tensor) -> Tensor:
        """Sum of the inner products of all pairs of fields."""
        square_of_sum = factors.sum(dim=1).square()
        sum_of_square = factors.square().sum(dim=1)
        return 0.5 * (square_of_sum - sum_of_square).sum(dim=-1)


class Bias(nn.Module):
    """A learned constant added to ``n`` logits: [N, n] -> [N, n], and [N] -> [N] when n is 1.

    Raises:
        ValueError: logits with another number of columns than ``n``.
    """

    def __init__(self, n: int = 1) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(n))

    def forward(self, logit: Tensor) -> Tensor:
        """Add the constant."""
        n = self.bias.numel()
        if n > 1 and (logit.dim() < 2 or logit.shape[-1] != n):
            # Broadcasting would pair biases with samples whenever the batch happens to have n rows.
            raise ValueError(f"Bias({n}) needs logits [N, {n}], got {list(logit.shape)}")
        return logit + self.bias


class MultiHeadAttention(nn.Module):
    """Multi-head attention built of four ``nn.Linear`` (Vaswani et al. 2017).

    ``nn.MultiheadAttention`` calls its projections past module hooks, so no per-sample rule can see
    them; here every weight lives in a layer that is called.

    Shapes: query [N, Q, dim], key and value [N, K, dim]; ``mask`` bool [N, K], True where a position
    may be attended to (a row with none attends to nothing) -> [N, Q, dim]. ``attend`` also
    returns the attention [N, heads, Q, K].

    Raises:
        ValueError: ``dim`` is not a multiple of ``heads``.
    """

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        if heads < 1 or dim % heads:
            raise ValueError(f"attention width {dim} is not a multiple of {heads} heads: change one")
        self.heads = heads
        self.query = nn.Linear(dim, dim)
        self.key = nn.Linear(dim, dim)
        self.value = nn.Linear(dim, dim)
        self.out = nn.Linear(dim, dim)

    def _split(self, x: Tensor) -> Tensor:
        return torch.unflatten(x, -1, (self.heads, -1)).transpose(1, 2)

    def forward(
        self,
        query: Tensor,
        key: Tensor | None = None,
        value: Tensor | None = None,
        *,
        mask: Tensor | None = None,
    ) -> Tensor:
        """The attended values; key defaults to query, value to key."""
        return self.attend(query, key, value, mask=mask)[0]

    def attend(
        self,
        query: Tensor,
        key: Tensor | None = None,
        value: Tensor | None = None,
        *,
        mask: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """The output [N, Q, dim] and the attention weights [N, heads, Q, K]; key defaults to query."""
        key = query if key is None else key
        value = key if value is None else value
        q, k, v = self._split(self.query(query)), self._split(self.key(key)), self._split(self.value(value))
        scores = q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])
        if mask is not None:
            scores = scores.masked_fill(~mask[:, None, None, :], torch.finfo(scores.dtype).min)
        weights = scores.softmax(dim=-1)
        if mask is not None:
            weights = weights * mask[:, None, None, :]
        return self.out((weights @ v).transpose(1, 2).flatten(2)), weights
