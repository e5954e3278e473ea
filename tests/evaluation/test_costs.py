"""What a subset costs beside the full fit, from details as the stages leave them."""

from __future__ import annotations

from typing import Any

import pytest

from sie_spark.evaluation.costs import compared, cost_metrics, costs, in_a_line, pays, row_seconds


def fit(wall: float, **more: Any) -> dict[str, Any]:
    return {"wall_seconds": wall, "seconds": 6.0, "rows": 1_000, "epochs": 2, "start": None, **more}


def details(**weighted: Any) -> dict[str, Any]:
    arm = {"models": ["pilot"], "reads": ["p", "score_grad_norm"], **weighted}
    return {
        "train": {"arms": {"pilot": fit(10.0), "reference": fit(100.0)}, "search": {"seconds": 500.0}},
        "score": {"seconds": 8.0},
        "weigh": {"seconds": 2.0, "arms": {"weighted": arm, "random": {"models": [], "reads": []}}},
        "retrain": {"arms": {"full": fit(100.0), "weighted": fit(60.0), "random": fit(98.0)}},
        "seconds": {"score": 11.0, "weigh": 5.0, "train": 640.0},
    }


def test_parts_their_sum_and_when_it_pays() -> None:
    found = costs(details())
    assert found["full"] == {"seconds": 100.0, "row_seconds": 0.003}
    cost = found["arms"]["weighted"]
    parts = ("pilot", "reference", "scoring", "selection", "retrain", "total")
    assert [cost[part] for part in parts] == [10.0, 0.0, 8.0, 2.0, 60.0, 80.0]
    assert (cost["share"], cost["retrain_share"], cost["pays_after"]) == (0.8, 0.6, 1)
    assert in_a_line("weighted", cost) == (
        "weighted: 0.80 of the full fit's time with pilot and scoring; pays after 1 retrain per scoring"
    )
    metrics = cost_metrics(found)
    assert metrics["pilot_seconds_weighted"] == 10.0 and metrics["cost_share_weighted"] == 0.8
    assert metrics["wall_seconds_full"] == 100.0 and metrics["pays_after_random"] == 1.0


def test_an_arm_that_reads_no_score_bears_neither_pilot_nor_scoring() -> None:
    cost = costs(details())["arms"]["random"]
    assert (cost["pilot"], cost["scoring"], cost["selection"], cost["total"]) == (0.0, 0.0, 2.0, 100.0)


def test_a_score_that_reads_the_reference_bears_its_fit() -> None:
    cost = costs(details(models=["pilot", "reference"]))["arms"]["weighted"]
    assert cost["reference"] == 100.0 and cost["total"] == 180.0 and cost["pays_after"] == 3
    given = details(models=["pilot", "reference"])
    given["train"]["arms"]["pilot"] = fit(100.0, same_as="reference")
    assert costs(given)["arms"]["weighted"]["total"] == 170.0  # one fit that is both is borne once


@pytest.mark.parametrize(
    ("before", "retrain", "after"), [(90.0, 60.0, 3), (80.0, 60.0, 2), (81.0, 60.0, 3), (0.0, 60.0, 1)]
)
def test_pays_after_so_many_retrains(before: float, retrain: float, after: int) -> None:
    parts = {"pilot": before, "reference": 0.0, "scoring": 0.0, "selection": 0.0, "retrain": retrain}
    found = compared(parts, 100.0)
    assert found["pays_after"] == after
    # so many fits of both kinds cost no less, and one fewer does not pay
    assert before + after * retrain <= after * 100.0
    assert after == 1 or before + (after - 1) * retrain > (after - 1) * 100.0


def test_a_retrain_as_long_as_the_full_fit_never_pays() -> None:
    for wall in (100.0, 130.0):
        given = details()
        given["retrain"]["arms"]["weighted"] = fit(wall)
        cost = costs(given)["arms"]["weighted"]
        assert cost["never"] and cost["pays_after"] is None
        assert pays(cost) == "never pays: a retrain costs as much as the full fit"


def test_what_is_missing_is_said_to_be_not_measured() -> None:
    given = details()
    given["score"], given["seconds"] = {}, {}
    cost = costs(given)["arms"]["weighted"]
    assert cost["scoring"] is None and cost["total"] is None and cost["share"] is None
    assert not cost["never"] and cost["retrain_share"] == 0.6
    assert in_a_line("weighted", cost) == "weighted: its time beside the full fit's is not measured"
    assert pays(cost) == "when it pays is not measured"
    assert "cost_share_weighted" not in cost_metrics(costs(given))
    given = details()
    given["train"]["arms"].pop("reference")
    given["retrain"]["arms"].pop("full")
    assert costs(given)["arms"]["weighted"]["share"] is None and costs(given)["full"]["seconds"] is None
    assert costs({}) == {"full": {"seconds": None, "row_seconds": None}, "arms": {}}


def test_the_whole_stage_stands_in_and_the_reference_for_the_full_arm() -> None:
    given = details()
    given["score"], given["weigh"] = {}, {"arms": given["weigh"]["arms"]}
    given["retrain"]["arms"].pop("full")
    cost = costs(given)["arms"]["weighted"]
    assert (cost["scoring"], cost["selection"], cost["share"]) == (11.0, 5.0, 0.86)


@pytest.mark.parametrize("cut_short", [{"resumed": 1}, {"validated": {"resumed": 1, "seconds": 3.0}}])
def test_the_clock_of_a_fit_that_was_cut_short_is_not_believed(cut_short: dict[str, Any]) -> None:
    given = details()
    given["retrain"]["arms"]["weighted"] = fit(60.0, **cut_short)
    assert costs(given)["arms"]["weighted"]["retrain"] is None


def test_seconds_of_one_more_row() -> None:
    judged = {"rows": 900, "epochs": 5, "seconds": 4.5}
    # twice over 1,000 rows, five times over 900; seconds are those of both fits
    assert row_seconds(fit(9.0, seconds=6.5, validated=judged)) == pytest.approx(6.5 / 6_500)
    # without a refit the fit is the judged one
    assert row_seconds({**judged, "validated": judged}) == pytest.approx(0.001)
    assert row_seconds({}) is None
