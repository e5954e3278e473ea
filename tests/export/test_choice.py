"""Random rows are recommended unless another arm is better beyond chance."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from sie_spark.evaluation.counts import Clusters
from sie_spark.export.arms import KeptArm
from sie_spark.export.choice import cautions, choose, table
from sie_spark.export.evidence import Compared, Judged, compare, replicate_auc
from sie_spark.models import Batch

RANDOM = KeptArm("random", "random rows", "random", "v", {"train": 90, "validation": 10}, False, False)
CHOSEN = KeptArm("weighted", "weighted subset", "rare_event", "v", {"train": 90}, False, False)
BIASED = KeptArm("emphasis", "emphasis", "exp_score", "v", {"train": 90}, True, False)
ARMS = {arm.name: arm for arm in (CHOSEN, RANDOM, BIASED)}


def found(arm: str, difference: float, half: float = 0.01) -> Compared:
    span = (difference - half, difference + half)
    return Compared(arm, 90, 0.8 + difference, "random", 90, 0.8, difference, *span)


def test_an_arm_is_recommended_where_it_is_better_beyond_chance() -> None:
    evidence = [found("weighted", 0.02), Compared("random", 90, 0.8), found("emphasis", 0.05)]
    choice = choose(ARMS, evidence, "")
    assert choice.arm == "weighted" and "+0.0200 [+.0100, +.0300]" in choice.why
    assert cautions(CHOSEN, choice, evidence, "", asked=False) == []
    rows = table(ARMS, evidence)
    assert rows[0] == ["weighted", "rare_event", "90", "0.8200", "+0.0200 [+.0100, +.0300]"]
    assert rows[1][2:] == ["100", "0.8000", "-"] and rows[2][1] == "exp_score, biased"


def test_otherwise_random_rows_are_and_the_first_caution_says_it() -> None:
    evidence = [found("weighted", -0.02), Compared("random", 90, 0.8)]
    choice = choose(ARMS, evidence, "")
    assert choice.arm == "random" and cautions(RANDOM, choice, evidence, "", asked=False) == []
    (first,) = cautions(CHOSEN, choice, evidence, "", asked=True)
    assert first.startswith("Random rows are safer here: ") and "-0.0200 [-.0300, -.0100]" in first
    little = [found("weighted", 0.002)]
    assert choose(ARMS, little, "").arm == "random"
    assert cautions(CHOSEN, choice, little, "", asked=True)[0].startswith("Random rows may be as good")
    biased = cautions(BIASED, choice, [found("emphasis", -0.1)], "", asked=True)
    assert "safer" in biased[0] and "is biased" in biased[1]


def test_without_evidence_or_random_rows_it_is_said() -> None:
    choice = choose(ARMS, [], "there are no validation rows")
    assert choice.arm == "random" and "no validation rows" in choice.why
    assert "no validation rows" in cautions(CHOSEN, choice, [], "there are no validation rows", asked=True)[0]
    alone = {"emphasis": BIASED, "weighted": CHOSEN}
    choice = choose(alone, [found("weighted", -0.02)], "")
    assert choice.arm == "weighted" and choice.lacking
    assert "arms.random" in cautions(CHOSEN, choice, [found("weighted", -0.02)], "", asked=False)[-1]
    unsure = replace(found("weighted", 0.02), low=None, high=None, unsure="few users")
    assert choose(ARMS, [unsure], "").arm == "random"
    assert "few users" in cautions(CHOSEN, choice, [unsure], "", asked=True)[0]


def judged(rows: int = 4000, *, effective: float = 100.0) -> tuple[Judged, np.ndarray]:
    rng = np.random.default_rng(0)
    logit = rng.normal(size=rows)
    label = (rng.random(rows) < 1 / (1 + np.exp(-logit))).astype(np.float32)
    ones = torch.ones(rows)
    batch = Batch({}, torch.from_numpy(label), 0 * ones, ones, torch.arange(rows))
    clusters = Clusters("user", 100, False, effective)
    return Judged(batch, np.arange(rows) % 100, clusters), logit


def test_differences_are_paired() -> None:
    rows, logit = judged()
    predicted = {
        "same": logit,
        "random": logit + 0.0,
        "worse": logit + np.random.default_rng(1).normal(size=len(logit)),
    }
    asked = {"replicates": 50, "seed": 1, "margin": 0.001, "confidence": 0.95}
    same = compare("same", "random", predicted, dict.fromkeys(predicted, 9), rows, **asked)
    assert (same.difference, same.low, same.high) == (0.0, 0.0, 0.0)
    worse = compare("worse", "random", predicted, dict.fromkeys(predicted, 9), rows, **asked)
    assert worse.high is not None and worse.high < 0 and not worse.unsure
    order = np.argsort(logit)
    ranks = np.empty(len(logit))
    ranks[order] = np.arange(1, len(logit) + 1)
    positive = rows.label > 0
    pairs = ranks[positive].sum() - positive.sum() * (positive.sum() + 1) / 2
    value, drawn = replicate_auc(logit, rows, replicates=50, seed=1)
    assert abs(value - pairs / (positive.sum() * (~positive).sum())) < 1e-12 and 0 < np.std(drawn) < 0.05


def test_too_few_users_or_replicates_allow_no_interval() -> None:
    rows, logit = judged(effective=5.0)
    asked = {"seed": 1, "margin": 0.001, "confidence": 0.95}
    predicted, sizes = {"a": logit, "random": -logit}, {"a": 9, "random": 9}
    few = compare("a", "random", predicted, sizes, rows, replicates=50, **asked)
    assert few.low is None and "validation rows carry as much as 5.0" in few.unsure
    none = compare("a", "random", predicted, sizes, judged()[0], replicates=0, **asked)
    assert none.low is None and "evaluation.bootstrap" in none.unsure
