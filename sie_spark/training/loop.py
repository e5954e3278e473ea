"""The weighted fit: one loop for the pilot, for every arm, for one process and for many.

It minimises ``sum_i w_i BCE(sigmoid(g_i + l_i), y_i)`` with weight w and log-odds offset l; the model serves g.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from sie_spark.models import Batch
from sie_spark.models.objective import BINARY, Objective, one_logit_a_row
from sie_spark.platform.config import Training
from sie_spark.platform.errors import ModelError
from sie_spark.training.optimisers import Optimisers, build_optimisers
from sie_spark.training.sync import Group, average_buffers, sum_gradients


class Rows(Protocol):
    """Batches of an epoch, the same ones whenever they are asked for; see :class:`~sie_spark.training.feed.Feed`."""

    name: str
    lanes: int
    steps: int
    batch_size: int

    def epoch(self, epoch: int, *, start: int = 0) -> Iterator[Batch]:
        """This rank's batches ``start .. steps - 1`` of an epoch."""
        ...

    def global_rows(self, step: int) -> int:
        """Rows of global batch ``step``, over all ranks."""
        ...


@dataclass
class History:
    """What a fit did, over all ranks.

    Parameters
    ----------
    loss:
        by epoch, the mean weighted log-loss with offset over the training rows.
    validation:
        by epoch, the mean log-loss of the served logit over the validation rows; empty without them.
    best_epoch:
        the epoch whose model is kept: that of the least validation loss, else the last one.
    """

    loss: list[float] = field(default_factory=list)
    validation: list[float] = field(default_factory=list)
    best_epoch: int = 0
    epochs: int = 0
    steps: int = 0
    rows: int = 0
    seconds: float = 0.0
    resumed: int = 0

    def as_dict(self) -> dict[str, Any]:
        """Plain data."""
        return asdict(self)


@dataclass(frozen=True)
class Position:
    """Where a fit stands: the manifest, the epoch, steps done in it, and the cut into lanes that defines them."""

    manifest: str
    epoch: int = 0
    step: int = 0
    lanes: int = 0
    samples: int = 0


class Stopped(ModelError):
    """The fit was asked to stop (SIGTERM) and has written its checkpoint."""


def fit(
    model: nn.Module,
    feed: Rows,
    settings: Training,
    *,
    judge: Callable[[nn.Module], float] | None = None,
    mean_weight: float = 1.0,
    group: Group | None = None,
    state: dict[str, Any] | None = None,
    save: Callable[[dict[str, Any]], None] | None = None,
    keep: Callable[[int], None] = lambda epoch: None,
    stopping: Callable[[], bool] = lambda: False,
) -> History:
    """Fit a model in place.

    Parameters
    ----------
    judge:
        loss of the model over the validation rows, the same on every rank: asked after every epoch. The fit ends
        where ``training.patience`` epochs brought nothing better, and leaves the best epoch's model.
    mean_weight:
        mean of the table's weights: a constant scale, so that learning rates mean the same for every policy
        while the gradient stays unbiased (dividing by a batch's own weights would not be).
    state:
        a checkpoint written by ``save``; the fit goes on where it stopped.
    save:
        called by rank 0 with a checkpoint after every epoch and when stopping.
    keep:
        called by rank 0 after every epoch, counted from 1, with the model as it is then.
    stopping:
        whether this rank was asked to stop; every rank then stops after the same step.

    Raises
    ------
    ModelError
        when the loss is not finite.
    Stopped
        after the checkpoint, when a rank was asked to stop.
    """
    group = group or Group()
    optimisers = build_optimisers(model, settings)
    history, position = History(), Position(feed.name, lanes=feed.lanes)
    best: dict[str, Tensor] | None = None
    sums = torch.zeros(2, dtype=torch.float64)  # of the running epoch: weighted loss, weight
    if state is not None:
        history, position, sums = _restore(state, model, optimisers, feed)
        best = state["best"]
    began, before = time.monotonic(), history.seconds

    def save_at(here: Position) -> None:
        history.seconds = before + time.monotonic() - began
        if save is not None and group.rank == 0:
            save(
                {
                    "model": model.state_dict(),
                    "optimisers": optimisers.state(),
                    "position": asdict(here),
                    "history": history.as_dict(),
                    "best": best,
                    "sums": sums,
                }
            )

    total = settings.epochs * feed.steps
    everything = mean_weight * sum(feed.global_rows(step) for step in range(feed.steps))
    penalty = settings.embedding_l2 / everything
    for epoch in range(position.epoch, settings.epochs):
        if _is_over(history, settings.patience):
            break
        model.train()
        first = position.step if epoch == position.epoch else 0
        for step, batch in enumerate(feed.epoch(epoch, start=first), start=first):
            # a step's dropout depends on the step alone, so that a resumed fit draws the same
            torch.manual_seed(hash((settings.seed, epoch, step, group.rank)) & 0x7FFFFFFF)
            rows = feed.global_rows(step)
            loss = weighted_loss(model, batch)
            optimisers.zero()
            (loss / (rows * mean_weight)).backward()
            said = torch.tensor(
                [float(loss.detach()), float(batch.weight.sum()), float(stopping())], dtype=torch.float64
            )
            said = sum_gradients(group, optimisers.dense, optimisers.sparse, said)
            if not math.isfinite(float(said[0])):
                raise ModelError(
                    f"the loss is not finite at step {history.steps}",
                    remedy="lower training.learning_rate, and check the dense features and weights for extremes",
                )
            optimisers.step(rate_factor(settings.schedule, history.steps, total), penalty)
            sums += said[:2]
            history.steps += 1
            history.rows += rows
            if said[2] > 0 and step + 1 < feed.steps:
                save_at(Position(position.manifest, epoch, step + 1, feed.lanes, history.rows))
                raise Stopped(
                    f"training was asked to stop after {history.steps} of {total} steps; a checkpoint is written",
                    remedy="run the same command again: it goes on from there",
                )
        average_buffers(group, model)
        history.epochs = epoch + 1
        history.loss.append(float(sums[0] / sums[1]))
        sums = torch.zeros(2, dtype=torch.float64)
        model.eval()
        if _is_best(history, judge and judge(model)) and judge is not None:
            best = copy.deepcopy(model.state_dict())
        if group.rank == 0:
            keep(epoch + 1)
        save_at(Position(position.manifest, epoch + 1, 0, feed.lanes, history.rows))
    if best is not None:
        model.load_state_dict(best)
    model.eval()
    return history


