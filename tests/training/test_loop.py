"""The fit: right for weights and offsets, the same on two ranks, the same after a stop."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from helpers.encoded_samples import SPEC, planted_rows
from helpers.sample_files import small_manifest, table_of, write_files
from sie_spark.models import Batch, build_model
from sie_spark.models.store import kept_epochs, load_model
from sie_spark.platform.config import Model, Training
from sie_spark.platform.errors import ModelError
from sie_spark.platform.inputs import InputSpec
from sie_spark.platform.root import Root
from sie_spark.training import distributed, job
from sie_spark.training.feed import Feed
from sie_spark.training.intercept import set_output_bias
from sie_spark.training.job import Job, run_rank
from sie_spark.training.loop import Stopped, fit, rate_factor, weighted_loss
from sie_spark.training.manifest import Manifest

MODEL = Model(name="dcnv2", embedding_dim=4, hidden=[8], cross_layers=1, dropout=0.1)
SETTINGS = Training(epochs=2, batch_size=256, learning_rate=0.01)


def fitted(manifest: Manifest, settings: Training = SETTINGS, **options: Any) -> tuple[nn.Module, Any]:
    model = build_model(MODEL, SPEC, seed=1)
    feed = Feed(manifest, SPEC, batch_size=settings.batch_size, seed=settings.seed, shuffle_rows=2000)
    return model, fit(model, feed, settings, **options)


def weights(model: nn.Module) -> Tensor:
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def through_disk(state: dict[str, Any]) -> dict[str, Any]:
    buffer = io.BytesIO()
    torch.save(state, buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=True)


@pytest.mark.parametrize("optimiser", ["dense", "sparse"])
@pytest.mark.parametrize("stop_at", [5, 26])
def test_resumed_equals_uninterrupted(tmp_path: Path, optimiser: str, stop_at: int) -> None:
    manifest = small_manifest(tmp_path)
    settings = SETTINGS.model_copy(update={"embedding_optimizer": optimiser, "schedule": "linear"})
    whole, expected = fitted(manifest, settings)
    states: list[dict[str, Any]] = []
    asked = iter([False] * (stop_at - 1) + [True] + [False] * 100)
    with pytest.raises(Stopped):
        fitted(
            manifest, settings, save=lambda s: states.append(through_disk(s)), stopping=lambda: next(asked)
        )
    resumed, history = fitted(manifest, settings, state=states[-1])
    assert torch.equal(weights(whole), weights(resumed))
    assert history.steps == expected.steps and history.rows == expected.rows == 2 * 5300
    np.testing.assert_allclose(history.loss, expected.loss, rtol=1e-12)
    assert history.resumed == 1


def test_a_checkpoint_of_other_rows_is_refused(tmp_path: Path) -> None:
    manifest = small_manifest(tmp_path)
    states: list[dict[str, Any]] = []
    fitted(manifest, save=states.append)
    with pytest.raises(ModelError, match="other rows"):
        fitted(Manifest(manifest.shards[:-1]), state=states[-1])


def test_loss_is_the_weighted_likelihood_with_offset(tmp_path: Path) -> None:
    frame = planted_rows(300)
    rng = np.random.default_rng(0)
    frame["offset"], frame["weight"] = rng.normal(size=300), rng.uniform(0.1, 9, 300)
    batch = next(Feed(write_files(tmp_path, frame, [300]), SPEC, batch_size=300, seed=0).epoch(0))
    model = build_model(MODEL, SPEC, seed=0).eval()
    with torch.no_grad():
        g = model(**batch.inputs).double().numpy()
    q = 1 / (1 + np.exp(-(g + batch.offset.numpy())))
    y = batch.label.numpy()
    slow = sum(
        w * -(t * np.log(a) + (1 - t) * np.log(1 - a))
        for w, t, a in zip(batch.weight.numpy(), y, q, strict=True)
    )
    assert float(weighted_loss(model, batch).detach()) == pytest.approx(slow, rel=1e-5)


def test_bias_starts_at_the_target(tmp_path: Path) -> None:
    batch = next(Feed(small_manifest(tmp_path), SPEC, batch_size=512, seed=0).epoch(0))
    for name in ("lr", "deepfm", "dnn", "dcnv2"):
        model = build_model(Model(name=name), SPEC, seed=0)
        assert set_output_bias(model, batch, -2.5), name
        assert float(model(**batch.inputs).mean().detach()) == pytest.approx(-2.5, abs=1e-3)


@pytest.mark.parametrize("name", ["lr", "fm"])
def test_few_small_updates_do_not_end_below_a_constant(tmp_path: Path, name: str) -> None:
    """Few rows: what the start values say must not outlast the fit, whatever the seed."""
    train, test = planted_rows(2000, seed=1), planted_rows(4000, seed=2)
    manifest = write_files(tmp_path, train, [2000])
    settings = Training(batch_size=64, epochs=7)
    held_out = Batch.from_arrow(table_of(test), SPEC)
    for seed in range(6):
        model = build_model(Model(name=name), SPEC, seed=seed)
        feed = Feed(manifest, SPEC, batch_size=64, seed=seed, shuffle_rows=2000)
        set_output_bias(model, held_out, float(np.log(train.label.mean() / (1 - train.label.mean()))))
        fit(model, feed, settings)
        with torch.no_grad():
            logit = model(**held_out.inputs).double().numpy()
        label = test.label.to_numpy(float)
        loss = np.mean(np.logaddexp(0, logit) - label * logit)
        rate = label.mean()
        assert loss < -(rate * np.log(rate) + (1 - rate) * np.log(1 - rate))


def test_no_bias_no_change(tmp_path: Path) -> None:
    class Bare(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.ones(1))  # a scalar, but the logit is not 1 : 1 in it

        def forward(self, cat: Tensor, dense: Tensor) -> Tensor:
            return self.scale * dense.sum(1)

    batch = next(Feed(small_manifest(tmp_path), SPEC, batch_size=512, seed=0).epoch(0))
    model = Bare()
    assert not set_output_bias(model, batch, -3.0)
    assert float(model.scale.detach()) == 1.0


def test_a_loss_that_explodes_is_named(tmp_path: Path) -> None:
    frame = planted_rows(300)
    frame["weight"] = np.full(300, np.inf)
    manifest = write_files(tmp_path, frame, [300])
    with pytest.raises(ModelError, match="not finite at step 0"):
        fitted(manifest)


class Judged:
    """Says planned losses, and what the model's weights were then."""

    def __init__(self, losses: list[float]) -> None:
        self.losses, self.seen = losses, list[Tensor]()

    def __call__(self, model: nn.Module) -> float:
        self.seen.append(weights(model).clone())
        return self.losses[len(self.seen) - 1]


