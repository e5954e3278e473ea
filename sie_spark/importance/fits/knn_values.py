"""Exact k-NN Shapley values of a small training part."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np

from sie_spark.importance.contracts import Accumulator, Fit, Given, Seen, State
from sie_spark.importance.fits.neighbour_space import NeighbourSpace, Space
from sie_spark.importance.fits.row_sample import PURPOSE, SEED
from sie_spark.importance.shapley import knn_shapley
from sie_spark.models.store import REFERENCE
from sie_spark.platform.config.stages import Importance
from sie_spark.platform.draws import uniform
from sie_spark.platform.errors import DataError


@dataclass(frozen=True)
class KnnValues(Fit):
    """``sample_id`` int64 [n], in order, ``label`` bool [n] and ``value`` float64 [n] of every training row.

    Training rows are held in memory: more than ``importance.sample_rows`` are refused, by the first worker that
    sees them. Of rows as far from a target as each other, the one of smaller hash is the nearer.
    """

    space: NeighbourSpace
    neighbours: int

    name: ClassVar[str] = "knn_values"
    rows: ClassVar[Literal["train", "validation"]] = "train"

    def models(self) -> tuple[str, ...]:
        """The reference."""
        return (REFERENCE,)

    def after(self) -> tuple[Fit, ...]:
        """The space."""
        return (self.space,)

    def most(self, settings: Importance) -> None:
        """All rows, or a refusal."""

    def open(self, given: Given) -> Accumulator:
        """See :class:`Fit`."""
        return _Rows(Space.given(self.space, given), self.space.sample_rows)

    def merge(self, states: Iterable[State]) -> State:
        """The rows of all partitions.

        Raises
        ------
        DataError
            where they are too many.
        """
        parts = [state for state in states if state]
        check(sum(len(part["label"]) for part in parts), self.space.sample_rows)
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    def finish(self, state: State, given: Given) -> State:
        """The values, by theorem 1 of Jia et al. (2019)."""
        ids, space = state["sample_id"], Space.given(self.space, given)
        order = np.lexsort((ids, uniform(ids, seed=SEED, purpose=PURPOSE)))
        values = np.empty(len(ids))
        values[order] = knn_shapley(
            state["placed"][order],
            state["label"][order],
            space.targets.numpy(),
            space.labels,
            self.neighbours,
            weights=space.weights,
        )
        by_id = np.argsort(ids)
        return {"sample_id": ids[by_id], "label": state["label"][by_id], "value": values[by_id]}


class _Rows(Accumulator):
    def __init__(self, space: Space, limit: int) -> None:
        self.space, self.limit = space, limit
        self.parts: list[State] = []
        self.rows = 0

    def add(self, seen: Seen) -> None:
        self.rows += len(seen.batch)
        check(self.rows, self.limit)
        self.parts.append(
            {
                "sample_id": seen.batch.sample_id.numpy(),
                "label": (seen.batch.label > 0.5).numpy(),
                "placed": self.space.place(seen.last_inputs(REFERENCE)).numpy(),
            }
        )

    def state(self) -> State:
        if not self.parts:
            return {}
        return {name: np.concatenate([part[name] for part in self.parts]) for name in self.parts[0]}


def check(rows: int, limit: int) -> None:
    """Refuse what does not fit.

    Raises
    ------
    DataError
        where there are more rows than the limit.
    """
    if rows > limit:
        raise DataError(
            f"importance.scorers: 'knn_shapley' holds all training rows at once, and there are more than"
            f" importance.sample_rows={limit}; 'threshold_knn_shapley' takes any number",
            remedy="name threshold_knn_shapley in importance.scorers instead, or raise importance.sample_rows",
        )
