"""A bounded number of rows, decoded once and kept: what a search fits on again and again."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from sie_spark.models import Batch
from sie_spark.models.objective import BINARY, Objective, one_logit_a_row

MICRO_BATCH = 8192


class RowsInMemory:
    """Batches of rows in memory, in another order every epoch; see :class:`~sie_spark.training.loop.Rows`."""

    lanes = 1

    def __init__(self, rows: Batch, *, batch_size: int, seed: int) -> None:
        self.rows, self.batch_size, self.seed = rows, batch_size, seed
        self.name = f"{len(rows)} rows in memory"
        self.steps = max(1, round(len(rows) / batch_size))

    def epoch(self, epoch: int, *, start: int = 0) -> Iterator[Batch]:
        """Batches ``start .. steps - 1``, of nearly equal size."""
        order = torch.randperm(len(self.rows), generator=torch.Generator().manual_seed(self.seed + epoch))
        for step in range(start, self.steps):
            yield self.rows.take(order[self._first(step) : self._first(step + 1)])

    def global_rows(self, step: int) -> int:
        """Rows of a batch."""
        return self._first(step + 1) - self._first(step)

    def _first(self, step: int) -> int:
        return len(self.rows) * step // self.steps


def validation_loss(model: nn.Module, rows: Batch, objective: Objective = BINARY) -> Tensor:
    """Sums over validation rows, float64 [2]: weighted loss of the served output, and weight.

    Parameters
    ----------
    model:
        in eval mode.
    rows:
        with offset 0 and weight 1 / sampling_rate, so that the loss is that of the whole log.
    """
    total = torch.zeros(2, dtype=torch.float64)
    with torch.inference_mode():
        for part in rows.split(MICRO_BATCH):
            losses = objective.losses(one_logit_a_row(model(**part.inputs), part), part)
            total += torch.stack([losses.double().sum(), part.weight.double().sum()])
    return total


def mean_loss(total: Tensor) -> float:
    """The mean of :func:`validation_loss`'s sums, added up over batches and ranks; infinite where it is no number."""
    mean = float(total[0] / total[1])
    return mean if math.isfinite(mean) else math.inf
