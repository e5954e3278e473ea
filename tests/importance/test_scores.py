"""Scores against slow derivations: one row at a time, every parameter, embeddings included."""

from __future__ import annotations

import copy
import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from helpers.encoded_samples import SPEC, planted_rows, settings, write_samples
from helpers.scored_rows import (
    GIVEN,
    KNOWN,
    SETTINGS,
    batch_of,
    fitted,
    fresh,
    models_of,
    scored,
    validation_rows,
)
from sie_spark.gradients import Engine, Norms, UnsupportedParameter
from sie_spark.importance import SCORERS, Given, ModelRef
from sie_spark.importance.artefacts import digests
from sie_spark.importance.contracts import Fit, state_from_bytes
from sie_spark.importance.fits.validation_gradient import ValidationGradient
from sie_spark.importance.needs import check_needs
from sie_spark.importance.plan import make_plan
from sie_spark.importance.worker import FitRows, Loaded, Pass, ScoreRows, build_engine, look
from sie_spark.models import Batch, build_model
from sie_spark.models.cache import CACHE
from sie_spark.models.store import PILOT, REFERENCE, load_model, save_model
from sie_spark.platform.config import Config, Importance
from sie_spark.platform.config.base import validate
from sie_spark.platform.errors import ConfigError, DataError, ModelError, StageOrderError
from sie_spark.platform.root import Root

ALL = sorted(SCORERS)


def gradient(model: nn.Module, batch: Batch) -> list[Tensor]:
    """Of the summed weighted loss, parameter by parameter."""
    losses = functional.binary_cross_entropy_with_logits(model(**batch.inputs), batch.label, reduction="none")
    found = torch.autograd.grad((losses * batch.weight).sum(), list(model.parameters()), allow_unused=True)
    return [
        torch.zeros_like(p, dtype=torch.float64) if g is None else g.double()
        for g, p in zip(found, model.parameters(), strict=True)
    ]


def rows_of(batch: Batch) -> list[Batch]:
    return [replace(one, weight=torch.ones(1)) for one in batch.split(1)]


@pytest.mark.parametrize("name", ["lr", "deepfm", "dcnv2"])
def test_gradient_scores_equal_a_backward_a_row(name: str) -> None:
    """GraNd, the dot with the validation gradient and TracIn, each from one-row backwards of its definition."""
    models = {model: fresh(name, seed) for seed, model in enumerate(KNOWN)}
    found = scored(models, ["grad_norm", "loss", "gradient_dot", "tracin"])
    directions = {}
    for model, module in models.items():
        total = gradient(module, validation_rows())
        directions[model] = [value / float(validation_rows().weight.sum()) for value in total]
    for row, one in enumerate(rows_of(batch_of())):
        by_model = {model: gradient(module, one) for model, module in models.items()}
        dots = {
            model: sum(float((g * v).sum()) for g, v in zip(by_model[model], directions[model], strict=True))
            for model in models
        }
        norm = sum(float(g.square().sum()) for g in by_model[PILOT]) ** 0.5
        assert found["grad_norm"][row] == pytest.approx(norm, rel=1e-4)
        assert found["gradient_dot"][row] == pytest.approx(dots[REFERENCE], rel=1e-3, abs=1e-6)
        tracin = sum(KNOWN[model].learning_rate * dots[model] for model in models)
        assert found["tracin"][row] == pytest.approx(tracin, rel=1e-3, abs=1e-8)
    bce = functional.binary_cross_entropy_with_logits
    batch = batch_of()
    norms = Norms()
    squared = Engine(models[PILOT])(
        batch.inputs, lambda logit: bce(logit, batch.label, reduction="none"), norms
    )[norms.key]
    np.testing.assert_allclose(found["grad_norm"], squared.sqrt().numpy(), rtol=1e-4)


