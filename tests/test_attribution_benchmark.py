"""The judge of attribution scores, on a model whose retraining is known."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest


@pytest.fixture(scope="module")
def attribution() -> ModuleType:
    path = Path(__file__).parents[1] / "benchmarks" / "attribution.py"
    spec = importlib.util.spec_from_file_location("attribution", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["attribution"] = module
    spec.loader.exec_module(module)
    return module


def test_lds_is_one_for_the_truth_of_a_linear_model_and_nothing_for_random_scores(
    attribution: ModuleType,
) -> None:
    """The mean of the rows is fitted, so a target t far above every row loses t - mean: each row adds its value."""
    rng = np.random.default_rng(0)
    values, targets = rng.normal(size=200), np.array([100.0, 150.0, -100.0])
    subsets = np.stack([np.sort(rng.permutation(200)[:100]) for _ in range(80)])
    found = np.abs(targets - values[subsets].mean(axis=1)[:, None])
    truth = np.stack([values, values, -values])
    assert attribution.lds(truth, subsets, found) == pytest.approx([1.0, 1.0, 1.0])
    assert attribution.lds(-truth, subsets, found) == pytest.approx([-1.0, -1.0, -1.0])
    random = attribution.lds(rng.normal(size=(300, 200)), subsets, np.repeat(found[:, :1], 300, axis=1))
    assert abs(random.mean()) < 0.03
    assert attribution.lds(np.zeros((3, 200)), subsets, found) == pytest.approx([0.0, 0.0, 0.0])


def test_the_ceiling_of_noisy_retrainings_is_the_correlation_with_what_they_estimate(
    attribution: ModuleType,
) -> None:
    rng = np.random.default_rng(1)
    signal = rng.normal(size=(2000, 40))
    starts = signal + rng.normal(size=(4, 2000, 40))
    agreed, best = attribution.ceiling(starts)
    mean = attribution.correlations(starts.mean(axis=0), signal).mean()
    assert agreed == pytest.approx(1 / 1.5, abs=0.03)  # two starts: noise of variance 1/2 on either side
    assert best == pytest.approx(mean, abs=0.02)
