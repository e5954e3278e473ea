"""Influence, projections, distilled scores and mixes against dense matrices and plain numpy."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor, nn

from helpers.scored_rows import GIVEN, KNOWN, batch_of, fitted, fresh, scored, validation_rows
from sie_spark.gradients import TensorSketch, per_sample
from sie_spark.importance import SCORERS
from sie_spark.importance.combination import rank
from sie_spark.importance.fits.auxiliary_network import AGREEMENT, AuxiliaryNetwork
from sie_spark.importance.fits.conjugate_direction import ConjugateDirection
from sie_spark.importance.plan import make_plan
from sie_spark.models import Batch
from sie_spark.models.store import PILOT, REFERENCE
from sie_spark.platform.config import Importance
from sie_spark.platform.errors import ConfigError


def jacobian(model: nn.Module, batch: Batch) -> Tensor:
    """``d logit / d theta`` row by row, float64 [N, parameters]."""
    rows = []
    for one in batch.split(1):
        found = torch.autograd.grad(model(**one.inputs).sum(), list(model.parameters()), allow_unused=True)
        flat = [
            (torch.zeros_like(p) if g is None else g).flatten()
            for g, p in zip(found, model.parameters(), strict=True)
        ]
        rows.append(torch.cat(flat).double())
    return torch.stack(rows)


def p_of(model: nn.Module, batch: Batch) -> Tensor:
    with torch.no_grad():
        return torch.sigmoid(model(**batch.inputs)).double()


def test_influence_by_conjugate_gradients_equals_a_dense_solve() -> None:
    model, rows, batch = fresh(), validation_rows(), batch_of()
    settings = Importance(damping=300.0, iterations=500)
    given = fitted({REFERENCE: model}, ["influence_cg"], settings=settings)
    found = scored({REFERENCE: model}, ["influence_cg"], batch, given)["influence_cg"]
    j, p, w = jacobian(model, rows), p_of(model, rows), rows.weight.double()
    v = (w * (p - rows.label)) @ j / w.sum()
    g = (j * (w * p * (1 - p))[:, None]).T @ j / w.sum()
    u = torch.linalg.solve(g + 300.0 * g.trace() / len(g) * torch.eye(len(g), dtype=torch.float64), v)
    expected = (p_of(model, batch) - batch.label) * (jacobian(model, batch) @ u)
    np.testing.assert_allclose(found, expected.numpy(), rtol=0.05, atol=0.03 * expected.abs().max())
    fit = ConjugateDirection(settings.sample_rows, 300.0, 500)
    assert fit.cautions(given.states[fit.key]) == []
    hasty = fitted({REFERENCE: model}, ["influence_cg"], settings=Importance(damping=1e-6, iterations=1))
    few = ConjugateDirection(settings.sample_rows, 1e-6, 1)
    (said,) = few.cautions(hasty.states[few.key])
    assert "importance.iterations" in said


def test_influence_by_ekfac_is_exact_where_kronecker_products_are() -> None:
    """All fitting rows are one row: the Fisher matrix of a parameter is then the outer product of one gradient.

    Of a table only the diagonal is meant.
    """
    model, batch = fresh("lr"), batch_of()
    one = validation_rows().take(slice(4, 5))
    partitions = [one.take(torch.tensor([0, 0, 0]))]
    given = fitted({REFERENCE: model}, ["influence_ekfac"], partitions=partitions)
    found = scored({REFERENCE: model}, ["influence_ekfac"], batch, given)["influence_ekfac"]
    slope, expected = float(p_of(model, one) - one.label), np.zeros(40)
    at, rows = jacobian(model, one)[0], jacobian(model, batch)
    start = 0
    for name, value in model.named_parameters():
        part = slice(start, start := start + value.numel())
        g = at[part]
        outer = torch.diag(g.square()) if "embedding" in name else torch.outer(g, g)
        fisher = float(p_of(model, one) * (1 - p_of(model, one))) * outer
        damping = 0.1 * fisher.trace() / len(g)
        u = torch.linalg.solve(fisher + damping * torch.eye(len(g), dtype=torch.float64), slope * g)
        expected += (rows[:, part] @ u).numpy()
    expected *= (p_of(model, batch) - batch.label).numpy()
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4 * np.abs(expected).max())


@pytest.mark.parametrize("name", ["trak", "logra"])
def test_sketched_influence_equals_its_formula(name: str) -> None:
    model, rows, batch = fresh(), validation_rows(), batch_of()
    given = fitted({REFERENCE: model}, [name], settings=Importance(sketch_size=64))
    found = scored({REFERENCE: model}, [name], batch, given)[name]
    sketch = TensorSketch(64)
    seen, mine = (
        per_sample(model, part.inputs, lambda logit: logit, sketch)[sketch.key].double()
        for part in (rows, batch)
    )
    p, w = p_of(model, rows), rows.weight.double()
    curved = p * (1 - p) if name == "trak" else (p - rows.label).square()
    inner = (seen * (w * curved)[:, None]).T @ seen / w.sum()
    mean = inner.trace() / sum(value.numel() for value in model.parameters())
    inner += {"trak": 2.0, "logra": 4.0}[name] * mean * torch.eye(len(inner), dtype=torch.float64)
    u = torch.linalg.solve(inner, (w * (p - rows.label)) @ seen / w.sum())
    expected = (p_of(model, batch) - batch.label) * (mine @ u)
    np.testing.assert_allclose(found, expected.numpy(), rtol=1e-3, atol=1e-4 * expected.abs().max())


def test_norms_of_groups_of_the_last_layer_and_along_the_fit() -> None:
    models, batch = {model: fresh(seed=seed) for seed, model in enumerate(KNOWN)}, batch_of()
    names = ["grad_norm_group", "grad_norm_last_layer", "self_influence", "error_contribution"]
    found = scored(models, names, batch)
    pilot = models[PILOT]
    inside = torch.cat(
        [torch.full((p.numel(),), n.startswith("input.")) for n, p in pilot.named_parameters()]
    )
    last = torch.cat([torch.full((p.numel(),), n.startswith("output.")) for n, p in pilot.named_parameters()])
    slope = (p_of(pilot, batch) - batch.label).abs()
    j = jacobian(pilot, batch)
    np.testing.assert_allclose(found["grad_norm_group"], slope * (j * inside).norm(dim=1), rtol=1e-4)
    np.testing.assert_allclose(found["grad_norm_last_layer"], slope * (j * last).norm(dim=1), rtol=1e-4)
    expected = sum(
        KNOWN[name].learning_rate
        * (p_of(model, batch) - batch.label).square()
        * jacobian(model, batch).square().sum(dim=1)
        for name, model in models.items()
    )
    np.testing.assert_allclose(found["self_influence"], expected, rtol=1e-4)
    right = torch.where(batch.label > 0, p_of(pilot, batch), 1 - p_of(pilot, batch))
    np.testing.assert_allclose(found["error_contribution"], 1 / right, rtol=1e-4)


def test_the_auxiliary_network_ranks_unseen_rows_like_the_exact_scores() -> None:
    model, rows, unseen = fresh(), batch_of(4000, seed=3), batch_of(1000, seed=4)
    names = ["auxiliary_norm", "auxiliary_p_norm"]
    given = fitted({PILOT: model}, names, partitions=[rows])
    found = scored({}, names, unseen, given)
    exact = scored({PILOT: model}, ["logit_grad_norm"], unseen)["logit_grad_norm"]
    p = p_of(model, unseen).numpy()
    assert stats.spearmanr(found["auxiliary_norm"], exact)[0] > 0.95
    assert stats.spearmanr(found["auxiliary_p_norm"], p * exact)[0] > 0.95
    assert np.median(found["auxiliary_p_norm"] / (p * exact)) == pytest.approx(1, abs=0.1)
    fit = AuxiliaryNetwork("norm", GIVEN.settings.auxiliary_rows)
    assert fit.cautions(given.states[fit.key]) == []
    (said,) = fit.cautions({AGREEMENT: np.array(0.5)})
    assert "0.50" in said and "importance.auxiliary_rows" in said


def test_mixes_equal_their_formulas() -> None:
    models = {PILOT: fresh(), REFERENCE: fresh(seed=1)}
    settings = Importance(combine=["error", "rarity"], mix={"error": 3.0, "rarity": -1.0})
    names = ["rank_average", "weighted_mix", "learned_mix", "error", "rarity", "gradient_dot"]
    rows, batch = validation_rows(), batch_of()
    given = fitted(models, names, settings=settings)
    sample, found = scored(models, names, rows, given), scored(models, names, batch, given)

    def ranks(values: np.ndarray, among: np.ndarray) -> np.ndarray:
        return np.array([(among < value).mean() + (among == value).mean() / 2 for value in values])

    error, rarity = (ranks(found[name], sample[name]) for name in ("error", "rarity"))
    np.testing.assert_allclose(found["rank_average"], (error + rarity) / 2)
    np.testing.assert_allclose(found["weighted_mix"], 0.75 * error + 0.25 * (1 - rarity))
    x = np.stack([np.ones(30), *(ranks(sample[n], sample[n]) - 0.5 for n in ("error", "rarity"))], axis=1)
    w = rows.weight.numpy()[:, None]
    penalty = 1e-3 * 30 * np.diag([0, 1, 1])
    solved = np.linalg.solve(x.T @ (w * x) + penalty, x.T @ (w[:, 0] * sample["gradient_dot"]))
    expected = solved[0] + solved[1] * (error - 0.5) + solved[2] * (rarity - 0.5)
    np.testing.assert_allclose(found["learned_mix"], expected, rtol=1e-5)
    assert rank(np.array([1.0, 2.0, 2.0, 3.0]), np.array([0.0, 2.0, 9.0])).tolist() == [0.0, 0.5, 1.0]


@pytest.mark.parametrize(
    ("settings", "name", "said"),
    [
        ({"combine": ["rank_average"]}, "learned_mix", "importance.combine names 'rank_average'"),
        ({"combine": []}, "rank_average", "importance.combine names no score"),
        ({"mix": {"error": 0.0}}, "weighted_mix", "importance.mix has no weight"),
        ({"mix": {"eror": 1.0}}, "weighted_mix", "unknown scorer 'eror'"),
    ],
)
def test_a_mix_of_nothing_is_refused_while_planning(settings: dict, name: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        make_plan([SCORERS[name]], replace(GIVEN, settings=Importance(**settings)))
