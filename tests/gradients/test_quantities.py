"""What can be asked in one pass: tasks, groups, last layer, projections; and what the pass leaves alone."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from helpers.two_heads import TwoHeads, cat, per_task, row_gradient
from sie_spark.gradients import Dots, Engine, GradientError, LastLayer, Norms, Projections, per_sample
from sie_spark.gradients.projection import signs


@pytest.fixture
def model() -> TwoHeads:
    torch.manual_seed(0)
    return TwoHeads().double()


def test_every_task_and_their_sum(model: TwoHeads) -> None:
    v = {name: torch.randn_like(p) for name, p in model.named_parameters()}
    result = per_sample(model, {"cat": cat}, per_task, Norms(), Dots({"v": v}), LastLayer("bottom"))
    assert len(result.tasks) == 2
    for task, measured in [(0, result.tasks[0]), (1, result.tasks[1]), (None, result)]:
        for row in range(len(cat)):
            g = row_gradient(model, row, task)
            torch.testing.assert_close(
                measured["squared_norm"][row], sum(x.square().sum() for x in g.values())
            )
            torch.testing.assert_close(measured["dots"][row, 0], sum((x * v[k]).sum() for k, x in g.items()))
            last = g["bottom.weight"].square().sum() + g["bottom.bias"].square().sum()
            torch.testing.assert_close(measured["last_layer_squared_norm"][row], last)
    torch.testing.assert_close(result.loss, per_task(result.output))


def test_the_model_is_left_as_it_was(model: TwoHeads) -> None:
    model.train()
    model.bottom.eval()
    model.click.weight.grad = torch.ones_like(model.click.weight)
    first = per_sample(model, {"cat": cat}, per_task, Norms())
    assert model.training and model.dropout.training and not model.bottom.training
    assert torch.equal(model.click.weight.grad, torch.ones_like(model.click.weight))
    assert model.buy[0].weight.grad is None and not first["squared_norm"].requires_grad
    assert not any(m._forward_hooks for m in model.modules())
    with torch.no_grad():  # dropout is off: no randomness between passes
        assert torch.equal(
            first["squared_norm"], per_sample(model, {"cat": cat}, per_task, Norms())["squared_norm"]
        )
    with torch.inference_mode():
        assert torch.equal(
            first["squared_norm"], per_sample(model, {"cat": cat}, per_task, Norms())["squared_norm"]
        )


def test_the_model_is_restored_after_a_failure(model: TwoHeads) -> None:
    model.train()
    with pytest.raises(ZeroDivisionError):
        per_sample(model, {"cat": cat}, lambda output: 1 / 0, Norms())
    assert model.training and not any(m._forward_hooks for m in model.modules())


def by_parameter(model: nn.Module) -> dict[str, Tensor]:
    each, engine = Norms(groups=lambda name: name), Engine(model)
    columns = engine({"cat": cat}, per_task, each)[each.key].unbind(dim=1)
    return dict(zip(each.names(engine.shapes), columns, strict=True))


def test_groups(model: TwoHeads) -> None:
    named = Norms(groups={"tables": ["table"], "heads": ["click", "buy.2"]})
    result = per_sample(model, {"cat": cat}, per_task, named, Norms())
    by_name = by_parameter(model)
    assert named.names(by_name) == ("tables", "heads")
    heads = sum(by_name[f"{head}.{part}"] for head in ("click", "buy.2") for part in ("weight", "bias"))
    expected = torch.stack([by_name["table.table.weight"], heads], dim=1)
    torch.testing.assert_close(result["group_squared_norms"], expected)
    torch.testing.assert_close(sum(by_name.values()), result["squared_norm"])
    with pytest.raises(GradientError, match="no trainable parameter is named"):
        per_sample(model, {"cat": cat}, per_task, Norms(groups={"x": ["clic"]}))


def test_frozen_parameters_are_not_counted(model: TwoHeads) -> None:
    full = by_parameter(model)
    model.table.requires_grad_(False)
    assert "table.table.weight" not in by_parameter(model)
    rest = sum(full.values()) - full["table.table.weight"]
    torch.testing.assert_close(per_sample(model, {"cat": cat}, per_task, Norms())["squared_norm"], rest)


def test_the_last_layer_by_default_and_by_name(model: TwoHeads) -> None:
    by_name = by_parameter(model)
    last = per_sample(model, {"cat": cat}, per_task, LastLayer())["last_layer_squared_norm"]
    torch.testing.assert_close(last, by_name["buy.2.weight"] + by_name["buy.2.bias"])
    both = per_sample(model, {"cat": cat}, per_task, LastLayer(["click", "buy.2"]))["last_layer_squared_norm"]
    torch.testing.assert_close(both, last + by_name["click.weight"] + by_name["click.bias"])
    with pytest.raises(GradientError, match="no trainable parameter lies under"):
        per_sample(model, {"cat": cat}, per_task, LastLayer("nowhere"))


def test_dots_name_what_is_wrong(model: TwoHeads) -> None:
    for vector in ({"nothing": torch.ones(3)}, {"click.weight": torch.ones(3)}):
        with pytest.raises(GradientError, match=next(iter(vector))):
            per_sample(model, {"cat": cat}, per_task, Dots({"v": vector}))


def test_dots_follow_the_weights_but_keep_their_vectors(model: TwoHeads) -> None:
    v = {"click.weight": torch.ones(1, 5, dtype=torch.float64)}
    engine, dots = Engine(model), Dots({"v": v})
    before = engine({"cat": cat}, per_task, dots)["dots"][:, 0]
    with torch.no_grad():
        model.bottom.weight.mul_(2)
    after = engine({"cat": cat}, per_task, dots)["dots"][:, 0]
    assert not torch.allclose(before, after)
    torch.testing.assert_close(after[2], row_gradient(model, 2, None)["click.weight"].sum())


def test_projections_of_full_rank_are_exact(model: TwoHeads) -> None:
    engine, full = Engine(model), Projections(rank=8, seed=1)
    sketch = engine({"cat": cat}, per_task, full)[full.key]
    for row in range(len(cat)):
        for name, g in row_gradient(model, row, None).items():
            torch.testing.assert_close(sketch[row, full.slices(engine.shapes)[name]], g.flatten())


def test_projections_keep_inner_products_on_average(model: TwoHeads) -> None:
    g = [torch.cat([x.flatten() for x in row_gradient(model, row, None).values()]) for row in range(len(cat))]
    exact = torch.stack(g) @ torch.stack(g).T
    estimates, engine = [], Engine(model)
    for seed in range(300):
        sketch = engine({"cat": cat}, per_task, Projections(rank=2, seed=seed))["projections"]
        estimates.append(sketch @ sketch.T)
    stacked = torch.stack(estimates)
    error = (stacked.mean(dim=0) - exact).abs() / (stacked.std(dim=0) / math.sqrt(len(stacked)) + 1e-12)
    assert float(error.max()) < 4.5  # standard errors, over 15 distinct entries


def test_signs_are_balanced_independent_and_stable() -> None:
    drawn = signs(torch.arange(4096), 70, key=5).double()
    assert set(drawn.unique().tolist()) == {-1.0, 1.0}
    assert float(drawn.mean(dim=0).abs().max()) < 5 / math.sqrt(4096)
    correlation = drawn.T @ drawn / 4096 - torch.eye(70, dtype=torch.float64)
    assert float(correlation.abs().max()) < 5.5 / math.sqrt(4096)
    assert torch.equal(drawn[100:110], signs(torch.arange(100, 110), 70, key=5).double())


def test_half_precision_accumulates_in_float32() -> None:
    torch.manual_seed(0)
    x = torch.randn(16, 40, 8)
    model = nn.Sequential(nn.Linear(8, 8), nn.Tanh(), nn.Flatten(1), nn.Linear(320, 1), nn.Flatten(0))
    exact = per_sample(model.double(), {"input": x.double()}, lambda o: 0.5 * o.square(), Norms())[
        "squared_norm"
    ]
    model.float()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = per_sample(model, {"input": x}, lambda o: 0.5 * o.float().square(), Norms())
    half = per_sample(model.bfloat16(), {"input": x.bfloat16()}, lambda o: 0.5 * o.square(), Norms())
    for result in (mixed, half):
        assert result["squared_norm"].dtype == torch.float32
        # The documented error: some 2^-8 an operation, relative to the largest gradient of the batch.
        gap = (result["squared_norm"].double() - exact).abs() / exact.max()
        assert float(gap.max()) < 16 * 2**-8


def test_a_loss_that_ignores_the_output_has_zero_gradients(model: TwoHeads) -> None:
    v = {"click.weight": torch.ones(1, 5, dtype=torch.float64)}
    result = per_sample(
        model, {"cat": cat}, lambda o: 0.0 * o[:, 0], Norms(), Dots({"v": v}), Projections(), LastLayer()
    )
    assert not result["squared_norm"].any() and not result["dots"].any()
    assert not result["projections"].any() and not result["last_layer_squared_norm"].any()


def test_a_batch_of_one_like_any_other() -> None:
    model = nn.Sequential(nn.Linear(3, 1), nn.Flatten(0)).double()
    x = torch.tensor([[1.0, 2.0, 2.0], [0.0, 3.0, 4.0]], dtype=torch.float64)
    engine = Engine(model)
    for n in (1, 2):
        result = engine({"input": x[:n]}, lambda o: o.unsqueeze(1), Norms())
        assert result["squared_norm"].tolist() == result.tasks[0]["squared_norm"].tolist() == [10.0, 26.0][:n]


def test_an_empty_batch_has_empty_results(model: TwoHeads) -> None:
    v = {name: torch.randn_like(p) for name, p in model.named_parameters()}
    result = per_sample(
        model, {"cat": cat[:0]}, lambda o: o.square(), Norms(), Dots({"v": v}), Projections(2), LastLayer()
    )
    assert result["squared_norm"].shape == result["last_layer_squared_norm"].shape == (0,)
    assert result["dots"].shape == (0, 1)
    width = sum(
        min(2, p.shape[0]) * min(2, p.shape[1]) if p.dim() == 2 else min(4, len(p)) for p in v.values()
    )
    assert result["projections"].shape == (0, width)