def test_a_judged_fit_ends_early_and_leaves_the_best_epochs_model(tmp_path: Path) -> None:
    manifest, settings = small_manifest(tmp_path, rows=1500), SETTINGS.model_copy(update={"epochs": 9})
    judge = Judged([0.5, 0.3, 0.4, 0.35, 0.1, 0.1, 0.1, 0.1, 0.1])
    model, history = fitted(manifest, settings.model_copy(update={"patience": 2}), judge=judge)
    assert (history.epochs, history.best_epoch, history.validation) == (4, 2, [0.5, 0.3, 0.4, 0.35])
    assert torch.equal(weights(model), judge.seen[1])


def test_a_judged_fit_that_is_stopped_goes_on_with_its_best(tmp_path: Path) -> None:
    manifest, settings = small_manifest(tmp_path, rows=1500), SETTINGS.model_copy(update={"epochs": 4})
    losses = [0.2, 0.5, 0.4, 0.3]
    whole, _ = fitted(manifest, settings.model_copy(update={"patience": 9}), judge=Judged(losses))
    states: list[dict[str, Any]] = []
    patient = settings.model_copy(update={"patience": 9})
    fitted(manifest, patient, judge=Judged(losses), save=lambda s: states.append(through_disk(s)))
    resumed, history = fitted(manifest, patient, judge=Judged(losses[2:]), state=states[1])
    assert history.best_epoch == 1 and history.validation == losses
    assert torch.equal(weights(resumed), weights(whole))


