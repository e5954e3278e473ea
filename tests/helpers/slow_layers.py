"""Lookups of torch written out in plain operations, which forward mode can differentiate."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class SlowLookup(nn.Module):
    """What ``nn.Embedding`` computes, its padding row cut off from differentiation."""

    def __init__(self, embedding: nn.Embedding) -> None:
        super().__init__()
        self.weight, self.padding = embedding.weight, embedding.padding_idx

    def forward(self, ids: Tensor) -> Tensor:
        if self.padding is None:
            return self.weight[ids]
        return torch.where((ids == self.padding).unsqueeze(-1), self.weight.detach()[ids], self.weight[ids])


class SlowBag(nn.Module):
    """What ``nn.EmbeddingBag`` computes, by plain lookups and a mask; same parameter name."""

    def __init__(self, bag: nn.EmbeddingBag) -> None:
        super().__init__()
        self.weight, self.mode, self.padding = bag.weight, bag.mode, bag.padding_idx

    def bag(self, ids: Tensor, weights: Tensor | None) -> Tensor:
        keep = torch.ones(len(ids)) if self.padding is None else (ids != self.padding).double()
        scale = keep if weights is None else keep * weights
        total = (self.weight[ids] * scale.to(self.weight.dtype).unsqueeze(1)).sum(dim=0)
        return total / keep.sum().clamp(min=1) if self.mode == "mean" else total

    def forward(self, ids: Tensor, offsets: Tensor | None = None, weights: Tensor | None = None) -> Tensor:
        if ids.dim() == 2:
            return torch.stack(
                [self.bag(row, None if weights is None else weights[i]) for i, row in enumerate(ids)]
            )
        ends = [*offsets[1:].tolist(), len(ids)]
        pieces = [slice(a, b) for a, b in zip(offsets.tolist(), ends, strict=True)]
        return torch.stack([self.bag(ids[s], None if weights is None else weights[s]) for s in pieces])
