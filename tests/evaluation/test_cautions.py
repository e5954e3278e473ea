"""What is said of judged arms before anybody trusts them."""

from __future__ import annotations

from typing import Any

from sie_spark.evaluation.cautions import cautions


def judged(**more: Any) -> dict[str, Any]:
    arms = {"full": {"auc": 0.8, "ne": 0.8, "calibration": 1.0}}
    return {"arms": arms, "positives": 5_000, **more}


def test_a_model_that_promises_too_much_or_too_little_is_named() -> None:
    assert cautions(judged(), split_by="time") == [
        "One seed and one time split: repeat with other seeds before a decision that matters."
    ]
    arms = {"weighted": {"calibration": 1.2}, "random": {"calibration": 0.5}}
    said = cautions(judged(arms=arms, positives=1_520), split_by="hash")
    assert "important rows, corrected predicts 1.20 clicks" in said[0] and "random rows" in said[1]
    assert said[2].startswith("Only 1,520 positive") and "one split:" in said[3]
