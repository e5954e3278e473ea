"""What an arm kept, as numbers: rows by class, sizes and tails of the weights, which ids still have rows."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sie_spark.features.samples import encoder
from sie_spark.importance.contracts import Given, ModelRef, defaults
from sie_spark.importance.plan import make_plan
from sie_spark.importance.registry import SCORERS
from sie_spark.models.store import PILOT, REFERENCE
from sie_spark.platform.config.stages import Importance
from sie_spark.platform.context import Context
from sie_spark.platform.draws import uniform_column
from sie_spark.weighting.arms import Arm

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame, Row

FEW_IDS = 20  # a field with no more is not looked at
MOST_IDS = 10_000  # of a field are counted; of a larger one a draw of about so many
ENOUGH = 10  # rows from which on an id is taken to be learnt
BY_CHANCE = 8.0  # standard errors
SAME = 1 + 1e-9  # pi at its floor, whatever the last digit says


def read_columns() -> list[Column]:
    """Aggregates over all rows of ``scores``: how many, and how many positive."""
    from pyspark.sql import functions as F

    positive = (F.col("label") > 0).cast("long")
    return [F.count(F.lit(1)).alias("rows"), F.sum(positive).alias("positive")]


def fact_columns(arms: Sequence[Arm]) -> list[Column]:
    """Aggregates over kept rows, by arm, beside those of :func:`summary_columns`."""
    from pyspark.sql import functions as F

    pi, columns = F.col("pi"), []
    for arm in arms:
        here = F.col("arm") == arm.name
        counted = {"clicks": F.col("label") > 0, "capped": pi >= 1.0}
        if "floor" in arm.constants:
            counted["floor"] = pi <= arm.constants["floor"] * SAME
        columns += [F.count_if(here & found).alias(f"{arm.name}:{word}") for word, found in counted.items()]
        columns.append(F.sum(F.when(here, 1 / pi**2)).alias(f"{arm.name}:inverse_squares"))
        columns.append(F.min(F.when(here, pi)).alias(f"{arm.name}:least_pi"))
    return columns


def everything(arm: str, read: Mapping[str, Any]) -> dict[str, Any]:
    """The aggregates of an arm that keeps all rows, each with pi and weight 1."""
    rows, positive = int(read.get("rows") or 0), int(read.get("positive") or 0)
    words = ("kept", "weight", "squares", "inverse", "inverse_squares", "capped")
    found = dict.fromkeys(words, rows) | {"positive": positive, "clicks": positive, "least_pi": 1.0}
    return {f"{arm}:{word}": value for word, value in found.items()}


def arm_facts(
    arm: Arm, found: Mapping[str, Any], read: Mapping[str, Any], settings: Importance | None = None
) -> dict[str, Any]:
    """An arm's numbers from the aggregates.

    Parameters
    ----------
    found:
        of the kept rows, see :func:`summary_columns` and :func:`fact_columns`.
    read:
        of all rows, see :func:`read_columns`.
    settings:
        section ``importance``; default: its defaults.

    Returns
    -------
    ``by_class``: kept rows and all rows with label > 0 and without; ``sampling_ess``: (sum w)^2 / sum w^2 with
    w = 1/pi, None for a biased policy, whose rows do not stand for all rows by 1/pi; ``largest_inverse``: the
    largest 1/pi; ``variance_inflation``: kept * sum w^2 / (sum w)^2 of the weights in the loss; ``capped_share``
    and ``floor_share``: of the kept rows, with pi 1 and with pi at the policy's floor (None where it has none);
    ``reads``: columns of ``scores`` behind pi; ``models``: those behind these columns.
    """

    def value(word: str) -> float:
        return float(found.get(f"{arm.name}:{word}") or 0)

    kept, weight, inverse = value("kept"), value("weight"), value("inverse")
    clicks, of_clicks, rows = value("clicks"), int(read.get("positive") or 0), int(read.get("rows") or 0)
    by_pi = inverse**2 / value("inverse_squares") if kept else 0.0
    columns = sorted(arm.columns)
    return {
        "by_class": {
            "positive": {"kept": int(clicks), "rows": of_clicks},
            "negative": {"kept": int(kept - clicks), "rows": rows - of_clicks},
        },
        "sampling_ess": None if arm.policy.biased else by_pi,
        "largest_inverse": 1 / value("least_pi") if kept else 0.0,
        "estimated_variance": value("inverse_squares") - inverse,
        "variance_inflation": kept * value("squares") / weight**2 if weight else 0.0,
        "capped_share": value("capped") / kept if kept else 0.0,
        "floor_share": (value("floor") / kept if kept else 0.0) if "floor" in arm.constants else None,
        "reads": columns,
        "models": models_behind(columns, settings),
    }


def miscounted(arm: Mapping[str, Any]) -> bool:
    """Whether the rows that an arm kept, each counted 1/pi, differ from all rows by more than chance explains.

    Under Poisson sampling the sum of 1/pi is unbiased with variance ``sum (1 - pi) / pi^2`` over kept rows. Of whole
    requests, and of biased policies, nothing is said.
    """
    if arm["biased"] or arm["unit"] != "row" or not arm["kept"]:
        return False
    off = abs(arm["estimated_rows"] - arm["rows"])
    spread = max(arm["estimated_variance"], arm["largest_inverse"] ** 2) ** 0.5
    return bool(off > BY_CHANCE * spread)


def fact_metrics(arm: Mapping[str, Any]) -> dict[str, float]:
    """The numbers of one arm's details that MLflow keeps, in plain names."""
    names = ("sampling_ess", "largest_inverse", "variance_inflation", "capped_share", "floor_share")
    metrics = {name: float(arm[name]) for name in names if arm.get(name) is not None}
    for word, rows in arm.get("by_class", {}).items():
        metrics[f"kept_{word}"] = float(rows["kept"])
    for field, ids in arm.get("ids", {}).items():
        metrics[f"ids_kept_{field}"] = float(ids["kept"])
    return metrics


