"""Encoded rows as columns of numbers, for scikit-learn on the driver and for plain numpy in workers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from scipy import sparse

from sie_spark.importance.contracts import State
from sie_spark.importance.fits.row_sample import INPUT
from sie_spark.platform.inputs import InputSpec

LIMIT = 5.0  # standard deviations at which a standardised number is cut
STILL = 1e-6  # a number that varies less, relative to its mean, says nothing

Inputs = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Numbers:
    """Standardised numbers: those of ``dense`` and of all vectors, in the order of the inputs.

    What is not finite is taken as the mean, and what is further than five deviations from it is cut there. Numbers
    come from the encoder, which has taken logarithms or quantiles and cut outliers: moments are safe.

    Parameters
    ----------
    mean, scale:
        float64 [D]; the scale of a number that does not vary is infinite, so that it is 0.
    """

    mean: np.ndarray
    scale: np.ndarray

    @classmethod
    def fit(cls, spec: InputSpec, inputs: Inputs, weight: np.ndarray) -> Numbers:
        """Mean and deviation of the finite values, by weight."""
        x = _numbers(spec, inputs)
        there = np.isfinite(x)
        w, x = there * weight[:, None].astype(np.float64), np.where(there, x, 0.0)
        total = np.maximum(w.sum(0), np.finfo(np.float64).tiny)
        mean = (w * x).sum(0) / total
        deviation = np.sqrt((w * np.where(there, x - mean, 0.0) ** 2).sum(0) / total)
        return cls(mean, np.where(deviation > STILL * (np.abs(mean) + STILL), deviation, np.inf))

    def __call__(self, spec: InputSpec, inputs: Inputs) -> np.ndarray:
        """Float64 [N, D]."""
        x = _numbers(spec, inputs)
        x = np.where(np.isfinite(x), x, self.mean)
        return np.clip((x - self.mean) / self.scale, -LIMIT, LIMIT)


@dataclass(frozen=True)
class Design:
    """Columns of a linear model: a column an id of every category, bag and sequence, and the standardised numbers.

    A category has a one in the column of its id; a bag or sequence as many as the id occurs in it, padding left out.
    Ids that the sample does not have get no column: such a row has zeros there.

    Parameters
    ----------
    spec:
        of the rows.
    ids:
        of each category, bag and sequence, the ids that have a column, int64, ascending.
    numbers:
        see :class:`Numbers`.
    """

    spec: InputSpec
    ids: tuple[np.ndarray, ...]
    numbers: Numbers

    @classmethod
    def fit(cls, spec: InputSpec, sample: State) -> Design:
        """The columns that a sample of rows has."""
        inputs = sample_inputs(sample)
        ids = tuple(np.unique(found[found >= least]) for found, least in _id_columns(spec, inputs))
        return cls(spec, ids, Numbers.fit(spec, inputs, sample["weight"]))

    @property
    def width(self) -> int:
        """Columns."""
        return sum(map(len, self.ids)) + len(self.numbers.mean)

    def __call__(self, inputs: Inputs) -> sparse.csr_matrix:
        """Float64 [N, width]."""
        numbers = self.numbers(self.spec, inputs)
        rows, columns, values, start = [], [], [], 0
        for known, (found, least) in zip(self.ids, _id_columns(self.spec, inputs), strict=True):
            place, has = lookup(known, found)
            row, at = np.nonzero(has & (found >= least))
            rows.append(row)
            columns.append(start + place[row, at])
            values.append(np.ones(len(row)))
            start += len(known)
        row, at = np.nonzero(numbers)
        rows.append(row)
        columns.append(start + at)
        values.append(numbers[row, at])
        where = (np.concatenate(rows), np.concatenate(columns))
        # ids that occur more than once are summed
        return sparse.csr_matrix((np.concatenate(values), where), shape=(len(numbers), self.width))

    def state(self) -> State:
        """As plain arrays."""
        ids = {f"ids_{at}": known for at, known in enumerate(self.ids)}
        return ids | {"mean": self.numbers.mean, "scale": self.numbers.scale}

    @classmethod
    def of_state(cls, spec: InputSpec, state: State) -> Design:
        """Inverse of :meth:`state`."""
        count = len(spec.categories) + len(spec.bags) + len(spec.sequences)
        ids = tuple(state[f"ids_{at}"] for at in range(count))
        return cls(spec, ids, Numbers(state["mean"], state["scale"]))


def lookup(known: np.ndarray, ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Places of ids among ascending ones, and whether they are there; both of the shape of ``ids``."""
    place = np.searchsorted(known, ids)
    return place, np.append(known, -1)[place] == ids  # no id is negative


def mean_one(weight: np.ndarray) -> np.ndarray:
    """Weights of mean 1, float64 [n], so that penalties and priors in rows mean the same whatever their unit."""
    found: np.ndarray = weight / weight.mean(dtype=np.float64)
    return found


def sample_inputs(sample: State) -> dict[str, np.ndarray]:
    """The inputs of a sample of rows, by name."""
    return {name.removeprefix(INPUT): values for name, values in sample.items() if name.startswith(INPUT)}


def _id_columns(spec: InputSpec, inputs: Inputs) -> Iterator[tuple[np.ndarray, int]]:
    """Ids [N, length] of each category, bag and sequence, and the least that is not padding."""
    for field in range(len(spec.categories)):
        yield inputs["cat"][:, field : field + 1], 0
    for name in (*spec.bags, *spec.sequences):
        yield inputs[name], 1


def _numbers(spec: InputSpec, inputs: Inputs) -> np.ndarray:
    return np.concatenate([inputs[name] for name in ("dense", *spec.vectors)], axis=1).astype(np.float64)
