"""Finding rows by id or by score, where they stand among all scored rows, and with what probability arms kept them."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sie_spark.explanation.explain import WHERE_IDS_ARE
from sie_spark.importance.registry import SCORERS
from sie_spark.importance.worker import score_column
from sie_spark.platform.catalog import union_of_dates
from sie_spark.platform.context import Context
from sie_spark.platform.errors import ConfigError, DataError, SieError, StageOrderError

if TYPE_CHECKING:
    import pyarrow as pa
    from pyspark.sql import DataFrame

PREFIX = "score_"
DEFAULT = ("loss", "error")


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


def find(frame: DataFrame, sample_id: int, *, dates: str = "true") -> pa.Table:
    """The row of an id with all its columns: an Arrow table of one row, or of none."""
    from pyspark.sql import functions as F

    # without limit(1), which would look into one file after the other
    return frame.where(dates).where(F.col("sample_id") == F.lit(sample_id)).toArrow()


def require(found: pa.Table, sample_id: int, where: str) -> None:
    """Raise where no row was found.

    Raises
    ------
    DataError
        saying where ids are found.
    """
    if not found.num_rows:
        raise DataError(f"no row of {where} has sample_id {sample_id}", remedy=WHERE_IDS_ARE)


def why_not_scored(samples: DataFrame, sample_id: int, where: str) -> SieError:
    """What to say of an id that table scores does not have."""
    found = find(samples, sample_id)
    require(found, sample_id, where)
    if found.column("split")[0].as_py() == "test":
        return DataError(
            f"sample {sample_id} is a test row: no score looks at it",
            remedy=f"sie explain --query-row={sample_id}",
        )
    return StageOrderError(
        f"sample {sample_id} is in samples and not in scores: these are of other rows",
        remedy="run 'sie score' with the same --root and --config first",
    )


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
    return name in SCORERS and SCORERS[name].signed and "audit" in SCORERS[name].uses


def worst_rows(scores: DataFrame, name: str, count: int) -> list[dict[str, Any]]:
    """The ``count`` worst rows by a score, the worst first: id, date, label, p and the score; no shuffle."""
    from pyspark.sql import functions as F

    column = score_column(name)
    order = F.asc(column) if low_is_worst(name) else F.desc(column)
    rows = scores.select("sample_id", "event_date", "label", "p", column).orderBy(order, "sample_id")
    return [{**row.asDict(), "score": row[column]} for row in rows.limit(count).collect()]


def standings(scores: DataFrame, row: pa.Table) -> list[Standing]:
    """Each score of a row of the table with its rank: one aggregate over the whole table."""
    from pyspark.sql import functions as F

    names = scores_there(scores)
    same = F.col("label") == F.lit(row.column("label")[0].as_py())
    counts = [F.count(F.lit(1)).alias("rows"), F.count_if(same).alias("class")]
    values = {name: row.column(score_column(name))[0].as_py() for name in names}
    for at, (name, value) in enumerate(values.items()):
        higher = F.col(score_column(name)) > F.lit(value)
        counts += [F.count_if(higher).alias(f"above_{at}"), F.count_if(higher & same).alias(f"class_{at}")]
    (total,) = scores.agg(*counts).collect()
    return [
        Standing(name, value, total[f"above_{at}"], total["rows"], total[f"class_{at}"], total["class"])
        for at, (name, value) in enumerate(values.items())
    ]


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