def _is_best(history: History, loss: float | None) -> bool:
    """Note the validation loss of the epoch that ended, and say whether it is the best one so far."""
    history.validation += [loss] if loss is not None else []
    losses = history.validation
    history.best_epoch = 1 + losses.index(min(losses)) if losses else history.epochs
    return history.best_epoch == history.epochs


def _is_over(history: History, patience: int) -> bool:
    """Whether the last epochs brought nothing better on the validation rows."""
    return bool(history.validation) and history.epochs - history.best_epoch >= patience


def weighted_loss(model: nn.Module, batch: Batch, objective: Objective = BINARY) -> Tensor:
    """Sum of the objective's losses over a batch, a scalar."""
    return objective.losses(one_logit_a_row(model(**batch.inputs), batch), batch).sum()


def rate_factor(schedule: str, step: int, total: int) -> float:
    """Factor of the learning rate at a step: constant, or falling linearly to nothing."""
    return 1.0 if schedule == "constant" else max(0.0, 1.0 - step / max(total, 1))


@contextmanager
def stop_on_sigterm() -> Iterator[Callable[[], bool]]:
    """Yield a function that says whether SIGTERM came; outside the main thread it never does."""
    import signal
    import threading

    asked = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield asked.is_set
        return
    earlier = signal.signal(signal.SIGTERM, lambda *_: asked.set())
    try:
        yield asked.is_set
    finally:
        signal.signal(signal.SIGTERM, earlier)


def _restore(
    state: dict[str, Any], model: nn.Module, optimisers: Optimisers, feed: Rows
) -> tuple[History, Position, Tensor]:
    position = Position(**state["position"])
    if position.manifest != feed.name:
        raise ModelError(
            "the checkpoint was made from other rows than the ones given",
            remedy="run with --set run.force=true to start anew",
        )
    model.load_state_dict(state["model"])
    optimisers.restore(state["optimisers"])
    history = History(**state["history"])
    history.resumed += 1
    if position.step and position.lanes != feed.lanes:
        # other lanes cut other batches: the epoch begun is repeated from its start
        return (
            history,
            Position(position.manifest, position.epoch, 0, feed.lanes),
            torch.zeros(2, dtype=torch.float64),
        )
    return history, position, state["sums"]
