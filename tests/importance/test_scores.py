"""Scores against slow derivations: one row at a time, every parameter, embeddings included."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from planted import SPEC, planted_rows, settings, write_samples
from torch import Tensor, nn
from torch.nn import functional

from sie_spark.gradients import Engine, Norms, UnsupportedParameter
from sie_spark.importance import SCORERS, scorer, worker
from sie_spark.importance.worker import Loaded, ScoreRows, build_engine, score_batch, score_columns
from sie_spark.models import Batch, build_model
from sie_spark.platform.config import Model
from sie_spark.platform.errors import ConfigError, ModelError, StageOrderError
from sie_spark.platform.root import Root
from sie_spark.training.checkpoint import save_model

ALL = ("loss", "error", "grad_norm", "margin", "entropy")
SETTINGS = Model(embedding_dim=4, hidden=[8], cross_layers=1)


def batch_of(rows: int = 40) -> Batch:
    frame = planted_rows(rows)
    table = pa.table(
        {
            "sample_id": pa.array(range(rows), pa.int64()),
            "label": pa.array(frame["label"], pa.float32()),
            "cat": pa.array(frame["cat"].tolist(), pa.list_(pa.int32())),
            "dense": pa.array([list(map(float, x)) for x in frame["dense"]], pa.list_(pa.float32())),
        }
    )
    return Batch.from_arrow(table, SPEC)


def loaded(name: str = "dcnv2") -> Loaded:
    model = build_model(SETTINGS.model_copy(update={"name": name}), SPEC, seed=0).eval()
    return Loaded(model, build_engine(model), SPEC)


@pytest.mark.parametrize("name", ["lr", "deepfm", "dcnv2"])
def test_grad_norm_equals_a_backward_a_row_and_the_engine_on_the_loss(name: str) -> None:
    ready, batch = loaded(name), batch_of()
    found = score_batch(ready, batch, ALL)
    parameters = list(ready.model.parameters())
    for row in range(len(batch)):
        one = batch.take(slice(row, row + 1))
        loss = functional.binary_cross_entropy_with_logits(ready.model(**one.inputs), one.label)
        gradients = torch.autograd.grad(loss, parameters, allow_unused=True)
        slow = sum(float(g.double().square().sum()) for g in gradients if g is not None) ** 0.5
        assert found["score_grad_norm"][row] == pytest.approx(slow, rel=1e-4)
        assert found["score_loss"][row] == pytest.approx(float(loss.detach()), rel=1e-5)

    def bce(logit: Tensor) -> Tensor:
        return functional.binary_cross_entropy_with_logits(logit, batch.label, reduction="none")

    squared = Engine(ready.model)(batch.inputs, bce, Norms())["squared_norm"]
    np.testing.assert_allclose(found["score_grad_norm"], squared.sqrt().numpy(), rtol=1e-4)


def test_cheap_scores() -> None:
    found, batch = score_batch(loaded(), batch_of(), ALL), batch_of()
    p, y = found["p"], batch.label.numpy()
    np.testing.assert_allclose(found["score_error"], np.abs(p - y), rtol=1e-6)
    np.testing.assert_allclose(found["score_loss"], -np.log(np.where(y > 0, p, 1 - p)), rtol=1e-5)
    np.testing.assert_allclose(found["score_entropy"], -p * np.log(p) - (1 - p) * np.log(1 - p), rtol=1e-5)
    np.testing.assert_allclose(found["score_margin"], (2 * y - 1) * np.log(p / (1 - p)), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", ALL)
def test_conformance(name: str) -> None:
    """Every scorer: declared, elementwise, finite on extreme logits, label-free exactly when it says so."""
    found = scorer(name)
    assert SCORERS[name] is found and found.name == name
    logit = torch.tensor([-80.0, -1.0, 0.0, 2.0, 80.0])
    rows = [
        worker.Backward(logit, torch.sigmoid(logit), torch.full((5,), y), torch.ones(5)) for y in (0.0, 1.0)
    ]
    scores = [found.score(row) for row in rows]
    assert all(s.shape == (5,) and bool(torch.isfinite(s).all()) for s in scores)
    assert torch.equal(*scores) != found.uses_label


def test_unknown_scorer_names_the_nearest() -> None:
    with pytest.raises(ConfigError) as caught:
        scorer("gradnorm")
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
    uri = save_model(Root(root), model, arm="reference", fingerprint="f", settings=SETTINGS, inputs=SPEC)
    return uri, hashlib.sha256(Path(uri).read_bytes()).hexdigest()


def test_worker_function(tmp_path: Path) -> None:
    uri, digest = saved(tmp_path)
    function = ScoreRows(uri, digest, ALL, micro_batch=7)
    before = worker._READS
    whole = record_batch(50)
    out = list(function(iter([whole, whole.slice(0, 0), whole.slice(10, 15)])))
    assert [part.num_rows for part in out] == [50, 0, 15]
    assert out[0].schema.names == [*whole.schema.names, *score_columns(ALL)]
    assert list(function(iter([]))) == []
    # micro-batches change nothing; the model was read once
    one = next(iter(ScoreRows(uri, digest, ALL, micro_batch=1000)(iter([whole]))))
    for name in score_columns(ALL):
        np.testing.assert_allclose(out[0][name].to_numpy(), one[name].to_numpy(), rtol=1e-5)
        np.testing.assert_allclose(out[2][name].to_numpy(), one[name].to_numpy()[10:25], rtol=1e-5)
    assert worker._READS - before == 1


def test_worker_refuses_other_bytes(tmp_path: Path) -> None:
    uri, _ = saved(tmp_path)
    with pytest.raises(ModelError, match="changed while"):
        list(ScoreRows(uri, "0" * 64, ALL, 10)(iter([record_batch(3)])))


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
    found = score_batch(Loaded(model, build_engine(model, ("scale",)), SPEC), batch, ("grad_norm",))
    np.testing.assert_allclose(found["logit_grad_norm"], batch.inputs["dense"].norm(dim=1).numpy(), rtol=1e-5)


class RunningTotal(nn.Module):
    """A user's model whose rows read all rows before them in their batch."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(2, 1)

    def forward(self, cat: Tensor, dense: Tensor) -> Tensor:
        return self.linear(dense.cumsum(dim=0)).squeeze(1)


