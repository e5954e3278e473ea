"""What ``sie explain`` finds out of a row, and how it is told: in the terminal and as a page."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from sie_spark.explanation import neighbours
from sie_spark.explanation.direction import direction, kept_basis
from sie_spark.explanation.facts import Explained
from sie_spark.explanation.neighbours import Neighbour
from sie_spark.explanation.page import FOLDER, render
from sie_spark.explanation.rows import (
    Standing,
    chosen_score,
    find,
    kept_by_arms,
    low_is_worst,
    require,
    scores_there,
    standings,
    why_not_scored,
    worst_rows,
)
from sie_spark.explanation.shares import shares_of
from sie_spark.explanation.tell import tell
from sie_spark.features.samples import encoder
from sie_spark.importance.contracts import Given, ModelRef, damping_of, state_to_bytes
from sie_spark.importance.fits.ekfac_direction import USUAL
from sie_spark.importance.score import known_models, task_threads
from sie_spark.importance.worker import ArtefactRef, Pass, build_engine
from sie_spark.models import Batch
from sie_spark.models.objective import BINARY, one_logit_a_row
from sie_spark.models.store import PILOT, REFERENCE, check_encoder, load_model, require_model
from sie_spark.platform.catalog import union_of_dates
from sie_spark.platform.config.load import digest
from sie_spark.platform.context import Context
from sie_spark.platform.errors import StageOrderError
from sie_spark.platform.inputs import InputSpec
from sie_spark.platform.result import StageResult, TableRef
from sie_spark.weighting.examples import feature_values

if TYPE_CHECKING:
    import pyarrow as pa
    from pyspark.sql import DataFrame

BY_EKFAC = (
    "influence: the inner product of the two rows' loss gradients through the inverse of EK-FAC's Fisher matrix"
    " (importance.damping {damping:g})"
)
BY_DOT = (
    "the inner product of the two rows' loss gradients: 'sie score' left no EK-FAC basis of this reference (scorer"
    " influence_ekfac makes one)"
)


def explain_row(
    ctx: Context, sample_id: int, *, worst: int | None, query: bool, by: str | None
) -> StageResult:
    """See :func:`sie_spark.explanation.explain.run`; ``sample_id`` plays no part beside ``worst``."""
    encoded, _ = encoder(ctx)
    given = reference_of(ctx, encoded)
    inputs = {"samples": ctx.catalog.ref("samples")}
    scores = None
    if not query or ctx.catalog.exists("scores"):
        inputs["scores"] = ctx.catalog.ref("scores")
        scores = ctx.catalog.read("scores", version=inputs["scores"].version)
        made = ctx.load_details("score").get("encoder", encoded)
        if made != encoded:
            raise StageOrderError(
                f"table scores is of rows of encoder {made}, the samples are of {encoded}",
                remedy="run 'sie score' with the same --root and --config first",
            )
    name = ""
    rows: list[dict[str, Any]] = []
    if worst is not None and scores is not None:
        name, rows = _worst(scores, worst, by)
        sample_id = int(rows[0]["sample_id"])
    subject = _subject(ctx, inputs["samples"], scores, sample_id, query=query, known=rows)
    found = _explained(ctx, inputs["samples"], subject, given, rows=rows, by=name)
    tell(ctx.progress, found)
    page = f"worst-{name}" if rows else str(sample_id)
    path = ctx.root.write_bytes(render(found).encode(), FOLDER, f"{page}.html")
    return StageResult(
        inputs=inputs,
        metrics={
            "p": found.p,
            "loss": found.loss,
            "helpful": len(found.helpful),
            "harmful": len(found.harmful),
        },
        details=found.as_dict(),
        artifacts=[path] if ctx.root.is_local else [],
        report=path,
    )


def reference_of(ctx: Context, encoded: str) -> Given:
    """The reference as audits read it, before it saw the validation rows."""
    pilot = require_model(ctx.root, PILOT)
    check_encoder(pilot, encoded)
    known = known_models(ctx, pilot, ctx.config.training)
    if REFERENCE not in known:
        raise StageOrderError(
            f"no model '{REFERENCE}' of these samples under {ctx.root.uri}: explain reads its gradients",
            remedy="run 'sie train --set reference.fit=true' with the same --root and --config first",
        )
    return Given({REFERENCE: known[REFERENCE]}, settings=ctx.config.importance)


def _worst(scores: DataFrame, count: int, by: str | None) -> tuple[str, list[dict[str, Any]]]:
    name = chosen_score(by, scores_there(scores))
    rows = worst_rows(scores, name, count) if name else []
    if not rows:
        raise StageOrderError(
            "table scores has no score, or no row",
            remedy="run 'sie score' with the same --root and --config first",
        )
    return name, rows


@dataclass(frozen=True)
class _Subject:
    """The row that is explained: its encoded columns, and where it stands among the scored rows."""

    table: pa.Table
    standings: list[Standing]
    pilot_p: float | None

    @property
    def sample_id(self) -> int:
        return int(self.table.column("sample_id")[0].as_py())

    @property
    def split(self) -> str:
        return str(self.table.column("split")[0].as_py())

    @property
    def day(self) -> str:
        return str(self.table.column("event_date")[0].as_py())


def _subject(
    ctx: Context,
    samples: TableRef,
    scores: DataFrame | None,
    sample_id: int,
    *,
    query: bool,
    known: Sequence[dict[str, Any]],
) -> _Subject:
    """The row, from the scores, or from the samples where any row may be asked for."""
    held, where = ctx.catalog.read("samples", version=samples.version), f"samples under {ctx.root.uri}"
    if query or scores is None:
        table = find(held, sample_id)
        require(table, sample_id, where)
        found = _Subject(table, [], None)
        if scores is None or found.split == "test":
            return found
        scored = find(scores, sample_id, dates=union_of_dates([found.day]))
        if not scored.num_rows:
            return found
    else:
        dates = union_of_dates([str(known[0]["event_date"])]) if known else "true"
        table = scored = find(scores, sample_id, dates=dates)
        if not scored.num_rows:
            raise why_not_scored(held, sample_id, where)
    return _Subject(table, standings(scores, scored), float(scored.column("p")[0].as_py()))


def _explained(
    ctx: Context,
    samples: TableRef,
    subject: _Subject,
    given: Given,
    *,
    rows: Sequence[dict[str, Any]],
    by: str,
) -> Explained:
    model, spec = load_model(given.models[REFERENCE].uri)
    build_engine(
        model, tuple(ctx.config.importance.materialise)
    )  # a model without exact gradients fails here
    row = Batch.from_arrow(subject.table, spec)
    row = replace(row, offset=torch.zeros_like(row.label), weight=torch.ones_like(row.label))
    with torch.inference_mode():
        logit = one_logit_a_row(model(**row.inputs), row)
        loss, p = float(BINARY.losses(logit, row)[0]), float(BINARY.predictions(logit)["label"][0])
    damping = damping_of(given, USUAL)
    basis = kept_basis(ctx, given)
    along = direction(model, row, basis, damping)
    helpful, harmful, share = _neighbours(
        ctx, samples, given.models[REFERENCE], spec, along, sample_id=subject.sample_id
    )

    shown = [(subject.sample_id, subject.day)]
    shown += [(one.sample_id, str(one.event_date)) for one in (*helpful, *harmful)]
    shown += [(int(one["sample_id"]), str(one["event_date"])) for one in rows]
    return Explained(
        dataset=ctx.config.dataset.name,
        sample_id=subject.sample_id,
        split=subject.split,
        date=subject.day,
        label_name=ctx.config.dataset.label,
        label=float(row.label[0]),
        loss=loss,
        p=p,
        pilot_p=subject.pilot_p,
        columns={one.input_name: one.column for one in ctx.config.dataset.features},
        words=feature_values(ctx, [one for one, _ in shown], {day for _, day in shown}),
        shares=shares_of(model, spec, row),
        standings=subject.standings,
        arms=kept_by_arms(ctx, subject.sample_id, subject.split, subject.day),
        helpful=helpful,
        harmful=harmful,
        how=BY_DOT if basis is None else BY_EKFAC.format(damping=damping),
        share=share,
        rows=list(rows),
        by=by,
        lowest=bool(by) and low_is_worst(by),
    )


def _neighbours(
    ctx: Context,
    samples: TableRef,
    reference: ModelRef,
    spec: InputSpec,
    along: Mapping[str, Tensor],
    *,
    sample_id: int,
) -> tuple[list[Neighbour], list[Neighbour], float]:
    """The most helpful and most harmful training rows, and the share of the rows that was looked at."""
    folder = (FOLDER, f".direction-{digest([sample_id, reference.digest])}")
    ctx.root.remove(*folder)  # of a run that was killed
    data = state_to_bytes({name: value.numpy() for name, value in along.items()})
    uri = ctx.root.write_bytes(data, *folder, "direction.npz")
    artefact = ArtefactRef(neighbours.DIRECTION, uri, hashlib.sha256(data).hexdigest())
    shared = Pass(
        models=(reference,),
        known=(reference,),
        artefacts=(artefact,),
        threads=task_threads(ctx.spark),
        inputs=spec,
        settings=ctx.config.importance,
    )
    candidates, share = neighbours.candidates(ctx, samples, spec.columns, but=sample_id)
    helpful, harmful = neighbours.find(ctx, candidates, shared)
    ctx.root.remove(*folder)
    return helpful, harmful, share
