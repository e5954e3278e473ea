"""Upkeep of the tables keeps their rows, and lets the text of unparsed records go when its days are over."""

from pathlib import Path
from unittest.mock import Mock

import pyarrow.parquet as pq
import pytest

from helpers.logs import event, rows, settings, write
from sie_spark.ingest import ingest
from sie_spark.platform.errors import DataError
from sie_spark.upkeep import maintain


@pytest.mark.spark
def test_upkeep_keeps_rows_and_lets_verbatim_text_go(make_context, tmp_path: Path, spark) -> None:
    ctx = make_context(settings(write(tmp_path / "log.json", event("1"), '{"torn'), unparsed_days=0))
    ingest.run(ctx)
    for _ in range(2):  # three small files of one date
        ctx.catalog.read("events").limit(1).write.format("delta").mode("append").save(
            ctx.catalog.path("events")
        )
    before = rows(ctx.catalog.read("events"))
    ctx.root.write_bytes(b"{}", "_staging", "abandoned.json")
    for made in ("used", "old"):
        ctx.root.write_bytes(b"sums", "artefacts", "id_counts", made, "state.npz")
    ctx.save_details("score", {"artefacts": {"id_counts": "used"}})
    result = maintain.run(ctx)
    assert not ctx.root.entries("_staging")
    assert ctx.root.entries("artefacts", "id_counts") == ["used"] and result.details["artefacts_removed"] == 1
    assert rows(ctx.catalog.read("events")) == before and len(before) == 3
    assert result.details["events"] == {"files_added": 1, "files_removed": 3}
    assert result.details["unparsed_texts_removed"] == 1
    held = rows(ctx.catalog.read("quarantine"))
    assert len(held) == 1 and held[0]["unparsed"] is None and held[0]["reasons"] == ["unparsable"]
    wrong = ctx.catalog.read("quarantine").selectExpr(
        "* EXCEPT (reasons)", "array()::array<string> AS reasons"
    )
    with pytest.raises(Exception, match=r"CHECK constraint|DELTA_VIOLATE_CONSTRAINT"):
        wrong.write.format("delta").mode("append").save(ctx.catalog.path("quarantine"))
    spark.sql(f"ALTER TABLE {ctx.catalog.sql_name('events')} DROP CONSTRAINT rate")
    with pytest.raises(DataError, match="lost delta.constraints.rate"):
        maintain.run(ctx)


@pytest.mark.spark
def test_text_that_landed_under_a_mapping_of_before_is_let_go(
    make_context, tmp_path: Path, monkeypatch, spark
) -> None:
    log = write(tmp_path / "log" / "1.json", event("1"), '{"torn').parent
    ctx = make_context(settings(log, source={"incremental": True}, unparsed_days=1))
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(ingest, "stage", Mock(side_effect=KeyboardInterrupt))
        ingest.run(ctx)
    ingest.run(make_context(settings(log, source={"incremental": True}, time_zone="Europe/Berlin")))
    landings = sorted((tmp_path / "root" / "_staging").glob("landing-*"))

    def texts() -> list[str | None]:
        files = [file for landing in landings for file in landing.glob("*.parquet")]
        return [text for file in files for text in pq.read_table(file)["unparsed"].to_pylist()]

    assert maintain.run(ctx).details["unparsed_texts_removed"] == 0  # a day is not over
    assert len(landings) == 2 and '{"torn' in texts()
    late = make_context(settings(log, source={"incremental": True}, unparsed_days=0))
    assert maintain.run(late).details["unparsed_texts_removed"] == 2  # one is in quarantine
    assert texts() == [None, None]
