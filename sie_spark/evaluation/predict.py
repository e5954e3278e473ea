"""Every arm's model over the test rows in one Arrow pass: rows are decoded once, models loaded once a worker."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import torch
from torch import nn

from sie_spark.models import Batch
from sie_spark.models.store import model_from_bytes
from sie_spark.platform.errors import ModelError
from sie_spark.platform.inputs import InputSpec
from sie_spark.platform.root import read_bytes

_LOADED: dict[str, tuple[nn.Module, InputSpec]] = {}


@dataclass(frozen=True)
class ArmModel:
    """A checkpoint and the SHA-256 of its bytes."""

    arm: str
    uri: str
    digest: str


@dataclass(frozen=True)
class PredictRows:
    """A ``mapInArrow`` function: encoded rows in; per arm, the ``keep`` columns with arm, logit and p out."""

    models: tuple[ArmModel, ...]
    keep: tuple[str, ...]
    micro_batch: int = 8192
    threads: int = 1

    def __call__(self, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        """Nothing for an empty partition."""
        torch.set_num_threads(self.threads)
        for batch in batches:
            yield from self.predict(batch)

    def predict(self, batch: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
        """One record batch an arm; arms that share a checkpoint share its forward pass."""
        done: dict[str, np.ndarray] = {}
        decoded: Batch | None = None
        for chosen in self.models:
            if chosen.digest not in done:
                model, spec = load(chosen, {other.digest for other in self.models})
                decoded = decoded or Batch.from_arrow(batch, spec)
                done[chosen.digest] = logits(model, decoded, self.micro_batch, chosen.arm)
            values = done[chosen.digest]
            p = 1.0 / (1.0 + np.exp(-np.clip(values, -700, 700)))
            kept = [batch.column(name) for name in self.keep]
            arm = pa.array([chosen.arm]).take(pa.array(np.zeros(batch.num_rows, np.int64)))
            columns = [*kept, arm, pa.array(values), pa.array(p)]
            yield pa.RecordBatch.from_arrays(columns, names=[*self.keep, "arm", "logit", "p"])


def logits(model: nn.Module, batch: Batch, micro_batch: int, arm: str) -> np.ndarray:
    """Logits, float64 [N].

    Raises
    ------
    ModelError
        when the model returns another shape, or a value that is not finite.
    """
    parts = []
    with torch.inference_mode():
        for part in batch.split(micro_batch):
            found = model(**part.inputs)
            if found.shape != part.label.shape:
                raise ModelError(
                    f"model '{arm}' returned logits of shape {list(found.shape)} for {len(part)} rows",
                    remedy="return one logit a row, float32 [N] (squeeze the last dimension)",
                )
            parts.append(found.double().numpy())
    values = np.concatenate(parts) if parts else np.zeros(0)
    if not np.isfinite(values).all():
        row = int(batch.sample_id[int(np.flatnonzero(~np.isfinite(values))[0])])
        raise ModelError(
            f"model '{arm}' predicts a value that is not finite for sample {row}",
            remedy="lower training.learning_rate, or look for extremes among the dense features",
        )
    return values


def load(chosen: ArmModel, wanted: set[str]) -> tuple[nn.Module, InputSpec]:
    """A model, read once a worker; models that this job does not use are let go.

    Raises
    ------
    ModelError
        when the file holds other bytes than the driver saw.
    """
    if chosen.digest not in _LOADED:
        for old in set(_LOADED) - wanted:
            del _LOADED[old]
        data = read_bytes(chosen.uri)
        if hashlib.sha256(data).hexdigest() != chosen.digest:
            raise ModelError(
                f"{chosen.uri} changed while it was being used", remedy="run 'sie evaluate' again"
            )
        _LOADED[chosen.digest] = model_from_bytes(data, where=chosen.uri)
    return _LOADED[chosen.digest]
