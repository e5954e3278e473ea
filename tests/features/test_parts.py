"""Encoding some dates only, and what a run that ended early leaves to the next one."""

import datetime as dt
from typing import Any

import pytest

from helpers.encoders import current
from helpers.impressions_table import FEATURES, START, rows, settings, store
from sie_spark.features import encode
from sie_spark.features.encode import Labels

PLAIN = [feature for feature in FEATURES if feature["kind"] in ("category", "number")]


def test_counts_of_a_date_replace_those_of_the_date() -> None:
    days = {f"2024-03-0{day}": Labels({("train", "zero"): day, ("test", "one"): 1}) for day in (1, 2, 3)}
    earlier = {"labels_by_date": {day: labels.as_dict() for day, labels in days.items()}, "selection": "kept"}
    part = {"labels_by_date": {"2024-03-02": Labels({("train", "zero"): 50}).as_dict()}}
    whole = encode._whole_table(earlier, part, ("2024-03-02", "2024-03-02"))
    assert whole["labels"]["train"]["zero"] == 1 + 50 + 3 and whole["labels"]["test"]["one"] == 2
    assert whole["selection"] == "kept" and sorted(whole["labels_by_date"]) == list(whole["labels_by_date"])
    gone = encode._whole_table(earlier, {"labels_by_date": {}}, ("2024-03-02", None))
    assert gone["labels"]["train"]["zero"] == 1


@pytest.mark.spark
def test_some_dates_keep_the_whole_tables_counts(make_context: Any) -> None:
    ctx = make_context(settings(features=PLAIN))
    store(ctx, rows())
    whole = encode.run(ctx)
    day = str((START + dt.timedelta(days=3)).date())
    store(ctx, [*rows(), {**rows()[-1], "impression_id": "late"}])
    parts = [
        make_context({**settings(features=PLAIN), "run": {"date_from": one, "date_to": one}})
        for one in (day, str(START.date()))
    ]
    late = encode.run(parts[0])
    assert late.rows.read == 101
    kept = ctx.load_details("encode")
    assert sum(sum(part.values()) for part in kept["labels"].values()) == 401
    assert (kept["encoder"], kept["split"]) == (whole.details["encoder"], whole.details["split"])
    assert encode.run(parts[1]).rows.read == 100
    again = encode.run(parts[0])  # the other date's run is not in the way
    assert again.skipped and again.rows == late.rows and again.metrics == late.metrics


@pytest.mark.spark
def test_a_run_killed_before_its_details_is_run_again(make_context: Any) -> None:
    ctx = make_context(settings(features=PLAIN))
    store(ctx, rows(80))
    first = encode.run(ctx)
    part = make_context({**settings(features=PLAIN), "run": {"date_from": str(START.date())}})
    made = current(ctx.root)
    assert made is not None
    same = made.fitted["settings"]
    assert encode._reusable(part, same) is not None
    ctx.save_details("encode", {**first.details, "encoder": "of an older run"})
    assert encode._reusable(part, same) is None  # the table may be another encoder's
    assert not encode.run(ctx).skipped and encode.run(ctx).skipped
