"""Every rule, on generated shapes, against both oracles in both precisions, permuted and split."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from helpers.slow_gradients import Problem, check_everything
from helpers.slow_layers import SlowBag, SlowLookup
from sie_spark.models.layers import FM, Bias, CrossV1, CrossV2, FieldEmbedding, MultiHeadAttention

EXAMPLES = settings(max_examples=25, deadline=None, derandomize=True)
sizes = st.integers(1, 5)


class Host(nn.Module):
    """Runs a layer on named inputs and reduces what it returns, smoothly, to one logit a sample."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def run(self, **inputs: Tensor) -> Tensor:
        return self.layer(*inputs.values())

    def forward(self, **inputs: Tensor) -> Tensor:
        hidden = self.run(**inputs)
        hidden = hidden.flatten(1) if hidden.dim() > 1 else hidden.unsqueeze(1)
        mix = torch.linspace(-1.0, 1.5, hidden.shape[1], dtype=hidden.dtype)
        return (torch.tanh(hidden) * mix + 0.3 * hidden).sum(dim=1)


def problem(draw, model: nn.Module, inputs: dict[str, Tensor], n: int, **more) -> Problem:
    labels = torch.tensor(draw(st.lists(st.sampled_from([0.0, 1.0]), min_size=n, max_size=n)))
    weights = torch.tensor(draw(st.lists(st.sampled_from([1.0, 1.0, 0.0, 2.5]), min_size=n, max_size=n)))
    for p in model.parameters():
        nn.init.normal_(p, std=0.6)
    return Problem(model, inputs, labels, weights, **more)


def floats(*shape: int) -> Tensor:
    return torch.randn(shape, dtype=torch.float64)


@st.composite
def linear(draw) -> Problem:
    n, inner_shape = draw(sizes), draw(st.lists(st.integers(1, 4), max_size=2))
    p, q = draw(st.integers(1, 5)), draw(st.integers(1, 5))
    model = Host(nn.Linear(q, p, bias=draw(st.booleans())))
    return problem(draw, model, {"x": floats(n, *inner_shape, q)}, n)


@st.composite
def long_sequence(draw) -> Problem:
    # Both sides of the Gram switch T^2 < p q, with constant sequences whose sums grow instead of averaging.
    n, steps = draw(sizes), draw(st.sampled_from([1, 2, 7, 30]))
    x = floats(n, steps, 6)
    if draw(st.booleans()):
        x = x[:, :1].expand(-1, steps, -1).contiguous()
    return problem(draw, Host(nn.Linear(6, 5)), {"x": x}, n)


@st.composite
def embedding(draw) -> Problem:
    n, shape = draw(sizes), draw(st.lists(st.integers(0, 5), max_size=2))
    rows = draw(st.integers(2, 6))
    padding = draw(st.sampled_from([None, 0, rows - 1]))
    layer = nn.Embedding(rows, draw(st.integers(1, 4)), padding_idx=padding, sparse=draw(st.booleans()))
    inputs = {"ids": torch.randint(0, rows, (n, *shape))}
    return problem(draw, Host(layer), inputs, n, smooth_twin=Host(SlowLookup(layer)))


@st.composite
def bag(draw) -> Problem:
    n, rows = draw(sizes), draw(st.integers(2, 6))
    mode, padding = draw(st.sampled_from(["sum", "mean"])), draw(st.sampled_from([None, 0]))
    layer = nn.EmbeddingBag(rows, 3, mode=mode, padding_idx=padding, sparse=draw(st.booleans()))
    inputs = {"ids": torch.randint(0, rows, (n, draw(st.integers(1, 6))))}
    if draw(st.booleans()):
        inputs["ids"][0] = 0  # a bag of padding only, when 0 is padding
    if mode == "sum" and draw(st.booleans()):
        inputs["per_sample_weights"] = floats(*inputs["ids"].shape)

    class Bags(Host):
        def run(self, ids: Tensor, per_sample_weights: Tensor | None = None) -> Tensor:
            return self.layer(ids, None, per_sample_weights)

    return problem(draw, Bags(layer), inputs, n, smooth_twin=Bags(SlowBag(layer)))


