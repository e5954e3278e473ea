"""Shares of fields and layers against dense gradients and against what moves in every layer's input."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from sie_spark.explanation.shares import Shares, shares_of
from sie_spark.models import Batch, build_model
from sie_spark.models.inputs import InputLayer
from sie_spark.platform.config import Model
from sie_spark.platform.inputs import InputSpec

# 'seen' reads the table of 'item'; 'items' is a name that a ModuleDict has for itself
SPEC = InputSpec(
    categories={"city": 5, "item": 8},
    numbers=("price", "age"),
    bags={"items": (6, 4)},
    sequences={"seen": (8, 3)},
    vectors={"picture": 3},
    shares={"seen": "item"},
)
SHAPES: dict[str, dict[str, Any]] = {
    "lr": {},
    "fm": {},
    "dnn": {"wide": False},
    "deepfm": {"number_bins": 4},
    "dcnv2": {"number_bins": 4, "wide": True, "normalise": True},
    "history_attention": {"number_bins": 3},
    "dcnv2 without layers": {"hidden": [], "cross_layers": 0, "number_bins": 2},
}


def rows_of(count: int, seed: int = 0) -> Batch:
    made = torch.Generator().manual_seed(seed)

    def ids(most: int, *shape: int, least: int = 0) -> Tensor:
        return torch.randint(least, most, shape, generator=made)

    inputs = {
        "cat": torch.stack([ids(5, count), ids(8, count)], dim=1),
        "dense": torch.randn(count, 2, generator=made),
        "items": ids(6, count, 4),
        "seen": ids(8, count, 3),
        "picture": torch.randn(count, 3, generator=made),
    }
    ones = torch.ones(count)
    return Batch(inputs, ids(2, count).float(), ones * 7, ones * 3, torch.arange(count))


def fresh(name: str, seed: int = 0) -> nn.Module:
    settings = Model(**{"embedding_dim": 4, "hidden": [6, 5], "cross_layers": 2, **SHAPES[name]})
    model = build_model(settings.model_copy(update={"name": name.partition(" ")[0]}), SPEC, seed=seed).eval()
    made = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for key, value in model.named_parameters():
            value.add_(0.3 * torch.randn(value.shape, generator=made) + 0.5 * key.endswith("bias"))
    return model  # whose hidden units are on, most of them


def dense_gradient(model: nn.Module, row: Batch) -> dict[str, Tensor]:
    loss = functional.binary_cross_entropy_with_logits(model(**row.inputs), row.label)
    names, values = zip(*model.named_parameters(), strict=True)
    found = torch.autograd.grad(loss, values, allow_unused=True)
    return {
        name: torch.zeros_like(value) if g is None else g.double()
        for name, value, g in zip(names, values, found, strict=True)
    }


def linear_inputs(model: nn.Module, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """What every linear layer is given, [N, in]; those that only attention has are left out."""
    found: dict[str, Tensor] = {}
    hooks = [
        layer.register_forward_pre_hook(
            lambda _, args, name=name: found.__setitem__(f"{name}.weight", args[0])
        )
        for name, layer in model.named_modules()
        if isinstance(layer, nn.Linear) and "attention" not in name
    ]
    with torch.no_grad():
        model(**inputs)
    for hook in hooks:
        hook.remove()
    return found


def moved_by(model: nn.Module) -> dict[str, dict[str, Tensor]]:
    """Field -> weight -> which of its inputs change where that field alone changes, bool [in]."""
    base, other = rows_of(400, seed=1), rows_of(400, seed=2)
    before, found = linear_inputs(model, base.inputs), {}
    for field in ("city", "item", "price", "age", "items", "seen", "picture"):
        inputs = {name: value.clone() for name, value in base.inputs.items()}
        if field in SPEC.categories:
            at = list(SPEC.categories).index(field)
            inputs["cat"][:, at] = other.inputs["cat"][:, at]
        elif field in SPEC.numbers:
            at = SPEC.numbers.index(field)
            inputs["dense"][:, at] = other.inputs["dense"][:, at]
        else:
            inputs[field] = other.inputs[field]
        after = linear_inputs(model, inputs)
        found[field] = {name: (after[name] != before[name]).any(dim=0) for name in before}
    return found


def squares_by_hand(model: nn.Module, row: Batch) -> dict[str, float]:
    """Numbers: the columns that they alone move. Ids: their rows of every table, shared alike among those in them."""
    gradient, moved = dense_gradient(model, row), moved_by(model)
    found = dict.fromkeys(moved, 0.0)
    for field in (*SPEC.numbers, *SPEC.vectors):
        for weight, mine in moved[field].items():
            others = torch.stack([moved[name][weight] for name in moved if name != field]).any(dim=0)
            found[field] += float(gradient[weight][:, mine & ~others].square().sum())
    city, item = row.inputs["cat"][0].tolist()
    seen = {i for i in row.inputs["seen"][0].tolist() if i > 0}
    for name, layer in model.named_modules():
        if isinstance(layer, InputLayer):
            place = f"{name}." if name else ""
            table = gradient[f"{place}embedding.table.weight"].square().sum(dim=1)
            found["city"] += float(table[city])
            for one in {item, *seen}:
                here = [field for field, ids in (("item", {item}), ("seen", seen)) if one in ids]
                for field in here:
                    found[field] += float(table[5 + one]) / len(here)
            found["items"] += float(gradient[f"{place}bags.items-.weight"].square().sum())
    return found


@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize("at", [0, 3])
def test_shares_of_fields_are_their_rows_and_columns(name: str, at: int) -> None:
    model, row = fresh(name), rows_of(8).take(slice(at, at + 1))
    row.inputs["seen"][0, 0] = max(int(row.inputs["cat"][0, 1]), 1)  # an id that both read
    expected = squares_by_hand(model, row)
    found = shares_of(model, SPEC, row)
    total = sum(float(g.square().sum()) for g in dense_gradient(model, row).values())
    assert found.how == "gradient" and set(found.fields) == set(expected)
    assert found.of_gradient == pytest.approx(sum(expected.values()) / total, rel=1e-4)
    for field, square in expected.items():
        assert found.fields[field] == pytest.approx(square / sum(expected.values()), rel=1e-4, abs=1e-9)
    assert sum(found.fields.values()) == pytest.approx(1) and min(found.fields.values()) >= 0


def test_shares_of_layers_are_squared_norms() -> None:
    model, row = fresh("dcnv2"), rows_of(1)
    gradient, found = dense_gradient(model, row), shares_of(model, SPEC, row)
    total = sum(float(g.square().sum()) for g in gradient.values())
    deep = sum(float(gradient[f"deep.0.{part}"].square().sum()) for part in ("weight", "bias"))
    assert found.layers["deep.0"] == pytest.approx(deep / total, rel=1e-5)
    assert sum(found.layers.values()) == pytest.approx(1)
    assert not any(m.sparse for m in model.modules() if isinstance(m, nn.Embedding | nn.EmbeddingBag))


class Own(nn.Module):
    """A model of a user's own: the last layers first, and a parameter of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(5, 2)
        self.sum = nn.Linear(4, 1)
        self.scale = nn.Parameter(torch.tensor(2.0))

    def forward(self, cat: Tensor, dense: Tensor, **_: Tensor) -> Tensor:
        return self.scale * self.sum(torch.cat([dense, self.table(cat[:, 0])], dim=1)).squeeze(1)


