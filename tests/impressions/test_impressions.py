"""Samples: labels and history against slow derivations in plain Python, and no look into the future."""

import random
import shutil
from datetime import date, timedelta
from pathlib import Path

import pytest

from helpers.logs import DAY, START, event, rows, settings, write
from helpers.shop import SHOP, read_shop
from sie_spark.impressions import impressions, timeline
from sie_spark.impressions.shown import shown
from sie_spark.ingest import ingest
from sie_spark.platform.config import Dataset
from sie_spark.platform.errors import ConfigError
from sie_spark.platform.progress import Progress

pytestmark = pytest.mark.spark

LIST_COLUMNS = (
    "id STRING, kind STRING, ts BIGINT, user STRING, session STRING, item STRING, price DOUBLE, step INT, "
    "items STRING, prices STRING"
)
LISTS = {
    "source": {"columns": LIST_COLUMNS},
    "columns": {
        "event_type": "kind",
        "seq": "step",
        "user_id": "user",
        "session_id": "session",
        "item_id": "item",
        "items": "split(items, '[|]')",
        "prices": "transform(split(prices, '[|]'), p -> try_cast(p AS DOUBLE))",
        "key": "id",
    },
    "impressions": {
        "event": "event_type = 'clickout'",
        "items": "items",
        "parallel": {"price": "prices"},
        "list_relative": ["price"],
        "click": "item_id = event_item_id",
    },
    "history": {"types": ["view", "clickout"], "session": True, "recent_items": 3},
    "group": "session_id",
}


def random_log(seed: int, sessions: int = 12) -> list[dict]:
    """Sessions with many tied timestamps; steps order some ties, and are missing for others."""
    draw = random.Random(seed)
    log = []
    for s in range(sessions):
        ts = START + draw.randrange(DAY)
        for step in range(draw.randrange(1, 15)):
            ts += draw.choice([0, 0, 5, 60])
            item = f"i{draw.randrange(4)}"
            row = event(
                f"{s}-{step}",
                ts=ts,
                session=f"s{s}",
                user=f"u{s}",
                item=item,
                step=None if s % 3 == 0 else step,
            )
            if draw.random() < 0.4:
                shown = draw.sample([f"i{n}" for n in range(6)], draw.randrange(1, 6))
                row |= {
                    "kind": "clickout",
                    "items": "|".join(shown),
                    "prices": "|".join(str(draw.randrange(1, 99)) for _ in shown),
                }
            log.append(row)
    return log


def history_by_hand(log: list[dict]) -> dict[tuple[str, int], dict]:
    """One pass over all pairs of rows: everything about an impression from its definition."""
    out = {}
    for row in log:
        if row["kind"] != "clickout":
            continue
        moment = (row["ts"], row["step"] or 0)
        before = [o for o in log if o["session"] == row["session"] and (o["ts"], o["step"] or 0) < moment]
        before.sort(key=lambda o: (o["ts"], o["step"] or 0))
        shown, prices = row["items"].split("|"), [float(p) for p in row["prices"].split("|")]
        counts = {item: [o for o in before if o["item"] == item] for item in shown}
        total = sum(len(found) for found in counts.values())
        for position, (item, price) in enumerate(zip(shown, prices, strict=True), 1):
            on_item = counts[item]
            out[row["id"], position] = {
                "item_id": item,
                "click": int(item == row["item"]),
                "price": price,
                "price_rank": 1 + sum(p < price for p in prices),
                "price_ratio": pytest.approx(price / (sum(prices) / len(prices))),
                "list_size": len(shown),
                "hist_events": len(on_item),
                "hist_view": sum(o["kind"] == "view" for o in on_item),
                "hist_clickout": sum(o["kind"] == "clickout" for o in on_item),
                "hist_seconds_since": row["ts"] - on_item[-1]["ts"] if on_item else None,
                "hist_session_events": len(before),
                "hist_list_events": total,
                "hist_list_share": pytest.approx(len(on_item) / total if total else 0.0),
            }
    return out