def cut_bags(inputs, rows: Tensor):
    """Flat ids with offsets, for some of the bags."""
    offsets, flat = inputs["offsets"].tolist(), inputs["ids"]
    ends = [*offsets[1:], len(flat)]
    pieces = [slice(offsets[i], ends[i]) for i in rows.tolist()]
    lengths = torch.tensor([0] + [s.stop - s.start for s in pieces])
    cut = {"ids": torch.cat([flat[s] for s in pieces]), "offsets": lengths.cumsum(0)[:-1]}
    if "per_sample_weights" in inputs:
        cut["per_sample_weights"] = torch.cat([inputs["per_sample_weights"][s] for s in pieces])
    return cut


@st.composite
def ragged_bag(draw) -> Problem:
    n, rows = draw(sizes), draw(st.integers(2, 6))
    lengths = torch.tensor([0, *draw(st.lists(st.integers(0, 5), min_size=n, max_size=n))])
    mode, last = draw(st.sampled_from(["sum", "mean"])), draw(st.booleans())
    layer = nn.EmbeddingBag(
        rows, 3, mode=mode, padding_idx=draw(st.sampled_from([None, 1])), include_last_offset=last
    )
    inputs = {"ids": torch.randint(0, rows, (int(lengths.sum()),)), "offsets": lengths.cumsum(0)[:-1]}
    if mode == "sum" and draw(st.booleans()):
        inputs["per_sample_weights"] = floats(len(inputs["ids"]))

    class Ragged(Host):
        def run(self, ids: Tensor, offsets: Tensor, per_sample_weights: Tensor | None = None) -> Tensor:
            if last and isinstance(self.layer, nn.EmbeddingBag):
                offsets = torch.cat([offsets, torch.tensor([len(ids)])])
            return self.layer(ids, offsets, per_sample_weights)

    return problem(
        draw, Ragged(layer), inputs, n, cut=cut_bags, block=None, smooth_twin=Ragged(SlowBag(layer))
    )


@st.composite
def layer_norm(draw) -> Problem:
    n, steps = draw(sizes), draw(st.lists(st.integers(1, 4), max_size=2))
    shape = draw(st.sampled_from([[4], [2, 3]]))
    return problem(draw, Host(nn.LayerNorm(shape)), {"x": floats(n, *steps, *shape)}, n)


@st.composite
def batch_norm(draw) -> Problem:
    n, rest = draw(sizes), draw(st.lists(st.integers(1, 4), max_size=2))
    kind = [nn.BatchNorm1d, nn.BatchNorm1d, nn.BatchNorm2d][len(rest)]
    layer = kind(3)
    layer.running_mean.normal_()
    layer.running_var.uniform_(0.5, 2.0)
    return problem(draw, Host(layer), {"x": floats(n, 3, *rest)}, n)


@st.composite
def prelu(draw) -> Problem:
    n, slopes = draw(sizes), draw(st.sampled_from([1, 3]))
    rest = draw(st.lists(st.integers(1, 3), max_size=1))
    return problem(draw, Host(nn.PReLU(slopes)), {"x": floats(n, 3, *rest)}, n)


@st.composite
def attention(draw) -> Problem:
    n, steps = draw(sizes), draw(st.integers(1, 5))
    mask = torch.rand(n, steps) < 0.7

    class Attend(Host):
        def run(self, x: Tensor, mask: Tensor) -> Tensor:
            return self.layer(x, mask=mask)

    return problem(draw, Attend(MultiHeadAttention(4, 2)), {"x": floats(n, steps, 4), "mask": mask}, n)


class Crosses(nn.Module):
    def __init__(self, fields: int, kind: type[nn.Module]) -> None:
        super().__init__()
        self.embedding = FieldEmbedding([3] * fields, 2)
        self.linear_term = FieldEmbedding([3] * fields, 1)
        self.crosses = nn.ModuleList([kind(2 * fields) for _ in range(2)])
        self.fm, self.drop, self.bias = FM(), nn.Dropout(0.5), Bias()
        self.head = nn.Sequential(nn.Linear(2 * fields, 3), nn.Tanh(), nn.Linear(3, 1))

    def forward(self, cat: Tensor) -> Tensor:
        factors = self.embedding(cat)
        x0 = x = factors.flatten(1)
        for cross in self.crosses:
            x = cross(x0, x)
        logit = self.head(self.drop(x)).squeeze(1) + self.fm(factors) + self.linear_term(cat).sum(dim=(1, 2))
        return self.bias(logit)


