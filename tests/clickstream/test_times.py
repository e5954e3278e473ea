"""Times: formats, zones, and values no clock wrote."""

from datetime import datetime

import pytest
from pyspark.sql import functions as F

from sie_spark.clickstream.times import parse_time, sensible
from sie_spark.platform.config import Dataset, EventTime

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
    ("iso", "UTC", "2024", None),
    ("iso", "UTC", "2024-13-45", None),
    ("yyMMddHH", "UTC", "14102123", datetime(2014, 10, 21, 23)),
    ("yyMMddHH", "UTC", "x", None),
]


def test_formats_and_zones(spark) -> None:
    before = spark.conf.get("spark.sql.ansi.enabled")
    spark.conf.set("spark.sql.ansi.enabled", "false")
    try:
        columns = []
        for index, (format, zone, text, _) in enumerate(CASES):
            dataset = Dataset(
                name="t",
                columns={"event_type": "x"},
                event_time=EventTime(expression="x", format=format),
                time_zone=zone,
            )
            columns.append(parse_time(F.lit(text), "string", dataset).alias(f"c{index}"))
        row = (
            spark.range(1)
            .select(*[F.date_format(column, "yyyy-MM-dd HH:mm:ss.SSSSSS") for column in columns])
            .first()
        )
    finally:
        spark.conf.set("spark.sql.ansi.enabled", before)
    found = [datetime.strptime(text, "%Y-%m-%d %H:%M:%S.%f") if text else None for text in row]
    assert found == [wanted for *_, wanted in CASES]


def test_sensible(spark) -> None:
    times = ["1970-01-01", "1989-12-31 23:59:59", "1990-01-01", "2099-12-31", "2100-01-01", "9999-01-01"]
    row = spark.range(1).select(*[sensible(F.lit(t).cast("timestamp")) for t in times]).first()
    assert list(row) == [False, False, True, True, False, False]