def test_lists_and_history_against_a_derivation_by_hand(make_context, tmp_path: Path) -> None:
    log = random_log(1)
    ctx = make_context(settings(write(tmp_path / "log.json", *log), **LISTS))
    ingest.run(ctx)
    result = impressions.run(ctx)
    keys = {row["event_id"]: row["key"] for row in rows(ctx.catalog.read("events"))}
    held = {(keys[row["event_id"]], row["position"]): row for row in rows(ctx.catalog.read("impressions"))}
    by_hand = history_by_hand(log)
    assert set(held) == set(by_hand)
    for key, wanted in by_hand.items():
        assert {name: held[key][name] for name in wanted} == wanted, key
    assert result.metrics["impressions"] == len(by_hand)
    # last item: where no ties blur which one it was
    for row in log:
        if row["kind"] != "clickout" or row["step"] is None:
            continue
        before = [
            o
            for o in log
            if o["session"] == row["session"] and (o["ts"], o["step"]) < (row["ts"], row["step"])
        ]
        last = max(before, key=lambda o: (o["ts"], o["step"]))["item"] if before else None
        recent = [o["item"] for o in sorted(before, key=lambda o: (-o["ts"], -o["step"]))][:3]
        shown = row["items"].split("|")
        for position, item in enumerate(shown, 1):
            found = held[row["id"], position]
            assert found["hist_last_is_item"] == int(item == last)
            assert found["hist_last_distance"] == (
                position - shown.index(last) - 1 if last in shown else None
            )
            assert found["recent_items"] == recent
    again = impressions.run(ctx)
    assert again.skipped and again.outputs == result.outputs and again.metrics == result.metrics


def test_a_planted_future_event_changes_nothing(make_context, tmp_path: Path) -> None:
    log = random_log(2, sessions=5)
    last = {row["session"]: row for row in log}  # the newest event of each session
    planted = [
        event(f"planted-{s}", ts=row["ts"] + offset, session=s, user=row["user"], step=row["step"], item="i1")
        for s, row in last.items()
        for offset in (0, 1)  # tied with the newest event, and after it
    ]
    frames = []
    for name, records in (("plain", log), ("planted", [*log, *planted])):
        ctx = make_context(
            settings(write(tmp_path / f"{name}.json", *records), **LISTS), root=tmp_path / name
        )
        (tmp_path / name).mkdir(exist_ok=True)
        (tmp_path / name / ".pseudonym_key").write_text("the same key in both roots")
        ingest.run(ctx)
        impressions.run(ctx)
        frames.append({row["impression_id"]: row for row in rows(ctx.catalog.read("impressions"))})
    assert frames[0] and frames[0] == frames[1]


def shop_log() -> list[dict]:
    at = lambda day, second: START + day * DAY + second  # noqa: E731
    return [
        event("s1", kind="shown", ts=at(0, 10)),
        event("s1b", kind="shown", ts=at(0, 30)),  # shown again: the click belongs to the later one
        event("c1", kind="click", ts=at(0, 40)),
        event("s2", kind="shown", ts=at(0, 50), item="i2"),
        event("late-click", kind="click", ts=at(0, 50 + 3601), item="i2"),  # out of the window
        event("b1", kind="buy", ts=at(1, 40)),  # a day after the click
        event("b-other", kind="buy", ts=at(1, 41), user="bob"),
        event("s3", kind="shown", ts=at(1, 5), session="s3", user="bob"),
        event("s4", kind="shown", ts=at(2, 5), session="s4", user="bob"),
        event("c4", kind="click", ts=at(2, 9), session="s4", user="bob"),
        event("s5", kind="shown", ts=at(3, 5), session="s5", user="eve", item="i2"),
    ]


def take_events(source, root: Path) -> None:
    """Copy what was ingested, with the key, to another root, and nothing that was made from it."""
    made = shutil.ignore_patterns("impressions", "daily_counts", "samples.json", "days-*.json")
    shutil.copytree(source.root.uri, root, ignore=made, dirs_exist_ok=True)


