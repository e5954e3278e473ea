"""What every policy must hold, and what each promises: unbiasedness on a planted truth, the budget, the offset."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from helpers.encoded_samples import settings as planted_settings
from sie_spark.platform.arms import titles
from sie_spark.platform.config import Config
from sie_spark.platform.config.base import validate
from sie_spark.platform.errors import ConfigError
from sie_spark.weighting import NUMPY, POLICIES, Row
from sie_spark.weighting.arms import Arm, misuse, planned, solve_arms
from sie_spark.weighting.solving_sample import SolvingSample

NAMES = sorted(POLICIES)


def rows(n: int = 20_000, *, base: float = -3.0, seed: int = 0) -> Row:
    """A pilot's view: calibrated p, and log-normal gradient norms as the score."""
    rng = np.random.default_rng(seed)
    p = 1 / (1 + np.exp(-(base + rng.normal(size=n))))
    label = (rng.random(n) < p).astype(float)
    return Row(label, p, np.exp(rng.normal(size=n)))


def decided(name: str, row: Row, budget: float = 0.1, **options: Any) -> Any:
    chosen = POLICIES[name]
    if chosen.takes == "none":
        row = Row(row.label, row.p, least=row.least)
    return chosen.decide(row, chosen.solve(row, budget, chosen.options(**options)), NUMPY)


def sample_of(row: Row, rate: np.ndarray | None = None, seen: np.ndarray | None = None) -> SolvingSample:
    rate = np.ones(len(row.label)) if rate is None else rate
    seen = np.zeros(len(row.label), bool) if seen is None else seen
    scores = {} if row.score is None else {"logit_grad_norm": row.score}
    return SolvingSample(row.label, rate, seen, row.p, scores)


def solved(row: Row, rate: np.ndarray | None = None, **weighting: Any) -> list[Arm]:
    """The default arms that keep rows, under some weighting."""
    if row.score is not None:
        weighting = {"score": "logit_grad_norm", **weighting}
    config = validate(Config, planted_settings(weighting=weighting), where="test")
    return solve_arms(planned(config), sample_of(row, rate))


