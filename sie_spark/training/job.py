"""One fit as plain data, so that every rank, wherever it runs, builds the same model and reads the same rows."""

from __future__ import annotations

import atexit
import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from sie_spark.models import Batch, build_model
from sie_spark.models.inputs import find_edges, start_embeddings
from sie_spark.models.store import load_state, model_folder, save_model, save_state
from sie_spark.platform.config import Model, Training
from sie_spark.platform.errors import SieError
from sie_spark.platform.inputs import InputSpec
from sie_spark.platform.root import Root, read_bytes
from sie_spark.platform.sampling_rate import SamplingRate
from sie_spark.training.feed import Feed
from sie_spark.training.intercept import freeze, intercept_correction, set_output_bias, shift_output_bias
from sie_spark.training.loop import fit, stop_on_sigterm
from sie_spark.training.manifest import Manifest
from sie_spark.training.memory import MICRO_BATCH, mean_loss, validation_loss
from sie_spark.training.sync import Group
from sie_spark.training.warm_start import Start, begin_with

START_ROWS = 16_384  # rows that the start of a fit looks at


@dataclass(frozen=True)
class Job:
    """What a rank needs to know; lies as ``job.json`` beside the model it makes.

    Parameters
    ----------
    part:
        ``fit``, or ``validated`` for the one before it, whose validation loss says how many passes to make.
    judged:
        whether the model is judged on the validation rows after every epoch.
    base_logit:
        mean logit to start from: base-rate log-odds, less the offset.
    mean_weight:
        mean of the table's weights.
    threads:
        torch threads a rank.
    start_vectors:
        whether embedding tables begin at the root's start vectors.
    encoder:
        path or URI of the rows' encoder.
    start, start_encoder:
        the model to start from, see :class:`~sie_spark.training.warm_start.Start`; None for fresh weights.
    freeze:
        parameters that are not fitted: those whose names begin with one of these.
    correct:
        whether the intercept is corrected on the validation rows.
    shift:
        correction of the intercept that an earlier fit found; added to this one's.
    """

    root: str
    arm: str
    fingerprint: str
    model: dict[str, Any]
    inputs: dict[str, Any]
    training: dict[str, Any]
    part: str = "fit"
    judged: bool = False
    base_logit: float | None = None
    mean_weight: float = 1.0
    rate_offset: float = 0.0
    weight_by_rate: bool = False
    threads: int = 1
    start_vectors: bool = False
    encoder: str = ""
    start: str | None = None
    start_encoder: str | None = None
    freeze: list[str] = field(default_factory=list)
    correct: bool = False
    shift: float = 0.0

    @property
    def folder(self) -> tuple[str, ...]:
        """Where its files lie under the root."""
        return model_folder(self.arm, self.fingerprint, self.part)

    def save(self, manifest: Manifest, validation: Manifest | None = None) -> str:
        """Write the job and its manifests; returns the job's path or URI."""
        root = Root(self.root)
        root.write_bytes(manifest.to_json(), *self.folder, "manifest.json")
        if validation is not None:
            root.write_bytes(validation.to_json(), *self.folder, "validation.json")
        return root.write_bytes(json.dumps(asdict(self)).encode(), *self.folder, "job.json")


def run_rank(job_uri: str, *, distributed: bool) -> dict[str, Any]:
    """Fit one rank's share of a job; rank 0 writes the model. Returns the fit's history as plain data.

    A failure is left as ``error.json`` beside the job, because what a worker raises reaches the driver as text
    only, and that of the other ranks, which miss this one, may come first.
    """
    job = Job(**json.loads(read_bytes(job_uri)))
    root = Root(job.root)
    torch.set_num_threads(max(1, job.threads))
    try:
        with _group(distributed, job.training["backend"]) as group:
            return _fit(job, root, group)
    except Exception as error:
        if distributed and not root.exists(*job.folder, "error.json"):
            remedy = error.remedy if isinstance(error, SieError) else None
            said = str(error) if remedy else f"the distributed fit failed: {type(error).__name__}: {error}"
            failure = {"kind": type(error).__name__, "error": said, "remedy": remedy}
            root.write_bytes(json.dumps(failure).encode(), *job.folder, "error.json")
        raise


