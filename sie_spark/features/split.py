"""Which rows train, validate and test: cuts in time, exact, and nothing before a cut looks past it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from sie_spark.features.hashing import unit_interval
from sie_spark.platform.config import Dataset
from sie_spark.platform.errors import DataError

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame

LONG_WAIT = 0.05  # of the time before the test part, for a label to be final


@dataclass(frozen=True)
class Cut:
    """The frozen split, by time (epoch seconds, UTC) or by hash of the group.

    By time ``train < validation_seconds <= validation < seconds <= test``. Where ``validation_seconds`` is None,
    ``validation_fraction`` of the groups that are not tested validate, by a hash; 0: there is no such part.
    """

    by: str
    seconds: int | None = None
    test_fraction: float | None = None
    validation_seconds: int | None = None
    validation_fraction: float = 0.0

    def part(self) -> Column:
        """``train``, ``validation`` or ``test``, over impression columns."""
        from pyspark.sql import functions as F

        if self.by == "hash":
            place, test = unit_interval("group_key", F.lit("split")), self.test_fraction or 0.0
            validation = place < F.lit(test + self.validation_fraction * (1.0 - test))
            return F.when(place < F.lit(test), "test").when(validation, "validation").otherwise("train")
        seconds = F.unix_seconds("event_ts")
        before = F.when(seconds < F.lit(self.validation_seconds or self.seconds), "train")
        if self.validation_seconds is None and self.validation_fraction:
            held = unit_interval("group_key", F.lit("validation")) < F.lit(self.validation_fraction)
            before = F.when(held & (seconds < F.lit(self.seconds)), "validation").when(
                seconds < F.lit(self.seconds), "train"
            )
        return before.when(seconds < F.lit(self.seconds), "validation").otherwise("test")

    def is_immature(self, dataset: Dataset, columns: Sequence[str]) -> Column:
        """True where a label was not final yet: at the end of the log or, before a cut, at that cut.

        A row near the cut owes its label to days that a model trained at the cut could not have seen; one near
        the end of the log, a test row as well, may still get its outcome, and its 0 is no negative.
        """
        from pyspark.sql import functions as F

        known = knows_final(dataset, columns)
        young = ~F.coalesce(F.col("label_mature"), F.lit(True)) if known else F.lit(False)
        if self.by == "time":
            final = F.unix_seconds("event_ts") + F.lit(dataset.label_hours * 3600.0)
            cut = F.when(self.part() == "train", F.lit(self.validation_seconds or self.seconds))
            cut = cut.when(self.part() == "validation", F.lit(self.seconds))
            young = young | F.coalesce(final > cut, F.lit(False))
        return young

    def as_dict(self) -> dict[str, Any]:
        """Plain data, the cut readable too."""
        text = None if self.seconds is None else datetime.fromtimestamp(self.seconds, UTC).isoformat()
        return {**asdict(self), "test_from": text}

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Cut:
        """Inverse of :meth:`as_dict`."""
        return cls(**{field.name: data[field.name] for field in fields(cls)})


def knows_final(dataset: Dataset, columns: Sequence[str]) -> bool:
    """Whether ``label_mature`` is about the label: it says that conversions are final, not clicks."""
    return dataset.label == "conversion" and dataset.label_hours > 0 and "label_mature" in columns


def find_cut(impressions: DataFrame, dataset: Dataset) -> Cut:
    """The cuts the settings ask for; by time, exact percentiles of epoch seconds.

    The validation part is the last share of what the test part leaves. Of conversions, the rows are counted whose label is final: the others are no test rows.

    Raises
    ------
    DataError
        when rows have no time, or all the same, so that one side would be empty.
    """
    split = dataset.split
    if split.by == "hash":
        return Cut("hash", test_fraction=split.test_fraction, validation_fraction=split.validation_fraction)
    cut = _test_cut(impressions, dataset)
    if not split.validation_fraction:
        return Cut("time", seconds=cut)
    validation = _validation_cut(impressions, dataset, cut)
    if validation is None:
        return Cut("time", seconds=cut, validation_fraction=split.validation_fraction)
    return Cut("time", seconds=cut, validation_seconds=validation)


def _validation_cut(impressions: DataFrame, dataset: Dataset, test_from: int) -> int | None:
    """Where the last share of the rows before the test part begins; None where no such cut will do.

    That is where their times are one, or where labels take long to be final: rows before a cut whose label is not
    final at it are left out, and a second cut would cost the days before it.
    """
    from pyspark.sql import functions as F

    seconds = F.unix_seconds("event_ts")
    before = impressions.where(seconds < F.lit(test_from))
    share = F.lit(1.0 - dataset.split.validation_fraction)
    row = before.agg(F.percentile(seconds, share), F.min(seconds), F.max(seconds)).first()
    assert row is not None
    if row[0] is None:
        raise DataError(
            f"impressions: no row lies before {_iso(test_from)}, where the test part begins",
            remedy="move dataset.split.test_from",
        )
    cut = max(math.ceil(row[0]), int(row[1]) + 1)
    waits = dataset.label_hours * 3600.0 > LONG_WAIT * (test_from - int(row[1]))
    return None if cut > row[2] or waits else cut


def _test_cut(impressions: DataFrame, dataset: Dataset) -> int:
    split = dataset.split
    if split.test_from is not None:
        return _epoch(split.test_from)
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
    return cut


def _iso(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat()


def _epoch(text: str) -> int:
    moment = datetime.fromisoformat(text)  # the settings hold nothing else
    return math.ceil((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp())
