"""What the commits of a table say of its rows, without a look at the table."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pyspark.sql import functions as F

from sie_spark.platform.catalog import Catalog, rows_said
from sie_spark.platform.config import Session
from sie_spark.platform.root import Root
from sie_spark.platform.session import open_session

MADE = ("CREATE TABLE", {}, {})
TEN = ("WRITE", {"mode": "Overwrite"}, {"numOutputRows": "10"})
THREE_MORE = ("MERGE", {}, {"numTargetRowsInserted": "3", "numTargetRowsDeleted": "0"})
TWO_LESS = ("MERGE", {}, {"numTargetRowsInserted": "0", "numTargetRowsDeleted": "2"})
APPENDED = ("WRITE", {"mode": "Append"}, {"numOutputRows": "4"})
ROWS = """
    SELECT 'weighted' AS arm, DATE'2024-03-01' AS event_date, 1 AS id
    UNION ALL SELECT 'random', DATE'2024-03-02', 2
"""
COMPACTED = ("OPTIMIZE", {}, {"numOutputRows": "99"})


def test_rows_since_the_table_was_made_or_replaced() -> None:
    assert rows_said([MADE]) == 0
    assert rows_said([THREE_MORE, MADE]) == 3
    assert rows_said([COMPACTED, TWO_LESS, THREE_MORE, APPENDED, TEN, THREE_MORE, MADE]) == 15


def test_what_commits_do_not_say_is_left_to_be_counted() -> None:
    by_date = ("WRITE", {"mode": "Overwrite", "predicate": "[]"}, {"numOutputRows": "5"})
    dynamic = {"mode": "Overwrite", "isDynamicPartitionOverwrite": "true"}
    for unknown in (
        by_date,
        ("WRITE", dynamic, {"numOutputRows": "5"}),
        ("DELETE", {}, {"numDeletedRows": "1"}),
        ("RESTORE", {}, {}),
        ("WRITE", {"mode": "Overwrite"}, {}),
        ("MERGE", {}, {"numTargetRowsInserted": "3"}),
    ):
        assert rows_said([THREE_MORE, unknown, TEN]) is None
    assert rows_said([THREE_MORE]) is None  # older commits are no longer kept
    assert rows_said([]) is None


@pytest.fixture
def dynamic(spark: Any) -> Iterator[Any]:
    """A session whose platform overwrites only the partitions that come."""
    mode = "spark.sql.sources.partitionOverwriteMode"
    before = spark.conf.get(mode)
    spark.conf.set(mode, "dynamic")
    yield spark
    spark.conf.set(mode, before)


@pytest.mark.spark
def test_a_table_replaced_as_a_whole_keeps_no_partition(dynamic: Any, tmp_path: Path) -> None:
    catalog = Catalog(open_session(Session(mode="existing")), Root(tmp_path))
    for condition, left in (("true", 2), ("arm = 'random'", 1)):
        frame = dynamic.sql(ROWS).where(condition)
        assert catalog.replace(frame, "training_set", fingerprint="x", job="test").rows == left
        assert catalog.read("training_set").count() == left


@pytest.mark.spark
def test_a_table_made_anew_is_another_at_the_same_version(spark: Any, tmp_path: Path) -> None:
    catalog = Catalog(spark, Root(tmp_path))
    two_files = spark.sql(ROWS).union(spark.sql(ROWS)).repartition(4, "arm", F.rand(0))
    first = catalog.replace(two_files, "training_set", fingerprint="x", job="test")
    spark.sql(f"OPTIMIZE {catalog.sql_name('training_set')}").collect()
    tidied = catalog.ref("training_set")
    assert tidied.version > first.version
    assert (tidied.content, tidied.rows) == (first.content, 4)
    catalog.root.remove("tables", "training_set")
    frame = spark.sql(ROWS).where("arm = 'random'")
    second = catalog.replace(frame, "training_set", fingerprint="y", job="test")
    assert second.version == first.version
    assert second.content != first.content
    assert second.rows == 1
