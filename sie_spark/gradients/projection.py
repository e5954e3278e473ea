"""Random projections of per-sample gradients that respect their factors (TRAK, LoGra).

``P G Q^T`` is computed from ``P delta`` and ``Q x``, so no gradient is formed. The signs of P and Q
are hashes of the coordinate: a table of a million rows needs no projection matrix, and every process
that names the same seed and parameter projects alike.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from sie_spark.gradients.forms import Dense, Form, Rows, matrix_shape

__all__ = ["coordinate_hash", "project", "projected_size", "signs"]

_WORD = 64


def signs(index: Tensor, size: int, key: int) -> Tensor:
    """``size`` independent signs +1/-1 a coordinate, int64 ``index`` [...] -> int8 [..., size].

    The bits of splitmix64 (Steele et al. 2014) of (key, coordinate, word).
    """
    words = -(-size // _WORD)
    word = torch.arange(words, device=index.device)
    state = _mix(_mix(index.unsqueeze(-1) + key) + word * -7046029254386353131)
    bits = (state.unsqueeze(-1) >> torch.arange(_WORD, device=index.device)) & 1
    return (bits.flatten(-2)[..., :size] * 2 - 1).to(torch.int8)


def coordinate_hash(index: Tensor, *, seed: int, name: str, side: str) -> Tensor:
    """64 random bits a coordinate of one side of a parameter, int64 of the shape of ``index``."""
    return _mix(_mix(index + _key(seed, name, side)))


def _mix(x: Tensor) -> Tensor:
    """The finaliser of splitmix64; int64 wraps, and the masks make its shifts logical."""
    x = (x ^ ((x >> 30) & 0x3FFFFFFFF)) * -4658895280553007687
    x = (x ^ ((x >> 27) & 0x1FFFFFFFFF)) * -7723592293110705685
    return x ^ ((x >> 31) & 0x1FFFFFFFF)


def _key(seed: int, name: str, side: str) -> int:
    digest = hashlib.sha256(f"{seed}/{name}/{side}".encode()).digest()
    return int.from_bytes(digest[:8], "big", signed=True)


def _ranks(shape: Sequence[int], rank: int) -> tuple[int, int]:
    p, q = matrix_shape(shape)
    return (min(rank, p), min(rank, q)) if len(shape) == 2 else (1, min(rank * rank, q))


def projected_size(shape: Sequence[int], rank: int) -> int:
    """Columns that a parameter of ``shape`` projects to."""
    left, right = _ranks(shape, rank)
    return left * right


def project(name: str, shape: Sequence[int], forms: Sequence[Form], *, rank: int, seed: int) -> Tensor:
    """Project one parameter's per-sample gradients to [N, k], k = ``projected_size(shape, rank)``.

    A side no longer than its rank is kept as it is, so the result is exact for small parameters. Inner
    products are kept in expectation: ``E <P(g), P(h)> = <g, h>`` (Park et al. 2023; Choe et al. 2024).
    """
    p, q = matrix_shape(shape)
    left, right = _ranks(shape, rank)
    total: Tensor | None = None
    for form in forms:
        if isinstance(form, Rows):
            at = _side(form.ids, p, left, _key(seed, name, "left")).to(form.delta)
            if form.scale is not None:
                at = at * form.scale.unsqueeze(-1)
            if form.delta.shape[1] == 1:
                at = at.sum(dim=1, keepdim=True)
            part = at.mT @ _apply(form.delta, q, right, _key(seed, name, "right"))
        elif isinstance(form, Dense):
            grad = form.grad.reshape(-1, 1 if p == 1 else p, q)
            part = _apply(
                _apply(grad, q, right, _key(seed, name, "right")).mT, p, left, _key(seed, name, "left")
            ).mT
        else:
            delta = _apply(form.delta, p, left, _key(seed, name, "left"))
            part = delta.mT @ _apply(form.x, q, right, _key(seed, name, "right"))
        total = part.flatten(1) if total is None else total + part.flatten(1)
    if total is None:
        raise ValueError(f"parameter {name!r} received no gradient to project")
    return total


def _side(index: Tensor, length: int, rank: int, key: int) -> Tensor:
    """Rows of the projection [length, rank] at ``index``: the identity when nothing is to be saved."""
    if rank == length:
        identity = torch.eye(length, dtype=torch.float64, device=index.device)
        return functional.embedding(index, identity)
    return signs(index, rank, key).double() / math.sqrt(rank)


def _apply(x: Tensor, length: int, rank: int, key: int) -> Tensor:
    """[..., length] -> [..., rank]."""
    if rank == length:
        return x
    return x @ _side(torch.arange(length, device=x.device), length, rank, key).to(x)
