"""What runs inside a Spark Python worker: rows go through the models once, and every scorer or fit looks on.

It lives in an installed module, so that Spark ships it by name and the model cache lasts as long as the worker;
a function defined in ``__main__`` would load the models once a task.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from torch import Tensor, nn

from sie_spark.gradients import Engine, GradientError, Measured, Quantity
from sie_spark.importance.contracts import (
    Fit,
    Given,
    ModelRef,
    Scorer,
    Seen,
    defaults,
    state_from_bytes,
    state_to_bytes,
)
from sie_spark.importance.last_layer import watching_last_layer
from sie_spark.importance.registry import SCORERS
from sie_spark.models import Batch
from sie_spark.models.cache import CACHE
from sie_spark.models.objective import one_logit_a_row
from sie_spark.models.store import model_from_bytes
from sie_spark.platform.config.stages import Importance
from sie_spark.platform.errors import ModelError
from sie_spark.platform.inputs import InputSpec
from sie_spark.platform.root import Root

PROBABILITY = "p"  # of the pilot; stands beside the scores
PARTS = "fit string, partition int, path string"


@dataclass(frozen=True)
class ArtefactRef:
    """A fitted artefact as it travels to workers: its fit's key, its place, the SHA-256 of its bytes."""

    key: str
    uri: str
    digest: str

    def load(self) -> dict[str, np.ndarray]:
        """The artefact, read once a worker."""
        return CACHE.get(self.uri, self.digest, state_from_bytes, kind="artefact")


@dataclass(frozen=True)
class Loaded:
    """A model ready to be asked, with its gradient engine where a gradient is wanted."""

    module: nn.Module
    spec: InputSpec
    engine: Engine | None = None


@dataclass(frozen=True)
class Pass:
    """What one pass over rows looks at: models, and what is measured of each.

    Parameters
    ----------
    models:
        those that somebody reads.
    known:
        all there are, for scorers that ask.
    artefacts:
        fitted before this pass.
    threads:
        torch threads: the cpus of a Spark task.
    inputs:
        what the encoder promises of the rows, for those who read features without a model.
    settings:
        section ``importance``.
    """

    models: tuple[ModelRef, ...]
    known: tuple[ModelRef, ...]
    artefacts: tuple[ArtefactRef, ...]
    threads: int = 1
    inputs: InputSpec = field(default_factory=InputSpec)
    settings: Importance = field(default_factory=defaults)

    def given(self) -> Given:
        """What scorers and fits work from."""
        models = {model.name: model for model in self.known}
        states = {artefact.key: artefact.load() for artefact in self.artefacts}
        return Given(models, states, self.settings, self.inputs)

    def open(self, quantities: Mapping[str, Sequence[Quantity]]) -> dict[str, Loaded]:
        """The models, with an engine where something is measured; kept by the worker."""
        torch.set_num_threads(self.threads)
        found = {}
        for model in self.models:
            if quantities.get(model.name):
                raw = tuple(self.settings.materialise)
                make = partial(open_engine, where=model.uri, materialise=raw)
                found[model.name] = CACHE.get(model.uri, model.digest, make, kind=("engine", raw))
            else:
                module, spec = CACHE.get(model.uri, model.digest, partial(model_from_bytes, where=model.uri))
                found[model.name] = Loaded(module, spec)
        return found


def open_engine(data: bytes, *, where: str, materialise: tuple[str, ...]) -> Loaded:
    """A model with its engine from a checkpoint's bytes; raises as :func:`build_engine` does."""
    module, spec = model_from_bytes(data, where=where)
    return Loaded(module, spec, build_engine(module, materialise))


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


def joined(asked: Sequence[Mapping[str, Sequence[Quantity]]]) -> dict[str, tuple[Quantity, ...]]:
    """Model -> the quantities that anybody asks of it; equal ones are measured once."""
    found: dict[str, list[Quantity]] = {}
    for one in asked:
        for model, quantities in one.items():
            found.setdefault(model, []).extend(quantities)
    return {model: tuple(quantities) for model, quantities in found.items()}


def look(loaded: Mapping[str, Loaded], batch: Batch, quantities: Mapping[str, Sequence[Quantity]]) -> Seen:
    """One call of each model for a micro-batch: forward alone where nothing is measured.

    Raises
    ------
    ModelError
        when a model does not return one logit a row.
    """
    logits: dict[str, Tensor] = {}
    measured: dict[str, Measured] = {}
    watched: dict[str, list[Tensor]] = {}
    for name, model in loaded.items():
        if model.engine is None:
            with torch.inference_mode(), watching_last_layer(model.module) as watched[name]:
                logits[name] = one_logit_a_row(model.module(**batch.inputs), batch)
            continue
        result = model.engine(batch.inputs, logit_as_loss, *quantities[name])
        logits[name], measured[name] = one_logit_a_row(result.output, batch), result
    return Seen(batch, logits, measured, {name: model.module for name, model in loaded.items()}, watched)