def test_a_helpful_row_lowers_validation_loss() -> None:
    """The sign of the dot is that of what a small step on the row does."""
    model = fresh()
    found = scored({REFERENCE: model}, ["gradient_dot"])["gradient_dot"]
    validation = validation_rows()

    def loss(module: nn.Module) -> float:
        with torch.no_grad():
            values = functional.binary_cross_entropy_with_logits(
                module(**validation.inputs), validation.label, reduction="none"
            )
        return float((values * validation.weight).sum() / validation.weight.sum())

    rate, before = 1e-3, loss(model)
    for row in np.argsort(found)[[0, 1, -2, -1]]:
        stepped = copy.deepcopy(model)
        step = gradient(model, rows_of(batch_of())[row])
        with torch.no_grad():
            for value, direction in zip(stepped.parameters(), step, strict=True):
                value.sub_(rate * direction.float())
        assert np.sign(before - loss(stepped)) == np.sign(found[row])


def test_cheap_scores() -> None:
    model, batch = fresh(), batch_of()
    found = scored({PILOT: model}, ["error", "loss", "entropy", "margin"])
    with torch.no_grad():
        p, y = torch.sigmoid(model(**batch.inputs)).numpy(), batch.label.numpy()
    np.testing.assert_allclose(found["error"], np.abs(p - y), rtol=1e-5)
    np.testing.assert_allclose(found["loss"], -np.log(np.where(y > 0, p, 1 - p)), rtol=1e-4)
    np.testing.assert_allclose(found["entropy"], -p * np.log(p) - (1 - p) * np.log(1 - p), rtol=1e-4)
    np.testing.assert_allclose(found["margin"], (1 - 2 * y) * np.log(p / (1 - p)), rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("name", ALL)
def test_conformance(name: str) -> None:
    """Every scorer: declared, finite on extreme logits, label-free exactly when it says so, signed likewise."""
    found = SCORERS[name]
    assert SCORERS[name] is found and found.name == name and found.version >= 1 and found.citation
    models = {model: fresh(seed=seed) for seed, model in enumerate(KNOWN)}
    with torch.no_grad():
        for model in models.values():
            model.output.weight *= 50.0
    needed = {model: models[model] for model in models_of(found) or (PILOT,)}
    given = fitted(needed, [name])
    assert bool(found.quantities(given)) == found.goes_backward(given)
    assert {fit.key for fit in found.fits(GIVEN)} <= set(given.states)
    assert (
        set(found.uses) <= {"subsample", "weight", "clean", "audit"}
        and found.uses
        and found.reads
        and found.cost
    )
    zeros, ones = (replace(batch_of(), label=torch.full((40,), y)) for y in (0.0, 1.0))
    scores = [scored(needed, [name], batch, given)[name] for batch in (zeros, ones)]
    assert all(values.shape == (40,) and np.isfinite(values).all() for values in scores)
    assert np.array_equal(*scores) != found.uses_label
    assert found.signed or min(values.min() for values in scores) >= 0


@pytest.mark.parametrize("name", ALL)
def test_partitions_batches_and_order_change_no_score(name: str) -> None:
    """To 1e-5 of the largest score: of artefacts that were fitted, and of rows that are scored."""
    models = {model: fresh(seed=seed) for seed, model in enumerate(KNOWN)}
    needed = {model: models[model] for model in models_of(SCORERS[name]) or (PILOT,)}
    rows, batch = validation_rows(), batch_of()
    expected = scored(needed, [name], batch, fitted(needed, [name], partitions=[rows]))[name]
    mixed = rows.take(torch.randperm(30, generator=torch.Generator().manual_seed(1)))
    cuts = [mixed.take(slice(0, 3)), mixed.take(slice(3, 20)), mixed.take(slice(20, 30))]
    given, order = fitted(needed, [name], partitions=cuts), torch.arange(39, -1, -1)
    found = [scored(needed, [name], part, given)[name] for part in batch.take(order).split(13)]
    np.testing.assert_allclose(
        np.concatenate(found)[order], expected, rtol=1e-5, atol=1e-5 * np.abs(expected).max()
    )


@pytest.mark.parametrize("name", [one for one in ALL if set(models_of(SCORERS[one])) - {PILOT}])
def test_a_model_that_is_lacking_is_said_before_work_starts(name: str) -> None:
    """Every scorer that reads the reference or its checkpoints says so while the passes are planned."""
    alone = Given({PILOT: KNOWN[PILOT]})
    with pytest.raises(ConfigError, match=name) as caught:
        make_plan([SCORERS[name]], alone).models(alone)
    assert "reference.fit=true" in caught.value.remedy or "training.keep_epochs" in caught.value.remedy


def test_rarity_and_the_a_optimal_norm_equal_their_formulas() -> None:
    """From counts by hand, and from the last layer's gradients one row at a time."""
    model, batch, rows = fresh(), batch_of(), validation_rows()
    found = scored({PILOT: model}, ["rarity", "a_optimal_norm"], batch)
    counts = [np.bincount(column, minlength=100) for column in rows.inputs["cat"].numpy().T]
    by_hand = [
        max(1 / max(1, count[i]) for count, i in zip(counts, ids, strict=True))
        for ids in batch.inputs["cat"].numpy()
    ]
    np.testing.assert_allclose(found["rarity"], by_hand)

    def last(one: Batch) -> np.ndarray:
        model.zero_grad()
        model(**one.inputs).sum().backward()
        return np.append(model.output.weight.grad.numpy().ravel(), model.output.bias.grad.numpy()).astype(
            float
        )

    h, p = (
        np.array([last(one) for one in rows_of(rows)]),
        torch.sigmoid(model(**rows.inputs)).detach().numpy(),
    )
    weight = rows.weight.numpy() * p * (1 - p)
    information = (h * weight[:, None]).T @ h / rows.weight.numpy().sum()
    information += 1e-3 * np.trace(information) / len(information) * np.eye(len(information))
    expected = [np.linalg.norm(np.linalg.solve(information, last(one))) for one in rows_of(batch)]
    np.testing.assert_allclose(found["a_optimal_norm"], expected, rtol=1e-4)


def test_tracin_says_what_it_lacks() -> None:
    with pytest.raises(ConfigError) as caught:
        make_plan([SCORERS["tracin"]], Given({REFERENCE: KNOWN[REFERENCE]}))
    assert "training.keep_epochs" in caught.value.remedy


def test_needs_are_looked_for_before_a_run_starts() -> None:
    """A reference that is not fitted, epochs that are not kept, a validation part that there will not be."""

    def config(*names: str, **sections: Any) -> Config:
        return validate(Config, settings(importance={"scorers": list(names)}, **sections), where="test")

    check_needs(config("loss", "gradient_dot"))
    check_needs(config("tracin", training={"keep_epochs": [1]}))
    dataset = settings()["dataset"] | {"split": {"validation_fraction": 0}}
    for made, said, remedy in (
        (config("tracin"), "kept none", "training.keep_epochs"),
        (config("trak", arms={"full": None}), "'trak' reads model 'reference'", "reference.fit=true"),
        (
            config("rank_average", "logra", dataset=dataset),
            "'logra' reads validation rows",
            "validation_fraction",
        ),
    ):
        with pytest.raises(ConfigError, match=said) as caught:
            check_needs(made)
        assert remedy in caught.value.remedy


class Base(Fit):
    name = "base"
    rows = "validation"
    key = "base"


class Above(Base):
    key = "above"

    def after(self) -> tuple[Fit, ...]:
        return (Base(),)


def test_plan_orders_fits_and_knows_when_no_gradient_is_needed() -> None:
    class Reads:
        def models(self, given: Given) -> tuple[str, ...]:
            return ()

        def fits(self, given: Given) -> tuple[Fit, ...]:
            return (Above(), Base())

    plan = make_plan([Reads(), Reads()], GIVEN)
    assert [[fit.key for fit in level] for level in plan.levels] == [["base"], ["above"]]
    forward = make_plan([SCORERS[name] for name in ("loss", "entropy")], GIVEN)
    assert not forward.gradient(GIVEN) and forward.levels == () and forward.models(GIVEN) == (PILOT,)
    assert forward.rows(GIVEN, {})[-1][3] == "forward"
    both = make_plan([SCORERS[name] for name in ("gradient_dot", "tracin")], GIVEN)
    assert len(both.levels) == 1 and len(both.levels[0]) == 3 and both.gradient(GIVEN)
    found = {rows: digests(plan, GIVEN, rows=rows, code="c") for rows in ("a", "b")}
    assert found["a"]["above"] != found["b"]["above"] != found["b"]["base"]


def test_unknown_scorer_names_the_nearest() -> None:
    with pytest.raises(ConfigError) as caught:
        SCORERS["gradnorm"]
    assert "grad_norm" in caught.value.remedy


def record_batch(rows: int) -> pa.RecordBatch:
    frame = planted_rows(rows)
    return pa.RecordBatch.from_pydict(
        {
            "sample_id": pa.array(range(rows), pa.int64()),
            "label": pa.array(frame["label"], pa.float32()),
            "cat": pa.array(frame["cat"].tolist(), pa.list_(pa.int32())),
            "dense": pa.array([list(map(float, x)) for x in frame["dense"]], pa.list_(pa.float32())),
        }
    )


def saved(root: Path) -> tuple[str, str]:
    model = build_model(SETTINGS, SPEC, seed=0)
    uri = save_model(Root(root), model, arm="pilot", fingerprint="f", settings=SETTINGS, inputs=SPEC)
    return uri, hashlib.sha256(Path(uri).read_bytes()).hexdigest()


def shared_of(root: Path, *, micro_batch: int = 7, artefacts: tuple[Any, ...] = ()) -> Pass:
    uri, digest = saved(root)
    pilot, reference = ModelRef(PILOT, uri, digest), ModelRef(REFERENCE, uri, digest)
    return Pass((pilot,), (pilot, reference), artefacts, settings=Importance(micro_batch=micro_batch))


NAMES = ("loss", "grad_norm", "margin")


def test_worker_function(tmp_path: Path) -> None:
    function = ScoreRows(shared_of(tmp_path), NAMES, PILOT)
    before = CACHE.reads
    whole = record_batch(50)
    out = list(function(iter([whole, whole.slice(0, 0), whole.slice(10, 15)])))
    assert [part.num_rows for part in out] == [50, 0, 15]
    assert out[0].schema.names == [*whole.schema.names, "p", *(f"score_{name}" for name in NAMES)]
    assert list(function(iter([]))) == []
    # micro-batches change nothing; the model was read once
    one = next(iter(ScoreRows(shared_of(tmp_path, micro_batch=1000), NAMES, PILOT)(iter([whole]))))
    for name in function.columns:
        np.testing.assert_allclose(out[0][name].to_numpy(), one[name].to_numpy(), rtol=1e-5, atol=1e-7)
        np.testing.assert_allclose(out[2][name].to_numpy(), one[name].to_numpy()[10:25], rtol=1e-5, atol=1e-7)
    assert CACHE.reads - before == 1


def test_fits_leave_a_state_a_partition(tmp_path: Path) -> None:
    """Outside Spark the partition is 0; its file holds the sums of its rows."""
    shared = shared_of(tmp_path)
    function = FitRows(
        replace(shared, models=shared.known), (ValidationGradient(),), str(tmp_path), ("artefacts", "parts")
    )
    assert list(function(iter([]))) == []
    (written,) = function(iter([record_batch(20), record_batch(10)]))
    state = state_from_bytes(Path(written["path"][0].as_py()).read_bytes())
    assert written["fit"].to_pylist() == ["validation_gradient-reference"] and float(state["rows"]) == 30


def test_worker_refuses_other_bytes(tmp_path: Path) -> None:
    shared = shared_of(tmp_path)
    other = replace(shared, models=(replace(shared.models[0], digest="0" * 64),))
    with pytest.raises(ModelError, match="changed while"):
        list(ScoreRows(other, NAMES, PILOT)(iter([record_batch(3)])))


class Raw(nn.Module):
    """A user's model with a bare parameter that no rule covers."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(2))

    def forward(self, cat: Tensor, dense: Tensor) -> Tensor:
        return (dense * self.scale).sum(1)


def test_uncovered_parameters_are_named_and_may_be_materialised() -> None:
    with pytest.raises(UnsupportedParameter, match="scale") as caught:
        build_engine(Raw())
    assert isinstance(caught.value, ModelError) and "importance.materialise" in caught.value.remedy
    model, batch = Raw(), batch_of()
    chosen, given = SCORERS["logit_grad_norm"], Given(KNOWN)
    loaded = {PILOT: Loaded(model, SPEC, build_engine(model, ("scale",)))}
    found = chosen.score(look(loaded, batch, chosen.quantities(given)), given)
    np.testing.assert_allclose(found.numpy(), batch.inputs["dense"].norm(dim=1).numpy(), rtol=1e-5)


class RunningTotal(nn.Module):
    """A user's model whose rows read all rows before them in their batch."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(2, 1)

    def forward(self, cat: Tensor, dense: Tensor) -> Tensor:
        return self.linear(dense.cumsum(dim=0)).squeeze(1)


def test_a_model_that_reads_other_rows_is_not_scored() -> None:
    model, chosen = RunningTotal(), SCORERS["grad_norm"]
    with pytest.raises(ModelError, match="sample 20 of 40 .* samples are not independent.*'linear'"):
        look({PILOT: Loaded(model, SPEC, build_engine(model))}, batch_of(), chosen.quantities(Given(KNOWN)))


def test_a_score_that_is_not_finite_names_its_sample(tmp_path: Path) -> None:
    rows = record_batch(5)
    dense = rows.column("dense").to_pylist()
    dense[3][0] = float("inf")
    broken = rows.set_column(3, "dense", pa.array(dense, pa.list_(pa.float32())))
    with pytest.raises(ModelError, match="sample 3"):
        list(ScoreRows(shared_of(tmp_path), NAMES, PILOT)(iter([broken])))


@pytest.mark.spark
def test_stage(make_context: Any) -> None:
    from sie_spark.importance import score
    from sie_spark.models.store import require_model
    from sie_spark.training import train

    names = ["loss", "error", "grad_norm", "rarity", "a_optimal_norm"]
    context = make_context(settings(importance={"scorers": names}, weighting={"score": "logit_grad_norm"}))
    write_samples(context, planted_rows(3000), test_rows=400)
    train.run(context)
    result = score.run(context)
    assert result.outputs["scores"].rows == 2600 == result.details["rows"]
    rows = context.catalog.read("scores")
    assert set(rows.columns) >= {
        "p",
        "score_logit_grad_norm",
        "score_loss",
        "score_error",
        "score_grad_norm",
        "score_rarity",
        "score_a_optimal_norm",
        "cat",
    }
    ids = [
        row[0] for row in rows.select("cat").collect()
    ]  # without a validation part these are all training rows
    counts = [np.bincount(column) for column in np.array(ids).T]
    expected = [max(1 / count[i] for count, i in zip(counts, row, strict=True)) for row in ids]
    np.testing.assert_allclose([row[0] for row in rows.select("score_rarity").collect()], expected)
    assert rows.where("split = 'test'").isEmpty()
    # the stored scores are those of the stored model
    model, spec = load_model(require_model(context.root, "pilot").path)
    table = rows.limit(200).toArrow()
    with torch.no_grad():
        p = torch.sigmoid(model(**Batch.from_arrow(table, spec).inputs)).numpy()
    np.testing.assert_allclose(table["p"].to_numpy(), p, rtol=1e-5)
    summary = result.details["summary"]["score_loss"]
    assert summary["min"] >= 0 and summary["min"] <= summary["mean"] <= summary["max"]
    version = context.catalog.version("scores")
    again = score.run(context)
    assert again.skipped and again.metrics == result.metrics and context.catalog.version("scores") == version
    context.save_details(
        "score", result.details
    )  # as if killed after the commit, with an older run's details
    assert not score.run(context).skipped and score.run(context).skipped

    # a new scorer fills its own column; those that are there stay as they are
    more = make_context(settings(importance={"scorers": ["loss", "entropy"]}))
    before = {row[0]: row[1] for row in rows.select("sample_id", "score_loss").collect()}
    added = score.run(more)
    assert added.details["computed"] == ["score_entropy"]
    assert added.details["seconds"] > result.details["seconds"]  # with those of the columns taken over
    table = more.catalog.read("scores")
    assert {"score_entropy", "score_loss", "p"} <= set(table.columns) and "score_error" not in table.columns
    assert {row[0]: row[1] for row in table.select("sample_id", "score_loss").collect()} == before
    p = table.select("p", "score_entropy").toPandas()
    np.testing.assert_allclose(p.score_entropy, -p.p * np.log(p.p) - (1 - p.p) * np.log(1 - p.p), rtol=1e-4)
    versions = json.loads(table.select("scorer_versions").first()[0])
    assert (
        set(versions) == {"p", "loss", "entropy"} and versions["loss"] == result.details["versions"]["loss"]
    )


@pytest.mark.spark
def test_scores_against_the_validation_part(make_context: Any) -> None:
    """Two fits over rows and several models, in the stage: equal to the worker's functions by hand."""
    from pyspark.sql import functions as F

    from sie_spark.importance import score
    from sie_spark.training import train

    options = {
        "training": {"epochs": 2, "keep_epochs": [1, 2]},
        "importance": {"scorers": ["gradient_dot", "tracin"]},
    }
    context = make_context(settings(**options))
    write_samples(context, planted_rows(1500))
    train.run(context)
    with pytest.raises(DataError, match="validation part of the samples is empty") as caught:
        score.run(context)
    assert "dataset.split.validation_fraction" in caught.value.remedy
    samples = context.catalog.read("samples")
    part = F.when(F.col("position") > 15, "validation").otherwise("train")
    context.catalog.replace(
        samples.withColumn("split", part).localCheckpoint(), "samples", fingerprint="validation", job="test"
    )
    train.run(context)
    planned = score.run(context, plan_only=True)
    assert [row[4] for row in planned.details["plan"][:-1]] == ["to be fitted"] * 3
    found = score.run(context)
    assert [row[4] for row in score.run(context, plan_only=True).details["plan"]] == [
        "kept: gradient_dot, tracin"
    ]
    table = context.catalog.read("scores").toPandas().set_index("sample_id")
    known = score.known_models(context, score.require_model(context.root, PILOT), context.config.training)
    assert [model.learning_rate for model in known.values()] == pytest.approx([0.0, 0.0, 0.0075, 0.0025])
    spec_rows = Batch.from_arrow(
        context.catalog.read("samples").where("split = 'validation'").toArrow(), SPEC
    )
    train_rows = context.catalog.read("samples").where("split = 'train'").limit(20).toArrow()
    total = np.zeros(20)
    for name, model in known.items():
        module, _ = load_model(model.uri)
        v = [g / len(spec_rows) for g in gradient(module, spec_rows)]
        dots = [
            sum(float((a * b).sum()) for a, b in zip(gradient(module, one), v, strict=True))
            for one in rows_of(Batch.from_arrow(train_rows, SPEC))
        ]
        total += model.learning_rate * np.array(dots)
        if name == REFERENCE:
            stored = table.score_gradient_dot.loc[train_rows["sample_id"].to_pylist()]
            np.testing.assert_allclose(stored, dots, rtol=1e-3, atol=1e-7)
    np.testing.assert_allclose(
        table.score_tracin.loc[train_rows["sample_id"].to_pylist()], total, rtol=1e-3, atol=1e-9
    )
    assert found.details["computed"] == ["p", "score_gradient_dot", "score_tracin"]


@pytest.mark.spark
def test_a_model_of_another_encoder_does_not_score(make_context: Any) -> None:
    from sie_spark.importance import score
    from sie_spark.models.store import current_model
    from sie_spark.training import train

    context = make_context(settings(model={"name": "lr"}))
    write_samples(context, planted_rows(800))
    train.run(context)
    found = current_model(context.root, "pilot")
    assert found is not None and found.encoder == "planted"
    other = json.dumps({"fingerprint": "other", "path": "x"}).encode()
    context.root.write_bytes(other, "encoders", "current.json")
    artefact = json.dumps({"format_version": 1, "inputs": SPEC.as_dict()}).encode()
    context.root.write_bytes(artefact, "encoders", "other.json")
    with pytest.raises(StageOrderError, match="encoder planted") as caught:
        score.run(context)
    assert "sie train" in caught.value.remedy


@pytest.mark.spark
def test_a_failure_in_a_worker_is_two_lines(make_context: Any) -> None:
    from sie_spark.importance import score
    from sie_spark.training import train

    context = make_context(settings(model={"name": "lr"}))
    frame = planted_rows(800)
    write_samples(context, frame)
    train.run(context)
    frame["dense"] = [np.array([np.inf, 0.0], dtype=np.float32)] * 800
    write_samples(context, frame)
    with pytest.raises(ModelError) as caught:
        score.run(context)
    assert "is not finite" in str(caught.value) and "Traceback" not in str(caught.value)
    assert "\n" not in str(caught.value)
