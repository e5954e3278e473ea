"""Gradients of several ranks, summed: dense ones in one flat bucket, sparse ones as (ids, rows).

Each rank's loss is already divided by the *global* batch, so the sum over ranks is the gradient that one
process would have computed, whatever the weights of the rows each rank happened to get (an average of
per-rank weighted means would not be).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor, nn


@dataclass(frozen=True)
class Group:
    """The ranks that train together; one rank needs no communication."""

    rank: int = 0
    world: int = 1

    def sum(self, value: Tensor) -> Tensor:
        """In-place sum over the ranks."""
        if self.world > 1:
            dist.all_reduce(value)
        return value


def sum_gradients(
    group: Group, dense: Sequence[nn.Parameter], sparse: Sequence[nn.Parameter], extra: Tensor
) -> Tensor:
    """Replace every gradient by its sum over the ranks; ``extra`` float64 [k] is summed along and returned.

    A parameter that no row of a rank's batch touched counts as zero there.
    """
    if group.world == 1:
        return extra
    for parameter in dense:
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
    if dense:
        gradients = [parameter.grad for parameter in dense if parameter.grad is not None]
        flat = torch.cat([gradient.reshape(-1) for gradient in gradients])
        dist.all_reduce(flat)
        start = 0
        for gradient in gradients:
            gradient.copy_(flat[start : start + gradient.numel()].view_as(gradient))
            start += gradient.numel()
    for parameter in sparse:
        parameter.grad = _sum_sparse(group, parameter)
    return group.sum(extra)


def _sum_sparse(group: Group, parameter: nn.Parameter) -> Tensor:
    gradient = parameter.grad
    width = parameter.shape[1]
    if gradient is None:
        ids, rows = torch.zeros(0, dtype=torch.int64), torch.zeros(0, width, dtype=parameter.dtype)
    else:
        gradient = gradient.coalesce()
        ids, rows = gradient.indices()[0], gradient.values()
    counts = [torch.zeros(1, dtype=torch.int64) for _ in range(group.world)]
    dist.all_gather(counts, torch.tensor([ids.numel()]))
    most = max(1, int(max(int(count) for count in counts)))
    padded_ids = torch.zeros(most, dtype=torch.int64)
    padded_rows = torch.zeros(most, width, dtype=rows.dtype)
    padded_ids[: ids.numel()], padded_rows[: ids.numel()] = ids, rows
    all_ids = [torch.empty_like(padded_ids) for _ in range(group.world)]
    all_rows = [torch.empty_like(padded_rows) for _ in range(group.world)]
    dist.all_gather(all_ids, padded_ids)
    dist.all_gather(all_rows, padded_rows)
    held = [int(count) for count in counts]
    index = torch.cat([part[:n] for part, n in zip(all_ids, held, strict=True)]).unsqueeze(0)
    values = torch.cat([part[:n] for part, n in zip(all_rows, held, strict=True)])
    return torch.sparse_coo_tensor(index, values, parameter.shape, check_invariants=False).coalesce()


def average_buffers(group: Group, model: nn.Module) -> None:
    """Floating buffers (running statistics) averaged, so that every rank and the saved model agree."""
    if group.world > 1:
        for buffer in model.buffers():
            if buffer.is_floating_point():
                dist.all_reduce(buffer)
                buffer.div_(group.world)
