"""Times: formats, zones, and values no clock wrote."""

from datetime import datetime

import pytest
from pyspark.sql import functions as F

from sie_spark.ingest.times import check_format, parse_time, sensible
from sie_spark.platform.config import Dataset, EventTime
from sie_spark.platform.errors import ConfigError
from sie_spark.platform.tables import EXPRESSIONS, session_settings

pytestmark = pytest.mark.spark
CASES = [
    ("epoch_seconds", "UTC", "1709251200", datetime(2024, 3, 1)),
    ("epoch_seconds", "UTC", "1709251200.25", datetime(2024, 3, 1, 0, 0, 0, 250000)),
    ("epoch_millis", "UTC", "1709251200123", datetime(2024, 3, 1, 0, 0, 0, 123000)),
    ("epoch_millis", "UTC", "9223372036854775807", None),
    ("epoch_seconds", "UTC", "1e300", None),
    ("epoch_seconds", "UTC", "soon", None),
    ("iso", "UTC", "2024-03-01 10:00:00", datetime(2024, 3, 1, 10)),
    ("iso", "Asia/Shanghai", "2024-03-01 10:00:00", datetime(2024, 3, 1, 2)),
    ("iso", "Asia/Shanghai", "2024-03-01T10:00:00Z", datetime(2024, 3, 1, 10)),
    ("iso", "Asia/Shanghai", "2024-03-01T10:00:00+01:00", datetime(2024, 3, 1, 9)),
    # whatever Spark takes for a zone is one
    ("iso", "Asia/Shanghai", "2024-06-01 10:00:00 Europe/Berlin", datetime(2024, 6, 1, 8)),
    ("iso", "Asia/Shanghai", "2024-06-01 10:00:00 CET", datetime(2024, 6, 1, 8)),
    ("iso", "Asia/Shanghai", "2024-06-01T10:00:00 +2:00", datetime(2024, 6, 1, 8)),
    (
        "iso",
        "Asia/Shanghai",
        "2024-06-01T10:00:00.5 America/New_York",
        datetime(2024, 6, 1, 14, 0, 0, 500000),
    ),
    ("iso", "Asia/Shanghai", "2024-06-01T10:00:00UTC+2", datetime(2024, 6, 1, 8)),
    ("iso", "Asia/Shanghai", " 2024-6-1 10:00:00.25 ", datetime(2024, 6, 1, 2, 0, 0, 250000)),
    ("iso", "Asia/Shanghai", "2024-06-01T10", datetime(2024, 6, 1, 2)),
    ("iso", "Asia/Shanghai", "2024-06-01", datetime(2024, 5, 31, 16)),
    ("iso", "UTC", "2024", None),
    ("iso", "UTC", "2024-13-45", None),
    ("yyMMddHH", "UTC", "14102123", datetime(2014, 10, 21, 23)),
    ("yyMMddHH", "UTC", "x", None),
    ("yyyy-MM-dd", "UTC", "2024-3-1", None),  # Spark 2 took it, and Spark would fail the job over it
    ("dd.MM.yyyy 'Zeit' HH:mm", "Europe/Berlin", "01.06.2024 Zeit 10:00", datetime(2024, 6, 1, 8)),
    ("dd.MM.yyyy HH:mm z", "Europe/Berlin", "01.06.2024 10:00 UTC", datetime(2024, 6, 1, 10)),
]


def with_format(format: str, **more: str) -> Dataset:
    time = EventTime(expression="x", format=format)
    return Dataset(name="t", columns={"event_type": "x"}, event_time=time, **more)


@pytest.mark.parametrize(
    ("format", "remedy"),
    [("epoch_ms", "'epoch_millis'"), ("%d.%m.%Y", "dd.MM"), ("YYYY-MM-dd", "dd.MM"), ("q", "iso")],
)
def test_a_format_that_is_none(spark, format: str, remedy: str) -> None:
    with pytest.raises(ConfigError, match="event_time.format") as error:
        check_format(with_format(format), spark)
    assert format in str(error.value) and remedy in error.value.remedy


def test_formats_and_zones(spark) -> None:
    with session_settings(spark, EXPRESSIONS):
        columns = []
        for index, (format, zone, text, _) in enumerate(CASES):
            dataset = with_format(format, time_zone=zone)
            columns.append(parse_time(F.lit(text), "string", dataset).alias(f"c{index}"))
            check_format(dataset, spark)
        row = (
            spark.range(1)
            .select(*[F.date_format(column, "yyyy-MM-dd HH:mm:ss.SSSSSS") for column in columns])
            .first()
        )
    found = [datetime.strptime(text, "%Y-%m-%d %H:%M:%S.%f") if text else None for text in row]
    assert found == [wanted for *_, wanted in CASES]


def test_sensible(spark) -> None:
    times = ["1970-01-01", "1989-12-31 23:59:59", "1990-01-01", "2099-12-31", "2100-01-01", "9999-01-01"]
    row = spark.range(1).select(*[sensible(F.lit(t).cast("timestamp")) for t in times]).first()
    assert list(row) == [False, False, True, True, False, False]