def models_behind(columns: Collection[str], settings: Importance | None = None) -> list[str]:
    """The models, ``pilot`` and ``reference``, that columns of ``scores`` are made with."""
    known = {name: ModelRef(name, "", "", 0.0) for name in (PILOT, REFERENCE, f"{REFERENCE}@1")}
    given = Given(known, settings=settings or defaults())
    scorers = [SCORERS[name.removeprefix("score_")] for name in columns if name.startswith("score_")]
    names = {name for level in make_plan(scorers, given).levels for fit in level for name in fit.models()}
    names |= {name for scorer in scorers for name in scorer.models(given)}
    names |= {PILOT} if "p" in columns else set()
    return sorted({name.partition("@")[0] for name in names})


@dataclass(frozen=True)
class IdField:
    """A field of ids: its place in ``cat``, and the share of its ids that are counted."""

    name: str
    place: int
    share: float


def id_fields(categories: Mapping[str, int]) -> list[IdField]:
    """The fields with more than ``FEW_IDS`` ids, of an encoder's ``name -> number of ids`` in the order of ``cat``."""
    return [
        IdField(name, place, min(1.0, MOST_IDS / ids))
        for place, (name, ids) in enumerate(categories.items())
        if ids > FEW_IDS
    ]


def id_coverage(
    ctx: Context, scores: DataFrame, kept: DataFrame, arms: Sequence[str], seed: int
) -> dict[str, dict[str, Any]]:
    """Arm -> field -> how many of the ids in ``scores`` still have rows in ``training_set``.

    Two aggregates, one a table, whose state is bounded by ``MOST_IDS``. Id 0, every value without an id of its
    own, is left out; so are the fields of bags and sequences.

    Returns
    -------
    ``ids``: counted ones with a row in ``scores``; ``counted``: share of the field's ids that are counted, drawn
    by their hash; ``kept`` and ``kept_enough``: share of ``ids`` with a kept row, with ``ENOUGH`` kept rows;
    ``enough_before``: with ``ENOUGH`` rows in ``scores``. Nothing where ``scores`` is of another encoder.
    """
    current, spec = encoder(ctx)
    fields = id_fields(spec.categories)
    if not fields or ctx.load_details("score").get("encoder") not in (None, current):
        return {}
    before = {row["place"]: row for row in _ids(scores, fields, [], seed).collect()}  # a row a field
    after = {(row["arm"], row["place"]): row for row in _ids(kept, fields, ["arm"], seed).collect()}
    return {
        arm: {
            field.name: _covered(field, before[field.place], after.get((arm, field.place)))
            for field in fields
            if field.place in before
        }
        for arm in arms
    }


def _covered(field: IdField, before: Row, after: Row | None) -> dict[str, Any]:
    ids = int(before["ids"])
    return {
        "ids": ids,
        "counted": field.share,
        "kept": int(after["ids"]) / ids if after else 0.0,
        "kept_enough": int(after["enough"]) / ids if after else 0.0,
        "enough_before": int(before["enough"]) / ids,
    }


def _ids(frame: DataFrame, fields: Sequence[IdField], by: list[str], seed: int) -> DataFrame:
    """By ``by`` and field: ids with a row, and with ``ENOUGH`` rows."""
    from pyspark.sql import functions as F

    held = []
    for field in fields:
        code = F.get("cat", F.lit(field.place))
        wanted = code > 0
        if field.share < 1:
            wanted &= uniform_column(code, seed=seed, purpose=f"ids_{field.name}") < field.share
        held.append(F.when(wanted, F.struct(F.lit(field.place).alias("place"), code.alias("id"))))
    pairs = F.explode(F.filter(F.array(*held), lambda pair: pair.isNotNull())).alias("pair")
    counted = frame.select(*by, pairs).groupBy(*by, "pair.place", "pair.id").count()
    enough = F.count_if(F.col("count") >= ENOUGH).alias("enough")
    return counted.groupBy(*by, "place").agg(F.count(F.lit(1)).alias("ids"), enough)
