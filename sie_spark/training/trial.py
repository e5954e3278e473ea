"""A small fit on rows in memory, judged against a model that is there: what a share of the rows would cost."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import torch
from torch import nn

from sie_spark.metrics.ranking import auc_difference
from sie_spark.models import Batch, build_model
from sie_spark.models.cache import CACHE
from sie_spark.models.inputs import find_edges
from sie_spark.models.store import model_from_bytes
from sie_spark.platform.bisection import solve_increasing
from sie_spark.platform.config import Model, Training
from sie_spark.platform.errors import workers
from sie_spark.platform.inputs import InputSpec
from sie_spark.training.intercept import set_output_bias
from sie_spark.training.loop import fit
from sie_spark.training.memory import MICRO_BATCH, RowsInMemory, mean_loss, validation_loss

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

RESULT = "at int, rows bigint, loss double, error double, epochs int, seconds double"


@dataclass(frozen=True)
class Trial:
    """What a share of the rows came to on the validation rows.

    Parameters
    ----------
    rows:
        training rows that were kept.
    loss, error:
        AUC of the model on all rows minus that of the trial, and the standard error of the difference (over
        validation rows; of another draw or start it knows nothing).
    """

    share: float
    rows: int
    loss: float
    error: float
    epochs: int
    seconds: float

    def as_dict(self) -> dict[str, Any]:
        """Plain data for the report."""
        return asdict(self)


def try_rows(
    share: float,
    train: Batch,
    validation: Batch,
    *,
    full: np.ndarray,
    spec: InputSpec,
    model: Model,
    training: Training,
) -> Trial:
    """Fit on the kept rows as an arm is fitted, judged after every pass, and compare.

    Parameters
    ----------
    train:
        kept rows with offset and weight.
    full:
        logits of the model on all rows for the validation rows, float64 [N].
    training:
        already :func:`~sie_spark.training.budget.budgeted`.
    """
    began = time.monotonic()
    fresh = build_model(model, spec, seed=training.seed)
    find_edges(fresh, train.inputs["dense"][:MICRO_BATCH])
    set_output_bias(fresh, train.take(slice(0, 2048)), _base_logit(train))
    history = fit(
        fresh,
        RowsInMemory(train, batch_size=training.batch_size, seed=training.seed),
        training,
        judge=lambda fitted: mean_loss(validation_loss(fitted, validation)),
        mean_weight=float(train.weight.mean()),
    )
    loss, error = auc_difference(validation.label.numpy() > 0, full, logits(fresh, validation))
    return Trial(share, len(train), loss, error, history.best_epoch, time.monotonic() - began)


def logits(model: nn.Module, rows: Batch) -> np.ndarray:
    """Of the served output, float64 [N]."""
    with torch.inference_mode():
        return torch.cat([model(**part.inputs) for part in rows.split(MICRO_BATCH)]).double().numpy()


def _base_logit(rows: Batch) -> float:
    """The constant logit b with mean sigmoid(b + offset) equal to the weighted share of positives."""
    weight, offset = rows.weight.double().numpy(), rows.offset.double().numpy()
    rate = float((weight * rows.label.double().numpy()).sum() / weight.sum())
    mean = lambda b: float((weight / (1 + np.exp(-(b + offset)))).sum() / weight.sum())  # noqa: E731
    return solve_increasing(mean, rate, -40.0, 40.0) if 0 < rate < 1 else math.copysign(40.0, rate - 0.5)


@dataclass(frozen=True)
class File:
    """Encoded rows as an Arrow file, with the SHA-256 of its bytes."""

    uri: str
    digest: str

    def load(self, spec: InputSpec) -> Batch:
        """The rows, read once a worker."""

        def decode(data: bytes) -> Batch:
            with pa.ipc.open_file(pa.py_buffer(data)) as reader:
                return Batch.from_arrow(reader.read_all(), spec)

        return CACHE.get(self.uri, self.digest, decode, kind="trial")


@dataclass(frozen=True)
class TryOne:
    """A ``mapInArrow`` function: numbers of trials in, what they came to out (RESULT), on one thread each.

    Parameters
    ----------
    trials:
        share, kept rows and training settings of each.
    full:
        the model on all rows: URI and SHA-256.
    """

    trials: tuple[tuple[float, File, dict[str, Any]], ...]
    validation: File
    full: tuple[str, str]
    model: dict[str, Any]
    inputs: dict[str, Any]

    def __call__(self, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        """One fit a row."""
        torch.set_num_threads(1)
        schema = pa.schema(
            [
                ("at", pa.int32()),
                ("rows", pa.int64()),
                ("loss", pa.float64()),
                ("error", pa.float64()),
                ("epochs", pa.int32()),
                ("seconds", pa.float64()),
            ]
        )
        for batch in batches:
            for at in batch.column("id").to_pylist():
                found = self.outcome(int(at)).as_dict()
                yield pa.RecordBatch.from_pylist([{**found, "at": at}], schema=schema)

    def outcome(self, at: int) -> Trial:
        """One trial."""
        share, file, training = self.trials[at]
        spec = InputSpec.from_dict(self.inputs)
        validation, train = self.validation.load(spec), file.load(spec)
        module, _ = CACHE.get(*self.full, partial(model_from_bytes, where=self.full[0]))
        full = logits(module, validation)
        return try_rows(
            share,
            train,
            validation,
            full=full,
            spec=spec,
            model=Model(**self.model),
            training=Training(**training),
        )


def in_tasks(spark: SparkSession, function: TryOne) -> list[Trial]:
    """Every trial in a Spark task of its own."""
    number = len(function.trials)
    with workers(
        "the trials of weighting.budget=auto",
        remedy="mend what the message names, or give weighting.budget a share",
        otherwise="look at the executors' logs for the task that failed",
    ):
        rows = spark.range(0, number, 1, number).mapInArrow(function, RESULT).collect()  # a row a trial
    found = {int(row["at"]): row for row in rows}
    return [
        Trial(share, *(found[at][name] for name in ("rows", "loss", "error", "epochs", "seconds")))
        for at, (share, _, _) in enumerate(function.trials)
    ]