@pytest.mark.parametrize("budget", [0.08, 0.1, 0.3, 0.8, 1.0])
@pytest.mark.parametrize("name", NAMES)
def test_conformance(name: str, budget: float) -> None:
    row = rows()
    n = len(row.label)
    found = decided(name, row, budget=budget)
    for values in (found.pi, found.offset, found.weight):
        assert values.shape == (n,) and np.isfinite(values).all()
    assert (found.pi >= 0).all() and (found.pi <= 1).all()
    assert POLICIES[name].biased or (found.pi > 0).all()
    assert (found.weight >= 0).all()
    # sum pi meets the budget, truncation at 1 and the floor included
    assert found.pi.sum() == pytest.approx(budget * n, rel=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_offsets_do_not_look_at_the_label(name: str) -> None:
    row = rows()
    chosen = POLICIES[name]
    constants = chosen.solve(row, 0.1, chosen.options())
    flipped = Row(1 - row.label, row.p, row.score)
    first, second = chosen.decide(row, constants, NUMPY), chosen.decide(flipped, constants, NUMPY)
    assert np.array_equal(first.offset, second.offset)


@pytest.mark.parametrize("name", NAMES)
def test_the_flag_says_what_the_expectation_is(name: str) -> None:
    """For a policy that corrects by weight, the expected weighted sum of any f is the full sum (Monte Carlo)."""
    chosen = POLICIES[name]
    assert chosen.corrects_by in {"offset", "weight", "none"}
    if chosen.corrects_by != "weight":
        return
    assert not chosen.biased
    row = rows(4000)
    found = decided(name, row, budget=0.2)
    f = row.p * row.label - 0.1 * row.score
    rng = np.random.default_rng(1)
    sums = np.array([(f * found.weight)[rng.random(4000) < found.pi].sum() for _ in range(3000)])
    assert abs(sums.mean() - f.sum()) < 4 * sums.std() / np.sqrt(3000)


def test_emphasis_policies_are_bounded_and_of_mean_one() -> None:
    row = rows()
    for name in ("exp_score", "share", "rank", "clip", "temperature"):
        assert POLICIES[name].biased and POLICIES[name].price
        found = decided(name, row, cap=5.0)
        assert found.weight.mean() == pytest.approx(1.0, rel=1e-6)
        assert found.weight.max() <= 5.0 * (1 + 1e-9)
        order = np.argsort(row.score)
        assert (np.diff(found.weight[order]) >= -1e-12).all()  # monotone in the score


def test_shares_of_mostly_zero_scores() -> None:
    row = rows(1000)
    score = np.where(np.arange(1000) < 20, 1.0, 0.0)
    found = decided("share", Row(row.label, row.p, score), cap=10.0)
    assert found.weight.mean() == pytest.approx(1.0, rel=1e-6)


def test_rare_event_keeps_every_positive_and_shifts_all() -> None:
    row = rows()
    found = decided("rare_event", row, budget=0.1)
    positive = row.label > 0
    assert (found.pi[positive] == 1).all() and (found.weight == 1).all()
    assert (found.offset[positive] > 0).any()
    np.testing.assert_allclose(found.offset[~positive], -np.log(found.pi[~positive]))


def test_naive_normalisation_would_undershoot() -> None:
    """The reason for solving c: c = budget / mean leaves 9 % too few rows at a budget of 10 %."""
    score = np.exp(np.random.default_rng(0).normal(size=200_000))
    row = Row(np.zeros(200_000), np.full(200_000, 0.5), score)
    naive = np.minimum(1, 0.3 * score / score.mean()).mean()
    assert naive < 0.3 * 0.95
    found = decided("horvitz_thompson", row, budget=0.3, uniform_mix=0.0)
    assert found.pi.mean() == pytest.approx(0.3, rel=1e-6)


def fit_logistic(
    x: np.ndarray, y: np.ndarray, offset: np.ndarray, weight: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Newton's method for sum w BCE(sigmoid(x b + l), y); coefficients and sandwich standard errors."""
    beta = np.zeros(x.shape[1])
    for _ in range(60):
        q = 1 / (1 + np.exp(-(x @ beta + offset)))
        gradient = x.T @ (weight * (y - q))
        hessian = (x * (weight * q * (1 - q))[:, None]).T @ x
        step = np.linalg.solve(hessian, gradient)
        beta += np.clip(step, -2, 2)
        if np.abs(step).max() < 1e-10:
            break
    inverse = np.linalg.inv(hessian)
    scores = x * (weight * (y - q))[:, None]
    return beta, np.sqrt(np.diag(inverse @ (scores.T @ scores) @ inverse))


def planted(n: int = 400_000, *, quadratic: float = 0.0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Design, labels and the truth's coefficients; ``quadratic`` makes the linear model wrong."""
    rng = np.random.default_rng(5)
    x = np.column_stack([np.ones(n), rng.normal(size=(n, 2))])
    truth = np.array([-3.5, 1.0, -0.7])
    p = 1 / (1 + np.exp(-(x @ truth + quadratic * x[:, 1] ** 2)))
    return x, (rng.random(n) < p).astype(float), truth


def seen(x: np.ndarray, y: np.ndarray) -> Row:
    """What a pilot fitted on 5 % of the rows says about all of them."""
    sample = slice(0, len(y) // 20)
    beta, _ = fit_logistic(x[sample], y[sample], np.zeros(len(y) // 20), np.ones(len(y) // 20))
    return Row(y, 1 / (1 + np.exp(-(x @ beta))))


@pytest.mark.parametrize("name", [name for name in NAMES if not POLICIES[name].biased])
def test_a_planted_logistic_model_is_recovered(name: str) -> None:
    x, y, truth = planted()
    found = decided(name, seen(x, y), budget=0.1)
    keep = np.random.default_rng(9).random(len(y)) < found.pi
    beta, error = fit_logistic(x[keep], y[keep], found.offset[keep], found.weight[keep])
    assert (np.abs(beta - truth) < 4 * error).all(), (beta, error)


def test_omitting_the_offset_on_positives_is_wrong() -> None:
    x, y, truth = planted()
    found = decided("rare_event", seen(x, y), budget=0.1)
    keep = np.random.default_rng(9).random(len(y)) < found.pi
    wrong = np.where(y > 0, 0.0, found.offset)
    beta, error = fit_logistic(x[keep], y[keep], wrong[keep], found.weight[keep])
    assert (np.abs(beta - truth) > 10 * error).any()


def test_offset_has_less_variance_than_inverse_weights_on_the_same_rows() -> None:
    x, y, _ = planted()
    found = decided("rare_event", seen(x, y), budget=0.1)
    keep = np.random.default_rng(9).random(len(y)) < found.pi
    none, pi = np.zeros(keep.sum()), found.pi[keep]
    by_offset = fit_logistic(x[keep], y[keep], found.offset[keep], np.ones(keep.sum()))[1]
    by_weight = fit_logistic(x[keep], y[keep], none, 1 / pi)[1]
    uniform = np.random.default_rng(9).random(len(y)) < 0.1
    by_chance = fit_logistic(x[uniform], y[uniform], np.zeros(uniform.sum()), np.ones(uniform.sum()))[1]
    assert (by_offset < by_weight).all() and (by_weight < 0.7 * by_chance).all()


def test_under_misspecification_only_weights_and_case_control_hold() -> None:
    """The full data's own (wrong) linear fit is the target; the offset converges to another projection."""
    x, y, _ = planted(quadratic=0.5)
    full, _ = fit_logistic(x, y, np.zeros(len(y)), np.ones(len(y)))
    row, off = seen(x, y), {}
    for name in ("horvitz_thompson", "rare_event"):
        found = decided(name, row, budget=0.15)
        keep = np.random.default_rng(9).random(len(y)) < found.pi
        beta, error = fit_logistic(x[keep], y[keep], found.offset[keep], found.weight[keep])
        off[name] = float(np.max(np.abs(beta - full) / error))
    assert off["horvitz_thompson"] < 4 < off["rare_event"]


@pytest.mark.parametrize("quadratic", [0.0, 0.5])
def test_uncapped_case_control_holds_with_a_pilot_of_its_own_class_whatever_the_truth(
    quadratic: float,
) -> None:
    """Fithian & Hastie 2014: the target is the full data's own linear fit, right or wrong."""
    x, y, _ = planted(quadratic=quadratic)
    full, _ = fit_logistic(x, y, np.zeros(len(y)), np.ones(len(y)))
    row = Row(y, 1 / (1 + np.exp(-(x @ full))))
    found = decided("local_case_control", row, budget=0.05, floor=1e-6)
    constants = POLICIES["local_case_control"].solve(
        row, 0.05, POLICIES["local_case_control"].options(floor=1e-6)
    )
    assert constants["scale"] <= 1.0
    np.testing.assert_allclose(found.offset, -(x @ full), rtol=1e-6, atol=1e-6)
    keep = np.random.default_rng(9).random(len(y)) < found.pi
    beta, error = fit_logistic(x[keep], y[keep], found.offset[keep], found.weight[keep])
    assert (np.abs(beta - full) < 4 * error).all(), (beta, full, error)


def test_caps_after_the_ratio_are_wrong() -> None:
    """A planted bug: the offset of the acceptances before they were capped, for rows that were kept with capped ones."""
    x, y, truth = planted()
    row = seen(x, y)
    found = decided("local_case_control", row, budget=0.3)
    keep = np.random.default_rng(9).random(len(y)) < found.pi
    wrong = np.log1p(-row.p) - np.log(row.p)
    right, _ = fit_logistic(x[keep], y[keep], found.offset[keep], found.weight[keep])
    beta, error = fit_logistic(x[keep], y[keep], wrong[keep], found.weight[keep])
    assert (np.abs(right - truth) < 4 * error).all() and (np.abs(beta - truth) > 10 * error).any()


def test_score_equations_hold_for_any_model_under_inverse_weights() -> None:
    """The weighted score of a wrong, non-linear model at arbitrary parameters is that of all rows on average."""
    x, y, _ = planted(40_000, quadratic=0.5)
    g = np.tanh(x @ np.array([-1.0, 0.8, 0.3])) - 2.0 * np.abs(x[:, 2])
    score = (y - 1 / (1 + np.exp(-g)))[:, None] * np.column_stack(
        [np.ones(len(y)), x[:, 1] ** 3, np.sin(x[:, 2])]
    )
    found = decided("horvitz_thompson", seen(x, y), budget=0.1)
    rng = np.random.default_rng(1)
    sums = []
    for _ in range(400):
        keep = rng.random(len(y)) < found.pi
        sums.append((score[keep] * found.weight[keep, None]).sum(0))
    assert (np.abs(np.mean(sums, 0) - score.sum(0)) < 4 * np.std(sums, 0) / np.sqrt(400)).all()


def test_more_positives_than_budget_falls_back_and_says_so() -> None:
    arms = solved(rows(base=0.0), budget=0.1)
    assert [arm.name for arm in arms] == ["weighted", "random"]
    assert arms[0].policy.name == "local_case_control" and "local case-control" in arms[0].note
    assert [arm.expected_fraction for arm in arms] == pytest.approx([0.1, 0.1], rel=1e-6)
    assert not arms[1].note and not solved(rows(), budget=0.2)[0].note


def test_what_a_policy_does_not_declare_to_read_it_does_not_need() -> None:
    row = rows()
    for name in NAMES:
        part = Row(row.label, p=row.p if "p" in POLICIES[name].reads else None)
        assert np.array_equal(decided(name, part).pi, decided(name, Row(row.label, row.p)).pi)


def test_signed_scores_are_for_policies_that_say_so() -> None:
    row = rows()
    signed = Row(row.label, row.p, row.score - 1.0)
    for name in NAMES:
        refused = POLICIES[name].takes != "none" and not POLICIES[name].signed
        with pytest.raises(ConfigError, match="negative") if refused else nullcontext():
            solved(signed, policy=name, budget=0.3)


def test_what_an_offset_may_not_rest_on_is_refused() -> None:
    """A score that looks at the label under an offset; whole requests under a correction row by row."""
    with pytest.raises(ConfigError, match="looks at the label") as caught:
        solved(rows(), score="grad_norm")
    assert "logit_grad_norm" in caught.value.remedy
    for name in NAMES:
        able = POLICIES[name].by_request
        assert not (able and POLICIES[name].corrects_by == "offset")
        with nullcontext() if able else pytest.raises(ConfigError, match="whole requests"):
            solved(rows(), policy=name, unit="request")


def test_a_score_is_used_for_what_it_is_made_for_or_that_is_said() -> None:
    """Each decision has its quantities: loss is no weight, influence is no probability, norms are both."""
    with pytest.raises(ConfigError, match="'gradient_dot' may be negative") as caught:
        solved(rows(), policy="horvitz_thompson", score="gradient_dot")
    assert "logit_grad_norm" in caught.value.remedy
    said = misuse(POLICIES["exp_score"], "loss")
    assert "meant for: audit" in said and "makes weights" in said and "logit_grad_norm" in said
    assert "depends on the label" in misuse(POLICIES["horvitz_thompson"], "loss")
    assert misuse(POLICIES["horvitz_thompson"], "error") == misuse(POLICIES["exp_score"], "entropy") == ""
    assert misuse(POLICIES["top"], None) == ""


@pytest.mark.parametrize("name", NAMES)
def test_draws_are_nested_across_budgets(name: str) -> None:
    """With the same draw, who is kept at a small budget is kept at a larger one."""
    row = rows()
    grid = [decided(name, row, budget=budget).pi for budget in (0.02, 0.05, 0.1, 0.2, 0.5)]
    if POLICIES[name].fallback:  # at 2 % positives are more than the budget: another policy's part
        grid = grid[2:]
    for small, large in pairwise(grid):
        assert (small <= large + 1e-12).all()


def test_a_floor_for_rare_ids() -> None:
    """Every id keeps so many rows on average, or all it has, within the budget; the offset follows."""
    row = rows()
    ids = np.minimum(np.random.default_rng(2).zipf(1.5, len(row.label)), 300)
    rarity = 1 / np.bincount(ids)[ids]
    config = validate(Config, planted_settings(weighting={"id_floor": 5}), where="test")
    for name in ("rare_event", "horvitz_thompson", "local_case_control"):
        plan = replace(
            planned(config)[0], policy=POLICIES[name], options=POLICIES[name].options(), budget=0.2
        )
        sample = SolvingSample(
            row.label, np.ones_like(row.p), np.zeros(len(row.p), bool), row.p, {"rarity": rarity}
        )
        (arm,) = solve_arms([plan], sample)
        found = arm.decide(sample.row(None, 5), 1.0, NUMPY)
        assert found.pi.mean() == pytest.approx(0.2, rel=1e-6)
        expected = np.bincount(ids, found.pi)[ids]
        assert (expected >= np.minimum(5, 1 / rarity) * (1 - 1e-9)).all()
        if name == "rare_event":
            np.testing.assert_allclose(found.offset[row.label == 0], -np.log(found.pi[row.label == 0]))
        with pytest.raises(ConfigError, match="id_floor"):
            solve_arms([replace(plan, id_floor=500)], sample)


def test_arms_of_ones_own() -> None:
    """Any number of arms, each by its own policy, budget and options; the old form is refused with the new."""
    base = planted_settings()
    more = {
        "ht": {"policy": "horvitz_thompson", "budget": 0.2, "options": {"uniform_mix": 0.5}},
        "random": None,
    }
    config = validate(Config, {**base, "arms": more}, where="test")
    assert titles(config.arms) == {"full": "all rows", "weighted": "weighted subset", "ht": "ht"}
    arms = {arm.name: arm for arm in solve_arms(planned(config), sample_of(rows()))}
    assert set(arms) == {"weighted", "ht"}
    assert arms["ht"].expected_fraction == pytest.approx(0.2, rel=1e-6) and arms["ht"].constants["mix"] == 0.5
    for wrong, said, remedy in (
        ({"random": False}, "arms.random: false is the form of earlier versions", "arms.random=null"),
        ({"more": {"as_many_as": "full"}}, "arms.more.as_many_as", "budget"),
        ({"weighted": None, "random": None}, "none keeps", "rows: kept"),
    ):
        with pytest.raises(ConfigError) as caught:
            validate(Config, {**base, "arms": wrong}, where="test")
        assert said in str(caught.value) and remedy in caught.value.remedy
    with pytest.raises(ConfigError) as caught:
        validate(Config, {**base, "weighting": {"cap": 3}}, where="test")
    assert "weighting.options.cap" in caught.value.remedy
    for wrong, said in (({"options": {"flor": 0.1}}, "floor"), ({"policy": "rare_evnt"}, "rare_event")):
        with pytest.raises(ConfigError) as caught:
            planned(validate(Config, {**base, "weighting": wrong}, where="test"))
        assert said in caught.value.remedy


def test_rate_of_the_log_enters_offset_or_weight() -> None:
    row = rows()
    per_class = np.where(row.label > 0, 1.0, 0.2)
    varying = np.linspace(0.1, 1.0, len(row.label))
    for name in NAMES:
        plain = solved(row, policy=name)[0]
        before = plain.decide(row, 1.0, NUMPY)
        one = solved(row, per_class, policy=name)[0].decide(row, per_class, NUMPY)
        many = solved(row, varying, policy=name)[0].decide(row, varying, NUMPY)
        if name == "horvitz_thompson":
            np.testing.assert_allclose(one.weight, before.weight / per_class)
        else:
            np.testing.assert_allclose(one.offset - before.offset, np.log(1 / 0.2))
        np.testing.assert_allclose(many.weight, before.weight / varying)


def test_a_down_sampled_log_gives_back_the_original_truth() -> None:
    """Negatives had been dropped to a fifth before we saw the log; the subset's fit still finds the truth."""
    x, y, truth = planted()
    rng = np.random.default_rng(3)
    rate = np.where(y > 0, 1.0, 0.2)
    logged = rng.random(len(y)) < rate
    x, y, rate = x[logged], y[logged], rate[logged]
    row = seen(x, y)
    for name in ("rare_event", "horvitz_thompson"):
        found = solved(row, rate, policy=name, budget=0.3)[0].decide(row, rate, NUMPY)
        keep = rng.random(len(y)) < found.pi
        beta, error = fit_logistic(x[keep], y[keep], found.offset[keep], found.weight[keep])
        assert (np.abs(beta - truth) < 4 * error).all(), name


def test_unknown_policy_names_the_nearest() -> None:
    with pytest.raises(ConfigError) as caught:
        POLICIES["rare_events"]
    assert "rare_event" in caught.value.remedy


@pytest.mark.parametrize("name", NAMES)
def test_rows_that_the_pilot_saw_are_drawn_as_typical_ones_under_an_offset(name: str) -> None:
    """There p has learnt the row's own label; an offset must not depend on it, a weight 1 / pi may."""
    row, seen = rows(), np.arange(len(rows().label)) % 10 == 0
    weighting = {"policy": name, "budget": 0.2, "score": "logit_grad_norm"}
    config = validate(Config, planted_settings(weighting=weighting), where="test")
    arm = solve_arms(planned(config), sample_of(row, seen=seen))[0]
    other = Row(row.label, np.where(seen, 0.9, row.p), np.where(seen, 7.0, row.score))
    rate = np.ones(len(seen))
    one, two = (arm.decide(which, rate, NUMPY, seen=seen) for which in (row, other))
    if POLICIES[name].corrects_by == "offset":
        np.testing.assert_array_equal(one.pi, two.pi)
        np.testing.assert_array_equal(one.offset, two.offset)
        assert len(np.unique(one.offset[seen])) == 1
        assert len(np.unique(one.offset[~seen])) > 1 or not POLICIES[name].reads
        assert one.pi.mean() == pytest.approx(0.2, rel=1e-6)  # the budget is still met
        assert set(POLICIES[name].reads) <= set(arm.typical)
    else:
        assert arm.typical == {}
    # a pilot of all rows leaves nothing to draw by, a pilot of none nothing to mend
    for whole in (np.ones_like(seen), np.zeros_like(seen)):
        assert solve_arms(planned(config), sample_of(row, seen=whole))[0].typical == {}