def test_a_model_that_reads_other_rows_is_not_scored() -> None:
    model = RunningTotal()
    with pytest.raises(ModelError, match="sample 20 of 40 .* samples are not independent.*'linear'"):
        score_batch(Loaded(model, build_engine(model), SPEC), batch_of(), ("grad_norm",))


def test_a_score_that_is_not_finite_names_its_sample() -> None:
    ready, batch = loaded("lr"), batch_of()
    batch.inputs["dense"][3, 0] = float("inf")
    with pytest.raises(ModelError, match="sample 3"):
        score_batch(ready, batch, ALL)


@pytest.mark.spark
def test_stage(make_context: Any) -> None:
    from sie_spark.importance import score
    from sie_spark.training import train
    from sie_spark.training.checkpoint import load_model, require_model

    context = make_context(settings())
    write_samples(context, planted_rows(3000), test_rows=400)
    train.run(context)
    result = score.run(context)
    assert result.outputs["scores"].rows == 2600 == result.details["rows"]
    rows = context.catalog.read("scores")
    assert set(rows.columns) >= {
        "p",
        "logit_grad_norm",
        "score_loss",
        "score_error",
        "score_grad_norm",
        "cat",
    }
    assert rows.where("split <> 'train'").isEmpty()
    # the stored scores are those of the stored model
    model, spec = load_model(require_model(context.root, "reference").path)
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

    more = make_context(settings(importance={"scorers": ["entropy"]}))
    assert not score.run(more).skipped
    assert "score_entropy" in more.catalog.read("scores").columns


@pytest.mark.spark
def test_a_model_of_another_encoder_does_not_score(make_context: Any) -> None:
    from sie_spark.importance import score
    from sie_spark.training import train
    from sie_spark.training.checkpoint import current_model

    context = make_context(settings(model={"name": "lr"}))
    write_samples(context, planted_rows(800))
    train.run(context)
    found = current_model(context.root, "reference")
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
