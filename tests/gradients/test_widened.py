"""Layers that are called with one row for the whole batch: exact against a loop of single samples, or refused."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from sie_spark.gradients import Dots, Engine, Norms, UnsupportedLayer, gnvp, per_sample

N, T, D = 6, 5, 8


def backwards(model: nn.Module, inputs: dict[str, Tensor], loss: Callable[[Tensor], Tensor]) -> list[dict]:
    """Every sample's gradient by parameter: a backward a sample, in a batch of one."""
    found = []
    n = max(len(x) for x in inputs.values())
    parameters = dict(model.named_parameters())
    for i in range(n):
        total = loss(model(**{name: x[i : i + 1] for name, x in inputs.items()})).sum()
        grads = torch.autograd.grad(total, list(parameters.values()), allow_unused=True)
        found.append(
            {
                k: torch.zeros_like(p) if g is None else g
                for (k, p), g in zip(parameters.items(), grads, strict=True)
            }
        )
    return found


def check(model: nn.Module, inputs: dict[str, Tensor], *, loss=torch.square, **options) -> None:
    """Norms and dots, in all and of every parameter alone, to 1e-12."""
    model = model.double().eval()
    vector = {name: torch.randn_like(p) for name, p in model.named_parameters()}
    dots = [Dots({"v": vector}), *(Dots({"v": {name: v}}) for name, v in vector.items())]
    engine = Engine(model, **options)
    expected = backwards(model, inputs, loss)
    norms = torch.tensor([sum(g.square().sum() for g in row.values()) for row in expected]).double()
    torch.testing.assert_close(engine(inputs, loss, Norms())["squared_norm"], norms, rtol=1e-12, atol=0)
    for asked, names in zip(dots, [list(vector), *([name] for name in vector)], strict=True):
        along = torch.stack([sum((row[k] * vector[k]).sum() for k in names) for row in expected])
        found = engine(inputs, loss, asked)[asked.key].squeeze(1)
        # A dot product may cancel, so it is right to 1e-12 of the two lengths.
        length = norms.max().sqrt() * torch.stack([vector[k].norm() for k in names]).norm()
        torch.testing.assert_close(found, along, rtol=0, atol=1e-12 * float(length))


def sequences(n: int = N) -> dict[str, Tensor]:
    return {"x": torch.randn(n, T, D, dtype=torch.float64, generator=torch.Generator().manual_seed(n))}


