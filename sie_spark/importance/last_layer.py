"""What the last layer of a model is given: enough for scores of that layer alone, without a backward pass."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from sie_spark.platform.errors import ModelError


@contextmanager
def watching_last_layer(module: nn.Module) -> Iterator[list[Tensor]]:
    """While the model runs, the list holds what was given to the layer called last among those that make one number of many."""
    seen: list[Tensor] = []

    def look(layer: nn.Module, given: tuple[Any, ...]) -> None:
        seen[:] = [given[0]]

    heads = [layer for layer in module.modules() if isinstance(layer, nn.Linear) and layer.out_features == 1]
    hooks = [layer.register_forward_pre_hook(look) for layer in heads]
    try:
        yield seen
    finally:
        for hook in hooks:
            hook.remove()


def with_constant(seen: list[Tensor], module: nn.Module) -> Tensor:
    """``[h, 1]`` of what :func:`watching_last_layer` saw, float64 [N, width + 1].

    Raises
    ------
    ModelError
        where no ``nn.Linear`` with one output was called with one vector a row.
    """
    if not seen or seen[0].dim() != 2:
        raise ModelError(
            f"{type(module).__name__} has no last layer that makes one logit of one vector a row",
            remedy="choose another score: logit_grad_norm looks at all parameters",
        )
    h = seen[0].double()
    return torch.cat([h, torch.ones(len(h), 1, dtype=torch.float64)], dim=1)
