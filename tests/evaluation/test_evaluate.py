"""The stage on planted predictions: its aggregates against pandas and scikit-learn on the same rows."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from pyspark.sql import functions as F
from sklearn.metrics import log_loss, roc_auc_score

from helpers import encoded_samples
from sie_spark.evaluation import evaluate
from sie_spark.evaluation.counts import Clusters
from sie_spark.models import build_model
from sie_spark.models.store import SavedModel, require_model, save_model, set_current
from sie_spark.platform.config import Model
from sie_spark.platform.errors import DataError, ModelError, StageOrderError

pytestmark = pytest.mark.spark
ROWS, TEST = 6000, 4000


def fitted(ctx: Any, arm: str, noise: float) -> None:
    """A logistic regression with the planted coefficients, blurred."""
    settings = Model(name="lr")  # type: ignore[call-arg]
    model = build_model(settings, encoded_samples.SPEC, seed=0)
    state = model.state_dict()
    generator = torch.Generator().manual_seed(1)
    for name, value in state.items():
        if not value.is_floating_point():
            continue
        blur = noise * torch.randn(value.shape, generator=generator)
        state[name] = blur
        if value.shape[-1:] == (2,):
            state[name] = (
                torch.tensor(encoded_samples.COEFFICIENTS, dtype=value.dtype).reshape(value.shape) + blur
            )
        elif "bias" in name:
            state[name] = torch.full_like(value, -3.0)
    model.load_state_dict(state)
    path = save_model(
        ctx.root, model, arm=arm, fingerprint=arm, settings=settings, inputs=encoded_samples.SPEC
    )
    set_current(ctx.root, SavedModel(arm, arm, path, {}))


def context(spark: Any, root: Path, **evaluation: Any) -> Any:
    from sie_spark.platform.config import Config
    from sie_spark.platform.config.base import validate
    from sie_spark.platform.context import Context
    from sie_spark.platform.progress import Progress
    from sie_spark.platform.root import Root

    config = validate(Config, encoded_samples.settings(evaluation=evaluation), where="test")
    return Context(config=config, root=Root(root), progress=Progress(quiet=True), session=spark)


@pytest.fixture(scope="module")
def judged(spark: Any, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Three arms on a log that kept a third of its non-clicks, with one absurdly far price among them."""
    ctx = context(spark, tmp_path_factory.mktemp("judged"), bootstrap=60)
    frame = encoded_samples.planted_rows(ROWS, base=-2.0)
    frame["sampling_rate"] = np.where(frame.label > 0, 1.0, 1 / 3).astype(np.float32)
    frame.at[ROWS - 10, "dense"] = np.array([999_999_999.0, 0.0], np.float32)
    encoded_samples.write_samples(ctx, frame, test_rows=TEST)
    fitted(ctx, "full", 0.0)
    fitted(ctx, "weighted", 0.05)
    fitted(ctx, "random", 0.8)
    details = {
        "inputs": {"categories": {"item": 50, "city": 20}},
        "features": [{"name": "item", "hashed": False}, {"name": "city", "hashed": False}],
    }
    ctx.save_details("encode", details)
    result = evaluate.run(ctx)
    return {"ctx": ctx, "result": result, "rows": ctx.catalog.read("predictions").toPandas()}


def test_predictions_are_those_of_the_models(judged: dict[str, Any]) -> None:
    rows = judged["rows"]
    assert rows.groupby("arm").size().to_dict() == {"full": TEST, "random": TEST, "weighted": TEST}
    samples = judged["ctx"].catalog.read("samples").where("split = 'test'").toPandas().set_index("sample_id")
    full = rows[rows.arm == "full"].set_index("sample_id")
    dense = np.array(samples.loc[full.index, "dense"].tolist())
    assert np.allclose(full.logit, -3.0 + dense @ encoded_samples.COEFFICIENTS, atol=1e-5)
    assert np.allclose(full.p, 1 / (1 + np.exp(-full.logit)))


