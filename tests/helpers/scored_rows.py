"""Scorers and their artefacts on models in memory, as the passes of stage ``score`` would run them."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from torch import nn

from helpers.encoded_samples import SPEC, planted_rows
from sie_spark.importance import SCORERS, Given, ModelRef
from sie_spark.importance.contracts import Scorer, State, state_from_bytes, state_to_bytes
from sie_spark.importance.plan import make_plan
from sie_spark.importance.worker import Loaded, build_engine, joined, look
from sie_spark.models import Batch, build_model
from sie_spark.models.registry import MODELS
from sie_spark.models.store import PILOT, REFERENCE, save_model
from sie_spark.platform.config import Importance, Model
from sie_spark.platform.root import Root

LATE = f"{REFERENCE}@1"
KNOWN = {
    name: ModelRef(name, "", "", rate)
    for name, rate in ((PILOT, 0.0), (REFERENCE, 0.0), (LATE, 0.01), (f"{REFERENCE}@2", 0.005))
}
GIVEN = Given(KNOWN, inputs=SPEC)
KIND = {MODELS[name]: name for name in ("lr", "deepfm", "dcnv2")}
SETTINGS = Model(embedding_dim=4, hidden=[8], cross_layers=1)


def batch_of(rows: int = 40, seed: int = 0) -> Batch:
    frame = planted_rows(rows, seed=seed)
    table = pa.table(
        {
            "sample_id": pa.array(range(rows), pa.int64()),
            "label": pa.array(frame["label"], pa.float32()),
            "cat": pa.array(frame["cat"].tolist(), pa.list_(pa.int32())),
            "dense": pa.array([list(map(float, x)) for x in frame["dense"]], pa.list_(pa.float32())),
        }
    )
    return Batch.from_arrow(table, SPEC)


def fresh(name: str = "dcnv2", seed: int = 0) -> nn.Module:
    """A model whose output layer has left its start at zero."""
    model = build_model(SETTINGS.model_copy(update={"name": name}), SPEC, seed=seed).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for value in model.parameters():
            value.add_(0.1 * torch.randn(value.shape, generator=generator))
    return model


def validation_rows() -> Batch:
    """Thirty rows of unequal weight, on which everything is fitted."""
    return replace(batch_of(30, seed=9), weight=torch.linspace(0.5, 2.0, 30))


def fitted(
    models: dict[str, nn.Module],
    names: Iterable[str],
    *,
    partitions: Sequence[Batch] = (),
    settings: Importance | None = None,
) -> Given:
    """The artefacts that these scorers read, made of the rows of some partitions; of whatever part they are fitted on."""
    rows = validation_rows()
    partitions = partitions or [rows.take(slice(0, 11)), rows.take(slice(11, 30))]
    given = replace(GIVEN, settings=settings or GIVEN.settings)
    states: dict[str, State] = {}
    with tempfile.TemporaryDirectory() as folder:
        known = {name: kept(Path(folder), name, model) for name, model in models.items()}
        asked = [SCORERS[name] for name in names]
        for fit in [fit for level in make_plan(asked, given).levels for fit in level]:
            here, found = Given(known, states, given.settings, SPEC), []
            for part in partitions if fit.rows else ():
                one = fit.open(here)
                quantities = joined([one.quantities()])
                one.add(
                    look(
                        loaded_of({name: models[name] for name in fit.models()}, quantities), part, quantities
                    )
                )
                found.append(state_from_bytes(state_to_bytes(one.state())))
            states[fit.key] = fit.finish(fit.merge(found), here)
    return replace(given, states=states)


def loaded_of(models: dict[str, nn.Module], quantities: dict[str, tuple]) -> dict[str, Loaded]:
    """The models, with an engine where something is measured."""
    return {
        name: Loaded(model, SPEC, build_engine(model) if quantities.get(name) else None)
        for name, model in models.items()
    }


def kept(folder: Path, name: str, model: nn.Module) -> ModelRef:
    """The model as a file, as fits that work on the driver read it."""
    settings = SETTINGS.model_copy(update={"name": KIND[type(model)]})
    uri = save_model(Root(folder), model, arm=name, fingerprint="f", settings=settings, inputs=SPEC)
    return replace(KNOWN[name], uri=uri, digest=hashlib.sha256(Path(uri).read_bytes()).hexdigest())


def models_of(scorer: Scorer) -> tuple[str, ...]:
    """All that the scorer and its fits read."""
    levels = make_plan([scorer], GIVEN).levels
    return (*scorer.models(GIVEN), *(name for level in levels for fit in level for name in fit.models()))


def scored(
    models: dict[str, nn.Module], names: Sequence[str], batch: Batch | None = None, given: Given | None = None
) -> dict[str, np.ndarray]:
    """Scores of a batch, float64 [N] each."""
    given = given or fitted(models, names)
    quantities = joined([SCORERS[name].quantities(given) for name in names])
    seen = look(loaded_of(models, quantities), batch_of() if batch is None else batch, quantities)
    return {name: SCORERS[name].score(seen, given).double().numpy() for name in names}
