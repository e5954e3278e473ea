"""What a reader must know before trusting the judged arms: pure sentences from the stage's details."""

from __future__ import annotations

from typing import Any

from sie_spark.platform.arms import TITLES

CALIBRATED = (0.9, 1.1)  # ratios of predicted to observed clicks that need no word
FEW_POSITIVES = 2000


def cautions(judged: dict[str, Any], *, split_by: str) -> list[str]:
    """Sentences about the arms of ``judged`` (the details of stage evaluate), the gravest first."""
    said = []
    for arm, values in judged["arms"].items():
        ratio = values.get("calibration")
        if ratio is not None and not CALIBRATED[0] <= ratio <= CALIBRATED[1]:
            said.append(
                f"The model on {TITLES[arm]} predicts {ratio:.2f} clicks for each one observed:"
                " recalibrate it before use."
            )
    if judged["positives"] < FEW_POSITIVES:
        said.append(f"Only {judged['positives']:,} positive test rows: intervals are wide.")
    split = "one split" if split_by == "hash" else "one time split"
    said.append(f"One seed and {split}: repeat with other seeds before a decision that matters.")
    return said
