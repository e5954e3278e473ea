"""The rules of torch's own layers and of the house's two layers that own raw parameters.

Each is the derivative of one layer in its own parameters, given the gradient of its output; which
quantity is wanted of that gradient is decided elsewhere.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from sie_spark.gradients.errors import UnsupportedLayer
from sie_spark.gradients.forms import Dense, Form, Outer, Rows
from sie_spark.gradients.registry import Call, refuse, rule
from sie_spark.models.layers import Bias, CrossV1

_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


def _positions(x: Tensor) -> Tensor:
    """[N, ..., d] -> [N, T, d], every dimension between sample and feature being a position."""
    return x.unsqueeze(1) if x.dim() == 2 else x.flatten(1, -2)


def _total(delta: Tensor) -> Tensor:
    """[N, ..., d] -> [N, d], summed over positions."""
    return delta if delta.dim() == 2 else delta.flatten(1, -2).sum(dim=1)


@rule(nn.Linear)
def linear(layer: nn.Linear, call: Call) -> dict[str, Form]:
    """``y = W x + b``: sum_t delta_t x_t^T and sum_t delta_t (Goodfellow 2015; Li et al. 2021)."""
    x = call.argument(0, "input")
    return {"weight": Outer(_positions(call.delta), _positions(x)), "bias": Dense(_total(call.delta))}


@rule(nn.Embedding)
def embedding(layer: nn.Embedding, call: Call) -> dict[str, Form]:
    """A lookup: position t adds delta_t to row id_t; ``padding_idx`` receives nothing."""
    ids = call.argument(0, "input")
    ids = ids.flatten(1) if ids.dim() > 1 else ids.unsqueeze(1)
    delta = call.delta.reshape(*ids.shape, layer.embedding_dim)
    if layer.padding_idx is None:
        return {"weight": Rows(ids, delta)}
    return {"weight": Rows(ids, delta, (ids != layer.padding_idx).to(delta.dtype))}


@rule(nn.EmbeddingBag)
def embedding_bag(layer: nn.EmbeddingBag, call: Call) -> dict[str, Form]:
    """A pooled lookup, one bag a sample; n of a mean counts what is left without padding.

    Worked example (mean, padding_idx 0): the bag ``[0, 5, 5, 8]`` has n = 3, so with gradient g of
    the pooled vector row 5 receives 2/3 g, row 8 receives 1/3 g, row 0 nothing.
    """
    ids, offsets = call.argument(0, "input"), call.argument(1, "offsets")
    weights = call.argument(2, "per_sample_weights")
    if ids.dim() == 1:
        ids, weights, keep = _padded(layer, ids, offsets, weights)
    else:
        keep = torch.ones_like(ids, dtype=torch.bool)
    if layer.padding_idx is not None:
        keep = keep & (ids != layer.padding_idx)
    scale = keep.to(call.delta.dtype)
    if weights is not None:
        scale = scale * weights
    if layer.mode == "mean":
        scale = scale / keep.sum(dim=1, keepdim=True).clamp(min=1)
    return {"weight": Rows(ids, call.delta.unsqueeze(1), scale)}


def _padded(
    layer: nn.EmbeddingBag, flat: Tensor, offsets: Tensor, weights: Tensor | None
) -> tuple[Tensor, Tensor | None, Tensor]:
    """Flat ids with offsets -> ids [N, T], weights [N, T] and the mask of real positions; T = longest bag."""
    starts = offsets[:-1] if layer.include_last_offset else offsets
    ends = torch.cat(
        [starts[1:], offsets[-1:] if layer.include_last_offset else offsets.new_tensor([len(flat)])]
    )
    longest = int((ends - starts).max()) if len(starts) else 0
    position = starts.unsqueeze(1) + torch.arange(max(longest, 1), device=flat.device)
    keep = position < ends.unsqueeze(1)
    if not len(flat):
        return torch.zeros_like(position), None, keep
    position = position.clamp(max=len(flat) - 1)
    return flat[position], None if weights is None else weights[position], keep


@refuse(nn.Embedding, nn.EmbeddingBag)
def _table(layer: nn.Embedding | nn.EmbeddingBag) -> str | None:
    if layer.max_norm is not None:
        return (
            "has max_norm, which rewrites looked-up rows in the forward pass: "
            "build it without max_norm and clip the table after the optimiser's step"
        )
    if layer.scale_grad_by_freq:
        return (
            "has scale_grad_by_freq, which divides a sample's gradient by counts of the whole batch: "
            "set scale_grad_by_freq=False"
        )
    if getattr(layer, "mode", "") == "max":
        return "pools by max, which has no rule: use mode 'sum' or 'mean', or register a rule for a subclass"
    return None


@rule(nn.LayerNorm)
def layer_norm(layer: nn.LayerNorm, call: Call) -> dict[str, Form]:
    """``y = xhat * weight + bias``: sums over positions of delta xhat, and of delta (Ba et al. 2016)."""
    x = call.argument(0, "input")
    shape = list(layer.normalized_shape)
    xhat = functional.layer_norm(x, shape, eps=layer.eps)
    entries = torch.Size(shape).numel()

    def total(grad: Tensor) -> Tensor:
        return torch.unflatten(grad.flatten(1), 1, (-1, entries)).sum(dim=1)

    return {"weight": Dense(total(call.delta * xhat)), "bias": Dense(total(call.delta))}


@rule(*_NORMS)
def batch_norm(layer: nn.BatchNorm1d, call: Call) -> dict[str, Form]:
    """Batch normalisation with running statistics, [N, C, ...]: an affine map a channel."""
    if layer.training or layer.running_mean is None or layer.running_var is None:
        raise UnsupportedLayer(
            f"layer {call.name!r} (BatchNorm) used the statistics of the batch, which couples its samples",
            remedy="score with model.eval() and running statistics (track_running_stats=True)",
        )
    x = (
        call.argument(0, "input").flatten(2)
        if call.delta.dim() > 2
        else call.argument(0, "input").unsqueeze(2)
    )
    delta = call.delta.reshape(x.shape)
    mean, variance = layer.running_mean.to(x.dtype), layer.running_var.to(x.dtype)
    xhat = (x - mean[:, None]) * torch.rsqrt(variance + layer.eps)[:, None]
    return {"weight": Dense((delta * xhat).sum(dim=2)), "bias": Dense(delta.sum(dim=2))}


@refuse(*_NORMS)
def _batch_statistics(layer: nn.BatchNorm1d) -> str | None:
    if layer.training or layer.running_mean is None:
        return (
            "normalises with the statistics of the batch, which couples its samples: "
            "call model.eval() first, and keep running statistics (track_running_stats=True)"
        )
    return None


@rule(nn.PReLU)
def prelu(layer: nn.PReLU, call: Call) -> dict[str, Form]:
    """``y = max(x, 0) + a min(x, 0)``, one slope or one a channel (dimension 1) (He et al. 2015)."""
    grad = call.delta * call.argument(0, "input").clamp(max=0)
    if layer.num_parameters == 1:
        return {
            "weight": Dense(grad.flatten(1).sum(dim=1, keepdim=True) if grad.dim() > 1 else grad.unsqueeze(1))
        }
    return {"weight": Dense(grad if grad.dim() == 2 else grad.flatten(2).sum(dim=2))}


@rule(CrossV1)
def cross_v1(layer: CrossV1, call: Call) -> dict[str, Form]:
    """``y = x0 (x . w) + b + x``: (delta . x0) x for w, delta for b (Wang et al. 2017)."""
    x0, x = call.argument(0, "x0"), call.argument(1, "x")
    along = (call.delta * x0).sum(dim=-1, keepdim=True)
    return {"weight": Outer(_positions(along), _positions(x)), "bias": Dense(_total(call.delta))}


@rule(Bias)
def bias(layer: Bias, call: Call) -> dict[str, Form]:
    """``y = x + b``, b over the last dimension (or one number for all)."""
    delta = call.delta.flatten(1) if call.delta.dim() > 1 else call.delta.unsqueeze(1)
    delta = torch.unflatten(delta, 1, (-1, layer.bias.numel()))
    return {"bias": Dense(delta.sum(dim=1))}


@refuse(nn.MultiheadAttention)
def _attention(layer: nn.MultiheadAttention) -> str:
    return (
        "calls its projections past module hooks, so no rule can see them: "
        "use sie_spark.models.layers.MultiHeadAttention, which is built from nn.Linear"
    )
