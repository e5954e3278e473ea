"""Any number of quantities in one pass: each gets its own result, and the one it would have had alone."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from helpers.two_heads import TwoHeads, cat, per_task, row_gradient
from sie_spark.gradients import KFAC, Dots, Engine, GradientError, LastLayer, Norms, Projections, per_sample
from sie_spark.gradients.forms import Dense
from sie_spark.gradients.projection import project


@pytest.fixture
def model() -> TwoHeads:
    torch.manual_seed(0)
    return TwoHeads().double()


def random_vector(model: nn.Module, names: tuple[str, ...] = ("",)) -> dict[str, Tensor]:
    return {name: torch.randn_like(p) for name, p in model.named_parameters() if name.startswith(names)}


def dotted(g: dict[str, Tensor], vectors: dict[str, dict[str, Tensor]]) -> list[float]:
    return [float(sum((g[name] * v).sum() for name, v in vector.items())) for vector in vectors.values()]


def grouped(g: dict[str, Tensor], groups: list[tuple[str, ...]]) -> list[float]:
    return [float(sum(x.square().sum() for name, x in g.items() if name.startswith(p))) for p in groups]


def projected(g: dict[str, Tensor], rank: int, seed: int) -> list[float]:
    """Entry by entry: what each unit vector projects to, times the gradient's entry."""
    parts = []
    for name, x in g.items():
        units = Dense(torch.eye(x.numel(), dtype=x.dtype))
        parts.append(x.flatten() @ project(name, x.shape, [units], rank=rank, seed=seed))
    return torch.cat(parts).tolist()


@pytest.mark.parametrize("block", [1536, 2])
def test_two_of_each_kind_equal_each_alone_and_a_loop_of_backwards(model: TwoHeads, block: int) -> None:
    both = {"v": random_vector(model), "w": random_vector(model)}
    one = {"v": random_vector(model, ("click", "table"))}
    heads = {"click": ["click"], "buy": ["buy"]}
    asked = {
        Norms(): lambda g: [float(sum(x.square().sum() for x in g.values()))],
        Norms(groups=heads, key="heads"): lambda g: grouped(g, [("click",), ("buy",)]),
        Norms(groups=lambda name: name.split(".")[0], key="modules"): lambda g: grouped(
            g, [("table",), ("bottom",), ("click",), ("buy",), ("bias",)]
        ),
        Dots(both, key="two vectors"): lambda g: dotted(g, both),
        Dots(one, key="one vector"): lambda g: dotted(g, one),
        Projections(rank=2, seed=1, key="small"): lambda g: projected(g, 2, 1),
        Projections(rank=2, seed=2, key="other signs"): lambda g: projected(g, 2, 2),
        Projections(rank=3, seed=1, key="larger"): lambda g: projected(g, 3, 1),
        LastLayer("click", key="click"): lambda g: grouped(g, [("click",)]),
        LastLayer(): lambda g: grouped(g, [("buy.2",)]),
    }
    shared = per_sample(model, {"cat": cat}, per_task, *asked, block=block)
    assert set(shared) == {quantity.key for quantity in asked} and len(shared) == len(asked)
    for quantity, expected in asked.items():
        alone = per_sample(model, {"cat": cat}, per_task, quantity, block=block)
        assert set(alone) == {quantity.key}
        for task in (None, 0, 1):
            found = shared[quantity.key] if task is None else shared.tasks[task][quantity.key]
            by_itself = alone[quantity.key] if task is None else alone.tasks[task][quantity.key]
            assert torch.equal(found, by_itself)
            looped = torch.tensor(
                [expected(row_gradient(model, row, task)) for row in range(len(cat))]
            ).double()
            torch.testing.assert_close(found.reshape(len(cat), -1), looped, rtol=1e-6, atol=1e-7)


class Counted:
    """The norm of one parameter, counting how often it is measured."""

    def __init__(self, name: str, key: str = "counted") -> None:
        self.name, self.key, self.times = name, key, 0

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Counted) and self.name == other.name

    def __hash__(self) -> int:
        return hash(self.name)

    def needs(self, trace) -> frozenset[str]:
        return frozenset([self.name])

    def measure(self, gradients) -> Tensor:
        self.times += 1
        return gradients.squared_norm(self.name)


