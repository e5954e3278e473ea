"""An event key that begins anew each day: two events of two days, hence two impressions and two samples."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from helpers.logs import DAY, START, event, rows, settings, write
from sie_spark.features import encode
from sie_spark.impressions import impressions
from sie_spark.ingest import ingest
from sie_spark.platform.errors import ConfigError
from sie_spark.upkeep import forget

pytestmark = pytest.mark.spark
EACH = 40  # rows a day


def log(**values: Any) -> list[dict]:
    """Row numbers 0 to 39 on each of three days; ann comes on the first, bob on the others."""
    return [
        event(
            str(at),
            ts=START + day * DAY + 60 * at,
            user="bob" if day else "ann",
            session=f"s{day}",
            item=f"i{at % 7}",
            price=float(at % 3 == 0),
            **values,
        )
        for day in range(3)
        for at in range(EACH)
    ]


def config(path: Path, **dataset: Any) -> dict[str, Any]:
    return settings(
        path,
        impressions={"event": "event_type = 'view'", "click": "price = 1"},
        history={"session": False},
        group=None,
        features=[{"column": "item_id", "kind": "category"}],
        **dataset,
    )


def held(ctx: Any, table: str, *columns: str) -> list[tuple]:
    return sorted(map(tuple, ctx.catalog.read(table).select(*columns).collect()))


def test_ids_differ_by_date_whatever_is_made_again(make_context: Any, tmp_path: Path) -> None:
    given = config(write(tmp_path / "log.json", *log()))
    ctx = make_context(given)
    assert ingest.run(ctx).rows.kept == 3 * EACH
    impressions.run(ctx)
    for name in ("impression_id", "group_key"):
        assert len(set(held(ctx, "impressions", name))) == 3 * EACH
    assert (
        len(set(held(ctx, "events", "event_id"))) == EACH
    )  # the key is all that tells events of a day apart
    before = held(ctx, "impressions", "impression_id", "group_key", "user_id", "click")
    again = make_context(
        {**given, "run": {"date_from": "2024-03-02", "date_to": "2024-03-02", "force": True}}
    )
    impressions.run(again)
    assert held(ctx, "impressions", "impression_id", "group_key", "user_id", "click") == before

    forget.run(ctx, user="ann")  # and nobody of another day who had her rows' numbers
    left = [str(row[0]) for row in held(ctx, "impressions", "event_date")]
    assert left == ["2024-03-02"] * EACH + ["2024-03-03"] * EACH


def test_dedup_days_takes_a_key_of_the_next_day_for_the_same_event(make_context: Any, tmp_path: Path) -> None:
    """It is what the setting promises: with a key that begins anew each day it is not the one to take."""
    ctx = make_context(config(write(tmp_path / "log.json", *log()), dedup_days=1))
    assert ingest.run(ctx).rows.as_dict() == {
        "read": 3 * EACH,
        "kept": 2 * EACH,
        "quarantined": 0,
        "duplicate": EACH,
    }
    impressions.run(ctx)
    assert len(set(held(ctx, "impressions", "impression_id"))) == 2 * EACH


def test_what_earlier_ids_made_is_not_mixed_with_todays(
    make_context: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = config(write(tmp_path / "log.json", *log()))
    some = {**given, "run": {"date_from": "2024-03-03"}}
    ctx = make_context(given)
    ingest.run(ctx)
    with monkeypatch.context() as before:
        before.setattr(impressions, "CODE", ("sie_spark.impressions.rates",))  # another code
        before.setattr(encode, "CODE", ("sie_spark.features.text",))
        impressions.run(ctx)
        encode.run(ctx)
    with pytest.raises(ConfigError, match="how this version makes them, changed since") as error:
        impressions.run(make_context(some))
    assert "leave out the dates" in error.value.remedy
    assert impressions.run(ctx).details["dates_rebuilt"] == ["2024-03-01", "2024-03-02", "2024-03-03"]
    assert len(encode.run(make_context(some)).details["labels_by_date"]) == 3  # all of it, not one date
    for name in ("sample_id", "group_id"):
        assert len(set(held(ctx, "samples", name))) == 3 * EACH

    # samples of earlier ids that are not made anew yet: a person is found in them too
    shown = ctx.catalog.read("impressions")
    earlier = shown.selectExpr("xxhash64(event_id) AS sample_id", "'a' AS split", "event_date", "event_ts")
    earlier = earlier.where("event_date = DATE'2024-03-01'")
    ctx.catalog.replace(earlier, "samples", fingerprint="", job="test")
    assert forget.run(ctx, user="ann").details["removed"]["samples"] == EACH
    assert not rows(ctx.catalog.read("samples"))
