"""A bounded sample of rows as arrays: what is fitted on the driver is fitted on this."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
import torch
from torch import Tensor

from sie_spark.gradients import Quantity
from sie_spark.importance.contracts import Accumulator, Fit, Given, Seen, State
from sie_spark.importance.registry import SCORERS
from sie_spark.models import Batch
from sie_spark.platform.config.stages import Importance
from sie_spark.platform.draws import uniform

INPUT = "input_"
SCORE = "score_"
SEED, PURPOSE = 0, "fit"


@dataclass(frozen=True)
class RowSample(Fit):
    """The ``limit`` rows of smallest hash of their ids, so that no partitioning changes them.

    The artefact holds ``sample_id`` int64 [n], ``label`` and ``weight`` float32 [n], and the row's inputs as
    ``input_<name>``, ordered by hash.

    Parameters
    ----------
    part:
        of the samples.
    limit:
        n at most.
    represented:
        a model whose last layer's inputs are added as ``last_inputs``, float32 [n, width]; "" for none.
    predicted:
        a model whose probability is added as ``p``, float32 [n]; "" for none.
    scores:
        scorers whose values are added as ``score_<name>``, float64 [n].
    of_scores, before:
        models and fits that these scorers read.
    inputs:
        False leaves the row's inputs out.
    """

    part: Literal["train", "validation"]
    limit: int
    represented: str = ""
    predicted: str = ""
    scores: tuple[str, ...] = ()
    of_scores: tuple[str, ...] = ()
    before: tuple[Fit, ...] = ()
    inputs: bool = True

    name: ClassVar[str] = "row_sample"

    @property
    def rows(self) -> Literal["train", "validation"]:  # type: ignore[override]
        """See :class:`Fit`."""
        return self.part

    def models(self) -> tuple[str, ...]:
        """See :class:`Fit`."""
        return tuple(dict.fromkeys([*filter(None, [self.represented, self.predicted]), *self.of_scores]))

    def after(self) -> tuple[Fit, ...]:
        """See :class:`Fit`."""
        return self.before

    def most(self, settings: Importance) -> int:
        """See :class:`Fit`."""
        return self.limit

    def open(self, given: Given) -> Accumulator:
        """See :class:`Fit`."""
        return _Rows(self, given)

    def merge(self, states: Iterable[State]) -> State:
        """The rows of smallest hash of all partitions."""
        return smallest(list(states), self.limit)


class _Rows(Accumulator):
    def __init__(self, fit: RowSample, given: Given) -> None:
        self.fit, self.given = fit, given
        self.scorers = [SCORERS[name] for name in fit.scores]
        self.parts: list[State] = []

    def quantities(self) -> dict[str, tuple[Quantity, ...]]:
        found: dict[str, tuple[Quantity, ...]] = {}
        for scorer in self.scorers:
            for model, asked in scorer.quantities(self.given).items():
                found[model] = (*found.get(model, ()), *asked)
        return found

    def add(self, seen: Seen) -> None:
        batch = seen.batch
        part = {
            "sample_id": batch.sample_id.numpy(),
            "label": batch.label.numpy(),
            "weight": batch.weight.numpy(),
        }
        if self.fit.inputs:
            part |= {INPUT + name: values.numpy() for name, values in batch.inputs.items()}
        if self.fit.represented:
            part["last_inputs"] = seen.last_inputs(self.fit.represented)[:, :-1].float().numpy()
        if self.fit.predicted:
            part["p"] = seen.probability(self.fit.predicted).numpy()
        for scorer in self.scorers:
            part[SCORE + scorer.name] = seen.score(scorer, self.given).double().numpy()
        self.parts.append(part)
        if sum(len(one["label"]) for one in self.parts) > 2 * self.fit.limit:
            self.parts = [smallest(self.parts, self.fit.limit)]

    def state(self) -> State:
        return smallest(self.parts, self.fit.limit)


def smallest(parts: list[State], limit: int) -> State:
    """The ``limit`` rows of smallest hash among several arrays of rows, by hash."""
    parts = [part for part in parts if part]
    if not parts:
        return {}
    whole = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    order = np.argsort(uniform(whole["sample_id"], seed=SEED, purpose=PURPOSE), kind="stable")[:limit]
    return {name: values[order] for name, values in whole.items()}


def batch_of(state: State) -> Batch:
    """The rows of a sample as a batch."""
    inputs: dict[str, Tensor] = {
        name.removeprefix(INPUT): torch.from_numpy(values)
        for name, values in state.items()
        if name.startswith(INPUT)
    }
    label = torch.from_numpy(state["label"])
    return Batch(
        inputs,
        label,
        torch.zeros_like(label),
        torch.from_numpy(state["weight"]),
        torch.from_numpy(state["sample_id"]),
    )
