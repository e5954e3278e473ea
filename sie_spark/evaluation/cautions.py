"""What a reader must know before trusting the judged arms: pure sentences from the stage's details."""

from __future__ import annotations

from typing import Any

from sie_spark.platform.config.arms import YARDSTICKS

CALIBRATED = (0.9, 1.1)  # ratios of predicted to observed clicks that need no word
FEW_POSITIVES = 2000
FEW_GROUPS = 20


def cautions(judged: dict[str, Any], *, split_by: str) -> list[str]:
    """Sentences about the arms of ``judged`` (the details of stage evaluate), the gravest first."""
    recommended = judged.get("recommended")
    said, titles = [f"{recommended}."] if recommended else [], dict(judged["titles"])
    arms = {
        arm: values for arm, values in judged["arms"].items() if arm in titles
    }  # the others are yardsticks
    for arm, values in arms.items():
        area, entropy = values.get("auc"), values.get("ne")
        if (area is not None and area < 0.5) or (entropy is not None and entropy >= 1.0):
            said.append(
                f"The model on {titles[arm]} is no better than a constant: normalised entropy {entropy:.3g},"
                f" AUC {area:.4f}. Do not use it; set training.tune=auto, or try other features."
            )
    said += _below(judged)
    reasons = dict.fromkeys(entry["no_verdict"] for entry in judged["differences"] if "no_verdict" in entry)
    said += [f"No verdict: {reason}." for reason in reasons]
    clusters = judged["clusters"]
    if clusters["by_row"] and clusters["groups"] == 1:
        said.append(
            "All test rows have one value of dataset.group: rows are taken as independent, and the intervals are"
            " too narrow where rows of one person are alike. Name a column that tells people apart."
        )
    groups = min((values["gauc_groups"] for values in arms.values() if "gauc_groups" in values), default=0)
    if 0 < groups < FEW_GROUPS:
        said.append(
            f"gAUC stands on {groups:,.0f} {clusters['group']}s with both labels: too few to compare models by."
        )
    for arm, values in arms.items():
        ratio = values.get("calibration")
        if ratio is not None and not CALIBRATED[0] <= ratio <= CALIBRATED[1]:
            said.append(
                f"The model on {titles[arm]} predicts {ratio:.2f} clicks for each one observed:"
                " recalibrate it before use."
            )
    if judged["positives"] < FEW_POSITIVES:
        said.append(f"Only {judged['positives']:,} positive test rows: intervals are wide.")
    split = "one split" if split_by == "hash" else "one time split"
    said.append(f"One seed and {split}: repeat with other seeds before a decision that matters.")
    return said


def _below(judged: dict[str, Any]) -> list[str]:
    """Arms that a yardstick ranks better than, by more than the interval of the difference."""
    arms, plain = dict(judged["titles"]), {one["name"]: one for one in judged.get("yardsticks", [])}
    said = []
    for entry in judged["differences"]:
        arm, _, yardstick = entry["name"].partition(" - ")
        if arm in arms and yardstick in YARDSTICKS and entry.get("high", 0.0) < 0:
            said.append(
                f"{plain[yardstick]['title'].capitalize()} on {plain[yardstick]['rows']:,} rows ranks better than the"
                f" model on {arms[arm]}, by {-entry['value']:.4f} AUC. Try training.tune=auto with more"
                " training.tune_rows, another model.name, or features that say more (bins, rates, crosses)."
            )
    return said