def test_bert_as_it_comes() -> None:
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)

    class Classifier(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            config = transformers.BertConfig(
                hidden_size=32,
                num_hidden_layers=2,
                num_attention_heads=2,
                intermediate_size=64,
                vocab_size=50,
                max_position_embeddings=16,
                attn_implementation="eager",
            )
            self.bert = transformers.BertModel(config)
            self.head = nn.Linear(32, 1)

        def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
            hidden = self.bert(input_ids=input_ids, attention_mask=attention_mask)
            return self.head(hidden.last_hidden_state[:, 0] + hidden.pooler_output).squeeze(1)

    lengths = torch.tensor([9, 3, 12, 1, 7, 12, 5])
    mask = (torch.arange(12) < lengths.unsqueeze(1)).long()
    inputs = {"input_ids": torch.randint(1, 50, (7, 12)) * mask, "attention_mask": mask}
    check(Classifier(), inputs)
    check(Classifier(), inputs, block=3)


class Positions(nn.Module):
    """Adds a position table, used as ``use`` says, to a sequence [N, T, d]; a head on the first token."""

    def __init__(self, use: Callable[[Tensor, int], Tensor], size: float = 1.0) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.table, self.mix, self.head = nn.Embedding(T, D), nn.Linear(D, D), nn.Linear(D, 1)
        self.use, self.size = use, size

    def forward(self, x: Tensor) -> Tensor:
        place = self.use(self.table(torch.arange(T).unsqueeze(0)), len(x))
        hidden = torch.tanh(self.mix(x + self.size * place))
        return self.head(hidden.mean(dim=1)).squeeze(1)


EXACT = {
    "as it is": lambda p, n: p,
    "squeezed": lambda p, n: p.squeeze(0),
    "expanded": lambda p, n: p.expand(n, -1, -1),
    "expanded as": lambda p, n: p.expand_as(torch.empty(n, T, D)),
    "repeated, cut": lambda p, n: p.repeat(n, 1, 1)[:n],
    "through an operation": lambda p, n: torch.sin(p) * 2,
}
REFUSED = {
    "the first row": lambda p, n: p[0],
    "the last row": lambda p, n: p[-1:],
    "repeated": lambda p, n: p.repeat(n, 1, 1),
    "rolled": lambda p, n: p.roll(1, dims=0),
    "mean": lambda p, n: p.mean(dim=0),
    "sum": lambda p, n: p.sum(dim=0),
    "maximum": lambda p, n: p.amax(dim=0),
    "size": lambda p, n: p / len(p),
    "norm": lambda p, n: p / p.norm(),
    "mean gradient, same forward": lambda p, n: p.detach() + (p - p.detach()).mean(dim=0),
    "reshaped": lambda p, n: p.view(T, D),
    "reversed": lambda p, n: p.flip(0),
    "transposed": lambda p, n: p.transpose(0, 1).squeeze(1),
}


@pytest.mark.parametrize("options", [{}, {"block": 2}, {"block": 1}])
@pytest.mark.parametrize("n", [1, 2, N])
@pytest.mark.parametrize("name", EXACT)
def test_what_broadcasts_is_exact(name: str, n: int, options: dict) -> None:
    check(Positions(EXACT[name]), sequences(n), **options)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("size", [1.0, 1e-5])
@pytest.mark.parametrize("n", [2, N])
@pytest.mark.parametrize("name", REFUSED)
def test_what_reads_rows_of_others_is_refused_however_small(
    name: str, n: int, size: float, dtype: torch.dtype
) -> None:
    model = Positions(REFUSED[name], size).to(dtype)
    engine = Engine(model)
    for _ in range(2):
        with pytest.raises(
            UnsupportedLayer, match=rf"'table' was called with first dimension 1 for {n} samples"
        ) as e:
            engine({"x": sequences(n)["x"].to(dtype)}, torch.square, Norms())
        assert "expand what the batch shares" in e.value.remedy


@pytest.mark.parametrize("name", REFUSED)
def test_a_batch_of_one_is_exact_however_it_is_used(name: str) -> None:
    check(Positions(REFUSED[name]), sequences(1))


def test_a_refused_batch_leaves_nothing_widened() -> None:
    class BySize(Positions):
        """Expands its positions itself in a batch of up to three; reads their first row in a larger one."""

        def forward(self, x: Tensor) -> Tensor:
            ids = torch.arange(T).unsqueeze(0)
            place = self.table(ids.expand(len(x), -1)) if len(x) <= 3 else self.table(ids)[0]
            return self.head(torch.tanh(self.mix(x + place)).mean(dim=1)).squeeze(1)

    model = BySize(EXACT["as it is"]).double()
    engine = Engine(model)
    engine(sequences(3), torch.square, Norms())
    for n in (7, 5):  # 5 is too near to 3 to be tried
        with pytest.raises(
            UnsupportedLayer, match=f"'table' was called with first dimension 1 for {n} samples"
        ):
            engine(sequences(n), torch.square, Norms())
    assert not any(layer._forward_pre_hooks or layer._forward_hooks for layer in model.modules())


def test_the_remedy_works() -> None:
    class Expanded(Positions):
        def forward(self, x: Tensor) -> Tensor:
            place = self.table(torch.arange(T).unsqueeze(0).expand(len(x), -1))
            return self.head(torch.tanh(self.mix(x + place)).mean(dim=1)).squeeze(1)

    check(Expanded(EXACT["as it is"]), sequences())


class Shared(nn.Module):
    """One table of positions in two places, a shared [1, d] through Linear, LayerNorm over a shared [1, T, d]."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(2)
        self.table, self.norm, self.lift = (
            nn.Embedding(T + 1, D, padding_idx=0),
            nn.LayerNorm(D),
            nn.Linear(3, D),
        )
        self.mix, self.head = nn.Linear(D, D), nn.Linear(D, 1)
        self.register_buffer("prior", torch.tensor([[0.5, -1.0, 2.0]]))

    def forward(self, x: Tensor) -> Tensor:
        ids = torch.arange(T).unsqueeze(0)
        first = self.norm(self.table(input=ids))
        hidden = torch.tanh(self.mix(x + first)) + self.table(ids + 1)
        gate = torch.sigmoid(self.lift(torch.sin(self.lift(self.prior))[:, :3]))
        own = self.table(x[:, :, 0].abs().long().clamp(max=T))  # the same table, one row a sample
        return self.head((hidden * gate.unsqueeze(1) + own).mean(dim=1)).squeeze(1)


@pytest.mark.parametrize("options", [{}, {"block": 4}])
def test_one_layer_shared_and_not(options: dict) -> None:
    check(Shared(), sequences(), **options)


@pytest.mark.parametrize("precision", ["float32", "bfloat16", "autocast"])
def test_every_precision(precision: str) -> None:
    model, x = Shared(), sequences(40)
    expected = per_sample(model.double(), x, torch.square, Norms())["squared_norm"]
    dtype = torch.bfloat16 if precision == "bfloat16" else torch.float32
    tolerance = 1e-4 if precision == "float32" else 0.1
    with torch.autocast("cpu", torch.bfloat16, enabled=precision == "autocast"):
        result = per_sample(model.to(dtype), {"x": x["x"].to(dtype)}, lambda o: o.float().square(), Norms())
    gap = (result["squared_norm"].double() - expected).abs()
    assert float(gap.max()) < tolerance * float(expected.max())


def test_inputs_that_cannot_be_cut_are_refused_with_the_way_out() -> None:
    with pytest.raises(UnsupportedLayer, match="'table' was called with first dimension 1") as caught:
        per_sample(Positions(EXACT["as it is"]).double(), sequences(), torch.square, Norms(), block=None)
    assert "block is not None" in caught.value.remedy


def test_an_input_that_is_shared_and_changed_afterwards() -> None:
    class Overwritten(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lift, self.head = nn.Linear(D, D), nn.Linear(D, 1)

        def forward(self, x: Tensor) -> Tensor:
            shared = torch.ones(1, D, dtype=x.dtype)
            lifted = self.lift(shared)
            shared.mul_(2)
            return self.head(torch.tanh(x[:, 0] + lifted)).squeeze(1)

    with pytest.raises(UnsupportedLayer, match="'lift' was changed in place"):
        per_sample(Overwritten().double(), sequences(), torch.square, Norms())


def test_an_unused_call_of_one_row_is_left_alone() -> None:
    """Only its value is used, and its sum over rows would grow with the batch."""
    model = Positions(lambda p, n: p.detach().sum(dim=0))
    check(model, sequences())


def test_gauss_newton_products() -> None:
    model = Shared().double()
    inputs, vector = sequences(), {name: torch.randn_like(p) for name, p in model.named_parameters()}
    found = gnvp(model, inputs, torch.square, vector)
    slopes = backwards(model, inputs, lambda output: output)
    for name in vector:
        expected = sum(2 * sum((g[k] * vector[k]).sum() for k in vector) * g[name] for g in slopes)
        torch.testing.assert_close(found[name], expected, rtol=1e-10, atol=1e-12)
