"""What runs inside a Spark Python worker: Arrow batches in, the same rows with their scores out.

It lives in an installed module, so that Spark ships it by name and the model cache lasts as long as the worker;
a function defined in ``__main__`` would load the model once a task.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor, nn

from sie_spark.gradients import Engine, GradientError, Norms
from sie_spark.importance.registry import Backward, scorer
from sie_spark.models import Batch
from sie_spark.platform.errors import ModelError
from sie_spark.platform.inputs import InputSpec
from sie_spark.platform.root import read_bytes
from sie_spark.training.checkpoint import model_from_bytes

NATIVE = ("p", "logit_grad_norm")


@dataclass(frozen=True)
class Loaded:
    """A model ready to score, with its gradient engine."""

    model: nn.Module
    engine: Engine
    spec: InputSpec


_LOADED: dict[tuple[str, tuple[str, ...]], Loaded] = {}
_READS = 0  # checkpoints read by this worker; a test reads it


@dataclass(frozen=True)
class ScoreRows:
    """A ``mapInArrow`` function.

    Parameters
    ----------
    uri, digest:
        the checkpoint and the SHA-256 of its bytes; a worker that finds other bytes refuses them.
    scorers:
        names of the scorers to run; they share one pass.
    micro_batch:
        rows that go through the model at once.
    threads:
        torch threads: the cpus of a Spark task.
    materialise:
        see :class:`sie_spark.gradients.Engine`.
    """

    uri: str
    digest: str
    scorers: tuple[str, ...]
    micro_batch: int
    threads: int = 1
    materialise: tuple[str, ...] = ()

    def __call__(self, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        """Every batch with the columns of :func:`score_columns` appended; nothing for an empty partition."""
        loaded: Loaded | None = None
        for batch in batches:
            if loaded is None:
                torch.set_num_threads(self.threads)
                loaded = load(self.uri, self.digest, self.materialise)
            yield self.append(batch, loaded)

    def append(self, batch: pa.RecordBatch, loaded: Loaded) -> pa.RecordBatch:
        """One batch, scored."""
        names = score_columns(self.scorers)
        parts = [
            score_batch(loaded, part, self.scorers)
            for part in Batch.from_arrow(batch, loaded.spec).split(self.micro_batch)
        ]
        columns = {
            name: np.concatenate([part[name] for part in parts]) if parts else np.zeros(0) for name in names
        }
        arrays = [*batch.columns, *(pa.array(columns[name], type=pa.float64()) for name in names)]
        return pa.RecordBatch.from_arrays(arrays, names=[*batch.schema.names, *names])


def score_columns(scorers: Sequence[str]) -> list[str]:
    """Names of the appended columns, all double."""
    return [*NATIVE, *(f"score_{name}" for name in scorers)]


def score_batch(loaded: Loaded, batch: Batch, scorers: Sequence[str]) -> dict[str, np.ndarray]:
    """Scores of one micro-batch: name -> float64 [N].

    Raises
    ------
    ModelError
        when the model does not return one logit a row, or a score is not finite.
    """
    norms = Norms()
    result = loaded.engine(batch.inputs, logit_as_loss, norms)
    logit = result.output
    if logit.shape != batch.label.shape:
        raise ModelError(
            f"the model returned logits of shape {list(logit.shape)} for {len(batch)} rows",
            remedy="return one logit a row, float32 [N] (squeeze the last dimension)",
        )
    norm = result[norms.key].sqrt()
    backward = Backward(logit, torch.sigmoid(logit), batch.label, norm)
    values = {"p": backward.probability, "logit_grad_norm": norm}
    values |= {f"score_{name}": scorer(name).score(backward) for name in scorers}
    for name, value in values.items():
        if not bool(torch.isfinite(value).all()):
            row = int(batch.sample_id[int((~torch.isfinite(value)).nonzero()[0])])
            raise ModelError(
                f"{name} of sample {row} is not finite",
                remedy="check the dense features for extremes, and that the reference model's loss converged",
            )
    return {name: value.double().numpy() for name, value in values.items()}


def logit_as_loss(logit: Tensor) -> Tensor:
    """With the logit itself as loss the engine yields ``||d logit / d theta||``, which needs no label."""
    return logit


def load(uri: str, digest: str, materialise: tuple[str, ...] = ()) -> Loaded:
    """The model of a checkpoint, read once a worker.

    Raises
    ------
    ModelError
        when the bytes are not the expected ones, or a parameter has no exact gradient rule (named).
    """
    key = (digest, materialise)
    if key not in _LOADED:
        global _READS  # noqa: PLW0603  (a counter for a test)
        data = read_bytes(uri)
        _READS += 1
        if hashlib.sha256(data).hexdigest() != digest:
            raise ModelError(
                f"{uri} changed while it was being used", remedy="run 'sie train' and 'sie score' again"
            )
        model, spec = model_from_bytes(data, where=uri)
        _LOADED.clear()  # a worker serves one model at a time; an old one only holds memory
        _LOADED[key] = Loaded(model, build_engine(model, materialise), spec)
    return _LOADED[key]


def build_engine(model: nn.Module, materialise: tuple[str, ...] = ()) -> Engine:
    """A gradient engine over every parameter of a model.

    Raises
    ------
    GradientError
        naming a parameter whose layer has no rule.
    """
    try:
        return Engine(model, materialise=materialise)
    except GradientError as error:
        error.remedy += " (for sie: importance.materialise)"
        raise
