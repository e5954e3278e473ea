"""Lists whose rows are events of their own, named by column list_id: sizes, ranks, history and clicks, by pandas."""

from __future__ import annotations

import random
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from sie_spark.impressions.build import build
from sie_spark.platform.errors import ConfigError
from sie_spark.platform.tables import EXPRESSIONS, session_settings

pytestmark = pytest.mark.spark

FIRST = datetime(2024, 3, 1, 23, tzinfo=UTC)  # some lists lie on both sides of midnight
SCHEMA = (
    "event_id string, event_date date, event_ts string, seq bigint, event_type string, user_id string,"
    " session_id string, item_id string, list_id string, price double, label int, sampling_rate double"
)
COLUMNS = {"event_ts": "t", "event_type": "k", "user_id": "u", "session_id": "s", "item_id": "i"}
COLUMNS |= {"list_id": "l", "price": "p", "label": "y"}
CLICK = {"event": "event_type = 'click'", "match": ["session_id", "list_id", "item_id"], "window_hours": 1}


def random_events(seed: int, *, sessions: int = 12) -> pd.DataFrame:
    """Lists 0 to 3 of each session; rows of one moment or of several, some of no list; clicks name the list."""
    draw, made = random.Random(seed), []
    for session in range(sessions):
        time = FIRST + timedelta(minutes=10 * session)
        known = f"s{session}" if session % 4 else None
        for _ in range(draw.randrange(10, 25)):
            time += timedelta(seconds=draw.choice([0, 0, 1, 40]))
            click = draw.random() < 0.25
            made.append(
                {
                    "event_id": f"e{len(made)}",
                    "event_date": time.date(),
                    "event_ts": time,
                    "seq": None,
                    "event_type": "click" if click else "view",
                    "user_id": f"u{session}",
                    "session_id": known,
                    "item_id": f"i{draw.randrange(6)}",
                    "list_id": draw.choice(["0", "1", "2", "3", None, ""]),
                    "price": draw.choice([1.0, 2.0, 3.5, None]),
                    "label": int(draw.random() < 0.5),
                    "sampling_rate": 1.0,
                }
            )
    return pd.DataFrame(made)


def built(make_context: Any, log: pd.DataFrame, kind: str, **impressions: Any) -> pd.DataFrame:
    """Impressions of a log, without the stages around them."""
    dataset = {
        **{"name": "x", "kind": kind, "columns": COLUMNS, "history": {"types": ["view", "click"]}},
        "impressions": {"list_relative": ["price"], "context": ["price"], **impressions},
    }
    ctx = make_context({"dataset": dataset})
    given = log.assign(event_ts=log.event_ts.map(str)).astype(object).where(log.notna(), None)
    dates = sorted({str(day) for day in log.event_date})
    with session_settings(ctx.spark, EXPRESSIONS):
        events = ctx.spark.createDataFrame(list(given.itertuples(index=False, name=None)), SCHEMA)
        events = events.withColumn("event_ts", events.event_ts.cast("timestamp"))
        return build(ctx, events, dates, None, "test", whole=True).toPandas()


def lists_of(rows: pd.DataFrame) -> list[pd.Series]:
    """What tells lists apart: a row without a list id is a list of its own."""
    alone = rows.list_id.isna() | (rows.list_id == "")
    return [
        rows.session_id.fillna("of " + rows.user_id),
        rows.list_id.where(~alone, "alone " + rows.event_id),
        rows.event_date,
    ]


@pytest.mark.parametrize("kind", ["events", "impressions", "tabular"])
def test_a_list_is_all_its_events(make_context: Any, kind: str) -> None:
    log = random_events(1)
    if kind == "tabular":
        log = log.assign(event_ts=None, event_date=datetime(1970, 1, 1).date(), session_id=None)
    showing = {"event": "event_type = 'view'"}
    found = built(make_context, log, kind, **showing).set_index("event_id").sort_index()
    rows = log[log.event_type == "view"].set_index("event_id", drop=False).sort_index()
    assert list(found.index) == list(rows.index) and len(found) > 100
    groups = rows.groupby(lists_of(rows))
    assert list(found.list_size) == list(groups.item_id.transform("size")) and found.list_size.max() > 4
    rank, ratio = groups.price.rank(method="min"), rows.price / groups.price.transform("mean")
    pd.testing.assert_series_equal(found.price_rank.astype(float), rank, check_names=False)
    pd.testing.assert_series_equal(found.price_ratio, ratio, check_names=False)
    if kind == "tabular":
        assert "hist_events" not in found
        return
    # of a list that is shown bit by bit, a row knows the items shown so far; and nothing of what comes later
    rows["hist_events"] = found.hist_events
    for _, group in rows.groupby(lists_of(rows)):
        for name, row in group.iterrows():
            known = group[group.event_ts <= row.event_ts].hist_events.sum()
            assert found.hist_list_events[name] == known
            assert found.hist_list_share[name] == pytest.approx(row.hist_events / known if known else 0.0)
    assert (found.hist_list_events > found.hist_events).sum() > 20


