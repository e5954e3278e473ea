"""Times and sequence numbers at their edges: ties, limits of windows and gaps, what is remembered."""

from pathlib import Path

import pytest

from helpers.logs import START, event, settings, write
from helpers.shop import SHOP, read_shop
from sie_spark.impressions import impressions, timeline
from sie_spark.ingest import ingest

pytestmark = pytest.mark.spark


@pytest.mark.parametrize("shared", [True, False])
def test_a_purchase_at_the_time_of_the_click_is_judged_by_the_clicks_sequence(
    make_context, tmp_path: Path, shared: bool
) -> None:
    """The impression's own number says nothing of it: sequences may begin anew, and others lie in between."""
    log = write(
        tmp_path / "log.json",
        event("before", kind="shown", step=5),
        event("b1", kind="buy", ts=START + 60, step=6),
        event("c1", kind="click", ts=START + 60, step=7),
        event("after", kind="shown", step=10, item="i2"),
        event("c2", kind="click", ts=START + 60, step=2, item="i2"),
        event("b2", kind="buy", ts=START + 60, step=3, item="i2"),
    )
    match = ["session_id" if shared else "user_id", "item_id"]
    sold = {**SHOP["impressions"]["conversion_event"], "match": match}
    shop = {**SHOP, "impressions": {**SHOP["impressions"], "conversion_event": sold}}
    ctx = make_context(settings(log, **shop))
    assert timeline.fits(ctx.config.dataset) == shared
    ingest.run(ctx)
    impressions.run(ctx)
    found = {key: (row["click"], row["conversion"]) for key, row in read_shop(ctx).items()}
    assert found == {"before": (1, 0), "after": (1, 1)}


def test_limits_that_are_no_round_binary_numbers_are_kept_to_the_microsecond(
    make_context, tmp_path: Path
) -> None:
    """0.29 hours are 1,044 s and 2.01 minutes 120.6 s; cut off instead of rounded, both miss a microsecond."""
    at = lambda micros: START * 1_000_000 + micros  # noqa: E731
    log = write(
        tmp_path / "log.json",
        event("first", kind="shown", ts=at(0)),
        event("joined", kind="shown", ts=at(120_600_000), item="i2"),
        event("cut", kind="shown", ts=at(241_200_001), item="i3"),
        event("in", kind="click", ts=at(1_044_000_000)),
        event("out", kind="click", ts=at(120_600_000 + 1_044_000_001), item="i2"),
    )
    click = {"event": "event_type = 'click'", "match": ["user_id", "item_id"], "window_hours": 0.29}
    chosen = {"event": "event_type = 'shown'", "click_event": click, "session_gap_minutes": 2.01}
    shop = {"impressions": chosen, "history": {"types": ["shown"]}}
    shop["event_time"] = {"expression": "ts", "format": "epoch_micros"}
    ctx = make_context(settings(log, **shop))
    ingest.run(ctx)
    impressions.run(ctx)
    found = {key: (row["hist_session_events"], row["click"]) for key, row in read_shop(ctx).items()}
    assert found == {"first": (0, 1), "joined": (1, 0), "cut": (0, 0)}


@pytest.mark.parametrize("kind", ["shown", "view"])  # one that is remembered itself, and one that is not
def test_recent_items_are_the_last_items_whatever_lay_between(
    make_context, tmp_path: Path, kind: str
) -> None:
    viewed = [event(f"v{n}", ts=START + 60 * n, item=f"i{n}", step=None) for n in range(4)]
    searched = [event(f"q{n}", kind="search", ts=START + 150 + n, item=None, step=None) for n in range(5)]
    shown = event("now", kind=kind, ts=START + 600, item="i9", step=None)
    chosen = {"event": "key = 'now'"}
    if kind == "view":  # labels and history in one shuffle
        chosen["click_event"] = {"event": "event_type = 'click'", "match": ["session_id", "item_id"]}
    history = {"types": ["view", "search"], "recent_items": 3}
    log = write(tmp_path / "log.json", *viewed, *searched, shown)
    ctx = make_context(settings(log, impressions=chosen, history=history))
    ingest.run(ctx)
    impressions.run(ctx)
    assert read_shop(ctx)["now"]["recent_items"] == ["i3", "i2", "i1"]


@pytest.mark.parametrize("kind", ["shown", "view"])
def test_what_shows_no_item_has_no_history_of_it(make_context, tmp_path: Path, kind: str) -> None:
    searched = [event(f"q{n}", kind="search", ts=START + n, item=None, step=None) for n in range(3)]
    shown = event("now", kind=kind, ts=START + 60, item=None, step=None)
    chosen = {"event": "key = 'now'"}
    if kind == "view":  # labels and history in one shuffle
        chosen["click_event"] = {"event": "event_type = 'click'", "match": ["session_id", "item_id"]}
    history = {"types": ["view", "search"], "session": True}
    ctx = make_context(
        settings(write(tmp_path / "log.json", *searched, shown), impressions=chosen, history=history)
    )
    ingest.run(ctx)
    impressions.run(ctx)
    found = read_shop(ctx)["now"]
    assert (found["hist_events"], found["hist_search"], found["hist_seconds_since"]) == (0, 0, None)
    assert found["hist_session_events"] == 3


def test_labelled_impressions_have_the_history_of_sessions_that_are_cut(make_context, tmp_path: Path) -> None:
    times = [0, 600, 1200, 3001]
    log = write(
        tmp_path / "log.json", *[event(str(n), ts=START + ts, step=None) for n, ts in enumerate(times)]
    )
    columns = {"label": "0", "user_id": "user", "item_id": "item", "key": "id"}
    chosen = {"session_gap_minutes": 30}
    history = {"types": ["impression"], "recent_items": 2}
    chosen = {"kind": "impressions", "columns": columns, "impressions": chosen, "history": history}
    ctx = make_context(settings(log, **chosen))
    ingest.run(ctx)
    impressions.run(ctx)
    found = read_shop(ctx)
    assert [found[str(n)]["hist_session_events"] for n in range(4)] == [0, 1, 2, 0]
    assert found["2"]["recent_items"] == ["i1", "i1"]
