"""The weighted fit: one loop for the pilot, for every arm, for one process and for many.

It minimises ``sum_i w_i BCE(sigmoid(g_i + l_i), y_i)`` with weight w and log-odds offset l; the model serves g.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from sie_spark.models import Batch
from sie_spark.models.objective import BINARY, Objective, one_logit_a_row
from sie_spark.platform.config import Training
from sie_spark.platform.errors import ModelError
from sie_spark.training.feed import Feed
from sie_spark.training.optimisers import Optimisers, build_optimisers
from sie_spark.training.sync import Group, average_buffers, sum_gradients

SMALLEST_BATCH = 64


@dataclass
class History:
    """What a fit did, over all ranks: loss per epoch is the mean weighted log-loss with offset."""

    loss: list[float] = field(default_factory=list)
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


def batch_needed(settings: Training, rows: int, epochs: int | None = None) -> int:
    """Rows of a global batch, halved (to 64 at least) while a subset would get too few updates.

    Smaller batches come before more epochs: CTR models overfit from the second or third epoch on.
    """
    batch = settings.batch_size
    while batch // 2 >= SMALLEST_BATCH and rows * (epochs or settings.epochs) < settings.min_steps * batch:
        batch //= 2
    return batch


def epochs_needed(settings: Training, steps: int, epochs: int | None = None) -> int:
    """Epochs, with more of them where even small batches give fewer than ``training.min_steps`` updates."""
    return max(epochs or settings.epochs, math.ceil(settings.min_steps / max(steps, 1)))


def fit(
    model: nn.Module,
    feed: Feed,
    settings: Training,
    *,
    epochs: int,
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
    epochs:
        passes over the rows, see :func:`epochs_needed`.
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
    history, position = History(), Position(feed.manifest.hash, lanes=feed.lanes)
    sums = torch.zeros(2, dtype=torch.float64)  # of the running epoch: weighted loss, weight
    if state is not None:
        history, position, sums = _restore(state, model, optimisers, feed)
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
                    "sums": sums,
                }
            )

    total = epochs * feed.steps
    model.train()
    for epoch in range(position.epoch, epochs):
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
            optimisers.step(rate_factor(settings.schedule, history.steps, total))
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
        if group.rank == 0:
            keep(epoch + 1)
        save_at(Position(position.manifest, epoch + 1, 0, feed.lanes, history.rows))
    model.eval()
    return history


def weighted_loss(model: nn.Module, batch: Batch, objective: Objective = BINARY) -> Tensor:
    """Sum of the objective's losses over a batch, a scalar."""
    return objective.losses(one_logit_a_row(model(**batch.inputs), batch), batch).sum()


def rate_factor(schedule: str, step: int, total: int) -> float:
    """Factor of the learning rate at a step: constant, or falling linearly to nothing."""
    return 1.0 if schedule == "constant" else max(0.0, 1.0 - step / max(total, 1))


def set_output_bias(model: nn.Module, batch: Batch, target: float) -> bool:
    """Shift the model's output bias so that its mean logit on a batch is ``target``.

    The bias is found by its gradient: the one scalar parameter on which every logit depends with slope 1.
    Returns False, and changes nothing, where a model has none.
    """
    scalars = [
        parameter for parameter in model.parameters() if parameter.numel() == 1 and parameter.requires_grad
    ]
    if not scalars:
        return False
    model.eval()
    logit = model(**batch.inputs)
    gradients = torch.autograd.grad(logit.sum(), scalars, allow_unused=True)
    mean = float(logit.detach().mean())
    for parameter, gradient in zip(scalars, gradients, strict=True):
        if gradient is not None and abs(float(gradient) / len(batch) - 1.0) < 1e-4:
            with torch.no_grad():
                parameter.add_(target - mean)
                moved = float(model(**batch.inputs).mean())
                if abs(moved - target) < 1e-2:
                    return True
                parameter.sub_(target - mean)
    return False


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
    state: dict[str, Any], model: nn.Module, optimisers: Optimisers, feed: Feed
) -> tuple[History, Position, Tensor]:
    position = Position(**state["position"])
    if position.manifest != feed.manifest.hash:
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
