"""What the commits of a table say of its rows, and writes that another's commit comes between."""

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from pyspark.sql import DataFrame, Observation
from pyspark.sql import functions as F

from sie_spark.ingest.staging import overwrite
from sie_spark.platform import catalog
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
    SELECT 'weighted' AS arm, 'train' AS split, DATE'2024-03-01' AS event_date, 1 AS id
    UNION ALL SELECT 'random', 'train', DATE'2024-03-02', 2
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


@pytest.mark.spark
def test_a_table_is_known_by_its_first_commit_and_without_it(spark: Any, tmp_path: Path, monkeypatch) -> None:
    table = Catalog(spark, Root(tmp_path))
    ids = set()
    for _ in range(2):  # made, and replaced as a whole
        table.replace(spark.sql(ROWS), "predictions", fingerprint="", job="test")
        ids.add(table.identity("predictions"))
    monkeypatch.setattr(catalog, "FIRST", "removed in time")
    assert ids == {table.identity("predictions")}


def interrupted(rows: DataFrame, folder: Path) -> DataFrame:
    """The rows, one at a time; the first pass over them waits until another has written to the table."""
    passes, committed = str(folder / "passes"), str(folder / "committed")

    def wait(batches: Iterator[Any]) -> Iterator[Any]:
        import os

        with open(passes, "a", encoding="utf-8") as file:
            file.write("one\n")
        patience = time.time() + 120
        while not os.path.exists(committed):
            assert time.time() < patience, "the other writer never wrote"
            time.sleep(0.05)
        yield from batches

    return rows.coalesce(1).mapInPandas(wait, "arm string, split string, event_date date, id int")


@pytest.mark.spark
@pytest.mark.parametrize("staged", [False, True], ids=["replaced", "staged"])
def test_a_write_is_made_again_after_another_ones_commit(spark: Any, tmp_path: Path, staged: bool) -> None:
    catalog = Catalog(spark, Root(tmp_path))
    path = catalog.path("training_set")
    two, one = spark.sql(ROWS), spark.sql(ROWS).where("arm = 'random'")

    def put(frame: DataFrame, fingerprint: str) -> None:
        if staged:
            overwrite(frame, path)
        else:
            catalog.replace(frame, "training_set", fingerprint=fingerprint, job="test")

    put(one, "before")

    def other() -> None:
        passes = tmp_path / "passes"
        wait_for(passes.exists)
        put(one, "other")
        (tmp_path / "committed").touch()

    seen = Observation("seen")
    counted = interrupted(two, tmp_path).observe(seen, F.count("*").alias("rows"))
    with ThreadPoolExecutor(1) as pool:
        done = pool.submit(other)
        put(counted, "ours")
        done.result()
    assert (tmp_path / "passes").read_text().count("one") == 2
    assert seen.get == {"rows": 2}
    table = spark.read.format("delta").load(path)
    assert sorted(table.select("arm").collect()) == [("random",), ("weighted",)]
    history = spark.sql(f"DESCRIBE HISTORY {catalog.sql_name('training_set')}")
    assert [row[0] for row in history.select("version").collect()] == [2, 1, 0]
    if not staged:
        assert catalog.fingerprint("training_set") == "ours"


def wait_for(condition: Callable[[], bool]) -> None:
    patience = time.time() + 120
    while not condition():
        assert time.time() < patience, "waited in vain"
        time.sleep(0.05)