def last_item(log: pd.DataFrame, row: Any) -> str | None:
    """What the session acted on last, strictly before a row; of several at one moment the last by name."""
    before = log[(log.session_id == row.session_id) & (log.event_ts < row.event_ts)]
    return before[before.event_ts == before.event_ts.max()].item_id.max() if len(before) else None


def test_the_distance_to_the_last_item_is_that_of_the_same_list_and_moment(make_context: Any) -> None:
    log = random_events(4)
    log["session_id"] = log.session_id.fillna(log.user_id)
    places = {name: int(name[1:]) for name in log.event_id}
    found = built(
        make_context, log, "events", event="event_type = 'view'", position="int(substr(event_id, 2))"
    )
    rows = log[log.event_type == "view"].set_index("event_id", drop=False)
    rows["last"] = [last_item(log, row) for row in rows.itertuples()]
    found, seen = found.set_index("event_id"), 0
    for _, group in rows.groupby(lists_of(rows)):
        for name, row in group.iterrows():
            if row["last"] is None:
                continue
            same = group[(group["last"] == row["last"]) & (group.item_id == row["last"])]
            distance = found.hist_last_distance[name]
            if len(same):
                seen += 1
                assert distance == places[name] - max(places[one] for one in same.index)
            else:
                assert pd.isna(distance)
    assert seen > 10


@pytest.mark.parametrize("together", [True, False])
def test_clicks_find_their_list(make_context: Any, together: bool) -> None:
    log = random_events(2, sessions=24)
    log["session_id"] = log.session_id.fillna(log.user_id)
    # with sessions among the keys, labels and history share a shuffle; by users, they do not
    click = CLICK if together else {**CLICK, "match": ["user_id", "list_id", "item_id"]}
    found = built(make_context, log, "events", event="event_type = 'view'", click_event=click)
    named = log[log.list_id.notna() & (log.list_id != "")]
    clicked: set[tuple[str, str, str, datetime]] = set()
    for one in named[named.event_type == "click"].itertuples():
        shown = named[
            (named.event_type == "view")
            & (named.session_id == one.session_id)
            & (named.list_id == one.list_id)
            & (named.item_id == one.item_id)
            & (named.event_ts <= one.event_ts)
        ]
        if len(shown):
            clicked.add((one.session_id, one.list_id, one.item_id, shown.event_ts.max()))
    of_row = [
        (r.session_id, r.list_id, r.item_id, pd.Timestamp(r.event_ts).tz_localize("UTC"))
        for r in found.itertuples()
    ]
    for key in clicked:  # of rows shown again at the same moment one is clicked
        assert sum(r.click for r, k in zip(found.itertuples(), of_row, strict=True) if k == key) == 1
    assert found.click.sum() == len(clicked) > 5


def test_an_expression_names_the_list_before_the_column_does(make_context: Any) -> None:
    log = random_events(3)
    found = built(make_context, log, "events", list_id="concat('of ', user_id)", event="event_type = 'view'")
    shown = log[log.event_type == "view"]
    session = shown.session_id.fillna("of " + shown.user_id)
    sizes = shown.groupby([session, "event_date"]).size()
    assert sorted(found.list_size.unique()) == sorted(sizes.unique())
    with pytest.raises(ConfigError, match=r"dataset\.impressions\.list_id: 'nothing'") as error:
        built(make_context, log, "events", list_id="nothing")
    assert "list_id" in error.value.remedy


def test_a_date_made_by_itself_has_the_lists_that_all_dates_give(make_context: Any, tmp_path: Path) -> None:
    log = random_events(1)
    whole = built(make_context, log, "events").set_index("impression_id")
    for day in sorted({*log.event_date}):
        alone = built(make_context, log[log.event_date == day], "impressions").set_index("impression_id")
        same = whole.loc[alone.index, ["list_size", "price_rank", "price_ratio"]]
        pd.testing.assert_frame_equal(alone[same.columns], same)
