"""The simulator keeps its promises: reproducible, calibrated, and each kind of damage seen in the log."""

from __future__ import annotations

import gzip
import json
import math
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import roc_auc_score

from sie_spark.platform.config import Config, load_config
from sie_spark.platform.context import Context
from sie_spark.platform.errors import ConfigError
from sie_spark.platform.progress import Progress
from sie_spark.platform.root import Root
from sie_spark.simulator import simulate
from sie_spark.simulator.draws import below, exponential, gauss, uniform, zipf

pytestmark = pytest.mark.spark
ROWS = 30_000
DAMAGE = {"bots": 0.05, "fake_clicks": 0.2, "missed_clicks": 0.1, "duplicates": 0.02, "malformed": 0.03}


def settings(**changes: Any) -> Config:
    pairs = {"impressions": ROWS, "days": 3, "base_rate": 0.08, "purchase_rate": 0.3, **DAMAGE, **changes}
    return load_config("simulated", overrides=[f"simulator.{key}={value}" for key, value in pairs.items()])


def context(spark: Any, root: Path, **changes: Any) -> Context:
    return Context(config=settings(**changes), root=Root(root), progress=Progress(quiet=True), session=spark)


@pytest.fixture(scope="module")
def shop(spark: Any, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    ctx = context(spark, tmp_path_factory.mktemp("shop"))
    result = simulate.run(ctx)
    texts: dict[str, list[str]] = {}
    for file in sorted(Path(ctx.root.path("raw")).rglob("*.gz")):
        texts.setdefault(file.parent.name, []).extend(
            gzip.decompress(file.read_bytes()).decode().splitlines()
        )
    return {"ctx": ctx, "result": result, "texts": texts, "truth": ctx.catalog.read("truth").toPandas()}


def parsed(shop: dict[str, Any]) -> tuple[list[dict[str, Any]], list[str]]:
    good, bad = [], []
    for text in (line for lines in shop["texts"].values() for line in lines):
        try:
            row = json.loads(text)
        except json.JSONDecodeError:
            bad.append(text)
            continue
        broken = (
            not isinstance(row["ts"], int)
            or "item_id" not in row
            or row["price"] < 0
            or row["event_type"].startswith("un")
        )
        (bad if broken else good).append(text if broken else row)
    return good, bad


def test_draws_have_their_distributions(spark: Any) -> None:
    from pyspark.sql import functions as F

    key = F.col("id")
    frame = spark.range(40_000).select(
        uniform(1, "a", key).alias("u"),
        uniform(1, "b", key).alias("v"),
        gauss(1, "a", key).alias("g"),
        exponential(1, "c", 8.0, key).alias("e"),
        below(uniform(1, "d", key), 7).alias("k"),
        zipf(uniform(1, "e", key), 50, 1.3, shift=2.0).alias("z"),
        zipf(uniform(1, "f", key), 3, 1.0, shift=0.0).alias("one"),
    )
    drawn = frame.toPandas()
    assert stats.kstest(drawn.u, "uniform").pvalue > 1e-3
    assert stats.kstest(drawn.g, "norm").pvalue > 1e-3
    assert stats.kstest(drawn.e, "expon", args=(0, 8.0)).pvalue > 1e-3
    assert abs(np.corrcoef(drawn.u, drawn.v)[0, 1]) < 4 / math.sqrt(40_000)
    assert stats.chisquare(np.bincount(drawn.k, minlength=7)).pvalue > 1e-3
    # the continuous law integrated over each rank, by quadrature rather than by the inverse used there
    points = np.linspace(3.0, 53.0, 50 * 2000 + 1)
    density = points**-1.3
    mass = np.array([np.trapezoid(density[i * 2000 : (i + 1) * 2000 + 1]) for i in range(50)])
    assert stats.chisquare(np.bincount(drawn.z, minlength=50), 40_000 * mass / mass.sum()).pvalue > 1e-3
    logs = np.diff(np.log([1, 2, 3, 4])) / np.log(4)
    assert stats.chisquare(np.bincount(drawn.one, minlength=3), 40_000 * logs).pvalue > 1e-3


def test_draws_do_not_depend_on_partitions(spark: Any) -> None:
    from pyspark.sql import functions as F

    def total(partitions: int, seed: int) -> float:
        frame = spark.range(0, 5000, 1, partitions).select(gauss(seed, "a", F.col("id")).alias("g"))
        return math.fsum(frame.toPandas().g)

    assert total(1, 3) == total(7, 3) != total(1, 4)


def test_truth_is_one_row_an_impression_and_holds_no_user(shop: dict[str, Any]) -> None:
    truth = shop["truth"]
    assert len(truth) == ROWS == shop["result"].metrics["impressions"]
    assert not truth.duplicated(["list_id", "item_id"]).any()
    assert not truth.duplicated(["list_id", "position"]).any()
    assert not {"user_id", "session_id"} & set(truth.columns)
    assert truth.event_date.nunique() == 3


def test_clicks_follow_their_probability(shop: dict[str, Any]) -> None:
    people = shop["truth"][~shop["truth"].is_bot]
    p, clicked = people.click_probability.to_numpy(), people.true_click.to_numpy()
    error = math.sqrt((p * (1 - p)).sum())
    assert abs(clicked.sum() - p.sum()) < 4 * error
    # the pilot solves the base rate on 2,000 of the 3,000 lists
    assert p.mean() == pytest.approx(0.08, rel=0.05)
    assert 0.75 < roc_auc_score(clicked, p) < 0.88
    by_position = people.groupby("position").true_click.mean()
    assert by_position[1] > 2 * by_position[10]


def test_every_switch_shows_in_its_share(shop: dict[str, Any]) -> None:
    truth = shop["truth"]
    people, bots = truth[~truth.is_bot], truth[truth.is_bot]
    assert 0.02 < truth.is_bot.mean() < 0.09  # drawn by session, a few hundred of them
    assert bots.observed_click.mean() == pytest.approx(0.3, abs=0.06) and not bots.true_click.any()
    assert people.is_fake.sum() / people.true_click.sum() == pytest.approx(0.2, abs=0.06)
    assert truth.is_missed.sum() / truth.true_click.sum() == pytest.approx(0.1, abs=0.03)
    assert not (truth.is_fake & truth.true_click).any()
    logged = (people.true_click & ~people.is_missed) | people.is_fake
    assert (logged == people.observed_click).all()
    bought = truth[truth.purchase]
    assert bought.true_click.all() and len(bought) / truth.true_click.sum() == pytest.approx(0.3, abs=0.05)
    assert bought.purchase_delay_hours.mean() == pytest.approx(8.0, rel=0.2)


def test_the_log_holds_what_the_truth_says(shop: dict[str, Any]) -> None:
    truth = shop["truth"]
    good, bad = parsed(shop)
    ids = Counter(row["event_id"] for row in good)
    assert set(ids.values()) == {1, 2}
    counts = shop["result"].details["records"]
    assert len(good) + len(bad) == counts["records"]
    assert len(bad) == counts["malformed"] == pytest.approx(0.03 * len(ids), rel=0.2)
    assert sum(count == 2 for count in ids.values()) == counts["duplicates"]
    rows = {row["event_id"]: row for row in good}
    by_type = Counter(row["event_type"] for row in rows.values())
    assert by_type["impression"] == (~truth.is_malformed).sum()
    clicked = {(row["list_id"], row["item_id"]) for row in rows.values() if row["event_type"] == "click"}
    observed = truth[truth.observed_click]
    assert clicked <= set(zip(observed.list_id, observed.item_id, strict=True))
    assert len(clicked) >= 0.95 * len(observed)
    twice = truth[truth.is_duplicate]
    assert all(ids[f"{row.list_id}-{row.position}-i"] == 2 for row in twice.itertuples())


def test_records_lie_under_their_own_day_and_purchases_come_later(shop: dict[str, Any]) -> None:
    import datetime

    late = 0
    for folder, texts in shop["texts"].items():
        for text in texts:
            try:
                row = json.loads(text)
            except json.JSONDecodeError:
                continue
            if isinstance(row["ts"], int):
                day = datetime.datetime.fromtimestamp(row["ts"] / 1000, datetime.UTC).date().isoformat()
                assert folder == f"day={day}"
    purchases = shop["truth"][shop["truth"].purchase]
    landed = (purchases.event_ts + np.array(purchases.purchase_delay_hours, "timedelta64[h]")).dt.date
    late = (landed > purchases.event_date).sum()
    assert late > 0.1 * len(purchases)
    assert shop["result"].details["records"]["purchases"] < len(purchases)  # the log ends with the last day


def test_the_same_command_twice_writes_nothing(shop: dict[str, Any]) -> None:
    before = shop["result"].outputs["truth"]
    again = simulate.run(shop["ctx"])
    assert again.skipped and again.outputs["truth"] == before
    assert again.metrics == shop["result"].metrics


def test_without_damage_the_log_is_clean(spark: Any, tmp_path: Path) -> None:
    clean = {name: 0 for name in DAMAGE}
    result = simulate.run(context(spark, tmp_path, impressions=2_005, compression="none", **clean))
    lines = [line for file in tmp_path.rglob("raw/*/*.txt") for line in file.read_text().splitlines()]
    assert len({json.loads(line)["event_id"] for line in lines}) == len(lines)
    assert result.details["truth"]["is_bot"] == result.details["truth"]["is_fake"] == 0
    assert result.details["truth"]["true_click"] == result.details["truth"]["observed_click"]
    assert result.metrics["impressions"] == 2_005


def test_settings_that_contradict_are_named(spark: Any, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"list_length 10 exceeds simulator.items 5"):
        simulate.run(context(spark, tmp_path, items=5))
    with pytest.raises(ConfigError, match=r"base_rate 0.9 cannot be reached"):
        simulate.run(context(spark, tmp_path, base_rate=0.9))
