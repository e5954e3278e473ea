"""Where the forward pass ends: one output and one loss a sample, and the gradients of the losses in the outputs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from sie_spark.gradients.errors import UnsupportedLoss

__all__ = ["check_shape", "head_gradients", "joined_output"]


def check_shape(losses: Tensor, output: Tensor) -> None:
    """Refuse losses that are not [N] or [N, tasks] for the N samples of ``output``.

    Raises
    ------
    UnsupportedLoss
        giving both shapes.
    """
    n = output.shape[0] if output.dim() else 0
    wrong = losses.dim() not in (1, 2) or losses.shape[0] != n
    # [N, 1] logits against [N] labels broadcast to [N, N], which would pass for N tasks.
    wrong = wrong or (losses.dim() == 2 and output.dim() == 2 and losses.shape[1] not in (1, output.shape[1]))
    wrong = wrong or (losses.dim() == 2 and output.dim() == 1 and losses.shape[1] == n > 1)
    if wrong:
        raise UnsupportedLoss(
            f"the loss has shape {list(losses.shape)} for an output of shape {list(output.shape)}; "
            "it must hold one value a sample, [N], or a sample and task, [N, tasks]",
            remedy="use reduction='none' (a mean or sum over the batch hides its samples) and labels of the "
            "output's shape",
        )


def joined_output(outputs: Sequence[Any]) -> Tensor:
    """The batch's output, detached, from that of its blocks.

    Raises
    ------
    UnsupportedLoss
        when the model returned something else than one floating tensor [N, ...].
    """
    for output in outputs:
        if not isinstance(output, Tensor) or output.dim() < 1 or not output.is_floating_point():
            found = f"a tensor {list(output.shape)}" if isinstance(output, Tensor) else type(output).__name__
            raise UnsupportedLoss(
                f"the model returned {found}, not one floating tensor [N, ...]",
                remedy="wrap the model so that it returns one tensor, for example [N, tasks]",
            )
    return torch.cat([output.detach() for output in outputs])


def head_gradients(losses: Tensor, output: Tensor) -> list[Tensor]:
    """Gradient of each task's summed loss in the model's output; one entry for a loss [N]."""
    tasks = [losses] if losses.dim() == 1 else list(losses.unbind(dim=1))
    heads = []
    for task in tasks:
        (head,) = torch.autograd.grad(task.sum(), output, retain_graph=True, allow_unused=True)
        heads.append(torch.zeros_like(output) if head is None else head)
    return heads
