"""Scores brought to one size within parts."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest

from helpers.encoded_samples import SPEC, planted_rows, settings, write_samples
from sie_spark.importance.parts import STRENGTH, factors, merged, part_columns, sums_by_part, whole_means
from sie_spark.platform.errors import ConfigError


@pytest.mark.spark
def test_parts_come_to_the_mean_size_of_the_whole(make_context: Any, capsys: Any) -> None:
    """Against pandas: sign and zeros stay, small parts are drawn to the whole, and no row is moved for it."""
    spark = make_context(settings()).spark
    rng = np.random.default_rng(0)
    table = pd.DataFrame(
        {
            "sample_id": np.arange(3000),
            "event_date": pd.to_datetime("2024-03-01").date(),
            "cat": [[int(i), 0] for i in rng.integers(0, 4, 3000)],
            "score_a": rng.normal(size=3000),
        }
    )
    item = np.array([ids[0] for ids in table["cat"]])
    table["score_a"] *= 1.0 + item
    table.loc[0, "score_a"] = 0.0
    rows = spark.createDataFrame(table, "sample_id long, event_date date, cat array<int>, score_a double")
    parts = part_columns(["item", "event_date"], rows.columns, SPEC)
    counted = sums_by_part(rows, parts, ["score_a"])
    found = merged(rows, parts, factors(spark, counted, whole_means(counted, ["score_a"])), ["score_a"])
    assert found.columns == rows.columns
    sums = table["score_a"].abs().groupby(item).agg(["sum", "count"])
    whole = table["score_a"].abs().mean()
    own = (sums["sum"] + STRENGTH * whole) / (sums["count"] + STRENGTH)
    got = found.toPandas().set_index("sample_id").loc[table["sample_id"], "score_a"].to_numpy()
    np.testing.assert_allclose(got, table["score_a"] * whole / own.loc[item].to_numpy(), rtol=1e-9)
    found.explain()
    printed = capsys.readouterr().out
    assert (
        "BroadcastHashJoin" in printed and printed.count("hashpartitioning") <= 1
    )  # of the small table of factors
    with pytest.raises(ConfigError, match="no part is called 'shop'") as caught:
        part_columns(["shop"], rows.columns, SPEC)
    assert "event_date" in caught.value.remedy and "item" in caught.value.remedy


@pytest.mark.spark
def test_the_stage_normalises_new_columns_once(make_context: Any, tmp_path: Any) -> None:
    from sie_spark.importance import score
    from sie_spark.training import train

    def at(*names: str, by: list[str]) -> Any:
        given = settings(importance={"scorers": list(names), "by": by}, model={"name": "lr"})
        return make_context(given, root=tmp_path / "root")

    plain = at("loss", by=[])
    write_samples(plain, planted_rows(1500), test_rows=200)
    train.run(plain)
    score.run(plain)
    raw = plain.catalog.read("scores").select("sample_id", "event_date", "score_loss").toPandas()
    one = at("loss", by=["event_date"])
    score.run(one)
    more = at("loss", "entropy", by=["event_date"])
    assert score.run(more).details["computed"] == ["score_entropy"]
    found = more.catalog.read("scores").select("sample_id", "event_date", "score_loss").toPandas()
    both = raw.merge(found, on=["sample_id", "event_date"], suffixes=("", "_by"))
    assert len(both) == 1300
    own = both.groupby("event_date")["score_loss"].agg(["sum", "count"])
    whole = both["score_loss"].mean()
    factor = whole / ((own["sum"] + STRENGTH * whole) / (own["count"] + STRENGTH))
    expected = both["score_loss"] * factor.loc[both["event_date"]].to_numpy()
    np.testing.assert_allclose(both["score_loss_by"], expected, rtol=1e-6)
    assert more.load_details("score")["mean_sizes"]["score_loss"] == pytest.approx(whole)
