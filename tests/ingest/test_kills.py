"""An incremental source, killed after each thing that ingest writes while files arrive, gives what one batch gives."""

import re
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from pyspark.sql import DataFrameWriter, SparkSession
from pyspark.sql.streaming.query import StreamingQuery

from helpers.logs import DAY, START, event, settings, write
from sie_spark.ingest import ingest
from sie_spark.ingest.pseudonyms import ENVIRONMENT
from sie_spark.platform.root import Root

pytestmark = pytest.mark.spark
WRITES = (
    (Root, "write_bytes"),
    (Root, "remove"),
    (DataFrameWriter, "save"),
    (StreamingQuery, "awaitTermination"),
    (SparkSession, "sql"),
)
STATEMENT = re.compile("CREATE|MERGE|DELETE|VACUUM")


class Killed(BaseException):
    """Nothing catches it, as nothing catches a SIGKILL."""


def kill_after(patch: pytest.MonkeyPatch, writes: int) -> None:
    """End the process, so to say, when it has written so many times."""
    left = [writes]

    def wrapped(real: Any) -> Any:
        def act(self: Any, *args: Any, **more: Any) -> Any:
            done = real(self, *args, **more)
            if real.__name__ != "sql" or STATEMENT.match(args[0]):
                left[0] -= 1
                if not left[0]:
                    raise Killed
            return done

        return act

    for owner, name in WRITES:
        patch.setattr(owner, name, wrapped(getattr(owner, name)))


def deliver(log: Path, number: int) -> None:
    """A file: a new record, one of the file before it, one of an old date, one sent daily, and broken ones."""
    new, before = (
        event(f"{number}", ts=START + number * DAY),
        event(f"{number - 1}", ts=START + (number - 1) * DAY),
    )
    daily = event("daily", ts=START + number * DAY)
    broken = event(f"broken {number // 2}", price="dear")
    write(log / f"{number}.json", new, new, before, event(f"late {number}"), daily, broken, "torn")


def test_killed_after_every_write(make_context, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv(ENVIRONMENT, "one key for both roots")
    log, kills = tmp_path / "log", 0
    ctx = make_context(settings(log, dedup_days=1, source={"incremental": True}))
    for kills in count(1):
        deliver(log, kills)
        with monkeypatch.context() as patch:
            kill_after(patch, kills)
            try:
                ingest.run(ctx)
            except Killed:
                continue
        break
    assert kills > 10
    ingest.run(ctx)
    batch = make_context(settings(log, dedup_days=1), root=tmp_path / "batch")
    told = ingest.run(batch).rows
    assert (told.read, told.kept) == (7 * kills, 2 * kills + 1 + (kills + 1) // 2)
    for table in ("events", "quarantine"):
        held, wanted = (one.catalog.read(table).drop("quarantined_at", "source_file") for one in (ctx, batch))
        assert held.exceptAll(wanted).isEmpty() and wanted.exceptAll(held).isEmpty(), table
