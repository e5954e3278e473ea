"""What a subset cost beside the fit on all rows, and after how many retrains the scoring has paid for itself.

Seconds are those of the clock, from manifest to model, with the fit that is judged and the one after it. The search
for settings is left out on both sides: it serves all fits, of the subset and of all rows alike. Scoring and selection
are one pass each for all scorers and all arms, and every arm that needs the pass bears the whole of it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from sie_spark.models.store import PILOT, REFERENCE
from sie_spark.platform.config.arms import FULL
from sie_spark.platform.context import Context

Details = Mapping[str, Any]
STAGES = ("train", "score", "weigh", "retrain", "seconds")  # whose details the costs are made of
BEFORE = ("pilot", "reference", "scoring", "selection")  # what comes before the retrain
NOT_MEASURED = "not measured"


def costs_now(ctx: Context) -> dict[str, Any]:
    """The costs of what lies under the root now."""
    return costs({stage: ctx.load_details(stage) for stage in STAGES})


def costs(details: Mapping[str, Details]) -> dict[str, Any]:
    """The costs of every subset arm, from the stages' details.

    Returns
    -------
    ``full``: ``seconds`` and ``row_seconds`` of the fit on all rows; ``arms``: name -> seconds by part (``pilot``,
    ``reference`` where a score reads it, ``scoring``, ``selection``, ``retrain``; 0 for what the arm does not need,
    None for what was not measured), with what :func:`compared` makes of them, and ``row_seconds``.
    """
    trained = details.get("train", {}).get("arms", {})
    fitted = details.get("retrain", {}).get("arms", {})
    pilot = trained.get(PILOT, {})
    once = pilot.get("same_as") == REFERENCE  # one fit that is both
    whole = fitted.get(FULL) or trained.get(REFERENCE) or {}
    full = wall_seconds(whole)
    found = {}
    for name, arm in details.get("weigh", {}).get("arms", {}).items():
        models, fit = arm.get("models", [PILOT]), fitted.get(name, {})
        parts = {
            "pilot": wall_seconds(pilot) if PILOT in models and not (once and REFERENCE in models) else 0.0,
            "reference": wall_seconds(trained.get(REFERENCE, {})) if REFERENCE in models else 0.0,
            "scoring": stage_seconds(details, "score") if arm.get("reads", True) else 0.0,
            "selection": stage_seconds(details, "weigh"),
            "retrain": wall_seconds(fit),
        }
        start = fit.get("start")
        found[name] = {**parts, **compared(parts, full), "row_seconds": row_seconds(fit), "start": start}
    return {"full": {"seconds": full, "row_seconds": row_seconds(whole)}, "arms": found}


def compared(parts: Mapping[str, float | None], full: float | None) -> dict[str, Any]:
    """The sum of the parts, its share of the full fit, the retrain's share, and when it pays.

    A retrain a day with one scoring for K of them costs ``K retrain + before`` against ``K full``. It pays from
    K = before / (full - retrain) on, rounded up: ``pays_after``. ``never`` says that a retrain costs as much as
    the full fit. What cannot be told is None.
    """
    retrain, before = parts["retrain"], [parts[name] for name in BEFORE]
    total = None if retrain is None or None in before else retrain + math.fsum(s for s in before if s)
    saved = None if retrain is None or full is None else full - retrain
    never = saved is not None and saved <= 0
    pays = None
    if total is not None and retrain is not None and saved is not None and saved > 0:
        pays = max(1, math.ceil((total - retrain) / saved))
    return {
        "total": total,
        "share": total / full if total is not None and full else None,
        "retrain_share": retrain / full if retrain is not None and full else None,
        "pays_after": pays,
        "never": never,
    }


def wall_seconds(fit: Details) -> float | None:
    """A fit by the clock; None where it was not measured, or was cut short and gone on with: the clock began anew."""
    resumed = fit.get("resumed") or fit.get("validated", {}).get("resumed")
    seconds = fit.get("wall_seconds")
    return None if seconds is None or resumed else float(seconds)


def stage_seconds(details: Mapping[str, Details], stage: str) -> float | None:
    """What a stage says of its own pass, else what the whole stage took when it last did something."""
    seconds = details.get(stage, {}).get("seconds", details.get("seconds", {}).get(stage))
    return None if seconds is None else float(seconds)


def row_seconds(fit: Details) -> float | None:
    """Seconds in the loop for a row in a pass: of one more row, without starting processes and reading the manifest.

    Both fits count, the one that is judged and the one after it.
    """
    judged = fit.get("validated", {})
    again = bool(judged) and fit.get("seconds", 0.0) > judged["seconds"]  # else it is the judged one itself
    shown = sum(one["rows"] * one["epochs"] for one in (fit, *([judged] if again else [])) if "epochs" in one)
    return fit["seconds"] / shown if shown and "seconds" in fit else None


def pays(cost: Details) -> str:
    """When an arm has paid for its scoring, in words."""
    if cost["never"]:
        return "never pays: a retrain costs as much as the full fit"
    if cost["pays_after"] is None:
        return f"when it pays is {NOT_MEASURED}"
    retrains = "1 retrain" if cost["pays_after"] == 1 else f"{cost['pays_after']:,} retrains"
    return f"pays after {retrains} per scoring"


def in_a_line(name: str, cost: Details) -> str:
    """An arm's cost for the end of a run."""
    if cost["share"] is None:
        return f"{name}: its time beside the full fit's is {NOT_MEASURED}"
    return f"{name}: {cost['share']:.2f} of the full fit's time with pilot and scoring; {pays(cost)}"


def cost_metrics(found: Details) -> dict[str, float]:
    """What MLflow keeps of the costs."""
    metrics = {"wall_seconds_full": found.get("full", {}).get("seconds")}
    for name, cost in found.get("arms", {}).items():
        metrics |= {f"{part}_seconds_{name}": cost[part] for part in (*BEFORE, "retrain")}
        metrics |= {f"{key}_{name}": cost[key] for key in ("row_seconds", "pays_after")}
        metrics |= {f"cost_share_{name}": cost["share"], f"retrain_share_{name}": cost["retrain_share"]}
    return {name: float(value) for name, value in metrics.items() if value is not None}
