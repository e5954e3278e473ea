"""Finding rows by id or by score, where they stand among all scored rows, and with what probability arms kept them."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sie_spark.importance.registry import SCORERS
from sie_spark.importance.worker import score_column
from sie_spark.platform.catalog import union_of_dates
from sie_spark.platform.context import Context
from sie_spark.platform.errors import ConfigError, DataError, StageOrderError

if TYPE_CHECKING:
    import pyarrow as pa
    from pyspark.sql import DataFrame

PREFIX = "score_"
DEFAULT = ("loss", "error")
WHERE_IDS_ARE = (
    "ids are column sample_id of tables samples, scores and training_set; 'sie explain --worst 10' shows some"
)


@dataclass(frozen=True)
class Standing:
    """A score of a row among all scored rows.

    Parameters
    ----------
    above, in_class:
        rows of a higher value: of all, and of those with the row's own label.
    rows, class_rows:
        how many there are.
    """

    name: str
    value: float
    above: int
    rows: int
    in_class: int
    class_rows: int


def number_of(text: str, option: str) -> int:
    """A sample_id.

    Raises
    ------
    ConfigError
        where it is none: a whole number of 64 bits, often negative.
    """
    try:
        found = int(text)
    except ValueError:
        found = 2**63
    if not -(2**63) <= found < 2**63:
        raise ConfigError(
            f"{option} {text!r} is no sample_id: a whole number of 64 bits", remedy=WHERE_IDS_ARE
        )
    return found


def find(
    ctx: Context, samples: DataFrame, sample_id: int, *, test_too: bool, dates: str = "true"
) -> pa.Table:
    """The encoded row, an Arrow table of one row.

    Raises
    ------
    DataError
        where no row has this id, or it is a test row that nobody asked about.
    """
    from pyspark.sql import functions as F

    found = samples.where(dates).where(F.col("sample_id") == F.lit(sample_id)).limit(1).toArrow()
    if not found.num_rows:
        raise DataError(
            f"no row of samples under {ctx.root.uri} has sample_id {sample_id}", remedy=WHERE_IDS_ARE
        )
    if not test_too and found.column("split")[0].as_py() == "test":
        raise DataError(
            f"sample {sample_id} is a test row: no score looks at it",
            remedy=f"sie explain --query-row {sample_id}",
        )
    return found


def scores_there(scores: DataFrame) -> list[str]:
    """Names of the scores that the table has."""
    return [name.removeprefix(PREFIX) for name in scores.columns if name.startswith(PREFIX)]


def chosen_score(by: str | None, there: list[str]) -> str:
    """The score that 'worst' is measured by.

    Raises
    ------
    ConfigError
        for one that the table does not have, with the nearest that it has.
    """
    if by is None:
        return next((name for name in (*DEFAULT, *there) if name in there), "")
    name = by.removeprefix(PREFIX)
    if name in there:
        return name
    near = difflib.get_close_matches(name, there, n=1)
    hint = f"did you mean '{near[0]}'? " if near else ""
    if name in SCORERS:
        hint = f"compute it: sie score --set 'importance.scorers=[{', '.join([*there, name])}]'; "
    raise ConfigError(
        f"--by {by!r}: table scores has no such score", remedy=f"{hint}it has {', '.join(there)}"
    )


def low_is_worst(name: str) -> bool:
    """Whether the rows of lowest score are the worst: of a signed audit, where a negative row harms."""
    scorer = SCORERS.get(name)
    return scorer is not None and scorer.signed and "audit" in scorer.uses


def worst(scores: DataFrame, name: str, count: int) -> list[dict[str, Any]]:
    """The ``count`` worst rows by a score, the worst first: id, date, label, p and the score; no shuffle."""
    from pyspark.sql import functions as F

    column = score_column(name)
    order = F.asc(column) if low_is_worst(name) else F.desc(column)
    rows = scores.select("sample_id", "event_date", "label", "p", column).orderBy(order, "sample_id")
    return [{**row.asDict(), "score": row[column]} for row in rows.limit(count).collect()]


def standings(scores: DataFrame, sample_id: int, date: str) -> tuple[list[Standing], float | None]:
    """Each score of a row with its rank, and the pilot's p: one look at its day, one aggregate over the table.

    Nothing where the row was not scored.
    """
    from pyspark.sql import functions as F

    names = scores_there(scores)
    columns = [score_column(name) for name in names]
    row = (
        scores.where(union_of_dates([date]))
        .where(F.col("sample_id") == F.lit(sample_id))
        .select("label", "p", *columns)
        .first()
    )
    if row is None:
        return [], None
    same = F.col("label") == F.lit(row["label"])
    counts = [F.count(F.lit(1)).alias("rows"), F.count_if(same).alias("class")]
    for at, column in enumerate(columns):
        higher = F.col(column) > F.lit(row[column])
        counts += [F.count_if(higher).alias(f"above_{at}"), F.count_if(higher & same).alias(f"class_{at}")]
    total = scores.agg(*counts).first()
    assert total is not None
    return [
        Standing(
            name,
            float(row[column]),
            int(total[f"above_{at}"]),
            int(total["rows"]),
            int(total[f"class_{at}"]),
            int(total["class"]),
        )
        for at, (name, column) in enumerate(zip(names, columns, strict=True))
    ], float(row["p"])


def kept_by_arms(ctx: Context, sample_id: int, split: str, date: str) -> list[dict[str, Any]]:
    """Arm, policy, inclusion probability and weight of the arms that kept the row; none without a training set."""
    from pyspark.sql import functions as F

    if split == "test" or not ctx.catalog.exists("training_set"):
        return []
    rows = (
        ctx.catalog.read("training_set")
        .where(f"split = '{split}'")
        .where(union_of_dates([date]))
        .where(F.col("sample_id") == F.lit(sample_id))
        .select("arm", "policy", "pi", "weight", "offset")
        .collect()  # arms at most
    )
    return [row.asDict() for row in sorted(rows, key=lambda row: row["arm"])]


def check_scored(found: list[Standing], sample_id: int) -> None:
    """Raise where a row of samples is not among the scores: they are of other rows."""
    if not found:
        raise StageOrderError(
            f"sample {sample_id} is in samples and not in scores: these are of other rows",
            remedy="run 'sie score' with the same --root and --config first",
        )
