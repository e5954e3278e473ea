"""Every arm's model, and the yardsticks, over the test rows in one Arrow pass: rows are decoded once."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import torch
from torch import nn

from sie_spark.models import Batch
from sie_spark.models.cache import CACHE
from sie_spark.models.objective import BINARY, one_logit_a_row
from sie_spark.models.store import model_from_bytes
from sie_spark.platform.errors import ModelError

if TYPE_CHECKING:
    from sie_spark.evaluation.yardsticks import Yardstick


@dataclass(frozen=True)
class ArmModel:
    """A checkpoint and the SHA-256 of its bytes."""

    arm: str
    uri: str
    digest: str


@dataclass(frozen=True)
class PredictRows:
    """A ``mapInArrow`` function: encoded rows in; per arm and yardstick, the ``keep`` columns with arm, logit and p out."""

    models: tuple[ArmModel, ...]
    keep: tuple[str, ...]
    micro_batch: int = 8192
    threads: int = 1
    yardsticks: tuple[Yardstick, ...] = ()

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
                make = partial(model_from_bytes, where=chosen.uri)
                model, spec = CACHE.get(chosen.uri, chosen.digest, make)
                decoded = decoded or Batch.from_arrow(batch, spec)
                done[chosen.digest] = logits(model, decoded, self.micro_batch, chosen.arm)
            yield self._said(batch, chosen.arm, done[chosen.digest])
        if decoded is not None:
            for yardstick in self.yardsticks:
                yield self._said(batch, yardstick.name, yardstick.logits(decoded))

    def _said(self, batch: pa.RecordBatch, arm: str, values: np.ndarray) -> pa.RecordBatch:
        """The kept columns with what one model says of them, float64 [N] logits."""
        p = BINARY.predictions(torch.from_numpy(values))["label"].numpy()
        kept = [batch.column(name) for name in self.keep]
        names = pa.array([arm]).take(pa.array(np.zeros(batch.num_rows, np.int64)))
        columns = [*kept, names, pa.array(values), pa.array(p)]
        return pa.RecordBatch.from_arrays(columns, names=[*self.keep, "arm", "logit", "p"])


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
            found = one_logit_a_row(model(**part.inputs), part, model=f"model '{arm}'")
            parts.append(found.double().numpy())
    values = np.concatenate(parts) if parts else np.zeros(0)
    if not np.isfinite(values).all():
        row = int(batch.sample_id[int(np.flatnonzero(~np.isfinite(values))[0])])
        raise ModelError(
            f"model '{arm}' predicts a value that is not finite for sample {row}",
            remedy="lower training.learning_rate, or look for extremes among the dense features",
        )
    return values