def total(output: Tensor) -> Tensor:
    return output.sum(dim=1)


def test_equal_quantities_are_measured_once(model: TwoHeads) -> None:
    first, second = Counted("bias.bias"), Counted("bias.bias")
    result = per_sample(model, {"cat": cat}, total, first, second, first)
    assert (first.times, second.times) == (1, 0)
    torch.testing.assert_close(result["counted"], torch.full((5,), 2.0).double())
    v = random_vector(model)
    copied = {name: value.clone() for name, value in v.items()}
    for equal in (
        (Norms(), Norms()),
        (Norms(groups={"a": ["bias"]}), Norms(groups={"a": ["bias"]})),
        (Dots({"v": v}), Dots({"v": v}), Dots({"v": copied})),
        (Projections(2, 1), Projections(2, 1)),
        (LastLayer("click"), LastLayer("click")),
    ):
        assert len(per_sample(model, {"cat": cat}, total, *equal)) == 1


def test_an_accumulator_given_twice_counts_once(model: TwoHeads) -> None:
    once, twice, other = KFAC(), KFAC(), KFAC(limit=3, key="diagonal")
    Engine(model)({"cat": cat}, total, once)
    result = Engine(model)({"cat": cat}, total, twice, twice, other)
    assert not result and set(other.state()) == set(once.state())
    for key, value in once.state().items():
        torch.testing.assert_close(twice.state()[key], value)
    with pytest.raises(GradientError, match="two different quantities .*'kfac'"):
        Engine(model)({"cat": cat}, total, once, KFAC())


@pytest.mark.parametrize(
    "kind", ["dots", "names", "order", "groups", "functions", "projections", "layers", "kinds"]
)
def test_different_quantities_with_one_key_are_refused(model: TwoHeads, kind: str) -> None:
    v, w = random_vector(model), random_vector(model)
    pairs = {
        "dots": (Dots({"v": v}), Dots({"v": w})),
        "names": (Dots({"v": v}), Dots({"w": v})),
        "order": (Dots({"v": v, "w": w}), Dots({"w": w, "v": v})),
        "groups": (Norms({"a": ["click"], "b": ["buy"]}), Norms({"b": ["buy"], "a": ["click"]})),
        "functions": (Norms(lambda name: name), Norms(lambda name: name[0])),
        "projections": (Projections(seed=1), Projections(seed=2)),
        "layers": (LastLayer(), LastLayer("click")),
        "kinds": (Norms(key="mine"), Projections(key="mine")),
    }
    one, two = pairs[kind]
    with pytest.raises(GradientError, match=f"two different quantities .*{one.key!r}") as caught:
        per_sample(model, {"cat": cat}, total, one, two)
    assert "key='...'" in caught.value.remedy
    two = type(two)(**{**vars_of(two), "key": "another"})
    assert set(per_sample(model, {"cat": cat}, total, one, two)) == {one.key, "another"}


def vars_of(quantity: object) -> dict[str, object]:
    if isinstance(quantity, Dots):
        return {"vectors": quantity.directions._vectors}
    return dict(vars(quantity))


def test_a_key_that_nobody_asked_for(model: TwoHeads) -> None:
    result = per_sample(model, {"cat": cat}, per_task, Norms(), LastLayer())
    for measured in (result, *result.tasks):
        assert "dots" not in measured and measured.get("dots") is None
        with pytest.raises(GradientError, match="under the key 'dots'") as caught:
            measured["dots"]
        assert "squared_norm, last_layer_squared_norm" in caught.value.remedy


def test_a_measure_that_is_not_one_row_a_sample(model: TwoHeads) -> None:
    class Mean(Counted):
        def measure(self, gradients) -> Tensor:
            return gradients.squared_norm(self.name).mean()

    with pytest.raises(GradientError, match=r"'counted' \(Mean\) measured \[\] of 5 samples"):
        per_sample(model, {"cat": cat}, total, Mean("bias.bias"))
