"""Metrics from counts against scikit-learn on rows, and intervals against their promise."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from sklearn.metrics import log_loss, roc_auc_score

from sie_spark.metrics.bins import COARSE, CURVE, FINE, Binning, bins_of, lay
from sie_spark.metrics.bootstrap import CUMULATIVE, Sums, poisson_weights, summarise
from sie_spark.metrics.calibration import entropy, normalised_entropy, wilson
from sie_spark.metrics.intervals import interval, tost
from sie_spark.metrics.ranking import auc, auc_difference, auc_error_bound


def rows(size: int, seed: int = 0, *, groups: int = 500, spread: float = 1.0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    group = rng.integers(0, groups, size)
    logit = -3.0 + spread * rng.normal(size=size) + 0.5 * rng.normal(size=groups)[group]
    label = (rng.random(size) < 1 / (1 + np.exp(-logit))).astype(float)
    return {"group": group, "logit": logit, "label": label, "p": 1 / (1 + np.exp(-logit))}


def binning(logit: np.ndarray) -> Binning:
    edges = lay(logit, np.ones(len(logit)))
    return Binning.over(edges, np.bincount(bins_of(logit, edges), minlength=len(edges) + 1).astype(float))


def add(sums: Sums, data: dict[str, np.ndarray], cut: Binning, *, seed: int, rate: float = 1.0) -> None:
    value = np.full(len(data["label"]), 1 / rate)
    sums.add(data["logit"], data["label"], value, data["group"], binning=cut, seed=seed)


def far(logit: np.ndarray) -> np.ndarray:
    """One row in a thousand lies absurdly far off, as a forgotten unit or a price of 999,999,999 makes it."""
    return np.where(np.arange(len(logit)) % 1000 == 7, 1e9 * np.sign(logit + 3.1), logit)


SHAPES = {
    "narrow": lambda logit: 0.001 * logit,
    "wide": lambda logit: 4.0 * logit,
    "one far": lambda logit: np.where(np.arange(len(logit)) == 7, 999_999_999.0, logit),
    "some far": far,
    "two clouds": lambda logit: np.where(logit > -3, logit * 1e-6 + 500.0, logit),
    "half are one value": lambda logit: np.where(logit < np.median(logit), -4.0, logit),
    "ten values": np.round,
    "one value": np.zeros_like,
}


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("most", [64, FINE])
def test_binned_auc_is_the_exact_one_within_its_bound(shape: str, most: int) -> None:
    """Whatever the logits: bins laid on a fifth of the rows, weights that differ, all rows counted."""
    data = rows(40_000)
    logit, label = SHAPES[shape](data["logit"]), data["label"]
    weight = np.random.default_rng(5).choice([1.0, 3.0], len(logit))
    edges = lay(logit[::5], weight[::5], most=most)
    assert len(edges) < most
    bins = bins_of(logit, edges)
    positive, negative = (np.bincount(bins, weight * side, len(edges) + 1) for side in (label, 1 - label))
    mixed = (
        pd.Series(logit).groupby(bins).nunique().reindex(range(len(edges) + 1), fill_value=0).to_numpy() > 1
    )
    error = abs(auc(positive, negative) - roc_auc_score(label, logit, sample_weight=weight))
    bound = auc_error_bound(positive, negative, mixed)
    assert error <= bound + 1e-12
    assert bound < 1.5 / most + 1e-4
    if shape in ("ten values", "one value"):
        assert bound == 0.0  # ties are no error of binning


def test_auc_counts_ties_half() -> None:
    label, score = np.array([1, 0, 1, 0, 0]), np.array([0, 0, 1, 1, 1])
    positive, negative = np.bincount(score, label), np.bincount(score, 1 - label)
    assert auc(positive, negative) == pytest.approx(roc_auc_score(label, score))
    both, one = np.array([True, True]), np.array([False, True])
    assert auc_error_bound(positive, negative, both) == pytest.approx(0.5 * (1 * 1 + 1 * 2) / 6)
    assert auc_error_bound(positive, negative, one) == pytest.approx(0.5 * (1 * 2) / 6)


def test_summaries_match_row_by_row_definitions() -> None:
    data = rows(20_000, seed=1)
    cut = binning(data["logit"])
    fine = bins_of(data["logit"], cut.edges)
    size = len(cut.edges) + 1
    positive, negative = np.bincount(fine, data["label"], size), np.bincount(fine, 1 - data["label"], size)
    predicted = np.bincount(cut.curve[fine], data["p"], CURVE)
    loss = log_loss(data["label"], data["p"], normalize=False)
    found = summarise(positive, negative, predicted, loss, cut.curve)
    rate = data["label"].mean()
    assert found["logloss"] == pytest.approx(log_loss(data["label"], data["p"]))
    constant = log_loss(data["label"], np.full(20_000, rate))
    assert found["ne"] == pytest.approx(found["logloss"] / constant)
    assert found["calibration"] == pytest.approx(data["p"].sum() / data["label"].sum())
    curve = cut.curve[fine]
    gaps = [
        (curve == k).mean() * abs(data["p"][curve == k].mean() - data["label"][curve == k].mean())
        for k in range(CURVE)
    ]
    assert found["ece"] == pytest.approx(sum(gaps))
    assert np.bincount(curve).min() > 0.9 * 20_000 / CURVE  # bins of about equal size


def test_poisson_weights_have_their_law_and_are_independent() -> None:
    assert pytest.approx(stats.poisson(1).cdf(np.arange(len(CUMULATIVE)))) == CUMULATIVE
    drawn = poisson_weights(np.arange(2000), 100, seed=5)
    expected = 200_000 * np.append(stats.poisson(1).pmf(range(6)), stats.poisson(1).sf(5))
    assert stats.chisquare(np.bincount(np.minimum(drawn.ravel(), 6), minlength=7), expected).pvalue > 1e-3
    between = np.corrcoef(drawn.T.astype(float))[np.triu_indices(100, 1)]
    assert abs(between.mean()) < 0.002 and np.abs(between).max() < 6 / math.sqrt(2000)
    again = poisson_weights(np.array([7, 3]), 100, seed=5)
    assert (again == drawn[[7, 3]]).all()
    assert (poisson_weights(np.array([7, 3]), 100, seed=6) != again).any()


def test_replicate_sums_equal_a_loop_over_rows_whatever_the_batches() -> None:
    data = rows(700, seed=2, groups=40)
    cut, replicates, rate = binning(data["logit"]), 7, 0.5
    whole, parts = Sums.empty(replicates), Sums.empty(replicates)
    add(whole, data, cut, seed=9, rate=rate)
    for start in range(0, 700, 100):
        part = {name: values[start : start + 100] for name, values in data.items()}
        add(parts, part, cut, seed=9, rate=rate)
    weights = poisson_weights(np.arange(40), replicates, 9)
    positive, loss = np.zeros((replicates, COARSE)), np.zeros(replicates)
    for i in range(700):
        for r in range(replicates):
            weight = weights[data["group"][i], r] / rate
            place = cut.coarse[bins_of(data["logit"][i : i + 1], cut.edges)[0]]
            positive[r, place] += weight * data["label"][i]
            chance = data["p"][i] if data["label"][i] else 1 - data["p"][i]
            loss[r] -= weight * math.log(chance)
    for sums in (whole, parts):
        assert np.allclose(sums.positive, positive) and np.allclose(sums.loss, loss)
    assert np.allclose(whole.predicted, parts.predicted) and np.allclose(whole.negative, parts.negative)


def test_intervals_cover_when_users_differ_and_those_by_row_do_not() -> None:
    """95 % intervals of the AUC cover the truth about 95 % of the time; resampling rows would not."""
    groups, size, replicates, trials = 200, 8000, 100, 100
    truth = np.mean([_clustered_auc(seed, 50_000, 500_000)[0] for seed in (10_000, 10_001)])
    hits = {"group": 0, "row": 0}
    for seed in range(trials):
        _, data = _clustered_auc(seed, groups, size)
        for kind, group in (("group", data["group"]), ("row", np.arange(size))):
            sums = Sums.empty(replicates)
            add(sums, {**data, "group": group}, binning(data["logit"]), seed=seed)
            low, high = interval(auc(sums.positive, sums.negative), 0.95)
            hits[kind] += low <= truth <= high
    assert 0.87 <= hits["group"] / trials <= 0.99  # 0.95 less a little for 200 clusters, 3 sd either side
    assert hits["row"] / trials < hits["group"] / trials - 0.1


def _clustered_auc(seed: int, groups: int, size: int) -> tuple[float, dict[str, np.ndarray]]:
    rng = np.random.default_rng(seed)
    group = rng.integers(0, groups, size)
    score = rng.normal(size=size)
    slope = 1.0 + 0.8 * rng.normal(size=groups)  # the score serves some users better than others
    label = (rng.random(size) < 1 / (1 + np.exp(1.5 - slope[group] * score))).astype(float)
    return float(roc_auc_score(label, score)), {"group": group, "logit": score, "label": label}


@pytest.mark.parametrize(
    ("center", "spread", "word"),
    [
        (0.0, 0.0002, "equivalent"),
        (0.004, 0.0002, "no worse"),
        (-0.004, 0.0002, "worse"),
        (-0.001, 0.002, "not shown"),
    ],
)
def test_verdicts(center: float, spread: float, word: str) -> None:
    drawn = np.random.default_rng(0).normal(center, spread, 2000)
    verdict = tost(drawn, 0.001)
    assert verdict is not None and verdict.word == word
    # two one-sided tests at 5 % are a 90 % interval
    assert verdict.high - verdict.low == pytest.approx(2 * 1.645 * spread, rel=0.1)


def test_tost_errs_at_its_level() -> None:
    """At a true loss of exactly the margin, 'no worse' is said in 5 % of experiments."""
    rng = np.random.default_rng(1)
    words = [tost(rng.normal(rng.normal(-0.001, 0.0005), 0.0005, 400), 0.001).word for _ in range(800)]
    said = sum(word in ("equivalent", "no worse") for word in words)
    assert 0.03 < said / 800 < 0.075


def test_small_things() -> None:
    assert interval(np.array([math.nan] * 5 + [1.0] * 9), 0.9) is None
    assert entropy(0.0) == 0.0 and entropy(0.5) == pytest.approx(math.log(2))
    assert math.isnan(normalised_entropy(0.1, 0.0))
    low, high = wilson(0, 20)
    assert low == 0.0 and high == pytest.approx(stats.beta(1, 21).ppf(0.975), abs=0.02)
    assert wilson(0, 0) == (0.0, 1.0)
    assert summarise(np.ones(COARSE), np.zeros(COARSE), np.ones(CURVE), 1.0, np.zeros(COARSE, int)) == {}


def test_difference_of_two_areas_and_its_error() -> None:
    """Against scikit-learn, and the error against many logs of the same kind; ties count half."""
    found, errors = [], []
    for seed in range(200):
        rng = np.random.default_rng(seed)
        label = rng.random(600) < 0.2
        shared = 0.8 * label + rng.normal(size=600)
        one, two = np.round(shared + 0.3 * rng.normal(size=600), 1), shared + 0.5 * rng.normal(size=600)
        difference, error = auc_difference(label, one, two)
        assert difference == pytest.approx(roc_auc_score(label, one) - roc_auc_score(label, two), abs=1e-12)
        found.append(difference)
        errors.append(error)
    assert np.mean(errors) == pytest.approx(np.std(found), rel=0.2)
    assert auc_difference(label, one, one) == (0.0, 0.0)