def test_linear_schedule_ends_at_nothing() -> None:
    assert rate_factor("linear", 0, 10) == 1 and rate_factor("linear", 10, 10) == 0
    assert rate_factor("constant", 10, 10) == 1


def job_of(root: Path, manifest: Manifest, **training: Any) -> str:
    settings = SETTINGS.model_copy(update={"shuffle_rows": 2000, **training})
    job = Job(
        root=str(root),
        arm="full",
        fingerprint="f",
        model=MODEL.model_copy(update={"dropout": 0.0}).model_dump(),
        inputs=InputSpec.as_dict(SPEC),
        training=settings.model_dump(),
        base_logit=-2.5,
        mean_weight=3.0,
    )
    return job.save(manifest)


RANK = """
import json, sys
from sie_spark.training.job import rank_main
print(json.dumps(rank_main(sys.argv[1])))
"""


def start_ranks(uri: str, folder: Path, world: int = 2) -> list[subprocess.Popen]:
    environment = {
        **os.environ,
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(20000 + os.getpid() % 20000),
        "WORLD_SIZE": str(world),
        "GLOO_SOCKET_IFNAME": "lo",
    }
    return [
        subprocess.Popen(
            [sys.executable, "-c", RANK, uri],
            env={**environment, "RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=folder,
        )
        for rank in range(world)
    ]


def state_dict(root: Path) -> dict[str, Tensor]:
    return torch.load(root / "models" / "full" / "f" / "model.pt", weights_only=True)["state_dict"]


@pytest.mark.parametrize("optimiser", ["dense", "sparse"])
def test_two_ranks_equal_one(tmp_path: Path, optimiser: str) -> None:
    """Weights that differ a lot between rows: an average of per-rank means would not pass."""
    frame = planted_rows(3000)
    frame["weight"] = np.where(frame["label"] > 0, 9.0, 0.3)
    manifest = write_files(tmp_path, frame, [1200, 1800])
    one, two = tmp_path / "one", tmp_path / "two"
    expected = run_rank(job_of(one, manifest, embedding_optimizer=optimiser), distributed=False)
    ranks = start_ranks(job_of(two, manifest, embedding_optimizer=optimiser), tmp_path)
    said = [rank.communicate(timeout=120) for rank in ranks]
    assert [rank.returncode for rank in ranks] == [0, 0], said
    history = json.loads(said[0][0].strip().splitlines()[-1])
    assert history["rows"] == expected["rows"] and history["steps"] == expected["steps"]
    np.testing.assert_allclose(history["loss"], expected["loss"], rtol=1e-5)
    first, second = state_dict(one), state_dict(two)
    for name, value in first.items():
        # Adam divides by the gradient's size: rounding shows where a gradient is nearly zero
        assert torch.allclose(value, second[name], atol=2e-3), name
        assert float((value - second[name]).double().abs().mean()) < 1e-5, name


def test_models_of_chosen_epochs_are_kept(tmp_path: Path) -> None:
    """Each is what a fit that reads the same rows the same way was after that epoch; the last is the model."""
    manifest = small_manifest(tmp_path, rows=1500)
    settings = {"epochs": 3, "keep_epochs": [1, 3, 9], "schedule": "constant"}
    run_rank(job_of(tmp_path / "three", manifest, **settings), distributed=False)
    run_rank(job_of(tmp_path / "one", manifest, **{**settings, "epochs": 1}), distributed=False)
    root = Root(tmp_path / "three")
    path = root.path("models", "full", "f", "model.pt")
    kept = {epoch: load_model(path)[0].state_dict() for epoch, path in kept_epochs(root, path).items()}
    assert list(kept) == [1, 3]
    for epoch, expected in ((1, state_dict(tmp_path / "one")), (3, state_dict(tmp_path / "three"))):
        for name, value in expected.items():
            torch.testing.assert_close(kept[epoch][name], value, rtol=0, atol=0)


def test_sigterm_writes_a_checkpoint_and_the_next_run_goes_on(tmp_path: Path) -> None:
    manifest = small_manifest(tmp_path)
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    run_rank(job_of(whole, manifest), distributed=False)
    uri = job_of(stopped, manifest)
    code = (
        "import os, signal, sys, sie_spark.training.loop as loop\n"
        "from sie_spark.training.job import run_rank\n"
        "inner, calls = loop.weighted_loss, []\n"
        "def counted(model, batch):\n"
        "    calls.append(1)\n"
        "    if len(calls) == 9: os.kill(os.getpid(), signal.SIGTERM)\n"
        "    return inner(model, batch)\n"
        "loop.weighted_loss = counted\n"
        "run_rank(sys.argv[1], distributed=False)\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code, uri], check=False, capture_output=True, text=True, timeout=120
    )
    assert "asked to stop after 9 of" in ended.stderr, ended.stderr[-500:]
    history = run_rank(uri, distributed=False)
    assert history["resumed"] == 1
    for name, value in state_dict(whole).items():
        assert torch.equal(value, state_dict(stopped)[name]), name
    assert signal.getsignal(signal.SIGTERM) in (signal.SIG_DFL, signal.default_int_handler, signal.SIG_IGN)


def test_the_first_rank_that_fails_is_the_one_that_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The others miss it soon after, and Spark may show what they say."""
    uri = job_of(tmp_path, small_manifest(tmp_path))
    monkeypatch.setattr(job, "_group", lambda *_: nullcontext())
    for said in ("CUDA out of memory", "Connection closed by peer"):
        monkeypatch.setattr(job, "_fit", Mock(side_effect=RuntimeError(said)))
        with pytest.raises(RuntimeError, match=said):
            run_rank(uri, distributed=True)
    error = distributed._failure(
        Root(tmp_path), ("models", "full", "f"), RuntimeError("task of rank 1 failed")
    )
    assert isinstance(error, ModelError) and str(error).endswith("failed: RuntimeError: CUDA out of memory")
    assert "executors' logs" in error.remedy


@pytest.mark.parametrize("optimiser", ["dense", "sparse"])
def test_the_penalty_of_ids_is_that_of_the_summed_loss(tmp_path: Path, optimiser: str) -> None:
    """A linear model at its optimum: each id's gradient of the summed log-loss equals minus the penalty's."""
    frame = planted_rows(2000, base=-1.0)
    manifest = write_files(tmp_path, frame, [2000], row_group=2000)
    settings = Training(
        epochs=150, batch_size=2000, learning_rate=0.03, embedding_l2=20.0, embedding_optimizer=optimiser
    )
    model = build_model(Model(name="lr"), SPEC, seed=0)
    fit(model, Feed(manifest, SPEC, batch_size=2000, seed=0, shuffle_rows=2000), settings)
    batch = Batch.from_arrow(table_of(frame), SPEC)
    for module in model.modules():
        if isinstance(module, nn.Embedding):
            module.sparse = False
    (table,) = [value for name, value in model.named_parameters() if "embedding" in name]
    (gradient,) = torch.autograd.grad(weighted_loss(model, batch), [table])
    touched = gradient.abs().sum(1) > 0
    torch.testing.assert_close(gradient[touched], -20.0 * table[touched].detach(), atol=0.3, rtol=0.05)
    assert float(table[touched].detach().abs().max()) > 0.05
