"""Stage ``weigh`` over Delta: the columns equal the arrays, the arms, the details, the refusals."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from helpers.encoded_samples import planted_rows, settings, write_samples
from sie_spark.importance import score
from sie_spark.models.store import require_model
from sie_spark.platform.draws import Draw, uniform
from sie_spark.platform.errors import DataError, StageOrderError
from sie_spark.training import retrain, train
from sie_spark.weighting import NUMPY, POLICIES, SPARK, Row, weigh
from sie_spark.weighting.arms import Arm, planned, solve_arms
from sie_spark.weighting.solving_sample import solving_sample

pytestmark = pytest.mark.spark


def write_scores(context: Any, rows: int = 6000) -> None:
    """``scores`` as the score stage leaves it, without a model."""
    from pyspark.sql import functions as F

    write_samples(context, planted_rows(rows))
    p = 1 / (1 + F.exp(3.0 - F.col("dense")[0] + 0.7 * F.col("dense")[1]))
    frame = context.catalog.read("samples").withColumn("p", p)
    frame = frame.withColumn(
        "score_logit_grad_norm", F.sqrt(1 + F.col("dense")[0] ** 2 + F.col("dense")[1] ** 2)
    )
    frame = frame.withColumn(
        "score_grad_norm", F.abs(F.col("p") - F.col("label")) * F.col("score_logit_grad_norm")
    )
    frame = frame.withColumn(
        "score_loss", -F.log(F.when(F.col("label") > 0, F.col("p")).otherwise(1 - F.col("p")))
    )
    context.catalog.replace(
        frame.withColumn("scorer_versions", F.lit("t")), "scores", fingerprint="t", job="test"
    )


def config(**weighting: Any) -> dict[str, Any]:
    return settings(weighting=weighting, importance={"scorers": ["grad_norm", "loss"]})


def test_columns_equal_arrays_for_every_policy(make_context: Any) -> None:
    from pyspark.sql import functions as F

    context = make_context(config())
    write_scores(context)
    scores = context.catalog.read("scores")
    read = {"p", "score_logit_grad_norm"}
    pilot = Draw(0.1, 7, "pilot")
    sample = solving_sample(scores, read, rows=6000, seed=1, pilot=pilot)
    assert len(sample) == 6000
    plain = {name: {"policy": name} for name in POLICIES}
    scored = {
        f"{name}_scored": {"policy": name, "score": "logit_grad_norm"}
        for name in POLICIES
        if POLICIES[name].takes != "none"
    }
    policies = make_context(settings(arms=plain | scored)).config
    arms = {arm.name: arm for arm in solve_arms(planned(policies), sample)}
    columns: list[Any] = []
    expected: dict[str, np.ndarray] = {}
    for name in [*plain, *scored]:
        row = arms[name].row(F.col("label").cast("double"), F.col, SPARK)
        columns += _columns(arms[name], row, name, pilot)
        decision = arms[name].decide(sample.row(arms[name].score), sample.rate, NUMPY, seen=sample.seen)
        expected |= {f"{name}_{part}": getattr(decision, part) for part in ("pi", "offset", "weight")}
    table = scores.select("sample_id", *columns).toArrow().sort_by("sample_id")
    for name, values in expected.items():
        np.testing.assert_allclose(table[name].to_numpy(), values, rtol=1e-9, err_msg=name)


def _columns(arm: Arm, row: Row, name: str, pilot: Draw) -> list[Any]:
    from pyspark.sql import functions as F

    decision = arm.decide(row, F.col("sampling_rate"), SPARK, seen=pilot.column(F.col("sample_id")))
    return [getattr(decision, part).alias(f"{name}_{part}") for part in ("pi", "offset", "weight")]


def test_training_set_of_the_default_policy(make_context: Any) -> None:
    context = make_context(config(budget=0.2))
    write_scores(context)
    result = weigh.run(context)
    kept = context.catalog.read("training_set").toPandas()
    scores = context.catalog.read("scores").toPandas().set_index("sample_id")
    weighted, chance = kept[kept["arm"] == "weighted"], kept[kept["arm"] == "random"]
    assert not weighted["sample_id"].duplicated().any()

    # who is kept follows from the ids alone
    positives = set(scores.index[scores["label"] > 0])
    assert positives <= set(weighted["sample_id"])
    drawn = uniform(chance["sample_id"].to_numpy(), seed=11, purpose="keep_random")
    assert (drawn < chance["pi"].to_numpy()).all() and drawn.max() > 0.9 * chance["pi"].max()
    negative = weighted[weighted["label"] == 0]
    np.testing.assert_allclose(negative["offset"], -np.log(negative["pi"]), rtol=1e-5)
    assert (weighted["weight"] == 1).all() and (weighted.loc[weighted["label"] > 0, "offset"] > 0).any()
    assert (chance["offset"] == 0).all() and (chance["weight"] == 1).all()
    # both arms have the budget's rows, within four standard deviations of a Poisson count
    for arm in (weighted, chance):
        assert abs(len(arm) - 1200) < 4 * np.sqrt(1200)
    # the encoded columns travel along unchanged, and no score does
    assert not any(name.startswith("score") or name == "p" for name in kept.columns)
    first = weighted.iloc[0]
    assert list(first["cat"]) == list(scores.loc[first["sample_id"], "cat"])
    assert set(kept["policy"]) == {"rare_event", "random"} and set(kept["seed"]) == {11}

    arm = result.details["arms"]["weighted"]
    assert arm["kept"] == len(weighted) and result.metrics["kept_fraction"] == len(weighted) / 6000
    assert arm["ess"] == pytest.approx(len(weighted))
    assert arm["positives"] == len(positives)
    assert arm["estimated_rows"] == pytest.approx(6000, rel=0.3)
    top = result.details["top"]
    assert [row["score"] for row in top] == sorted(scores["score_grad_norm"].nlargest(20), reverse=True)
    assert "price" in top[0]["features"]
    version = context.catalog.version("training_set")
    again = weigh.run(context)
    assert again.skipped and again.metrics == result.metrics
    assert context.catalog.version("training_set") == version


def test_horvitz_thompson_and_biased_arms(make_context: Any) -> None:
    context = make_context(config(policy="horvitz_thompson", budget=0.2))
    write_scores(context)
    found = weigh.run(context).details["arms"]["weighted"]
    kept = context.catalog.read("training_set").where("arm = 'weighted'").toPandas()
    np.testing.assert_allclose(kept["weight"], 1 / kept["pi"], rtol=1e-5)
    weight = kept["weight"].astype(float)
    assert found["ess"] == pytest.approx(weight.sum() ** 2 / (weight**2).sum(), rel=1e-5)
    assert found["estimated_rows"] == pytest.approx(6000, rel=0.2) and not found["biased"]

    emphasised = make_context(config(policy="exp_score", budget=0.2, score="loss"))
    result = weigh.run(emphasised)
    assert result.metrics["biased"] == 1.0 and result.details["arms"]["weighted"]["biased"]
    again = emphasised.catalog.read("training_set").where("arm = 'weighted'").toPandas()
    assert again["weight"].mean() == pytest.approx(1.0, rel=0.15) and again["weight"].max() <= 10.0


def test_a_budget_that_keeps_nothing_fails_every_time(make_context: Any) -> None:
    context = make_context(config(policy="horvitz_thompson", budget=1e-9))
    write_scores(context, 300)
    for _ in range(2):
        with pytest.raises(DataError, match="none of 300 rows was kept"):
            weigh.run(context)


def test_a_score_that_the_table_lacks_says_which_stage_adds_it(make_context: Any) -> None:
    context = make_context(config(score="entropy"))
    write_scores(context, 300)
    with pytest.raises(StageOrderError, match="drawn by 'entropy'") as caught:
        weigh.run(context)
    assert "sie score" in caught.value.remedy


def test_whole_requests_are_kept_or_dropped(make_context: Any) -> None:
    from pyspark.sql import functions as F

    context = make_context(config(policy="horvitz_thompson", budget=0.3, unit="request"))
    write_scores(context)
    with pytest.raises(DataError, match="belong to no shown list") as caught:
        weigh.run(context)
    assert "list_id" in caught.value.remedy
    scores = context.catalog.read("scores").withColumn("request_id", F.col("sample_id") % 400)
    context.catalog.replace(scores.localCheckpoint(), "scores", fingerprint="r", job="test")
    weigh.run(context)
    request = ["event_date", "request_id"]
    rows = context.catalog.read("scores").toPandas()
    rows["error"] = np.where(rows.label > 0, 1 - rows.p, rows.p)
    sizes, errors = rows.groupby(request).size(), rows.groupby(request).error.sum()
    kept = context.catalog.read("training_set").toPandas()
    for arm, found in kept.groupby("arm"):
        here = found.groupby(request).size()
        assert here.equals(sizes[here.index])
        assert abs(len(found) - 1800) < 4 * np.sqrt((sizes**2).sum() * 0.3 * 0.7), arm
    weighted = kept[kept.arm == "weighted"].groupby(request).pi.agg(["min", "max"])
    assert (weighted["min"] == weighted["max"]).all()
    measure = (errors / np.sqrt(sizes))[weighted.index]
    below = weighted["min"] < 1
    slope, intercept = np.polyfit(measure[below], weighted["min"][below], 1)
    np.testing.assert_allclose(weighted["min"][below], (slope * measure + intercept)[below], rtol=1e-6)
    # 1/pi gives back the sums over all rows
    total = (kept[kept.arm == "weighted"].weight).sum()
    assert total == pytest.approx(6000, rel=0.15)


def test_auto_keeps_the_share_that_trials_recommend_or_all_rows(make_context: Any, tmp_path: Path) -> None:
    def context(**evaluation: Any) -> Any:
        sections = settings(
            weighting={"budget": "auto"},
            training={"refit": False, "epochs": 2, "batch_size": 128},
            evaluation=evaluation,
        )
        return make_context(sections, root=tmp_path)

    wide = context(margin=0.05)
    write_samples(wide, planted_rows(6000, base=-1.0), validation_rows=2000, test_rows=500)
    train.run(wide)
    score.run(wide)
    result = weigh.run(wide)
    auto, arms = result.details["auto"], result.details["arms"]
    assert auto["share"] <= 0.3
    assert result.metrics["auto_share"] == auto["share"]
    assert len(auto["trials"]) == 3 and all(trial["error"] > 0 for trial in auto["trials"])
    for arm in arms.values():
        assert arm["kept_fraction"] == pytest.approx(auto["share"], rel=0.3)
    assert not wide.root.exists("trials") and weigh.run(wide).skipped

    # a margin that nothing meets: nothing is copied, and the arms are the model of all rows
    narrow = context(margin=1e-6)
    result = weigh.run(narrow)
    assert result.details["auto"]["words"].startswith("Keep all rows: ")
    assert result.outputs["training_set"].rows == 0
    found = result.details["arms"]["weighted"]
    assert found["keeps_all"] and found["kept"] == found["rows"] == 3500
    assert found["by_class"]["positive"]["kept"] == found["by_class"]["positive"]["rows"] > 0
    retrain.run(narrow)
    paths = {require_model(narrow.root, name).path for name in ("full", "weighted", "random", "reference")}
    assert len(paths) == 1
    for budget, share in (("1 h", 1.0), (700, 0.2)):
        other = make_context(settings(weighting={"budget": budget}), root=tmp_path)
        assert weigh.run(other).details["arms"]["weighted"]["expected"] == pytest.approx(3500 * share)
