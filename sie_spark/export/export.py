"""Job ``export``: the kept rows of an arm with their weights, for LightGBM, XGBoost, MLlib and others."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sie_spark.export.arms import KeptArm, check_arm, check_keys, kept_arms
from sie_spark.export.choice import cautions, choose, table
from sie_spark.export.columns import libsvm_line, log_weight, row_columns, weight_of
from sie_spark.export.evidence import LEARNER, Compared, find_evidence
from sie_spark.export.folder import PARTS, begin, check_free, finish, libsvm_of, note, parquet_of, weights_of
from sie_spark.export.layout import Layout
from sie_spark.export.parts import WRITTEN, WriteParts, file_of
from sie_spark.features.samples import encoder, split_rows
from sie_spark.platform.context import Context
from sie_spark.platform.errors import RowIdentityError, workers
from sie_spark.platform.result import Rows, StageResult
from sie_spark.platform.root import Root

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame

JOB = "export"
HEADINGS = ["arm", "policy", "kept rows", "AUC", "less that of as many random rows"]
CORRECTED = "1 / (pi * sampling_rate), rescaled to nothing: the weights sum to about the rows of the log"
EMPHASIS = "the policy's own, which is biased: an emphasis, not an estimate"


def run(ctx: Context, *, out: str, arm: str | None = None) -> StageResult:
    """Write an arm's kept rows, and the untouched test rows, below ``out``.

    Parameters
    ----------
    out:
        a folder: missing, empty or an earlier export, which is written anew.
    arm:
        whose rows; None: those that the evidence recommends.

    Raises
    ------
    PlatformError
        for a folder that holds something else.
    ConfigError
        for an arm that the training set does not have.
    StageOrderError
        when ``training_set`` is missing, or does not fit the samples or ``report.key``.
    RowIdentityError
        when more or fewer rows were written than the tables hold.
    """
    target = Root(out, make=False, option="--out")
    check_free(target)
    tables = {"training_set": ctx.catalog.ref("training_set"), "samples": ctx.catalog.ref("samples")}
    versions = {name: ref.version for name, ref in tables.items()}
    kept = ctx.catalog.read("training_set", version=versions["training_set"])
    test = split_rows(ctx, versions["samples"], "test")
    encoded, spec = encoder(ctx)
    arms = kept_arms(ctx, kept, encoded)
    keys = ctx.config.report.key
    check_arm(arm, arms)
    check_keys(keys, training_set=kept, samples=test)

    evidence, absent = find_evidence(ctx, kept, versions["samples"], spec, arms)
    choice = choose(arms, evidence, absent)
    chosen = arms[arm or choice.arm]
    told = cautions(chosen, choice, evidence, absent, asked=arm is not None)
    layout = Layout.of(spec, keys, [name for name in kept.columns if name in test.columns])
    note(ctx.root, target, versions)
    begin(target)
    train = kept.where(f"arm = '{chosen.name}'")
    rows = {
        "train": _write(ctx, target, "train", train, layout=layout, weight=weight_of(chosen)),
        "test": _write(ctx, target, "test", test, layout=layout, weight=log_weight()),
    }
    _check_rows(rows["train"], chosen)
    details = {
        "arm": chosen.describe(),
        "weight": EMPHASIS if chosen.biased else CORRECTED,
        "rows": rows,
        "encoder": encoded,
        "root": ctx.root.uri,
        "tables": versions,
        "recommended": choice.describe(),
        "cautions": told,
        "evidence": {"learner": LEARNER, "arms": [one.describe() for one in evidence], "absent": absent},
        **layout.describe(),
    }
    file = finish(target, details)
    _tell(ctx, arms, evidence, details)
    return StageResult(
        inputs=tables,
        rows=Rows(read=chosen.total, kept=rows["train"]),
        metrics=_metrics(rows, evidence),
        details=details,
        artifacts=[file] if target.is_local else [],
    )


def _write(ctx: Context, target: Root, part: str, rows: DataFrame, *, layout: Layout, weight: Column) -> int:
    """Parquet by Spark, libsvm by its workers; returns the rows of both, which are as many."""
    kept = part == "train"
    ctx.progress.say(f"export: write {part} rows")
    with workers("export", remedy="mend what the message names and export again", otherwise="export again"):
        frame = rows.select(*row_columns(layout, weight, kept=kept))
        frame.write.mode("overwrite").parquet(target.path(parquet_of(part)))
        lines = rows.select(libsvm_line(layout).alias("line"), weight.cast("string").alias("weight"))
        function = WriteParts(target.path(libsvm_of(part)), target.path(weights_of(part)))
        written = lines.mapInArrow(function, WRITTEN).collect()  # one row a file
        held = ctx.spark.read.parquet(target.path(parquet_of(part))).count()
    found = sum(int(number) for _, number in written)
    files = sorted(file_of(int(at)) for at, _ in written)
    there = [
        name for name in target.files(libsvm_of(part)) if not name.startswith(".")
    ]  # what a lost task began
    # a task of an export that was killed may write into the folder once more
    if found != held or files != there:
        raise RowIdentityError(
            f"export wrote {held:,} {part} rows as Parquet and {found:,} as libsvm, or {target.uri} holds files of another"
            " export that was killed",
            remedy="run the same command again; if it persists, report it",
        )
    return held


def _check_rows(written: int, arm: KeptArm) -> None:
    if written != arm.total:
        raise RowIdentityError(
            f"arm '{arm.name}' has {arm.total:,} rows in training_set, and {written:,} were exported",
            remedy="run the same command again; if it persists, report it",
        )


def _tell(ctx: Context, arms: dict[str, KeptArm], evidence: list[Compared], details: dict[str, Any]) -> None:
    for sentence in details["cautions"]:
        ctx.progress.warn(sentence)
    title = "Boosted trees on each arm's rows with the exported weights, judged on validation rows"
    ctx.progress.table(title, HEADINGS, table(arms, evidence))
    ctx.progress.say(
        f"export: arm '{details['recommended']['arm']}' is recommended: {details['recommended']['why']}"
    )
    train, test = (details["rows"][part] for part in PARTS)
    ctx.progress.say(
        f"export: {train:,} rows of arm '{details['arm']['name']}' and {test:,} test rows are written"
    )


def _metrics(rows: dict[str, int], evidence: list[Compared]) -> dict[str, Any]:
    found = {f"trees_auc_{one.arm}": one.auc for one in evidence}
    found |= {f"trees_gain_{one.arm}": one.difference for one in evidence if one.difference is not None}
    return {**{f"rows_{part}": float(number) for part, number in rows.items()}, **found}
