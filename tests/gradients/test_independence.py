"""A model whose samples read each other is refused; one whose samples do not, passes whatever its numbers."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from sie_spark.gradients import Engine, LastLayer, Norms, UnsupportedLayer, UnsupportedLoss, per_sample
from sie_spark.models.layers import MultiHeadAttention

Mix = Callable[[Tensor], Tensor]


class Mixed(nn.Module):
    """An MLP with something done to its hidden activations [N, 8]."""

    def __init__(self, mix: Mix, *, scale: float = 1.0) -> None:
        super().__init__()
        self.first, self.head = nn.Linear(4, 8), nn.Linear(8, 1)
        self.mix, self.scale, self.runs = mix, scale, 0

    def forward(self, input: Tensor) -> Tensor:
        self.runs += 1
        return self.head(self.mix(torch.tanh(self.first(input * self.scale)))).squeeze(1)


def rows(n: int) -> Tensor:
    return torch.randn(n, 4, generator=torch.Generator().manual_seed(n))


def total(output: Tensor) -> Tensor:
    return output.reshape(len(output), -1).sum(dim=1)


def measure(model: nn.Module, x: Tensor, **options: object) -> Tensor:
    return per_sample(model, {"input": x}, total, Norms(), **options)["squared_norm"]


def one_by_one(model: nn.Module, x: Tensor) -> Tensor:
    """Squared gradient norm of every sample's output: a backward a sample, in a batch of one."""
    found = []
    for i in range(len(x)):
        output = model(x[i : i + 1]).sum()
        gradients = torch.autograd.grad(output, list(model.parameters()), allow_unused=True)
        found.append(sum(g.double().square().sum() for g in gradients if g is not None))
    return torch.stack(found)


class Backward(torch.autograd.Function):
    """Changes nothing on the way forward, and gradients as ``change`` says."""

    @staticmethod
    def forward(ctx, x: Tensor, change: Mix) -> Tensor:
        ctx.change = change
        return x.clone()

    @staticmethod
    def backward(ctx, delta: Tensor) -> tuple[Tensor, None]:
        return ctx.change(delta), None


