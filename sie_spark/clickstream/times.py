"""Event times in one form: timestamps in UTC, from numbers, text in a zone, or timestamps."""

from __future__ import annotations

from pyspark.sql import Column
from pyspark.sql import functions as F

from sie_spark.platform.config import Dataset

FIRST_TIME, LAST_TIME = "1990-01-01T00:00:00Z", "2100-01-01T00:00:00Z"
UNKNOWN_DATE = "1970-01-01"
EPOCHS = {"epoch_seconds": 1_000_000, "epoch_millis": 1_000, "epoch_micros": 1}
LARGEST = 253_402_300_799 * 1_000_000  # 9999-12-31, in microseconds
ZONED = r"(?i)(?:[zZ]|UTC|GMT|[+-]\d{2}(?::?\d{2})?)\s*$"


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
        return F.when(F.substring(text, 11, 100).rlike(ZONED), parsed).otherwise(_from_zone(parsed, zone))
    parsed = F.try_to_timestamp(F.trim(text), F.lit(format))
    named = any(letter in format.replace("'T'", "") for letter in ("X", "x", "Z", "V", "z", "O"))
    return parsed if named else _from_zone(parsed, zone)


def sensible(time: Column) -> Column:
    """Whether a time is one a log can hold; years 1, 1970 and 9999 are what broken clocks write."""
    inside = (time >= F.lit(FIRST_TIME).cast("timestamp")) & (time < F.lit(LAST_TIME).cast("timestamp"))
    return F.coalesce(inside, F.lit(False))


def _from_zone(time: Column, zone: str) -> Column:
    return time if zone == "UTC" else F.to_utc_timestamp(time, zone)
