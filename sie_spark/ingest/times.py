"""Event times in one form: timestamps in UTC, from numbers, text in a zone, or timestamps."""

from __future__ import annotations

import difflib
import re
from typing import TYPE_CHECKING

from pyspark.sql import Column
from pyspark.sql import functions as F

from sie_spark.platform.config import Dataset
from sie_spark.platform.errors import ConfigError

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

FIRST_TIME, LAST_TIME = "1990-01-01T00:00:00Z", "2100-01-01T00:00:00Z"
UNKNOWN_DATE = "1970-01-01"
EPOCHS = {"epoch_seconds": 1_000_000, "epoch_millis": 1_000, "epoch_micros": 1}
LARGEST = 253_402_300_799 * 1_000_000  # 9999-12-31, in microseconds
# an ISO time after whose digits nothing follows; every other that Spark can parse names its zone
ZONELESS = r"^\s*\d+-\d{1,2}-\d{1,2}(?:[T ](?:\d{1,2}(?::\d{0,2}){0,2}(?:\.\d*)?)?)?\s*$"
QUOTED = r"'(?:[^']|'')*'"


def parse_time(value: Column, kind: str, dataset: Dataset) -> Column:
    """A timestamp, or null where the value is none (never an error).

    ``kind`` is the value's Spark type in words. Times that name no zone are in ``dataset.time_zone``.
    """
    setting = dataset.event_time
    format = setting.format if setting is not None else "iso"
    zone = dataset.time_zone
    if format in EPOCHS:
        number = value.cast("string").try_cast("decimal(38,6)")
        micros = (number * F.lit(EPOCHS[format])).try_cast("decimal(38,0)")
        return F.when(F.abs(micros) < F.lit(LARGEST), F.timestamp_micros(micros.cast("bigint")))
    if kind == "timestamp":
        return value
    if kind in ("timestamp_ntz", "date"):
        return _from_zone(value.cast("timestamp"), zone)
    text = value.cast("string")
    if format == "iso":
        # a bare number is no ISO time, though Spark would take '2024' for a year
        parsed = F.when(text.rlike(r"^\s*\d{4}-\d{1,2}-\d{1,2}"), F.try_to_timestamp(F.trim(text)))
        if zone == "UTC":
            return parsed
        return F.when(text.rlike(ZONELESS), _from_zone(parsed, zone)).otherwise(parsed)
    parsed = F.try_to_timestamp(F.trim(text), F.lit(format))
    named = any(letter in re.sub(QUOTED, "", format) for letter in "XxZVzO")
    return parsed if named else _from_zone(parsed, zone)


def check_format(dataset: Dataset, spark: SparkSession) -> None:
    """Raise :class:`ConfigError` for a time pattern that Spark has not, before a record is read."""
    from pyspark.errors import PySparkException

    format = dataset.event_time.format if dataset.event_time is not None else "iso"
    if format == "iso" or format in EPOCHS:
        return
    try:
        spark.range(1).select(F.try_to_timestamp(F.lit("x"), F.lit(format))).collect()  # one row
    except PySparkException:
        near = difflib.get_close_matches(format, EPOCHS, n=1, cutoff=0.5)
        raise ConfigError(
            f"dataset.event_time.format: '{format}' is no time pattern",
            remedy=f"did you mean '{near[0]}'?"
            if near
            else f"write iso, {', '.join(EPOCHS)}, or a pattern of Spark's such as dd.MM.yyyy HH:mm:ss",
        ) from None


def sensible(time: Column) -> Column:
    """Whether a time is one a log can hold; years 1, 1970 and 9999 are what broken clocks write."""
    inside = (time >= F.lit(FIRST_TIME).cast("timestamp")) & (time < F.lit(LAST_TIME).cast("timestamp"))
    return F.coalesce(inside, F.lit(False))


def _from_zone(time: Column, zone: str) -> Column:
    return time if zone == "UTC" else F.to_utc_timestamp(time, zone)
