"""Which rows train and which test: one cut in time, exact, and nothing before it looks past it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from sie_spark.features.hashing import unit_interval
from sie_spark.platform.config import Dataset
from sie_spark.platform.errors import DataError

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame


@dataclass(frozen=True)
class Cut:
    """The frozen split: by time ``train < seconds <= test`` (epoch seconds, UTC), or by hash of the group."""

    by: str
    seconds: int | None = None
    test_fraction: float | None = None

    def is_train(self) -> Column:
        """True for a training row, over impression columns."""
        from pyspark.sql import functions as F

        if self.by == "hash":
            return unit_interval("group_key", F.lit("split")) >= F.lit(self.test_fraction)
        return F.unix_seconds("event_ts") < F.lit(self.seconds)

    def is_immature(self, dataset: Dataset, columns: Sequence[str]) -> Column:
        """True where a label was not final yet: at the end of the log or, in training, at the cut.

        A row near the cut owes its label to days that a model trained at the cut could not have seen; one near
        the end of the log, a test row as well, may still get its outcome, and its 0 is no negative.
        """
        from pyspark.sql import functions as F

        known = knows_final(dataset, columns)
        young = ~F.coalesce(F.col("label_mature"), F.lit(True)) if known else F.lit(False)
        if self.by == "time":
            at_cut = F.unix_seconds("event_ts") + F.lit(dataset.label_hours * 3600.0) > F.lit(self.seconds)
            young = young | (self.is_train() & at_cut)
        return young

    def as_dict(self) -> dict[str, Any]:
        """Plain data, the cut readable too."""
        text = None if self.seconds is None else datetime.fromtimestamp(self.seconds, UTC).isoformat()
        return {**asdict(self), "test_from": text}

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Cut:
        """Inverse of :meth:`as_dict`."""
        return cls(data["by"], data["seconds"], data["test_fraction"])


def knows_final(dataset: Dataset, columns: Sequence[str]) -> bool:
    """Whether ``label_mature`` is about the label: it says that conversions are final, not clicks."""
    return dataset.label == "conversion" and dataset.label_hours > 0 and "label_mature" in columns


def find_cut(impressions: DataFrame, dataset: Dataset) -> Cut:
    """The cut the settings ask for; by time, an exact percentile of epoch seconds.

    Of conversions, the rows are counted whose label is final: the others are no test rows.

    Raises
    ------
    DataError
        when rows have no time, or all the same, so that one side would be empty.
    """
    split = dataset.split
    if split.by == "hash":
        return Cut("hash", test_fraction=split.test_fraction)
    if split.test_from is not None:
        return Cut("time", seconds=_epoch(split.test_from))
    from pyspark.sql import functions as F

    seconds = F.unix_seconds("event_ts")
    becomes_final = knows_final(dataset, impressions.columns)
    if becomes_final:
        impressions = impressions.where(F.coalesce("label_mature", F.lit(True)))
    row = impressions.agg(
        F.percentile(seconds, F.lit(1.0 - split.test_fraction)), F.min(seconds), F.max(seconds)
    ).first()
    assert row is not None
    if row[0] is None and becomes_final:
        raise DataError(
            f"impressions: no row has a time and a final label: all are younger than {dataset.label_hours:g} hours",
            remedy="wait for later events, or lower dataset.maturity_hours; without times set dataset.split.by=hash",
        )
    if row[0] is None:
        raise DataError(
            "impressions: no row has an event_ts, so they cannot be split by time",
            remedy="map event_ts in dataset.columns, or set dataset.split.by=hash",
        )
    cut = max(math.ceil(row[0]), int(row[1]) + 1)
    if cut > row[2]:
        raise DataError(
            f"impressions: all times lie between {_iso(row[1])} and {_iso(row[2])}, too close for a split by time",
            remedy="set dataset.split.by=hash, or dataset.split.test_from to a time between them",
        )
    return Cut("time", seconds=cut)


def _iso(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat()


def _epoch(text: str) -> int:
    moment = datetime.fromisoformat(text)  # the settings hold nothing else
    return math.ceil((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp())
