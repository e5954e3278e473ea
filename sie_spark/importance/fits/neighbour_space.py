"""The space that neighbours are looked for in: what the reference's last layer is given, and the targets in it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import ceil
from typing import ClassVar, Literal

import numpy as np
import torch
from torch import Tensor

from sie_spark.importance.contracts import Fit, Given, Seen, State
from sie_spark.importance.fits.row_sample import RowSample
from sie_spark.models.store import REFERENCE
from sie_spark.platform.config.stages import Importance

ROOM = 1 << 18  # distances held at once: what a core keeps near it
STILL = 1e-6  # a unit that varies less, relative to its mean, says nothing
ROUNDING = 1e-3  # of the typical length of a row: distances below it are rounding, and no radius is less


@dataclass(frozen=True)
class NeighbourSpace(Fit):
    """Standardised representations of validation rows, and the radius of a neighbourhood.

    The artefact holds ``units`` int64 [d], the inputs of the last layer that vary; their ``mean`` and ``scale``
    float64 [d] over a sample of training rows, by weight; ``targets`` float32 [v, d], the validation rows, by hash,
    with their ``label`` and ``weight`` float32 [v]; and ``radius``, float64: the distance within which a share of the
    sampled training rows lies, and no fewer than ``least``, at the median target.

    Parameters
    ----------
    sample_rows, target_rows, share, least:
        settings ``importance.sample_rows``, ``target_rows``, ``neighbour_share`` and ``neighbours``.
    """

    sample_rows: int
    target_rows: int
    share: float
    least: int

    name: ClassVar[str] = "neighbour_space"
    rows: ClassVar[Literal["train", "validation"] | None] = None

    @classmethod
    def of(cls, settings: Importance) -> NeighbourSpace:
        """With the settings' values."""
        return cls(settings.sample_rows, settings.target_rows, settings.neighbour_share, settings.neighbours)

    def after(self) -> tuple[Fit, ...]:
        """Samples of both parts."""
        return (
            RowSample("train", self.sample_rows, REFERENCE),
            RowSample("validation", self.target_rows, REFERENCE),
        )

    def finish(self, state: State, given: Given) -> State:
        """From the two samples."""
        train, validation = (given.states[fit.key] for fit in self.after())
        h, weight = train["last_inputs"].astype(np.float64), train["weight"]
        mean = np.average(h, axis=0, weights=weight)
        deviation = np.sqrt(np.average((h - mean) ** 2, axis=0, weights=weight))
        units = np.flatnonzero(deviation > STILL * (np.abs(mean) + STILL))
        mean, scale = mean[units], deviation[units]
        made = {
            "units": units,
            "mean": mean,
            "scale": scale,
            "targets": ((validation["last_inputs"][:, units] - mean) / scale).astype(np.float32),
            "label": validation["label"],
            "weight": validation["weight"],
            "radius": np.array(0.0),
        }
        space = Space(made)
        rows = space.place(torch.from_numpy(h))
        last = min(len(h), max(self.least, ceil(self.share * len(h)))) - 1
        # the distances are taken from each target: the other way round, in chunks of targets
        other = Space(made | {"targets": rows.numpy()})
        reach = [np.partition(d.numpy(), last, axis=1)[:, last] for _, d in other.squared(space.targets)]
        radius = float(np.sqrt(np.median(np.concatenate(reach))))
        return made | {"radius": np.array(max(radius, ROUNDING * max(1, len(units)) ** 0.5))}


class Space:
    """The artefact of :class:`NeighbourSpace`, laid out."""

    def __init__(self, state: State) -> None:
        self.units = torch.from_numpy(state["units"])
        self.mean, self.scale = torch.from_numpy(state["mean"]), torch.from_numpy(state["scale"])
        self.targets = torch.from_numpy(state["targets"])
        self.labels, self.weights = state["label"] > 0.5, state["weight"].astype(np.float64)
        self.radius = float(state["radius"])
        self._lengths = self.targets.square().sum(1)

    @classmethod
    def given(cls, fit: NeighbourSpace, given: Given) -> Space:
        """Laid out once a worker."""
        return given.once(("space", fit.key), lambda: cls(given.states[fit.key]))

    def place(self, h: Tensor) -> Tensor:
        """Where rows lie: of inputs of the last layer, float64 [N, width], float32 [N, d]."""
        return ((h[:, self.units] - self.mean) / self.scale).float()

    def squared(self, placed: Tensor) -> Iterator[tuple[slice, Tensor]]:
        """Squared distances of rows to the targets, float32 [n, v], for as many rows at once as fit the memory."""
        size = max(1, ROOM // max(1, len(self.targets)))
        for start in range(0, len(placed), size):
            rows = placed[start : start + size]
            found = torch.addmm(self._lengths, rows, self.targets.T, alpha=-2)
            found += rows.square().sum(1)[:, None]
            yield slice(start, start + len(rows)), found.clamp_(min=0)

    def near(self, seen: Seen) -> Iterator[tuple[slice, Tensor]]:
        """The same for rows of a pass."""
        return self.squared(self.place(seen.last_inputs(REFERENCE)))