def test_clicks_purchases_delays_rates_and_a_late_purchase(make_context, tmp_path: Path, monkeypatch) -> None:
    log = tmp_path / "log"
    write(log / "1.json", *shop_log())
    ctx = make_context(settings(log, **SHOP))
    ingest.run(ctx)
    first = impressions.run(ctx)
    held = read_shop(ctx)
    assert {key: row["click"] for key, row in held.items()} == {
        "s1": 0,
        "s1b": 1,
        "s2": 0,
        "s3": 0,
        "s4": 1,
        "s5": 0,
    }
    assert {key for key, row in held.items() if row["conversion"]} == {"s1b"}
    assert held["s1b"]["conversion_delay_s"] == DAY  # from the click, not from the impression
    assert {key for key, row in held.items() if row["label_mature"]} == {"s1", "s1b", "s2", "s3"}
    # as of the day before: nothing on day 0; on day 1 i1 was shown twice and clicked once, 1 of 3 overall
    assert (held["s1"]["rate_item_id"], held["s1"]["count_item_id"]) == (None, 0)
    assert held["s3"]["count_item_id"] == 2
    assert held["s3"]["rate_item_id"] == pytest.approx((1 + 2.0 * (1 / 3)) / (2 + 2.0))
    assert held["s4"]["count_item_id"] == 3
    assert held["s4"]["rate_item_id"] == pytest.approx((1 + 2.0 * (1 / 4)) / (3 + 2.0))
    assert held["s5"]["rate_item_id"] == pytest.approx((0 + 2.0 * (2 / 5)) / (1 + 2.0))
    assert len(first.details["dates_rebuilt"]) == 4
    # one click was too late, one purchase is of somebody else
    assert first.details["outcome_events"] == {"click": 3, "conversion": 2}
    assert (first.metrics["clicks"], first.metrics["click_events"]) == (2, 3)

    # bob's purchase of day 3 arrives late: only the date of his click changes
    write(log / "2.json", event("b4", kind="buy", ts=START + 3 * DAY + 1, user="bob"))
    ingest.run(ctx)
    read: list[tuple[str, list[str]]] = []

    def spied(name: str, measure):
        def spy(frame, *more):
            facts = measure(frame, *more)
            read.append((name, sorted(facts)))
            return facts

        return spy

    for name in ("event_facts", "label_counts"):
        monkeypatch.setattr(impressions, name, spied(name, getattr(impressions, name)))
    second = impressions.run(ctx)
    # only what changed is read again: events of one date, impressions of another
    assert read == [("event_facts", ["2024-03-04"]), ("label_counts", ["2024-03-03"])]
    assert second.details["dates_rebuilt"] == ["2024-03-03"]
    assert second.details["outcome_events"] == {"click": 3, "conversion": 3}
    after = read_shop(ctx)
    assert after["s4"]["conversion"] == 1 and after["s4"]["conversion_delay_s"] == DAY + 1 - 9
    assert {key: row for key, row in after.items() if key != "s4"} == {
        k: r for k, r in held.items() if k != "s4"
    }

    # a late impression of day 1 changes the rates of every later day, and nothing before
    write(log / "3.json", event("s6", kind="shown", ts=START + DAY + 7, session="s6", user="kim"))
    ingest.run(ctx)

    def killed(_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:  # when the impressions are written and their counts are not
        patch.setattr(impressions, "refresh_daily_counts", killed)
        with pytest.raises(KeyboardInterrupt):
            impressions.run(ctx)
    assert impressions.run(ctx).details["dates_rebuilt"] == []
    changed = {key for key, row in read_shop(ctx).items() if row != after.get(key)}
    assert changed == {"s6", "s4", "s5"}  # s4 and s5 for their rates
    take_events(ctx, tmp_path / "whole")
    whole = make_context(settings(log, **SHOP), root=tmp_path / "whole")
    at_once = impressions.run(whole)
    assert read_shop(whole) == read_shop(ctx)  # step by step and all at once: the same rows
    counts = [sorted(map(tuple, one.catalog.read("daily_counts").collect())) for one in (whole, ctx)]
    assert counts[0] == counts[1] and ("item_id", "i1", *[date(2024, 3, 2)] * 2, 2, 0) in counts[0]
    totals = ("impressions", "clicks", "conversions", "mature", "by_date", "by_position")
    step_by_step = ctx.load_details("impressions")
    assert {name: step_by_step[name] for name in totals} == {name: at_once.details[name] for name in totals}


def test_clicks_that_find_no_impression_are_said(make_context, tmp_path: Path, monkeypatch) -> None:
    ctx = make_context(settings(tmp_path / "log.json", **SHOP))
    said: list[str] = []
    monkeypatch.setattr(ctx.progress, "warn", said.append)
    for clicks, conversions in ((3, 0), (0, 0)):
        details = {
            "clicks": clicks,
            "conversions": conversions,
            "outcome_events": {"click": 4, "conversion": 0},
        }
        impressions._say_outcomes(ctx, details)
    assert len(said) == 1 and said[0].startswith("none of 4 click events belongs to an impression")
    assert "dataset.impressions.click_event.match" in said[0]


ONE_LIST = """
    SELECT 'e' AS event_id, DATE'2024-03-01' AS event_date, TIMESTAMP'2024-03-01 10:00:00' AS event_ts, 1L AS seq,
           'shown' AS event_type, 'u' AS user_id, 's' AS session_id, NULL AS item_id, 1D AS sampling_rate,
           array(7, 8, NULL) AS ids, array(3, 1, 2) AS places, array(named_struct('id', 'x')) AS structs, 'x' AS text
"""


def test_items_are_an_array_of_ids_and_may_name_their_positions(spark) -> None:
    def lists(**impressions):
        return shown(
            spark.sql(ONE_LIST), Dataset(name="t", columns={"event_type": "x"}, impressions=impressions), []
        )

    plain = lists(items="ids").select("item_id", "position", "impression_id").collect()
    assert sorted(map(tuple, plain)) == [
        ("7", 1, "e-2024-03-01-1"),
        ("8", 2, "e-2024-03-01-2"),
    ]
    placed = lists(items="ids", parallel={"position": "places"}).select("item_id", "position").collect()
    assert sorted(map(tuple, placed)) == [("7", 3), ("8", 1)]
    for column in ("structs", "text"):
        with pytest.raises(ConfigError, match=f"impressions.items: column '{column}'") as error:
            lists(items=column)
        assert "transform" in error.value.remedy
    with pytest.raises(ValueError, match=r"parallel\.position"):
        lists(items="ids", position="seq")


@pytest.mark.parametrize(
    ("changed", "said", "remedy"),
    [
        (
            {"impressions": {"list_relative": ["prise"]}},
            "impressions.list_relative: .*have no column 'prise'",
            "'price'",
        ),
        (
            {"impressions": {"list_relative": ["key"]}},
            "impressions.list_relative: .*have no column 'key'",
            "context",
        ),
        ({"impressions": {"list_relative": ["tags"], "context": ["tags"]}}, "'tags' is array<int>", "cast"),
        ({"history": {"rates": ["itemid"]}}, "history.rates: .*have no column 'itemid'", "'item_id'"),
        ({"group": "sesion_id"}, "dataset.group: .*have no column 'sesion_id'", "'session_id'"),
    ],
)
def test_what_an_impression_lacks_is_named(spark, changed: dict, said: str, remedy: str) -> None:
    events = spark.sql(ONE_LIST).selectExpr("*", "array(1.5) AS prices", "1 AS key", "array(1) AS tags")
    chosen = {"items": "ids", "parallel": {"price": "prices"}} | changed.pop("impressions", {})
    dataset = Dataset(name="t", columns={"event_type": "x"}, impressions=chosen, **changed)
    with pytest.raises(ConfigError, match=said) as error:
        shown(events, dataset, [])
    assert remedy in error.value.remedy


def test_a_rebuilt_date_takes_no_outcome_of_a_later_one(make_context, tmp_path: Path) -> None:
    """Shown and clicked on both days; the purchase belongs to the second click, whatever is rebuilt."""
    history = {"types": [], "session": False, "rates": ["item_id"], "rate_strength": 2.0}
    in_session = {**SHOP["impressions"]["conversion_event"], "match": ["session_id", "item_id"]}
    one_line = {**SHOP["impressions"], "conversion_event": in_session}
    variants = {
        "shown too": {"history": {"types": ["shown", "click"], "session": True}, "impressions": one_line},
        "rates": {"history": history, "impressions": SHOP["impressions"]},
    }
    log = tmp_path / "log"
    at = lambda day, second: START + day * DAY + second  # noqa: E731
    write(
        log / "1.json",
        event("s1", kind="shown", ts=at(0, 80_000)),
        event("c1", kind="click", ts=at(0, 80_010)),
        event("s2", kind="shown", ts=at(1, 10)),
        event("c2", kind="click", ts=at(1, 20)),
        event("b2", kind="buy", ts=at(1, 30)),
        # clicked after midnight: known when the second day ended, and not before
        event("s3", kind="shown", ts=at(0, DAY - 60), item="i2", session="s3"),
        event("c3", kind="click", ts=at(1, 60), item="i2", session="s3"),
    )
    ingested = make_context(settings(log, **SHOP))
    ingest.run(ingested)
    for name, shop in variants.items():
        take_events(ingested, tmp_path / name)
        impressions.run(make_context(settings(log, **{**SHOP, **shop}), root=tmp_path / name))
    write(
        log / "2.json",
        event("late", kind="shown", ts=at(0, 5), item="i9", session="s9"),
        event("s4", kind="shown", ts=at(2, 5), item="i2", session="s4"),
    )
    ingest.run(ingested)
    for name, shop in variants.items():
        take_events(ingested, tmp_path / name)
        ctx = make_context(settings(log, **{**SHOP, **shop}), root=tmp_path / name)
        assert impressions.run(ctx).details["dates_rebuilt"][0] == "2024-03-01"
        held = read_shop(ctx)
        assert {key for key, row in held.items() if row["conversion"]} == {"s2"}
        take_events(ingested, tmp_path / name / "whole")
        whole = make_context(settings(log, **{**SHOP, **shop}), root=tmp_path / name / "whole")
        impressions.run(whole)
        assert read_shop(whole) == held
        if name == "rates":
            prior = 3 / 4  # of s1, s2, s3, late: three clicks were known when the second day ended
            assert held["s4"]["rate_item_id"] == pytest.approx((1 + 2.0 * prior) / (1 + 2.0))


def test_a_rebuilt_date_takes_no_outcome_of_an_earlier_one(make_context, tmp_path: Path) -> None:
    """Shown before midnight and clicked after it, later than the next day's row: the purchase is the first's."""
    log = tmp_path / "log"
    write(
        log / "1.json",
        event("r1", kind="shown", ts=START + 85_800, session="a"),
        event("r2", kind="shown", ts=START + DAY + 60, session="b"),
        event("c2", kind="click", ts=START + DAY + 180, session="b"),
        event("c1", kind="click", ts=START + DAY + 300, session="a"),
        event("bought", kind="buy", ts=START + DAY + 600, session="b"),
        event("r4", kind="shown", ts=START + 4 * DAY, session="d", item="i4"),
    )
    shop = {**SHOP, "history": {**SHOP["history"], "rates": []}}
    ctx = make_context(settings(log, **shop))
    ingest.run(ctx)
    impressions.run(ctx)
    assert {key for key, row in read_shop(ctx).items() if row["conversion"]} == {"r1"}
    write(log / "2.json", event("r5", kind="shown", ts=START + 4 * DAY + 1, session="d", item="i4"))
    ingest.run(ctx)
    assert "2024-03-01" not in impressions.run(ctx).details["dates_rebuilt"]
    assert {key for key, row in read_shop(ctx).items() if row["conversion"]} == {"r1"}


def test_a_list_without_a_session_is_ranked_and_has_no_history(make_context, tmp_path: Path) -> None:
    log = [row | {"session": None} for row in random_log(4, sessions=4)]
    ctx = make_context(settings(write(tmp_path / "log.json", *log), layout="cluster", **LISTS))
    ingest.run(ctx)
    impressions.run(ctx)
    keys = {row["event_id"]: row["key"] for row in rows(ctx.catalog.read("events"))}
    held = {(keys[row["event_id"]], row["position"]): row for row in rows(ctx.catalog.read("impressions"))}
    by_hand = history_by_hand([row | {"session": row["id"]} for row in log])
    assert set(held) == set(by_hand) and max(row["list_size"] for row in held.values()) > 2
    for key, wanted in by_hand.items():
        assert {name: held[key][name] for name in wanted} == wanted, key
    for table in ("events", "impressions", "quarantine"):
        detail = ctx.spark.sql(f"DESCRIBE DETAIL {ctx.catalog.sql_name(table)}").first()
        assert list(detail["clusteringColumns"]) == ["event_date"] and not detail["partitionColumns"]
    for column, bad in {
        "click": "2",
        "conversion": "-1",
        "sampling_rate": "0D",
        "impression_id": "NULL::string",
    }.items():
        wrong = ctx.catalog.read("impressions").selectExpr(f"* EXCEPT ({column})", f"{bad} AS {column}")
        with pytest.raises(Exception, match=r"CHECK constraint|DELTA_VIOLATE_CONSTRAINT"):
            wrong.write.format("delta").mode("append").save(ctx.catalog.path("impressions"))


def test_rates_that_start_from_nothing_are_said(make_context, tmp_path: Path, monkeypatch) -> None:
    said: list[str] = []
    monkeypatch.setattr(Progress, "warn", lambda self, text: said.append(text))
    shop = settings(write(tmp_path / "log.json", *shop_log()), **SHOP)
    ingest.run(make_context(shop))
    later = make_context(shop | {"run": {"date_from": "2024-03-03"}})
    impressions.run(later)
    assert [text for text in said if "start from nothing on 2024-03-03: 2 earlier" in text]
    assert {row["event_date"].day for row in read_shop(later).values()} == {3, 4}
    said.clear()
    impressions.run(make_context(shop | {"run": {"date_from": "2024-03-04"}}))
    assert not [text for text in said if "start from nothing" in text]


def test_sessions_are_cut_where_a_user_was_inactive(make_context, tmp_path: Path) -> None:
    quiet = [0, 100, 100 + 1800, 100 + 1800 + 1801, DAY - 10, DAY + 10]  # the last two: over midnight
    log = [event(str(n), kind="shown", ts=START + ts, session=None) for n, ts in enumerate(quiet)]
    log.append(event("nobody", kind="shown", ts=START, session=None, user=None))
    config = settings(
        write(tmp_path / "log.json", *log),
        impressions={"event": "event_type = 'shown'", "session_gap_minutes": 30},
        history={"types": ["shown"]},
    )
    ctx = make_context(config)
    ingest.run(ctx)
    impressions.run(ctx)
    held = read_shop(ctx)
    sessions = [held[str(n)]["session_id"] for n in range(len(quiet))]
    assert sessions[0] == sessions[1] == sessions[2] != sessions[3] != sessions[4] == sessions[5]
    assert [held[str(n)]["hist_session_events"] for n in range(len(quiet))] == [0, 1, 2, 0, 0, 1]
    assert held["nobody"]["session_id"] is None and held["nobody"]["hist_session_events"] == 0
    assert held["5"]["event_ts"] - held["4"]["event_ts"] == timedelta(seconds=20)


def random_shop(seed: int) -> list[dict]:
    draw = random.Random(seed)
    log = []
    for n in range(400):
        kind = draw.choice(["shown", "shown", "click", "click", "buy"])
        session, item = f"s{draw.randrange(6)}", draw.choice(["i1", "i2", "i3", None])
        step = draw.choice([None, 1, 2])
        ts = START + draw.randrange(60) * 40 + draw.choice([0, 0, DAY])
        log.append(event(str(n), kind=kind, ts=ts, session=session, item=item, step=step, user="u" + session))
    return log


def test_one_shuffle_gives_what_three_give(make_context, tmp_path: Path, monkeypatch) -> None:
    history = {"types": ["click", "shown"], "session": True, "recent_items": 2}
    shop = {**SHOP, "impressions": {**SHOP["impressions"], "context": ["event_type"]}}
    shop["history"] = history
    shop["impressions"]["conversion_event"] = {
        "event": "event_type = 'buy'",
        "match": ["session_id", "item_id"],
        "window_hours": 26,
    }
    ctx = make_context(settings(write(tmp_path / "log.json", *random_shop(3)), **shop))
    ingest.run(ctx)
    assert timeline.fits(ctx.config.dataset)
    impressions.run(ctx)
    shared = read_shop(ctx)
    monkeypatch.setattr(timeline, "fits", lambda dataset: False)
    ctx = make_context(
        ctx.config.model_copy(update={"run": ctx.config.run.model_copy(update={"force": True})})
    )
    impressions.run(ctx)
    separate = read_shop(ctx)
    assert shared == separate
    assert 0 < sum(row["click"] for row in shared.values()) < len(shared)
    assert sum(row["conversion"] for row in shared.values()) > 0
    assert sum(row["hist_session_events"] for row in shared.values()) > len(shared)


@pytest.mark.parametrize("shared", [True, False])
def test_a_window_ends_to_the_microsecond(make_context, tmp_path: Path, shared: bool) -> None:
    """Else a click just past it would be found where all is built, and not where its date alone is."""
    at = lambda millis: START * 1000 + millis  # noqa: E731
    log = write(
        tmp_path / "log.json",
        event("in", kind="shown", ts=at(100), session="s1", user="ann"),
        event("c1", kind="click", ts=at(3_600_100), session="s1", user="ann"),
        event("out", kind="shown", ts=at(100), session="s2", user="bob"),
        event("c2", kind="click", ts=at(3_600_101), session="s2", user="bob"),
    )
    click = {
        **SHOP["impressions"]["click_event"],
        "match": ["session_id" if shared else "user_id", "item_id"],
    }
    chosen = {**SHOP["impressions"], "click_event": click, "conversion_event": None}
    shop = {**SHOP, "impressions": chosen}
    shop["event_time"] = {"expression": "ts", "format": "epoch_millis"}
    ctx = make_context(settings(log, **shop))
    assert timeline.fits(ctx.config.dataset) == shared
    ingest.run(ctx)
    impressions.run(ctx)
    assert {key: row["click"] for key, row in read_shop(ctx).items()} == {"in": 1, "out": 0}


def test_a_click_after_midnight_is_not_known_the_day_before(make_context, tmp_path: Path) -> None:
    """Nor to an impression shown in the very first second of the day; the day after it is."""
    midnight = 1000 * (START + DAY)
    log = write(
        tmp_path / "log.json",
        event("early", ts=midnight - 1900, item="i1"),
        event("early-click", ts=midnight - 1000, item="i1", kind="click"),
        event("late", ts=midnight - 100, item="i2"),
        event("late-click", ts=midnight + 300, item="i2", kind="click"),
        event("next-1", ts=midnight + 200, item="i1", session="s2"),
        event("next-2", ts=midnight + 200, item="i2", session="s2"),
        event("third-2", ts=midnight + 1000 * DAY, item="i2", session="s3"),
    )
    ctx = make_context(
        settings(
            log,
            event_time={"expression": "ts", "format": "epoch_millis"},
            impressions={
                "event": "event_type = 'view'",
                "click_event": {"event": "event_type = 'click'", "match": ["session_id", "item_id"]},
            },
            history={"session": False, "rates": ["item_id"], "rate_strength": 1.0},
        )
    )
    ingest.run(ctx)
    impressions.run(ctx)
    found = ctx.catalog.read("impressions").where(f"event_ts > timestamp_millis({midnight})")
    rates = {row["session_id"]: {} for row in rows(found)}
    for row in rows(found):
        rates[row["session_id"]][row["item_id"]] = (row["rate_item_id"], row["count_item_id"])
    second, third = sorted(rates.values(), key=len, reverse=True)
    assert second == {"i1": ((1 + 0.5) / 2, 1), "i2": ((0 + 0.5) / 2, 1)}
    assert third == {"i2": ((1 + 2 / 4) / (2 + 1), 2)}  # two of four were clicked


def test_a_column_that_events_gain_comes_to_every_date(make_context, tmp_path: Path) -> None:
    """Impressions that came labelled carry every column: the table is made anew, or the dates are refused."""
    columns = {"item_id": "item", "label": "price > 1", "user_id": "user", "key": "id"}
    more = {**columns, "price": "price"}
    old, new = (write(tmp_path / f"{day}.json", event(str(day), ts=START + day * DAY)) for day in (0, 1))
    first = make_context(settings(old, kind="impressions", columns=columns))
    ingest.run(first)
    impressions.run(first)
    then = settings(new, kind="impressions", columns=more)
    ingest.run(make_context(then))
    with pytest.raises(ConfigError, match="changed since table impressions was made"):
        impressions.run(make_context({**then, "run": {"date_from": "2024-03-02"}}))
    ctx = make_context(then)
    assert impressions.run(ctx).details["dates_rebuilt"] == ["2024-03-01", "2024-03-02"]
    found = ctx.catalog.read("impressions").select("event_id", "price").orderBy("event_ts")
    assert [row["price"] for row in rows(found)] == [None, 1.5]