def test_metrics_match_scikit_learn(judged: dict[str, Any]) -> None:
    metrics = judged["result"].metrics
    for arm, rows in judged["rows"].groupby("arm"):
        weight = (1 / rows.sampling_rate).to_numpy()
        assert metrics[f"auc_{arm}"] == pytest.approx(
            roc_auc_score(rows.label, rows.logit, sample_weight=weight), abs=1e-9
        )
        loss = np.logaddexp(0, rows.logit) - rows.label * rows.logit
        assert metrics[f"logloss_{arm}"] == pytest.approx(np.average(loss, weights=weight))
        rate = np.average(rows.label, weights=weight)
        constant = log_loss(rows.label, np.full(TEST, rate), sample_weight=weight)
        assert metrics[f"ne_{arm}"] == pytest.approx(metrics[f"logloss_{arm}"] / constant)
        assert metrics[f"calibration_{arm}"] == pytest.approx(
            (weight * rows.p).sum() / (weight * rows.label).sum()
        )
        groups = [
            (1 / g.sampling_rate).pipe(
                lambda w, g=g: (w.sum(), roc_auc_score(g.label, g.logit, sample_weight=w))
            )
            for _, g in rows.groupby("group_id")
            if g.label.nunique() > 1
        ]
        sizes, values = np.array(groups).T
        assert metrics[f"gauc_{arm}"] == pytest.approx((sizes * values).sum() / sizes.sum())
        assert metrics[f"gauc_groups_{arm}"] == len(groups)
    assert set(metrics) == {
        f"{name}_{arm}" for name in evaluate.REPORTED for arm in ("full", "weighted", "random")
    }


def test_intervals_are_paired(judged: dict[str, Any]) -> None:
    details = judged["result"].details
    for arm in ("full", "weighted", "random"):
        low, high = details["intervals"][f"auc_{arm}"]
        assert low < details["arms"][arm]["auc"] < high
        assert details[f"auc_{arm}_low"] == low
    by_name = {entry["name"]: entry for entry in details["differences"]}
    close = by_name["weighted - full"]
    span = np.diff(details["intervals"]["auc_full"])[0]
    # arms that agree on most rows differ far less than each of them varies
    assert close["high"] - close["low"] < span / 3
    assert by_name["weighted - random"]["low"] > 0
    assert by_name["random - full"]["verdict"]["word"] == "worse"


def test_slices_and_curves(judged: dict[str, Any]) -> None:
    details, rows = judged["result"].details, judged["rows"]
    full = rows[rows.arm == "full"]
    entries = [entry for entry in details["slices"] if entry["arm"] == "full"]
    assert {entry["kind"] for entry in entries} == {"day", "position"}
    for entry in entries:
        if entry["kind"] == "position":
            here = full[full.position == int(entry["slice"])]
            weight = 1 / here.sampling_rate
            assert entry["rows"] == pytest.approx(weight.sum())
            exact = roc_auc_score(here.label, here.logit, sample_weight=weight)
            assert entry["auc"] == pytest.approx(exact, abs=1e-9) and entry["auc_error_bound"] == 0
    curve = details["curves"]["full"]
    assert sum(point["rows"] for point in curve) == pytest.approx((1 / full.sampling_rate).sum())
    assert all(point["low"] <= point["rate"] <= point["high"] for point in curve)
    assert np.all(np.diff([point["p"] for point in curve]) > 0)


def test_frequency_slices(spark: Any) -> None:
    from sie_spark.evaluation.counts import frequency_slice

    frame = spark.createDataFrame([([i],) for i in (0, 1, 10, 50, 99)], "cat array<int>")
    found = [row[0] for row in frame.select(frequency_slice(101, 0)).collect()]
    assert found == ["5 unseen or rare", "1 top 1 %", "2 next 9 %", "3 next 40 %", "4 last half"]