@st.composite
def ctr_model(draw) -> Problem:
    n, fields = draw(sizes), draw(st.integers(1, 4))
    model = Crosses(fields, draw(st.sampled_from([CrossV1, CrossV2])))
    return problem(draw, model, {"cat": torch.randint(0, 3, (n, fields))}, n)


class SharedTable(Host):
    """One table read by a lookup of several fields, a second lookup, a pooled lookup and an output matrix."""

    def __init__(self, rows: int, *, output: bool) -> None:
        super().__init__(nn.Embedding(rows, 3, padding_idx=0))
        self.bag = nn.EmbeddingBag(rows, 3, padding_idx=1, mode="sum")
        self.bag.weight = self.layer.weight
        self.out = nn.Linear(3, rows) if output else None
        if self.out is not None:
            self.out.weight = self.layer.weight

    def pool(self, ids: Tensor) -> Tensor:
        return self.bag(ids)

    def run(self, ids: Tensor, more: Tensor) -> Tensor:
        x = torch.cat([self.layer(ids), self.layer(more), self.pool(ids).unsqueeze(1)], dim=1)
        return x if self.out is None else self.out(x)


class SlowSharedTable(SharedTable):
    def __init__(self, fast: SharedTable) -> None:
        nn.Module.__init__(self)
        self.layer, self.bag, self.out = SlowLookup(fast.layer), fast.bag, fast.out

    def pool(self, ids: Tensor) -> Tensor:
        return (self.bag.weight[ids] * (ids != 1).unsqueeze(-1)).sum(dim=1)


@st.composite
def shared_table(draw) -> Problem:
    n, rows = draw(sizes), draw(st.integers(2, 5))
    model = SharedTable(rows, output=draw(st.booleans()))
    inputs = {"ids": torch.randint(0, rows, (n, 3)), "more": torch.randint(0, rows, (n, 2))}
    built = problem(draw, model, inputs, n)
    built.smooth_twin = SlowSharedTable(model)
    return built


class Twice(Host):
    def run(self, x: Tensor) -> Tensor:
        return self.layer(torch.tanh(self.layer(x)))


@st.composite
def called_twice(draw) -> Problem:
    n, steps = draw(sizes), draw(st.lists(st.integers(1, 5), max_size=1))
    layer = draw(st.sampled_from([nn.Linear(3, 3), nn.LayerNorm(3), Bias(3)]))
    return problem(draw, Twice(layer), {"x": floats(n, *steps, 3)}, n)


@st.composite
def tied_vector(draw) -> Problem:
    # One vector that a cross layer multiplies and a bias layer adds.
    n = draw(sizes)

    class Tied(Host):
        def __init__(self) -> None:
            super().__init__(CrossV1(3))
            self.shift = Bias(3)
            self.shift.bias = self.layer.weight

        def run(self, x: Tensor) -> Tensor:
            return self.shift(self.layer(x, torch.tanh(x)))

    return problem(draw, Tied(), {"x": floats(n, 3)}, n)


@st.composite
def raw_parameters(draw) -> Problem:
    n = draw(sizes)

    class Raw(Host):
        def __init__(self) -> None:
            super().__init__(nn.Linear(3, 2))
            self.scale = nn.Parameter(torch.ones(2))
            self.mixing = nn.Parameter(torch.ones(2, 2))

        def run(self, x: Tensor) -> Tensor:
            return (self.layer(x) * self.scale) @ self.mixing + self.scale

    return problem(draw, Raw(), {"x": floats(n, 3)}, n, materialise=("scale", "mixing"))


RULES = [
    linear, long_sequence, embedding, bag, ragged_bag, layer_norm, batch_norm, prelu, attention, ctr_model,
    shared_table, called_twice, tied_vector, raw_parameters,
]  # fmt: skip


@pytest.mark.parametrize("strategy", RULES, ids=lambda strategy: strategy.__name__)
def test_rule_is_exact(strategy) -> None:
    @EXAMPLES
    @given(data=st.data(), seed=st.integers(0, 2**16))
    def run(data, seed: int) -> None:
        torch.manual_seed(seed)
        check_everything(data.draw(strategy()))

    run()
