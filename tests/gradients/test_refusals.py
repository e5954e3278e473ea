"""Whatever cannot be exact is refused by name; nothing is silently skipped."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from sie_spark.gradients import (
    Dense,
    Engine,
    GradientError,
    Norms,
    UnsupportedLayer,
    UnsupportedLoss,
    UnsupportedParameter,
    per_sample,
    rule,
)
from sie_spark.gradients.registry import _rules

x = torch.randn(4, 3)


def total(output: Tensor) -> Tensor:
    return output.flatten(1).sum(dim=1) if output.dim() > 1 else output


def refused(model: nn.Module, kind: type[Exception], match: str, *, inputs: Tensor = x, loss=total) -> None:
    with pytest.raises(kind, match=match) as caught:
        per_sample(model, {"input": inputs}, loss, Norms())
    assert len(caught.value.remedy) > 20


class Scale(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(3))

    def forward(self, input: Tensor) -> Tensor:
        return input * self.weight


def test_a_parameter_without_a_rule_is_named_with_the_way_out() -> None:
    model = nn.Sequential(nn.Linear(3, 3), Scale())
    with pytest.raises(UnsupportedParameter, match=r"'1\.weight'.*'1' \(Scale\)") as caught:
        Engine(model)
    assert "rule(Scale)" in caught.value.remedy and "materialise" in caught.value.remedy


def test_a_registered_rule_is_used() -> None:
    @rule(Scale)
    def scale(layer: Scale, call) -> dict:
        return {"weight": Dense(call.delta * call.argument(0, "input"))}

    try:
        result = per_sample(Scale(), {"input": x}, total, Norms())
        torch.testing.assert_close(result["squared_norm"], x.square().sum(dim=1))
    finally:
        del _rules[Scale]


def test_a_rule_that_forgets_a_parameter() -> None:
    @rule(Scale)
    def scale(layer: Scale, call) -> dict:
        return {}

    try:
        refused(Scale(), UnsupportedParameter, "returned nothing for parameter 'weight'")
    finally:
        del _rules[Scale]


def test_a_subclass_that_changes_forward_does_not_inherit_the_rule() -> None:
    class Doubled(nn.Linear):
        def forward(self, input: Tensor) -> Tensor:
            return 2 * super().forward(input)

    refused(Doubled(3, 2), UnsupportedParameter, "'weight'")


def test_multihead_attention_of_torch_is_refused_by_name() -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attention = nn.MultiheadAttention(3, 1, batch_first=True)

        def forward(self, input: Tensor) -> Tensor:
            h = input.unsqueeze(1)
            return self.attention(h, h, h)[0]

    refused(Model(), UnsupportedLayer, r"'attention' \(MultiheadAttention\)")


@pytest.mark.parametrize(
    ("layer", "match"),
    [
        (nn.Embedding(5, 2, max_norm=1.0), "max_norm"),
        (nn.Embedding(5, 2, scale_grad_by_freq=True), "scale_grad_by_freq"),
        (nn.EmbeddingBag(5, 2, max_norm=1.0), "max_norm"),
        (nn.EmbeddingBag(5, 2, mode="max"), "max"),
    ],
)
def test_tables_without_an_exact_rule(layer: nn.Module, match: str) -> None:
    refused(layer, UnsupportedLayer, match, inputs=torch.randint(0, 5, (4, 3)))


def test_batch_norm_in_train_mode_and_without_running_statistics() -> None:
    refused(nn.Sequential(nn.BatchNorm1d(3)).train(), UnsupportedLayer, r"'0' \(BatchNorm1d\).*couples")
    without = nn.BatchNorm1d(3, track_running_stats=False).eval()
    refused(without, UnsupportedLayer, "couples")


def test_batch_norm_switched_to_train_mode_under_an_engine() -> None:
    model = nn.BatchNorm1d(3).eval()
    engine = Engine(model)
    model.train()
    with pytest.raises(UnsupportedLayer, match="couples"):
        engine({"input": x}, total, Norms())


@pytest.mark.parametrize("loss", [torch.sum, torch.mean, lambda o: o.sum(dim=0), lambda o: o[:2, 0]])
def test_reduced_losses(loss) -> None:
    refused(nn.Linear(3, 1), UnsupportedLoss, "one value a sample", loss=loss)


def test_labels_that_broadcast() -> None:
    y = torch.rand(4)
    refused(nn.Linear(3, 1), UnsupportedLoss, r"\[4, 4\]", loss=lambda o: (o - y).square())
    flat = nn.Sequential(nn.Linear(3, 1), nn.Flatten(0))
    refused(flat, UnsupportedLoss, r"\[4, 4\]", loss=lambda o: (o - y.unsqueeze(1)).square())


def test_a_loss_that_couples_samples() -> None:
    flat = nn.Sequential(nn.Linear(3, 1), nn.Flatten(0))
    refused(flat, UnsupportedLoss, "depends on the output of sample", loss=lambda o: o.softmax(dim=0))


def test_a_loss_that_reads_a_parameter() -> None:
    model = nn.Sequential(nn.Linear(3, 1), nn.Flatten(0))
    refused(model, UnsupportedParameter, "'0.weight'", loss=lambda o: o + model[0].weight.square().sum())


class Coupled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 1)

    def forward(self, input: Tensor) -> Tensor:
        return self.linear(input - input.mean(dim=0))


def test_a_model_that_couples_samples() -> None:
    refused(Coupled(), UnsupportedLayer, "not independent")


class Positions(nn.Module):
    """A position table shared by the batch: its output has no sample dimension."""

    def __init__(self, steps: int) -> None:
        super().__init__()
        self.table = nn.Embedding(steps, 3)
        self.steps = steps

    def forward(self, input: Tensor) -> Tensor:
        return input.unsqueeze(1) * self.table(torch.arange(self.steps))


@pytest.mark.parametrize("steps", [2, 4, 5])  # 4 is the batch size: only scoring one sample alone tells
def test_a_layer_called_without_samples(steps: int) -> None:
    refused(Positions(steps), UnsupportedLayer, "'table'.*first dimension")


class Functional(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(3, 3)

    def forward(self, input: Tensor) -> Tensor:
        return self.table(input.argmax(dim=1)) @ self.table.weight.T


def test_a_weight_used_past_its_layer() -> None:
    refused(Functional(), UnsupportedParameter, "'table.weight' is used outside")


def test_the_same_weight_when_materialised_by_name() -> None:
    model = Functional().double()
    result = per_sample(model, {"input": x.double()}, total, Norms(), materialise=["table.weight"])
    for row in range(4):
        grad = torch.autograd.grad(model(x[row : row + 1].double()).sum(), model.table.weight)[0]
        torch.testing.assert_close(result["squared_norm"][row], grad.square().sum())


def test_what_cannot_be_materialised() -> None:
    with pytest.raises(UnsupportedParameter, match="no trainable parameter"):
        Engine(Scale(), materialise=["bias"])
    with pytest.raises(UnsupportedParameter, match="stops at 1024"):
        Engine(nn.Linear(64, 32), materialise=["weight"])


class InPlace(nn.Module):
    def __init__(self, where: str) -> None:
        super().__init__()
        self.first, self.second, self.where = nn.Linear(3, 3), nn.Linear(3, 1), where

    def forward(self, input: Tensor) -> Tensor:
        hidden = self.first(input)
        if self.where == "output":
            hidden = hidden.relu_()
        out = self.second(hidden)
        if self.where == "input":
            hidden.mul_(2)
        return out


def test_an_input_changed_after_the_call() -> None:
    refused(InPlace("input"), UnsupportedLayer, "'second' was changed in place")


def test_an_output_changed_in_place_is_exact_or_refused() -> None:
    model = InPlace("output").double()
    result = per_sample(model, {"input": x.double()}, total, Norms())
    for row in range(4):
        grads = torch.autograd.grad(model(x[row : row + 1].double()).sum(), list(model.parameters()))
        torch.testing.assert_close(result["squared_norm"][row], sum(g.square().sum() for g in grads))
    # On a sequence the output is a view, whose history an in-place change rewrites.
    steps = x.unsqueeze(1).repeat(1, 2, 1).double()
    try:
        result = per_sample(model, {"input": steps}, total, Norms())
    except UnsupportedParameter as error:
        assert "in-place" in str(error)
    else:
        grads = torch.autograd.grad(model(steps[:1]).sum(), list(model.parameters()))
        torch.testing.assert_close(result["squared_norm"][0], sum(g.square().sum() for g in grads))


def test_reentrant_checkpointing() -> None:
    class Checkpointed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Linear(3, 3), nn.Linear(3, 1)

        def forward(self, input: Tensor) -> Tensor:
            h = self.first(input)
            return torch.utils.checkpoint.checkpoint(self.second, h, use_reentrant=True)

    import torch.utils.checkpoint

    refused(Checkpointed(), UnsupportedLayer, "'second'.*no_grad")


def test_surgery_under_an_engine() -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 1))
    engine = Engine(model)
    model[0] = nn.Linear(3, 3)
    with pytest.raises(GradientError, match="since Engine was built"):
        engine({"input": x}, total, Norms())


def test_weight_normalisation() -> None:
    model = torch.nn.utils.parametrizations.weight_norm(nn.Linear(3, 1))
    refused(model, UnsupportedParameter, "original0")


def test_an_output_that_is_no_tensor() -> None:
    class Pair(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(3, 1)

        def forward(self, input: Tensor) -> tuple[Tensor, Tensor]:
            return self.linear(input), input

    refused(Pair(), UnsupportedLoss, "returned tuple")