def strongest(h: Tensor) -> Tensor:
    return h * (h >= h.topk((len(h) + 1) // 2, dim=0).values[-1:]).detach()


READING = {
    "cumulative sum": lambda h: h.cumsum(dim=0),
    "reversed cumulative sum": lambda h: h.flip(0).cumsum(dim=0).flip(0),
    "roll": lambda h: h.roll(1, dims=0),
    "previous sample": lambda h: h + torch.cat([torch.zeros_like(h[:1]), h[:-1]]),
    "normalised by hand": lambda h: (h - h.mean(dim=0)) / (h.std(dim=0, unbiased=False) + 1e-5),
    "detached mean": lambda h: h - h.mean(dim=0).detach(),
    "a thousandth of the mean": lambda h: h + 1e-3 * h.mean(dim=0),
    "softmax": lambda h: h.softmax(dim=0),
    "top half": strongest,
    "maximum": lambda h: h - h.max(dim=0).values.detach(),
    "rank": lambda h: h + h.argsort(dim=0).argsort(dim=0) / len(h),
    "sorted": lambda h: h.sort(dim=0).values,
    "size of the batch": lambda h: h / len(h),
    "place in the batch": lambda h: h + torch.arange(len(h)).unsqueeze(1),
    "every second sample": lambda h: h * (torch.arange(len(h)) % 2 == 0).unsqueeze(1),
    "attention over the batch": lambda h: (h @ h.T).softmax(dim=1) @ h,
    "flattened": lambda h: h.flatten().roll(1).view_as(h),
}


@pytest.mark.parametrize("n", [2, 3, 40])
@pytest.mark.parametrize("name", READING)
def test_samples_that_read_others_are_refused(name: str, n: int) -> None:
    torch.manual_seed(n)
    with pytest.raises(UnsupportedLayer, match="samples are not independent") as caught:
        measure(Mixed(READING[name]), rows(n))
    assert "over the batch" in caught.value.remedy


GRADIENTS_ALONE = {
    "mean, detached forward": lambda h: h + h.mean(dim=0) - h.mean(dim=0).detach(),
    "cumulative sum, detached forward": lambda h: h + h.cumsum(dim=0) - h.cumsum(dim=0).detach(),
    "centred": lambda h: Backward.apply(h, lambda d: d - d.mean(dim=0)),
    "divided by the size": lambda h: Backward.apply(h, lambda d: d / len(d)),
    "scaled by the largest": lambda h: Backward.apply(h, lambda d: d * h.detach().abs().amax(dim=0)),
}


@pytest.mark.parametrize("n", [2, 40])
@pytest.mark.parametrize("name", GRADIENTS_ALONE)
def test_coupling_in_the_gradient_alone_is_refused_by_parameter(name: str, n: int) -> None:
    torch.manual_seed(n)
    with pytest.raises(UnsupportedLayer, match=r"gradient of sample \d+ of \d+ in parameter 'first"):
        measure(Mixed(GRADIENTS_ALONE[name]), rows(n))


def test_right_scores_from_layers_whose_rows_are_other_samples() -> None:
    """As with packed sequences: sorted, run, put back."""

    class Packed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(4, 1)

        def forward(self, input: Tensor) -> Tensor:
            order = input[:, 0].argsort()
            return self.linear(input[order])[order.argsort()].squeeze(1)

    with pytest.raises(UnsupportedLayer, match=r"gradient of sample \d+ of 9 in parameter 'linear"):
        measure(Packed(), rows(9))


def test_the_message_names_the_layer_behind_the_mixing() -> None:
    with pytest.raises(
        UnsupportedLayer, match="sample 0 of 9 scores .* alone.* goes into layer 'head' differs already"
    ):
        measure(Mixed(lambda h: h.roll(1, dims=0)), rows(9))


def test_one_sample_that_reads_the_others() -> None:
    def mix(h: Tensor) -> Tensor:  # the sample with the largest first entry sees the mean of all
        special = torch.zeros(len(h), 1)
        special[h[:, 0].argmax()] = (h[:, 0].max() > 0.9).float()
        return h + special * h.mean(dim=0).detach()

    torch.manual_seed(0)
    model = Mixed(mix)
    with pytest.raises(UnsupportedLayer, match="not independent"):
        measure(model, rows(200) * 3)


class Attending(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed, self.attention = nn.Linear(1, 4), MultiHeadAttention(4, 2)
        self.norm, self.drop, self.head = nn.LayerNorm(4), nn.Dropout(0.5), nn.Linear(4, 1)

    def forward(self, input: Tensor) -> Tensor:
        h = self.embed(input.unsqueeze(2))
        return self.head(self.drop(self.norm(h + self.attention(h)))[:, 0]).squeeze(1)


class Routed(nn.Module):
    """Each sample goes to the expert that scores highest, a step that rounding alone can turn over."""

    def __init__(self) -> None:
        super().__init__()
        self.gate, self.experts = nn.Linear(4, 3), nn.ModuleList([nn.Linear(4, 1) for _ in range(3)])

    def forward(self, input: Tensor) -> Tensor:
        each = torch.cat([expert(input) for expert in self.experts], dim=1)
        return each.gather(1, self.gate(input).argmax(dim=1, keepdim=True)).squeeze(1)


HONEST = {
    "attention within a sample": (Attending, 1.0),
    "dropout": (lambda: Mixed(nn.Dropout(0.5)), 1.0),
    "routing": (Routed, 1.0),
    "huge": (lambda: Mixed(torch.relu, scale=1e9), 1.0),
    "tiny": (lambda: Mixed(torch.relu, scale=1e-9), 1.0),
    "saturated": (lambda: nn.Sequential(nn.Linear(4, 1), nn.Sigmoid(), nn.Flatten(0)), 300.0),
    "one sample a billion times the others": (lambda: Mixed(lambda h: h), "outlier"),
}


@pytest.mark.parametrize("name", HONEST)
def test_independent_samples_pass_and_equal_one_sample_batches(name: str) -> None:
    build, scale = HONEST[name]
    torch.manual_seed(1)
    model, x = build().eval(), rows(60)
    if scale == "outlier":
        x[7] *= 1e9
    else:
        x = x * scale
    expected = one_by_one(model, x)
    torch.testing.assert_close(measure(model, x).double(), expected, rtol=1e-3, atol=1e-30)


def test_a_huge_sample_hides_no_coupling_of_the_others() -> None:
    def mix(h: Tensor) -> Tensor:  # all but the first read their neighbour
        return torch.cat([h[:1], h[1:] + h[1:].roll(1, dims=0).detach()])

    x = rows(50)
    x[0] *= 1e12
    with pytest.raises(UnsupportedLayer, match="not independent"):
        measure(nn.Sequential(nn.Linear(4, 4, bias=False), Lambda(mix), nn.Linear(4, 1)), x)


class Lambda(nn.Module):
    def __init__(self, run: Mix) -> None:
        super().__init__()
        self.run = run

    def forward(self, input: Tensor) -> Tensor:
        return self.run(input)


def rounds_by_size(h: Tensor) -> Tensor:
    """The same sums in another order for another batch: in float32 h keeps 2 digits, in float64 11."""
    big = torch.full((), 1e5 * len(h), dtype=h.dtype)
    return (h + big) - big


def test_rounding_that_depends_on_the_batch_is_told_from_coupling() -> None:
    torch.manual_seed(2)
    assert measure(Mixed(rounds_by_size), rows(40)).shape == (40,)
    with pytest.raises(UnsupportedLayer, match="not independent"):
        measure(Mixed(lambda h: rounds_by_size(h) + 0.01 * h.roll(1, dims=0)), rows(40))


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_every_precision(dtype: torch.dtype) -> None:
    torch.manual_seed(3)
    assert measure(Mixed(torch.relu).to(dtype), rows(64).to(dtype)).shape == (64,)
    with pytest.raises(UnsupportedLayer, match="not independent"):
        measure(Mixed(lambda h: h.cumsum(dim=0)).to(dtype), rows(64).to(dtype))
    with (
        torch.autocast("cpu", dtype=torch.bfloat16),
        pytest.raises(UnsupportedLayer, match="not independent"),
    ):
        measure(Mixed(lambda h: h.cumsum(dim=0)), rows(64))


def test_a_model_that_insists_on_its_precision() -> None:
    def insisting(mix: Mix) -> Mix:
        return lambda h: mix(h) + torch.ones(8, 8, dtype=torch.float32).mv(h.new_ones(8))

    assert measure(Mixed(insisting(torch.relu)), rows(20)).shape == (20,)
    with pytest.raises(UnsupportedLayer, match="not independent"):
        measure(Mixed(insisting(lambda h: h - h.mean(dim=0))), rows(20))


def test_randomness_that_eval_mode_leaves_on_is_named() -> None:
    torch.manual_seed(4)
    with pytest.raises(UnsupportedLayer, match="run again, so its score is not one number") as caught:
        measure(Mixed(lambda h: nn.functional.dropout(h, 0.5, training=True)), rows(20))
    assert "dropout" in caught.value.remedy


@pytest.mark.parametrize(
    "end", [lambda o: o.squeeze(), lambda o: (o * (o >= o.topk(3, dim=0).values[-1])).squeeze(1)]
)
def test_a_model_that_takes_no_single_sample(end: Mix) -> None:
    with pytest.raises(UnsupportedLayer, match="6 samples but not sample 0 alone") as caught:
        measure(nn.Sequential(nn.Linear(4, 1), Lambda(end)), rows(6))
    assert "squeeze(1)" in caught.value.remedy and "top-k" in caught.value.remedy


def test_a_single_sample_has_no_neighbours_and_two_have() -> None:
    torch.manual_seed(5)
    model = Mixed(lambda h: h.cumsum(dim=0))
    engine = Engine(model)
    alone = engine({"input": rows(1)}, total, Norms())["squared_norm"]
    torch.testing.assert_close(alone.double(), one_by_one(model, rows(1)), rtol=1e-5, atol=0)
    with pytest.raises(UnsupportedLayer, match="not independent"):
        engine({"input": rows(2)}, total, Norms())


def test_the_probe_runs_once_for_a_size_of_batch() -> None:
    model = Mixed(torch.relu)
    engine = Engine(model)
    runs = []
    for n in (4, 4, 5, 3, 64, 64, 100):
        before = model.runs
        engine({"input": rows(n)}, total, LastLayer())
        runs.append(model.runs - before)
    assert [count == 1 for count in runs] == [False, True, True, True, False, True, True]


def test_a_small_first_batch_does_not_vouch_for_large_ones() -> None:
    engine = Engine(Mixed(lambda h: h - h.mean(dim=0) if len(h) > 10 else h))
    engine({"input": rows(4)}, total, Norms())
    with pytest.raises(UnsupportedLayer, match="not independent"):
        engine({"input": rows(40)}, total, Norms())


class Bags(nn.Module):
    def __init__(self, mix: Mix) -> None:
        super().__init__()
        self.bag, self.head, self.mix = nn.EmbeddingBag(9, 4, mode="sum"), nn.Linear(4, 1), mix

    def forward(self, ids: Tensor, offsets: Tensor) -> Tensor:
        return self.head(self.mix(self.bag(ids, offsets))).squeeze(1)


@pytest.mark.parametrize("block", [None, 1536])
def test_gradients_that_meet_are_seen_where_inputs_cannot_be_cut(block: int | None) -> None:
    flat = {"ids": torch.arange(9), "offsets": torch.tensor([0, 2, 5])}
    passing = per_sample(Bags(torch.tanh), flat, total, Norms(), block=block)
    assert passing["squared_norm"].shape == (3,)
    with pytest.raises(UnsupportedLayer, match="when the losses of others are weighted"):
        per_sample(Bags(lambda h: h.cumsum(dim=0)), flat, total, Norms(), block=block)


def test_a_number_among_the_inputs_is_everyones() -> None:
    class Tempered(nn.Module):
        def __init__(self, mix: Mix) -> None:
            super().__init__()
            self.linear, self.mix = nn.Linear(4, 1), mix

        def forward(self, input: Tensor, temperature: Tensor) -> Tensor:
            return self.linear(self.mix(input)).squeeze(1) / temperature

    inputs = {"input": rows(30), "temperature": torch.tensor(2.0)}
    found = per_sample(Tempered(torch.tanh), inputs, total, Norms(), block=8)["squared_norm"]
    expected = (torch.tanh(inputs["input"]).square().sum(dim=1) + 1) / 4
    torch.testing.assert_close(found, expected)
    with pytest.raises(UnsupportedLayer, match="not independent"):
        per_sample(Tempered(lambda x: x.flip(0)), inputs, total, Norms())


def test_more_rows_out_than_samples_in() -> None:
    model = nn.Sequential(Lambda(lambda x: torch.cat([x, x])), nn.Linear(4, 1), nn.Flatten(0))
    with pytest.raises(UnsupportedLayer, match="12 rows for 6 samples"):
        measure(model, rows(6))


@pytest.mark.parametrize(
    "loss",
    [
        lambda o: o.log_softmax(dim=0),
        lambda o: o - o.roll(1, dims=0),
        lambda o: o * torch.arange(len(o)) + 1e-3 * o.flip(0),
        lambda o: torch.stack([o, o.cumsum(dim=0)], dim=1)[:, 1],
    ],
)
def test_a_loss_that_reads_other_outputs(loss: Mix) -> None:
    engine = Engine(Mixed(torch.relu))
    engine({"input": rows(12)}, lambda o: o.square(), Norms())
    with pytest.raises(UnsupportedLoss, match="loss of other samples depends on the output of sample"):
        engine({"input": rows(12)}, loss, Norms())


def test_a_loss_that_draws_is_asked_once() -> None:
    drawn = []

    def loss(output: Tensor) -> Tensor:
        drawn.append(torch.bernoulli(torch.full_like(output, 0.5)))
        return output * drawn[-1]

    model = Mixed(torch.relu)
    found = per_sample(model, {"input": rows(12)}, loss, Norms())["squared_norm"]
    assert len(drawn) == 1
    torch.testing.assert_close(found.double(), one_by_one(model, rows(12)) * drawn[0], rtol=1e-4, atol=1e-12)


def test_a_model_without_trainable_parameters_has_gradients_of_norm_zero() -> None:
    assert measure(Mixed(torch.relu).requires_grad_(False), rows(3)).tolist() == [0.0, 0.0, 0.0]
