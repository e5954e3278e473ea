"""Which rows are safe for a learner that takes weights alone: boosted trees on them, against as many random rows.

A policy that is good for one model need not be for another: rows chosen by a network's gradients, with inverse
probabilities as weights, made trees worse than random rows on some logs. So trees are fitted on the rows of each arm,
with the weights that are exported, and judged on all validation rows. One half of these chooses depth and number of
trees and the other half judges them, and the other way round, so that no row judges what it chose.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from sie_spark.evaluation import counts
from sie_spark.evaluation.counts import Clusters
from sie_spark.evaluation.evaluate import no_verdict
from sie_spark.evaluation.yardsticks import fit_yardsticks
from sie_spark.export.arms import KeptArm
from sie_spark.export.columns import log_weight, weight_of
from sie_spark.features.samples import split_rows
from sie_spark.metrics.bins import COARSE, Binning, bins_of, lay, regroup
from sie_spark.metrics.bootstrap import Sums
from sie_spark.metrics.intervals import interval
from sie_spark.metrics.ranking import auc
from sie_spark.models import Batch
from sie_spark.platform.context import Context
from sie_spark.platform.draws import at_most, uniform
from sie_spark.platform.inputs import InputSpec

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame

ALIKE = 0.05  # arms whose numbers of rows differ by no more are compared with each other
LEARNER = "boosted_trees"

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Compared:
    """Trees on an arm's rows against trees on as many random rows, by AUC on the validation rows.

    Parameters
    ----------
    rows, random_rows:
        that the trees were fitted on.
    against:
        the arm of random rows; empty where they were drawn for this comparison alone.
    difference, low, high:
        AUC with the arm's rows less that with random ones, and its interval; None where there is none.
    unsure:
        why no interval can be trusted, or an empty text.
    """

    arm: str
    rows: int
    auc: float
    against: str = ""
    random_rows: int = 0
    random_auc: float | None = None
    difference: float | None = None
    low: float | None = None
    high: float | None = None
    unsure: str = ""

    def describe(self) -> dict[str, Any]:
        """Plain data for export.json."""
        return asdict(self)


@dataclass(frozen=True)
class Judged:
    """Validation rows: N of them in ``batch``, each of weight 1 / sampling_rate, and the units that are resampled."""

    batch: Batch
    unit: NDArray[np.int64]
    clusters: Clusters

    @property
    def label(self) -> Floats:
        """0 or 1, float64 [N]."""
        return self.batch.label.numpy().astype(np.float64)

    @property
    def value(self) -> Floats:
        """Weights, float64 [N]."""
        return self.batch.weight.numpy().astype(np.float64)


def find_evidence(
    ctx: Context, kept: DataFrame, samples: int, spec: InputSpec, arms: Mapping[str, KeptArm]
) -> tuple[list[Compared], str]:
    """One comparison an arm, or none and why there is none.

    Parameters
    ----------
    kept:
        ``training_set`` at the version that is exported.
    samples:
        version of ``samples``.
    """
    settings = ctx.config.evaluation
    if not settings.yardstick_rows:
        return [], "evaluation.yardstick_rows is 0"
    judged = _judged(ctx, samples, spec)
    positives = float(judged.label.sum())
    if positives in (0.0, float(len(judged.batch))):
        return [], "the validation rows do not have both labels" if len(
            judged.batch
        ) else "there are no validation rows"
    predicted: dict[str, Floats] = {}
    rows: dict[str, int] = {}

    def fit(name: str, frame: DataFrame, weight: Column) -> None:
        train = _batch(frame, settings.yardstick_rows, settings.seed, weight, spec)[0]
        found = _predictions(train, judged, spec, settings.seed)
        if found is not None:
            predicted[name], rows[name] = found, len(train)

    for name, arm in arms.items():
        ctx.progress.say(f"export: trees on rows of arm '{name}'")
        fit(name, kept.where(f"arm = '{name}' AND split = 'train'"), weight_of(arm))
    against = {name: _match(name, rows, arms) for name in predicted if not arms[name].uniform}
    drawn = {
        number: f"{number:,} random rows"
        for name, other in against.items()
        if not other
        for number in [rows[name]]
    }
    for number, name in drawn.items():
        ctx.progress.say(f"export: trees on {name}")
        frame, _ = at_most(
            split_rows(ctx, samples, "train"), number, seed=settings.seed, purpose="export_random"
        )
        fit(name, frame, log_weight())
    found = []
    for name in (one for one in arms if one in predicted):
        other = against[name] or drawn[rows[name]] if name in against else None
        compared = compare(
            name, other if other in predicted else None, predicted, rows, judged,
            replicates=settings.bootstrap, seed=settings.seed, margin=settings.margin,
            # the best of several arms is recommended: their intervals hold together (Bonferroni)
            confidence=1.0 - (1.0 - settings.confidence) / max(len(against), 1),
        )  # fmt: skip
        found.append(compared if other in arms or other is None else _unnamed(compared))
    return found, "" if found else "the kept rows of no arm have both labels"


def compare(
    arm: str,
    other: str | None,
    predicted: Mapping[str, Floats],
    rows: Mapping[str, int],
    judged: Judged,
    *,
    replicates: int,
    seed: int,
    margin: float,
    confidence: float,
) -> Compared:
    """An arm beside random rows, paired: the same resamples of the same rows for both."""
    value, drawn = replicate_auc(predicted[arm], judged, replicates=replicates, seed=seed)
    if other is None:
        return Compared(arm, rows[arm], value)
    random, beside = replicate_auc(predicted[other], judged, replicates=replicates, seed=seed)
    unsure = no_verdict(judged.clusters, 0.0, margin).replace("test rows", "validation rows")
    span = None if unsure else interval(drawn - beside, confidence)
    if span is None and not unsure:
        unsure = "evaluation.bootstrap is too small for an interval"
    low, high = span if span else (None, None)
    return Compared(arm, rows[arm], value, other, rows[other], random, value - random, low, high, unsure)


def replicate_auc(logit: Floats, judged: Judged, *, replicates: int, seed: int) -> tuple[float, Floats]:
    """AUC on the validation rows, and of every replicate, float64 [replicates]; NaN where one has one label only."""
    label, value = judged.label, judged.value
    edges = lay(logit, value)
    fine, bins = bins_of(logit, edges), len(edges) + 1
    positive = np.bincount(fine, value * label, minlength=bins).astype(np.float64)
    negative = np.bincount(fine, value * (1.0 - label), minlength=bins).astype(np.float64)
    binning = Binning.over(edges, positive + negative)
    coarse = regroup(np.stack([positive, negative]), binning.coarse, COARSE)
    sums = Sums.empty(replicates)
    sums.add(logit, label, value, judged.unit, binning=binning, seed=seed)
    point = auc(positive, negative)
    with np.errstate(invalid="ignore", divide="ignore"):
        # a replicate's bins are coarser: about the best estimate all the same
        return point, np.asarray(auc(sums.positive, sums.negative)) + point - auc(coarse[0], coarse[1])


def _predictions(train: Batch, judged: Judged, spec: InputSpec, seed: int) -> Floats | None:
    """Log-odds of the validation rows; None where rows of one label fit no trees."""
    first = uniform(judged.unit, seed=seed, purpose="export_half") < 0.5
    logits = np.zeros(len(first))
    for chooses in (first, ~first):
        trees = fit_yardsticks(
            train, judged.batch.take(_indices(chooses)), spec, seed=seed, refit=False, names=(LEARNER,)
        )[-1]
        if trees.name != LEARNER:
            return None
        if not chooses.all():
            logits[~chooses] = trees.logits(judged.batch.take(_indices(~chooses)))
    return logits


def _indices(mask: NDArray[np.bool_]) -> Any:
    import torch

    return torch.from_numpy(np.flatnonzero(mask))


def _match(arm: str, rows: Mapping[str, int], arms: Mapping[str, KeptArm]) -> str:
    """The arm of about as many random rows; an empty text where there is none."""
    random = [name for name in rows if name in arms and arms[name].uniform]
    near = min(random, key=lambda name: abs(rows[name] - rows[arm]), default="")
    return near if near and abs(rows[near] - rows[arm]) <= ALIKE * rows[arm] else ""


def _unnamed(compared: Compared) -> Compared:
    return Compared(**{**asdict(compared), "against": ""})


def _judged(ctx: Context, samples: int, spec: InputSpec) -> Judged:
    settings, rows = ctx.config.evaluation, split_rows(ctx, samples, "validation")
    batch, groups = _batch(rows, settings.yardstick_rows, settings.seed, log_weight(), spec)
    clusters = _clusters(rows, ctx.config.dataset.group, len(batch))
    return Judged(batch, batch.sample_id.numpy() if clusters.by_row else groups, clusters)


def _clusters(rows: DataFrame, group: str | None, number: int) -> Clusters:
    return counts.clusters(rows, group) if number else Clusters(group or "row", 0, True, 0.0)


def _batch(
    frame: DataFrame, limit: int, seed: int, weight: Column, spec: InputSpec
) -> tuple[Batch, NDArray[np.int64]]:
    """About ``limit`` rows at most with their weights, in the order of their ids, and their groups."""
    rows, _ = at_most(frame, limit, seed=seed, purpose="yardstick")
    beside = ("label", "sample_id", "group_id", weight.cast("float").alias("weight"))
    table = rows.select(*spec.columns, *beside).toArrow().sort_by("sample_id")
    return Batch.from_arrow(table, spec), table.column("group_id").to_numpy().astype(np.int64)
