"""Tensor sketches: inner products of whole gradients, against gradients of one sample at a time."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from sie_spark.gradients import Engine, GradientError, TensorSketch


class Histories(nn.Module):
    """A table read twice, a layer over positions, an output."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(9, 4)
        self.mix = nn.Linear(4, 5)
        self.norm = nn.LayerNorm(5)
        self.output = nn.Linear(9, 1)

    def forward(self, item: Tensor, past: Tensor) -> Tensor:
        seen = self.norm(torch.tanh(self.mix(self.table(past)))).mean(dim=1)
        return self.output(torch.cat([self.table(item), seen], dim=1)).squeeze(1)


def test_inner_products_are_kept_on_average_with_the_variance_of_a_dense_projection() -> None:
    torch.manual_seed(0)
    model = Histories().double()
    inputs = {"item": torch.randint(9, (6,)), "past": torch.randint(9, (6, 3))}
    rows = []
    for n in range(6):
        logit = model(**{name: value[n : n + 1] for name, value in inputs.items()})
        rows.append(
            torch.cat([g.flatten() for g in torch.autograd.grad(logit.sum(), list(model.parameters()))])
        )
    exact = torch.stack(rows) @ torch.stack(rows).T
    engine, seeds, size = Engine(model), 600, 64
    sketches = [
        engine(inputs, lambda logit: logit, TensorSketch(size, seed))["sketch"] for seed in range(seeds)
    ]
    found = torch.stack([s @ s.T for s in sketches])
    norms = exact.diagonal()
    spread = ((norms.unsqueeze(0) * norms.unsqueeze(1) + exact**2) / size).sqrt()
    assert ((found.mean(dim=0) - exact).abs() < 5 * spread / seeds**0.5).all()
    assert (found.std(dim=0) < 1.5 * spread).all()


def test_batches_and_repeated_ids_change_nothing() -> None:
    torch.manual_seed(0)
    model, sketch = Histories().double(), TensorSketch(32, 3)
    inputs = {"item": torch.tensor([2, 2, 5]), "past": torch.tensor([[2, 2, 1], [3, 3, 3], [0, 8, 2]])}
    whole = Engine(model)(inputs, lambda logit: logit, sketch)["sketch"]
    one_by_one = [
        Engine(model)({k: v[n : n + 1] for k, v in inputs.items()}, lambda logit: logit, sketch)["sketch"]
        for n in range(3)
    ]
    torch.testing.assert_close(whole, torch.cat(one_by_one))


def test_a_sketch_without_columns_is_refused() -> None:
    inputs = {"item": torch.tensor([1]), "past": torch.tensor([[1]])}
    with pytest.raises(GradientError, match="size=0"):
        Engine(Histories())(inputs, lambda logit: logit, TensorSketch(0))