def logit_as_loss(logit: Tensor) -> Tensor:
    """With the logit itself as loss the engine measures ``d logit / d theta``, which needs no label."""
    return logit


@dataclass(frozen=True)
class ScoreRows:
    """A ``mapInArrow`` function: every batch with columns appended, all double.

    Parameters
    ----------
    scorers:
        names of those to run; they share the pass.
    pilot:
        name of the model whose probability is appended as ``p``, or None.
    """

    shared: Pass
    scorers: tuple[str, ...]
    pilot: str | None = None

    @property
    def columns(self) -> list[str]:
        """Names of the appended columns."""
        return [*([PROBABILITY] if self.pilot else []), *map(score_column, self.scorers)]

    def __call__(self, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        """Nothing for an empty partition."""
        ready: tuple[Any, ...] | None = None
        for batch in batches:
            if ready is None:
                given = self.shared.given()
                scorers = [SCORERS[name] for name in self.scorers]
                quantities = joined([scorer.quantities(given) for scorer in scorers])
                ready = (given, scorers, quantities, self.shared.open(quantities))
            yield self.append(batch, *ready)

    def append(
        self,
        batch: pa.RecordBatch,
        given: Given,
        scorers: Sequence[Scorer],
        quantities: Mapping[str, Sequence[Quantity]],
        loaded: Mapping[str, Loaded],
    ) -> pa.RecordBatch:
        """One batch, scored."""
        parts: list[dict[str, np.ndarray]] = []
        for part in decoded(batch, loaded, self.shared.inputs).split(self.shared.settings.micro_batch):
            seen = look(loaded, part, quantities)
            values = {PROBABILITY: seen.probability(self.pilot)} if self.pilot else {}
            values |= {score_column(scorer.name): seen.score(scorer, given) for scorer in scorers}
            parts.append({name: finite(name, value, part) for name, value in values.items()})
        arrays = [
            pa.array(np.concatenate([part[name] for part in parts]) if parts else np.zeros(0), pa.float64())
            for name in self.columns
        ]
        return pa.RecordBatch.from_arrays(
            [*batch.columns, *arrays], names=[*batch.schema.names, *self.columns]
        )


@dataclass(frozen=True)
class FitRows:
    """A ``mapInArrow`` function: rows in; each fit's state is written to a file, and one row (PARTS) names it.

    Parameters
    ----------
    root, folder:
        where the files lie, a folder a fit.
    """

    shared: Pass
    fits: tuple[Fit, ...]
    root: str
    folder: tuple[str, ...]

    def __call__(self, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        """Nothing for an empty partition."""
        from pyspark import TaskContext

        given = self.shared.given()
        accumulators = [fit.open(given) for fit in self.fits]
        quantities = joined([one.quantities() for one in accumulators])
        loaded: dict[str, Loaded] | None = None
        for batch in batches:
            loaded = loaded or self.shared.open(quantities)
            for part in decoded(batch, loaded, self.shared.inputs).split(self.shared.settings.micro_batch):
                seen = look(loaded, part, quantities)
                for one in accumulators:
                    one.add(seen)
        if loaded is None:
            return
        context = TaskContext.get()
        partition = context.partitionId() if context else 0
        root = Root(self.root)
        for fit, one in zip(self.fits, accumulators, strict=True):
            path = root.write_bytes(state_to_bytes(one.state()), *self.folder, f"{uuid.uuid4().hex}.npz")
            columns = [pa.array([fit.key]), pa.array([partition], pa.int32()), pa.array([path])]
            yield pa.RecordBatch.from_arrays(columns, names=["fit", "partition", "path"])


def decoded(batch: pa.RecordBatch, loaded: Mapping[str, Loaded], inputs: InputSpec) -> Batch:
    """The rows, as the models take them; each weighs 1 / sampling_rate."""
    spec = next((model.spec for model in loaded.values()), inputs)
    found = Batch.from_arrow(batch, spec)
    if "sampling_rate" not in batch.schema.names:
        return found
    rate = pc.cast(batch.column("sampling_rate"), pa.float32()).to_numpy(zero_copy_only=False)
    return replace(found, weight=torch.from_numpy(1.0 / rate))


def finite(name: str, value: Tensor, batch: Batch) -> np.ndarray:
    """The values as float64 [N].

    Raises
    ------
    ModelError
        naming the sample whose value is not finite.
    """
    if not bool(torch.isfinite(value).all()):
        row = int(batch.sample_id[int((~torch.isfinite(value)).nonzero()[0])])
        raise ModelError(
            f"{name} of sample {row} is not finite",
            remedy="check the dense features for extremes, and that the pilot's loss converged",
        )
    return value.double().numpy()


def score_column(name: str) -> str:
    """The column of a scorer."""
    return f"score_{name}"
