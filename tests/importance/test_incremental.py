"""Models that stay while dates come in: only these dates are scored, and what moved is said."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from helpers.encoded_samples import planted_rows, settings, write_samples
from sie_spark.importance.drift import stability

DAY = "DATE'2024-03-{:02d}'"


def test_the_stability_index_is_a_sum_over_shares() -> None:
    assert stability(np.array([1.0, 1.0]), np.array([50.0, 50.0])) == 0.0
    expected = (0.75 - 0.5) * np.log(0.75 / 0.5) + (0.25 - 0.5) * np.log(0.25 / 0.5)
    assert stability(np.array([1.0, 1.0]), np.array([3.0, 1.0])) == pytest.approx(expected)
    assert np.isfinite(stability(np.array([1.0, 0.0]), np.array([0.0, 1.0])))


def come_in(context: Any, day: int, *, moved: bool) -> int:
    """One more date in ``samples``, written as ``encode`` writes dates; returns its rows."""
    from pyspark.sql import functions as F

    rows = context.catalog.read("samples").where("event_date = DATE'2024-03-04' AND split <> 'test'")
    new = rows.withColumn("event_date", F.expr(DAY.format(day)))
    new = new.withColumn("sample_id", F.xxhash64("sample_id", F.lit(day)))
    if moved:
        new = new.withColumn("dense", F.expr("transform(dense, x -> x + CAST(3 AS float))"))
        new = new.withColumn("label", F.expr("CAST(pmod(sample_id, 2) AS float)"))
    new = new.localCheckpoint()
    date = f"2024-03-{day:02d}"
    context.catalog.replace(
        new,
        "samples",
        where=f"event_date = DATE'{date}'",
        fingerprint=date,
        job="encode",
        scope=f"{date}..{date}",
    )
    return new.count()


@pytest.mark.spark
def test_new_dates_alone_are_scored_until_models_are_due(make_context: Any, tmp_path: Path) -> None:
    from sie_spark.importance import score
    from sie_spark.models.store import current_model
    from sie_spark.training import train

    def at(**more: Any) -> Any:
        return make_context(
            settings(importance={"scorers": ["loss", "rarity", "gradient_dot"]}, **more),
            root=tmp_path / "root",
        )

    context = at(reference={"refit_after": 4})
    write_samples(context, planted_rows(3000, base=-1.0), validation_rows=400, test_rows=300)
    train.run(context)
    first = score.run(context)
    assert score.run(context).skipped
    columns = ["sample_id", "score_loss", "score_rarity", "score_gradient_dot"]
    before = {tuple(row) for row in context.catalog.read("scores").select(*columns).collect()}
    fitted = {name: current_model(context.root, name).path for name in ("pilot", "reference")}

    added = come_in(context, 5, moved=False)
    assert train.run(context).skipped
    assert {name: current_model(context.root, name).path for name in fitted} == fitted
    second = score.run(context)
    assert second.details["scope"] == "2024-03-05..2024-03-05"
    assert second.details["base"] == first.details["base"]
    assert second.details["rows"] == first.details["rows"] + added
    table = context.catalog.read("scores")
    assert {
        tuple(row) for row in table.where("event_date < DATE'2024-03-05'").select(*columns).collect()
    } == before
    history = context.spark.sql(f"DESCRIBE HISTORY {context.catalog.sql_name('scores')} LIMIT 1")
    assert int(history.first()["operationMetrics"]["numOutputRows"]) == added
    # a copy of a date has that date's scores, but for rows that it shares no artefact with
    old, new = (
        sorted(
            row[0] for row in table.where(f"event_date = {DAY.format(day)}").select("score_loss").collect()
        )
        for day in (4, 5)
    )
    np.testing.assert_allclose(old, new, rtol=1e-5)
    assert not second.details["drift"]["found"] and max(second.details["drift"]["psi"].values()) < 0.1
    assert second.cautions == [] and score.run(context).skipped

    come_in(context, 6, moved=True)
    assert train.run(context).skipped
    third = score.run(context)
    assert third.details["scope"] == "2024-03-06..2024-03-06" and third.details["drift"]["found"]
    assert any("population stability index" in said for said in third.cautions)
    assert any("ranks the new dates worse" in said for said in third.cautions), third.details["drift"]
    rows = context.catalog.read("scores").where(f"event_date = {DAY.format(6)}").toPandas()
    stored = third.details["drift"]["auc"]
    assert abs(stored - 0.5) < 0.1 < third.details["drift"]["auc_before"] - stored
    assert abs(stored - roc_auc_score(rows["label"], rows["p"])) < 0.1  # of the pilot, about the same model

    # a drift that was found, or enough days, make the models anew; then all rows are scored
    assert not train.run(at(reference={"refit_after": "drift"})).skipped
    come_in(context, 10, moved=False)
    late = at(reference={"refit_after": 3})
    assert not train.run(late).skipped
    last = score.run(late)
    assert last.details["scope"] == "" and last.details["drift"] == {}
    assert last.details["base"] != first.details["base"]
