"""Which training rows helped one row's prediction most, and which harmed it: a streamed top-k in Arrow workers."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from datetime import date
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from sie_spark.features.samples import split_rows
from sie_spark.gradients import Dots
from sie_spark.importance.artefacts import PARTITIONS
from sie_spark.importance.contracts import tensors
from sie_spark.importance.worker import Pass, decoded, finite, look
from sie_spark.models import Batch
from sie_spark.models.store import REFERENCE
from sie_spark.platform.context import Context
from sie_spark.platform.draws import at_most
from sie_spark.platform.errors import workers
from sie_spark.platform.result import TableRef

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

FOUND = "side int, pattern binary, rows bigint, value double, sample_id bigint, event_date date, label float, p double"
DIRECTION = "explain_direction"
# equal rows of two batches may differ in their last digits: so many more are kept than are shown
MARGIN = 8
NOISE = 1e-5
SEED = 17


@dataclass(frozen=True)
class Neighbour:
    """A training row, and how many rows with the same inputs and label it stands for.

    Parameters
    ----------
    value:
        by how much a step on the row lowers the loss of the explained one, per unit of learning rate; negative
        where it raises it.
    p:
        of the reference.
    """

    value: float
    rows: int
    sample_id: int
    event_date: date
    label: float
    p: float
    pattern: bytes = b""


class Extremes:
    """The ``keep`` different patterns of greatest value among rows that come in batches.

    Rows of one pattern have one value, so a pattern that is among the best was never dropped before: its rows are
    all counted, however the rows are cut into batches.
    """

    def __init__(self, keep: int) -> None:
        self.keep = keep
        self.found: dict[bytes, Neighbour] = {}

    def add(self, values: np.ndarray, row: Callable[[int], Neighbour]) -> None:
        """Take in rows of these values, float64 [N]; ``row(i)`` tells the i-th, its value apart."""
        for at in np.argsort(-values, kind="stable"):
            value = float(values[at])
            full = len(self.found) >= self.keep
            if full and value < (least := self._least().value) - NOISE * abs(least):
                return
            new = replace(row(int(at)), value=value)
            self.put(new)

    def put(self, new: Neighbour) -> None:
        """Take in one row, or rows of one pattern that were counted elsewhere."""
        held = self.found.get(new.pattern)
        if held is not None:
            first = min(held, new, key=lambda one: one.sample_id)
            self.found[new.pattern] = replace(first, rows=held.rows + new.rows)
            return
        self.found[new.pattern] = new
        if len(self.found) > self.keep:
            del self.found[self._least().pattern]

    def best(self) -> list[Neighbour]:
        """The greatest first; of equal ones the one that any order of rows puts first."""
        return sorted(self.found.values(), key=lambda one: (-one.value, one.pattern))

    def _least(self) -> Neighbour:
        return max(self.found.values(), key=lambda one: (-one.value, one.pattern))


@dataclass(frozen=True)
class FindNeighbours:
    """A ``mapInArrow`` function: encoded rows in; for each side (1 helpful, -1 harmful) the partition's best out.

    Parameters
    ----------
    shared:
        the reference and the direction, an artefact named DIRECTION.
    keep:
        patterns a side.
    """

    shared: Pass
    keep: int

    def __call__(self, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        """Nothing for an empty partition."""
        sides = {1: Extremes(self.keep), -1: Extremes(self.keep)}
        ready: tuple[Any, ...] | None = None
        for batch in batches:
            if ready is None:
                quantities = {REFERENCE: (self.dots(),)}
                ready = (quantities, self.shared.open(quantities))
            quantities, loaded = ready
            start = 0
            dates = batch.column("event_date")
            for part in decoded(batch, loaded, self.shared.inputs).split(self.shared.settings.micro_batch):
                seen = look(loaded, part, quantities)
                values = finite(
                    "influence", seen.slope(REFERENCE) * seen.measured[REFERENCE][DIRECTION][:, 0], part
                )
                p = seen.probability(REFERENCE)
                row = _Row(part, p.double().numpy(), dates, start)
                for side, best in sides.items():
                    best.add(side * values, row)
                start += len(part)
        found = [(side, one) for side, best in sides.items() for one in best.best()]
        if found:
            yield _as_arrow(found)

    def dots(self) -> Dots:
        """What is measured of every row."""
        given = self.shared.given()
        return given.once(DIRECTION, lambda: Dots({"u": tensors(given.states[DIRECTION])}, key=DIRECTION))


@dataclass(frozen=True)
class _Row:
    """The i-th row of a batch as a neighbour."""

    batch: Batch
    p: np.ndarray
    dates: pa.Array
    start: int

    def __call__(self, at: int) -> Neighbour:
        label = float(self.batch.label[at])
        return Neighbour(
            0.0,
            1,
            int(self.batch.sample_id[at]),
            self.dates[self.start + at].as_py(),
            label,
            float(self.p[at]),
            pattern_of(self.batch, at),
        )


def pattern_of(batch: Batch, at: int) -> bytes:
    """What rows with the same inputs and label have in common: 16 bytes."""
    seen = hashlib.blake2b(np.float32(batch.label[at]).tobytes(), digest_size=16)
    for name in sorted(batch.inputs):
        seen.update(batch.inputs[name][at].contiguous().numpy().tobytes())
    return seen.digest()


def merged(found: Iterable[tuple[int, Neighbour]], count: int) -> tuple[list[Neighbour], list[Neighbour]]:
    """The ``count`` most helpful and most harmful patterns of all partitions' finds, the strongest first."""
    sides = {1: Extremes(count + MARGIN), -1: Extremes(count + MARGIN)}
    for side, one in sorted(found, key=lambda pair: (-pair[1].value, pair[1].pattern)):
        sides[side].put(one)
    kept = {side: [one for one in best.best() if one.value > 0][:count] for side, best in sides.items()}
    return kept[1], [replace(one, value=-one.value) for one in kept[-1]]


