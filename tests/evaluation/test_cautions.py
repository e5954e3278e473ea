"""What is said of judged arms before anybody trusts them."""

from __future__ import annotations

from typing import Any

from sie_spark.evaluation.cautions import cautions


def judged(**more: Any) -> dict[str, Any]:
    arms = {"full": {"auc": 0.8, "ne": 0.8, "calibration": 1.0}}
    clusters = {"group": "user", "groups": 900, "by_row": False, "effective": 500.0}
    titles = [["full", "all rows"], ["weighted", "weighted subset"], ["random", "random rows"]]
    return {
        "titles": titles,
        "arms": arms,
        "positives": 5_000,
        "differences": [],
        "clusters": clusters,
        **more,
    }


def test_a_model_that_promises_too_much_or_too_little_is_named() -> None:
    assert cautions(judged(), split_by="time") == [
        "One seed and one time split: repeat with other seeds before a decision that matters."
    ]
    assert cautions(judged(recommended="Keep all rows: why"), split_by="time")[0] == "Keep all rows: why."
    arms = {"weighted": {"calibration": 1.2}, "random": {"calibration": 0.5}}
    said = cautions(judged(arms=arms, positives=1_520), split_by="hash")
    assert "weighted subset predicts 1.20 clicks" in said[0] and "random rows" in said[1]
    assert said[2].startswith("Only 1,520 positive") and "one split:" in said[3]


def test_a_model_that_is_worse_than_a_constant_comes_first() -> None:
    for values in ({"auc": 0.333, "ne": 0.99}, {"auc": 0.6, "ne": 1.24}):
        said = cautions(judged(arms={"random": {**values, "calibration": 2.0}}), split_by="time")
        assert said[0].startswith("The model on random rows is no better than a constant")
        assert f"entropy {values['ne']:.3g}" in said[0] and "2.00 clicks" in said[1]


def test_what_intervals_and_grouped_metrics_stand_on_is_said() -> None:
    pairs = [
        {"name": name, "no_verdict": "the users are few"} for name in ("weighted - full", "random - full")
    ]
    arms = {"full": {"auc": 0.8, "ne": 0.8, "gauc": 0.857, "gauc_groups": 7}}
    said = " ".join(cautions(judged(arms=arms, differences=pairs), split_by="time"))
    assert said.count("No verdict: the users are few.") == 1
    assert "gAUC stands on 7 users with both labels" in said
    one = {"group": "user", "groups": 1, "by_row": True, "effective": 4_000.0}
    assert "rows are taken as independent" in " ".join(cautions(judged(clusters=one), split_by="time"))
    each = {**one, "groups": 4_000}
    assert "independent" not in " ".join(cautions(judged(clusters=each), split_by="time"))


def test_an_arm_below_a_yardstick_by_more_than_the_interval_is_named_with_what_to_try() -> None:
    yardsticks = [
        {"name": "constant", "title": "a constant", "rows": 900, "chosen": {}},
        {"name": "boosted_trees", "title": "boosted trees", "rows": 900, "chosen": {"depth": 4}},
    ]
    below = {"name": "full - boosted_trees", "value": -0.0123, "low": -0.02, "high": -0.004}
    even = {"name": "weighted - boosted_trees", "value": -0.001, "low": -0.02, "high": 0.004}
    arms = {"full": {"auc": 0.8, "ne": 0.8, "calibration": 1.0}, "constant": {"auc": 0.5, "ne": 1.0}}
    said = cautions(judged(arms=arms, yardsticks=yardsticks, differences=[even, below]), split_by="time")
    assert len(said) == 2  # a constant is no better than a constant, and nobody needs to be told
    assert said[0].startswith(
        "Boosted trees on 900 rows ranks better than the model on all rows, by 0.0123 AUC"
    )
    assert "training.tune=auto" in said[0]