def test_group_auc_counts_ties_half_and_weighs_rows(spark: Any) -> None:
    from sie_spark.evaluation.counts import group_auc

    rng = np.random.default_rng(0)
    frame = pd.DataFrame(
        {
            "arm": "full",
            "group_id": rng.integers(0, 5, 300),
            "logit": rng.integers(0, 6, 300).astype(float),
            "label": (rng.random(300) < 0.3).astype(float),
            "sampling_rate": rng.choice([0.1, 0.5, 1.0], 300),
        }
    )
    frame.loc[frame.group_id == 4, "label"] = 0.0  # a group of one class says nothing
    found = group_auc(spark.createDataFrame(frame)).toPandas().set_index("group_id")
    assert sorted(found.index) == [0, 1, 2, 3]
    for group, rows in frame[frame.group_id < 4].groupby("group_id"):
        weight = 1 / rows.sampling_rate
        assert found.auc[group] == pytest.approx(roc_auc_score(rows.label, rows.logit, sample_weight=weight))
        assert found.rows[group] == pytest.approx(weight.sum())


def test_bins_are_laid_on_a_sample_of_many_rows(spark: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """With more rows than the sample holds, the AUC stays within its bound, and the bound is small."""
    from sie_spark.evaluation import bins, counts

    monkeypatch.setattr(bins, "SAMPLE", 2_000)
    rng = np.random.default_rng(3)
    logit = np.append(rng.normal(size=7_999), 1e12)
    label = (rng.random(8_000) < 1 / (1 + np.exp(2 - np.clip(logit, -5, 5)))).astype(float)
    frame = pd.DataFrame(
        {
            "arm": "full",
            "sample_id": rng.integers(0, 2**62, 8_000),
            "logit": logit,
            "p": 0.1,
            "label": label,
            "sampling_rate": 1.0,
        }
    )
    predictions = spark.createDataFrame(frame)
    edges = bins.lay_bins(predictions, rows=8_000)
    assert 3_000 < len(edges["full"]) < 5_000  # both sides of each of about 2,000 sampled logits
    point = counts.count_bins(bins.add_bins(predictions, edges), edges)["full"].point()
    assert abs(point["auc"] - roc_auc_score(label, logit)) <= point["auc_error_bound"] < 1e-3


@pytest.mark.parametrize(
    ("groups", "by_row", "effective"),
    [
        (np.zeros(60), True, 60.0),  # one id for all
        (np.arange(60), True, 60.0),  # another in every row
        (np.repeat(np.arange(6), 10), False, 6.0),
        (np.append(np.zeros(50), np.arange(1, 11)), False, 60**2 / (50**2 + 10)),
    ],
)
def test_how_many_independent_groups(spark: Any, groups: np.ndarray, by_row: bool, effective: float) -> None:
    from sie_spark.evaluation.counts import clusters

    frame = pd.DataFrame({"group_id": groups.astype(int), "sampling_rate": 0.5})
    found = clusters(spark.createDataFrame(frame), "session_id")
    assert (found.by_row, found.unit) == (by_row, "row" if by_row else "session")
    assert found.effective == pytest.approx(effective)


def test_one_id_for_all_rows_gives_intervals_over_rows(spark: Any, tmp_path: Path) -> None:
    """The interval of one group would have no width; over rows it is that of Hanley and McNeil (1982)."""
    ctx = context(spark, tmp_path, bootstrap=100)
    encoded_samples.write_samples(ctx, encoded_samples.planted_rows(3000, base=-1.0), test_rows=2000)
    samples = ctx.catalog.read("samples").withColumn("group_id", F.lit(5).cast("bigint"))
    ctx.catalog.replace(samples.localCheckpoint(), "samples", fingerprint="one id", job="test")
    fitted(ctx, "weighted", 0.0)
    details = evaluate.run(ctx).details
    rows = ctx.catalog.read("predictions").toPandas()
    auc, clicks = details["arms"]["weighted"]["auc"], rows.label.sum()
    others, low, high = len(rows) - clicks, *details["intervals"]["auc_weighted"]
    q1, q2 = auc / (2 - auc), 2 * auc**2 / (1 + auc)
    variance = auc * (1 - auc) + (clicks - 1) * (q1 - auc**2) + (others - 1) * (q2 - auc**2)
    assert high - low == pytest.approx(2 * 1.96 * np.sqrt(variance / (clicks * others)), rel=0.25)
    assert "rows are taken as independent" in " ".join(details["cautions"])
    assert "gauc_weighted" not in details["intervals"]


def test_what_cannot_be_concluded_is_not() -> None:
    drawn = {(arm, "auc"): np.random.default_rng(0).normal(0.8, 1e-5, 200) for arm in ("full", "weighted")}

    def difference(effective: float = 500.0, bound: float = 0.0) -> dict[str, Any]:
        point = {arm: {"auc": 0.8, "auc_error_bound": bound} for arm in ("full", "weighted")}
        clusters = Clusters("user", 900, False, effective)
        return evaluate.differences(point, drawn, clusters, margin=0.001, confidence=0.95)[0]

    assert difference()["verdict"]["word"] == "equivalent" and "no_verdict" not in difference()
    for doubt, reason in (
        (difference(effective=19.9), "the users of the test rows carry as much as 19.9"),
        (difference(bound=0.00006), "binning may have moved the difference by 0.0001"),
    ):
        assert "verdict" not in doubt and reason in doubt["no_verdict"] and "low" in doubt


def test_metrics_table_and_second_run(judged: dict[str, Any]) -> None:
    ctx, result = judged["ctx"], judged["result"]
    table = ctx.catalog.read("metrics").toPandas()
    row = table[(table.arm == "weighted") & (table.metric == "auc")].iloc[0]
    assert row.value == result.metrics["auc_weighted"] and row.low < row.value < row.high
    assert set(table.test_rows) == {TEST}
    again = evaluate.run(ctx)
    assert again.skipped and again.metrics == result.metrics and again.outputs == result.outputs


def test_test_labels_of_one_class_are_refused(make_context: Any) -> None:
    ctx = make_context(encoded_samples.settings())
    frame = encoded_samples.planted_rows(300)
    frame["label"] = np.float32(0.0)
    encoded_samples.write_samples(ctx, frame, test_rows=100)
    with pytest.raises(StageOrderError, match="no model 'weighted'"):
        evaluate.run(ctx)
    fitted(ctx, "weighted", 0.0)
    with pytest.raises(DataError, match=r"'planted' has 100 rows, all with label 0") as caught:
        evaluate.run(ctx)
    assert "test_fraction" in caught.value.remedy


def test_an_arm_of_another_encoder_is_not_judged(make_context: Any) -> None:
    ctx = make_context(encoded_samples.settings())
    encoded_samples.write_samples(ctx, encoded_samples.planted_rows(60), test_rows=20)
    fitted(ctx, "weighted", 0.0)
    assert [arm.arm for arm in evaluate.find_arms(ctx)] == ["weighted"]
    saved = require_model(ctx.root, "weighted")
    set_current(ctx.root, replace(saved, encoder="another"))
    with pytest.raises(StageOrderError, match="'weighted' was fitted on rows of encoder another") as caught:
        evaluate.run(ctx)
    assert "sie retrain" in caught.value.remedy


def test_a_model_that_predicts_nan_is_named(make_context: Any) -> None:
    ctx = make_context(encoded_samples.settings())
    encoded_samples.write_samples(ctx, encoded_samples.planted_rows(400, base=-1.0), test_rows=200)
    fitted(ctx, "weighted", float("nan"))
    with pytest.raises(ModelError, match="model 'weighted' predicts a value that is not finite for sample"):
        evaluate.run(ctx)
