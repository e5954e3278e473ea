from dataclasses import replace

import pyarrow as pa
import pytest
import torch

from sie_spark.gradients import Engine, Norms
from sie_spark.models import MODELS, Batch, build_model
from sie_spark.models.inputs import start_embeddings
from sie_spark.models.layers import PiecewiseLinear
from sie_spark.platform.config import Model
from sie_spark.platform.errors import ConfigError, DataError, ModelError
from sie_spark.platform.inputs import InputSpec

SPEC = InputSpec(
    categories={"item": 20, "device": 3},
    numbers=("price", "rank"),
    bags={"filters": (7, 3)},
    sequences={"recent": (20, 4)},
    vectors={"image": 2},
    shares={"recent": "item"},
)


def table(rows: int = 5, *, width: int = 2) -> pa.Table:
    ints = pa.list_(pa.int32())
    floats = pa.list_(pa.float32())
    return pa.table(
        {
            "cat": pa.array([[i % 20, i % 3][:width] for i in range(rows)], ints),
            "dense": pa.array([[0.5 * i, -1.0] for i in range(rows)], floats),
            "filters": pa.array([[i % 7, 0, 0] for i in range(rows)], ints),
            "recent": pa.array([[i % 20, 3, 0, 0] for i in range(rows)], ints),
            "image": pa.array([[1.0, 2.0]] * rows, floats),
            "label": pa.array([float(i % 2) for i in range(rows)], pa.float32()),
            "sample_id": pa.array(range(rows), pa.int64()),
        }
    )


def every_model() -> list[str]:
    build_model(Model(name="lr"), SPEC, seed=0)
    return sorted(MODELS)


@pytest.mark.parametrize("name", every_model())
def test_one_logit_a_row_whatever_the_batch(name: str) -> None:
    batch = Batch.from_arrow(table(), SPEC)
    model = build_model(Model(name=name, embedding_dim=4, hidden=[8]), SPEC, seed=3).eval()
    logits = model(**batch.inputs)
    assert logits.shape == (5,) and logits.dtype == torch.float32
    alone = torch.cat([model(**part.inputs) for part in batch.split(1)])
    torch.testing.assert_close(logits, alone)
    logits.sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


@pytest.mark.parametrize("name", every_model())
def test_every_model_starts_as_a_constant(name: str) -> None:
    """Whatever the seed and however large the numbers: what it has not learnt it does not claim."""
    batch = Batch.from_arrow(table(), SPEC)
    for seed in range(3):
        model = build_model(Model(name=name, embedding_dim=4, hidden=[8]), SPEC, seed=seed).eval()
        logits = model(**{**batch.inputs, "dense": 1e4 * batch.inputs["dense"]})
        assert logits.abs().max() < 0.2


def test_same_seed_same_weights_and_global_generator_untouched() -> None:
    before = torch.random.get_rng_state()
    first, second = (build_model(Model(), SPEC, seed=5).state_dict() for _ in range(2))
    assert torch.equal(before, torch.random.get_rng_state())
    for key in first:
        assert torch.equal(first[key], second[key])
    name = "deep.0.weight"
    assert not torch.equal(first[name], build_model(Model(), SPEC, seed=6).state_dict()[name])


def test_features_may_have_names_that_torch_has_for_itself() -> None:
    taken = [name for name in dir(torch.nn.ModuleDict()) if not name.startswith("_")]
    assert {"items", "keys", "type", "values", "training"} <= set(taken)
    spec = replace(
        SPEC,
        bags={**SPEC.bags, **dict.fromkeys(taken[::2], (7, 3))},
        sequences={**SPEC.sequences, **dict.fromkeys(taken[1::2], (20, 4))},
        shares={**SPEC.shares, **dict.fromkeys(taken[1::2], "item")},
    )
    batch = Batch.from_arrow(table(), SPEC)
    lists = {name: batch.inputs["filters" if name in spec.bags else "recent"] for name in taken}
    model = build_model(Model(name="history_attention", embedding_dim=4, hidden=[8]), spec, seed=3).eval()
    again = build_model(Model(name="history_attention", embedding_dim=4, hidden=[8]), spec, seed=4).eval()
    again.load_state_dict(model.state_dict())
    given = {**batch.inputs, **lists}
    torch.testing.assert_close(model(**given), again(**given))
    norms = Engine(model)(given, lambda logit: logit, Norms())["squared_norm"]
    model(**{name: value[:1] for name, value in given.items()}).sum().backward()
    summed = sum(float((p.grad**2).sum()) for p in model.parameters() if p.grad is not None)
    assert float(norms[0]) == pytest.approx(summed, rel=1e-5)
    plain = build_model(Model(name="history_attention"), SPEC, seed=3).state_dict()
    assert {"input.bags.filters.weight"} <= set(plain)  # as models were saved before


def test_padding_changes_nothing() -> None:
    batch = Batch.from_arrow(table(), SPEC)
    model = build_model(Model(name="history_attention", embedding_dim=4), SPEC, seed=3).eval()
    padded = dict(batch.inputs)
    padded["recent"] = torch.cat([batch.inputs["recent"], torch.zeros(5, 3, dtype=torch.int64)], dim=1)
    torch.testing.assert_close(model(**batch.inputs), model(**padded))