def test_fields_of_a_model_of_ones_own_are_taken_away() -> None:
    torch.manual_seed(0)
    model, row = Own().eval(), rows_of(1)
    row.inputs["cat"][0, 0] = 3
    weight, scale = model.sum.weight[0].detach().double(), float(model.scale.detach())
    table = model.table.weight.detach().double()
    squares = {
        "city": float(scale * weight[2:] @ (table[0] - table[3])) ** 2,
        "price": float(scale * weight[0] * row.inputs["dense"][0, 0]) ** 2,
        "age": float(scale * weight[1] * row.inputs["dense"][0, 1]) ** 2,
    }
    found = shares_of(model, SPEC, row)
    assert found.how == "removal" and found.of_gradient is None
    for field in found.fields:
        assert found.fields[field] == pytest.approx(squares.get(field, 0.0) / sum(squares.values()), rel=1e-4)
    assert set(found.layers) == {"table", "sum", "the model itself"}


def test_a_row_without_gradient_has_no_shares() -> None:
    model, row = fresh("lr"), rows_of(1)
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    model.output.bias.requires_grad_(True)  # type: ignore[union-attr]
    found = shares_of(model, SPEC, row)
    assert isinstance(found, Shares) and set(found.fields.values()) == {0.0} and found.of_gradient == 0.0
    assert found.layers == {"output": 1.0}
