"""Budgets in every unit, and the share that small fits recommend."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest

from helpers.encoded_samples import settings
from sie_spark.platform.config import Config, Training
from sie_spark.platform.config.base import validate
from sie_spark.platform.errors import ConfigError
from sie_spark.training.trial import Trial
from sie_spark.weighting.arms import check_choices
from sie_spark.weighting.budget import LEAST, FullFit, choose, share_of

MARGIN = 0.001
FULL = FullFit(1_000_000, Training(epochs=2, batch_size=512, cost_cap=0.5), 100.0)


@pytest.mark.parametrize(("given", "share"), [(0.1, 0.1), (1, 1.0), (50_000, 0.05), (5_000_000, 1.0)])
def test_shares_and_rows(given: float, share: float) -> None:
    assert share_of(given, 1_000_000, None) == share


def test_a_time_is_met_by_the_cost_of_updates() -> None:
    """The largest share that is fitted in that time; a subset that makes as many updates takes longer than its rows."""
    assert FULL.seconds_at(1.0) == pytest.approx(100.0) and FULL.seconds_at(0.1) > 10.0
    found = [share_of(text, FULL.rows, FULL) for text in ("25 s", "40 s", "1 min", "1 h")]
    assert found == sorted(found) and found[0] < found[2] and found[-1] == 1.0
    for seconds, share in zip((25, 40, 60), found, strict=False):
        assert FULL.seconds_at(share) <= seconds < FULL.seconds_at(min(1.0, 1.2 * share))
    for text, full, said in (("1 s", FULL, "takes about"), ("20 s", None, "not fitted")):
        with pytest.raises(ConfigError, match=said):
            share_of(text, FULL.rows, full)


@pytest.mark.parametrize("given", ["autom", "20 parsecs", "0 s", 0, -0.1, 1.5])
def test_what_is_no_budget_is_refused_with_what_is(given: Any) -> None:
    with pytest.raises(ConfigError, match="weighting.budget") as caught:
        validate(Config, settings(weighting={"budget": given}), where="test")
    assert "auto" in str(caught.value) or "50000" in str(caught.value)


def test_a_budget_reckoned_from_a_model_that_is_not_fitted_is_refused_before_work_starts() -> None:
    for budget in ("auto", "10 min"):
        given = settings(weighting={"budget": budget}, arms={"full": None})
        with pytest.raises(ConfigError, match="reference model") as caught:
            check_choices(validate(Config, given, where="test"))
        assert "reference.fit=true" in caught.value.remedy
        check_choices(validate(Config, given | {"reference": {"fit": True}}, where="test"))


def losing(
    curve: Callable[[float], float], error: float = 0.0001
) -> tuple[Callable[[Sequence[float]], list[Trial]], list[float]]:
    """Trials whose loss is a function of the share, and the shares that were tried."""
    tried: list[float] = []

    def attempt(shares: Sequence[float]) -> list[Trial]:
        tried.extend(shares)
        return [Trial(share, 1000, curve(share), error, 1, 1.0) for share in shares]

    return attempt, tried


@pytest.mark.parametrize("scale", [0.00002, 0.0001, 0.0003])
def test_the_least_share_within_the_margin_is_chosen_and_was_tried(scale: float) -> None:
    curve = lambda share: scale * (1 / share - 1)  # noqa: E731
    attempt, tried = losing(curve)
    found = choose(attempt, MARGIN)
    assert len(tried) == len(found.trials) == 3
    exact = scale / (MARGIN + scale)
    assert curve(found.share) <= 1.3 * MARGIN and found.share >= 0.7 * max(exact, LEAST)
    assert found.share <= 2.5 * max(exact, 0.04) and found.predicted <= MARGIN + 0.0001
    assert min(abs(found.share / share - 1) for share in tried) < 0.25
    assert found.words.startswith("Keep ") and "of the rows" in found.words


def test_keep_all_rows_says_what_a_tenth_costs() -> None:
    attempt, tried = losing(lambda share: 0.02 if share <= 0.1 else 0.01)
    found = choose(attempt, MARGIN)
    assert found.share == 1.0 and found.predicted == 0.0 and max(tried) == 0.5
    assert "Keep all rows: 10.0% of them costs about 0.0200 AUC here" in found.words


def test_too_few_validation_rows_decide_nothing() -> None:
    attempt, _ = losing(lambda share: 0.0, error=0.01)
    found = choose(attempt, MARGIN)
    assert found.share == 1.0 and "too few to tell" in found.words


def test_a_loss_beyond_the_margin_that_may_be_chance_does_not_forbid_a_share() -> None:
    """The one-standard-error rule: .0015 +- .0008 may be .001."""
    attempt, _ = losing(lambda share: 0.0015 if share >= 0.1 else 0.01, error=0.0008)
    found = choose(attempt, MARGIN)
    assert 0.05 < found.share <= 0.1 and found.predicted > MARGIN and "+- 0.0008" in found.words


def test_noise_that_rises_with_the_share_is_pooled() -> None:
    attempt, _ = losing(lambda share: {0.1: 0.0008, 0.3: 0.0012}.get(share, 0.0009))
    assert choose(attempt, MARGIN).share < 0.3


def test_of_very_many_rows_smaller_shares_are_tried() -> None:
    attempt, tried = losing(lambda share: 0.0)
    found = choose(attempt, MARGIN, most=0.001)
    assert max(tried) <= 0.001 and found.share <= 0.001