def _fit(job: Job, root: Root, group: Group) -> dict[str, Any]:
    settings, spec = Training(**job.training), InputSpec.from_dict(job.inputs)
    manifest = Manifest.from_json(read_bytes(root.path(*job.folder, "manifest.json")))
    state = load_state(root, job.folder)
    feed = Feed(
        manifest,
        spec,
        batch_size=settings.batch_size,
        seed=settings.seed,
        rank=group.rank,
        world=group.world,
        shuffle_rows=settings.shuffle_rows,
        lanes=state["position"]["lanes"] if state else None,
        rate=SamplingRate(job.rate_offset, job.weight_by_rate),
    )
    model = build_model(Model(**job.model), spec, seed=settings.seed)
    if state is None:
        _start(model, job, root, manifest, spec)
    freeze(model, job.freeze)
    judge = Judge(job, root, spec, group) if job.judged or job.correct else None
    save_as = partial(
        save_model,
        root,
        model,
        arm=job.arm,
        fingerprint=job.fingerprint,
        part=job.part,
        settings=Model(**job.model),
        inputs=spec,
        encoder=job.encoder.rpartition("/")[2].removesuffix(".json") or None,
    )

    def keep(epoch: int) -> None:
        if epoch in settings.keep_epochs:
            save_as(epoch=epoch)

    with stop_on_sigterm() as stopping:
        history = fit(
            model,
            feed,
            settings,
            judge=judge if job.judged else None,
            mean_weight=job.mean_weight,
            group=group,
            state=state,
            save=lambda value: save_state(root, job.folder, value),
            keep=keep,
            stopping=stopping,
        )
    shift = judge.shift(model) if judge is not None and job.correct else job.shift
    if shift:
        shift_output_bias(model, next(iter(feed.epoch(0))), shift)
    if group.rank == 0:
        save_as()
    return {
        **history.as_dict(),
        "processes": group.world,
        "steps_per_epoch": feed.steps,
        "batch_size": feed.batch_size,
        "shift": shift,
    }


def _start(model: nn.Module, job: Job, root: Root, manifest: Manifest, spec: InputSpec) -> None:
    """The weights that a fit begins with; every rank reads the same rows, so that all begin alike."""
    settings = Training(**job.training)
    first = Feed(manifest, spec, batch_size=START_ROWS, seed=settings.seed, shuffle_rows=START_ROWS)
    rows = next(first.epoch(0))
    find_edges(model, rows.inputs["dense"])
    if job.start is not None:
        begin_with(model, spec, Start(job.start, job.start_encoder), job.encoder)
        return
    if job.start_vectors:
        from sie_spark.features.start_vectors import load_start_vectors  # scipy: seconds a rank

        vectors = load_start_vectors(root)
        start_embeddings(model, {name: torch.from_numpy(values) for name, values in vectors.items()})
    if job.base_logit is not None:
        set_output_bias(model, rows, job.base_logit)


class Judge:
    """Looks at a model over this rank's share of the validation rows, decoded once; ranks agree on what it says."""

    def __init__(self, job: Job, root: Root, spec: InputSpec, group: Group) -> None:
        manifest = Manifest.from_json(read_bytes(root.path(*job.folder, "validation.json")))
        rate = SamplingRate(weight_by_rate=True)  # the loss is that of the whole log
        feed = Feed(
            manifest, spec, batch_size=MICRO_BATCH, seed=0, rank=group.rank, world=group.world, rate=rate
        )
        self.rows, self.group = Batch.concat(list(feed.epoch(0))), group

    def __call__(self, model: nn.Module) -> float:
        """Mean log-loss of the served logit."""
        return mean_loss(self.group.sum(validation_loss(model, self.rows)))

    def shift(self, model: nn.Module) -> float:
        """How far to move the intercept, see :func:`intercept_correction`."""
        return intercept_correction(model, self.rows, self.group.sum)


@contextmanager
def _group(distributed: bool, backend: str) -> Iterator[Group]:
    if not distributed:
        yield Group()
        return
    dist.init_process_group(backend)
    try:
        yield Group(dist.get_rank(), dist.get_world_size())
        dist.barrier()
    finally:
        dist.destroy_process_group()


def rank_main(job_uri: str) -> dict[str, Any]:
    """What TorchDistributor calls in each process.

    Every rank returns the same small dict: on one machine all of them write it to one file, and the last wins.
    """
    result = run_rank(job_uri, distributed=True)
    # What is to be kept is written. A thread of a library that outlives the interpreter can still abort the
    # process while it is torn down; torchrun takes that for a failed rank, and the others wait 300 s for it.
    atexit.register(_leave)
    return result


def _leave() -> None:
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)