class Own(torch.nn.Module):
    def __init__(self, inputs: InputSpec, scale: float = 1.0) -> None:
        super().__init__()
        self.linear = torch.nn.Linear(len(inputs.numbers), 1)
        self.scale = scale

    def forward(self, cat: torch.Tensor, dense: torch.Tensor) -> torch.Tensor:
        return self.linear(dense).squeeze(1) * self.scale


def test_users_own_module() -> None:
    plain = InputSpec(categories={"item": 20}, numbers=("price", "rank"))
    model = build_model(Model(name=f"{__name__}:Own", options={"scale": 2.0}), plain, seed=0)
    assert isinstance(model, Own) and model.scale == 2.0
    with pytest.raises(ModelError, match="does not take filters") as caught:
        build_model(Model(name=f"{__name__}:Own"), SPEC, seed=0)
    assert "**extras" in caught.value.remedy
    with pytest.raises(ModelError, match="cannot be imported"):
        build_model(Model(name="no.such:Thing"), plain, seed=0)
    with pytest.raises(ConfigError) as caught:
        build_model(Model(name="dcnv3"), plain, seed=0)
    assert "dcnv2" in caught.value.remedy


def test_batch_refuses_what_the_encoder_did_not_promise() -> None:
    with pytest.raises(DataError, match="'cat' has 1.00 values a row, the encoder promised 2"):
        Batch.from_arrow(table(width=1), SPEC)
    with pytest.raises(DataError, match="'image' is missing"):
        Batch.from_arrow(table().drop_columns(["image"]), SPEC)
    nulls = table().set_column(5, "label", pa.array([None, 1, 0, 1, 0], pa.float32()))
    with pytest.raises(DataError, match="'label' has 1 nulls"):
        Batch.from_arrow(nulls, SPEC)


def test_batch_round_trip_and_empty() -> None:
    batch = Batch.from_arrow(table(7), SPEC)
    again = Batch.concat(list(batch.split(3)))
    assert torch.equal(again.inputs["recent"], batch.inputs["recent"]) and len(again) == 7
    assert batch.offset.eq(0).all() and batch.weight.eq(1).all()
    assert len(Batch.from_arrow(table(0), SPEC)) == 0
    assert len(Batch.from_arrow(table(6).slice(2, 3), SPEC)) == 3
    assert Batch.from_arrow(table(6).slice(2, 3), SPEC).inputs["cat"][0].tolist() == [2, 2]


@pytest.mark.parametrize("components", [2, 6])
def test_embedding_tables_begin_at_start_vectors(components: int) -> None:
    model = build_model(Model(name="dcnv2", embedding_dim=4), SPEC, seed=1)
    table = model.input.embedding.table.weight
    before = table.detach().clone()
    vectors = {"device": torch.randn(3, components), "absent": torch.randn(9, components)}
    start_embeddings(model, vectors)
    width = min(components, 4)
    torch.testing.assert_close(table[20:, :width], vectors["device"][:, :width])
    torch.testing.assert_close(table[20:, width:], before[20:, width:])
    torch.testing.assert_close(table[:20], before[:20])


def test_start_vectors_that_fit_nothing_are_refused() -> None:
    model = build_model(Model(name="dcnv2", embedding_dim=4), SPEC, seed=1)
    with pytest.raises(ModelError, match="for 5 ids, the encoder has 20"):
        start_embeddings(model, {"item": torch.zeros(5, 4)})
    with pytest.raises(ModelError, match="no InputLayer with embeddings"):
        start_embeddings(torch.nn.Linear(2, 1), {"item": torch.zeros(20, 4)})


def test_numbers_in_pieces_follow_any_piecewise_line() -> None:
    dense = torch.linspace(-3, 3, 601).unsqueeze(1)
    layer = PiecewiseLinear(1, 4)
    layer.find_edges(torch.tensor([[-2.0], [-1.0], [0.0], [1.0], [2.0]]))
    pieces = layer(dense)
    assert pieces.shape == (601, 4) and float(pieces.min()) == 0.0 and float(pieces.max()) == 1.0
    wanted = torch.relu(dense + 1) - 3 * torch.relu(dense)  # bends at two edges
    inside = dense.abs().squeeze() <= 2
    design = torch.cat([pieces, torch.ones(601, 1)], dim=1)[inside]
    solution = torch.linalg.lstsq(design, wanted[inside]).solution
    torch.testing.assert_close(design @ solution, wanted[inside], atol=1e-4, rtol=0)


def test_a_number_that_is_nearly_always_one_value_becomes_a_step() -> None:
    layer = PiecewiseLinear(2, 3)
    layer.find_edges(torch.tensor([[0.0, 5.0]] * 99 + [[1.0, 5.0]]))
    found = layer(torch.tensor([[0.0, 5.0], [1.0, 6.0], [-1.0, 4.0]]))
    assert torch.isfinite(found).all()
    assert found[0].tolist() == [0.0] * 6 and found[2].tolist() == [0.0] * 6
    assert found[1].tolist() == [1.0] * 6