def candidates(ctx: Context, samples: TableRef, columns: list[str], *, but: int) -> tuple[DataFrame, float]:
    """The training rows without one, or about ``explain.candidates`` of them; and the share of rows that is looked at."""
    from pyspark.sql import functions as F

    rows, share, most = split_rows(ctx, samples.version, "train"), 1.0, ctx.config.explain.candidates
    if samples.rows is None or samples.rows > most:  # else there is no need to count them
        rows, share = at_most(rows, most, seed=SEED, purpose="explain")
    kept = [name for name in ("sample_id", "event_date", "label", *columns) if name in rows.columns]
    return rows.where(F.col("sample_id") != F.lit(but)).select(*kept), share


def find(ctx: Context, rows: DataFrame, shared: Pass) -> tuple[list[Neighbour], list[Neighbour]]:
    """The most helpful and the most harmful of these rows; a partition sends a few rows, whatever its size."""
    count = ctx.config.explain.neighbours
    function = FindNeighbours(shared, count + MARGIN)
    with workers(
        "looking for neighbours",
        remedy="mend what the message names, and run 'sie explain' again",
        otherwise="look at the executors' logs for the task that failed",
    ):
        found = rows.coalesce(PARTITIONS).mapInArrow(function, FOUND).collect()  # 16 x a few
    return merged([(row["side"], _neighbour(row)) for row in found], count)


def _neighbour(row: Any) -> Neighbour:
    return Neighbour(
        float(row["value"]),
        int(row["rows"]),
        int(row["sample_id"]),
        row["event_date"],
        float(row["label"]),
        float(row["p"]),
        bytes(row["pattern"]),
    )


def _as_arrow(found: list[tuple[int, Neighbour]]) -> pa.RecordBatch:
    columns = {
        "side": pa.array([side for side, _ in found], pa.int32()),
        "pattern": pa.array([one.pattern for _, one in found], pa.binary()),
        "rows": pa.array([one.rows for _, one in found], pa.int64()),
        "value": pa.array([one.value for _, one in found], pa.float64()),
        "sample_id": pa.array([one.sample_id for _, one in found], pa.int64()),
        "event_date": pa.array([one.event_date for _, one in found], pa.date32()),
        "label": pa.array([one.label for _, one in found], pa.float32()),
        "p": pa.array([one.p for _, one in found], pa.float64()),
    }
    return pa.RecordBatch.from_pydict(columns)
