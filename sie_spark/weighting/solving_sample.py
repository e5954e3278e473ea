"""A bounded uniform sample of the scores, on which a policy's constants are solved."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from sie_spark.platform.draws import uniform_column
from sie_spark.platform.errors import ConfigError, DataError
from sie_spark.weighting.terms import Row

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

MOST_ROWS = 200_000


@dataclass(frozen=True)
class SolvingSample:
    """Rows of the sample, and the range of the log's own sampling rate by class."""

    row: Row
    rate: np.ndarray

    def __len__(self) -> int:
        return len(self.row.label)


def solving_sample(scores: DataFrame, column: str, *, rows: int, seed: int) -> SolvingSample:
    """About ``MOST_ROWS`` rows at most, by a draw of their own (purpose ``solve``), in the order of their ids.

    Raises
    ------
    ConfigError
        when the score can be negative, which no policy can turn into a probability.
    DataError
        when the table is empty.
    """
    from pyspark.sql import functions as F

    if rows > MOST_ROWS:
        draw = uniform_column(F.col("sample_id"), seed=seed, purpose="solve")
        scores = scores.where(draw < MOST_ROWS / rows)
    score = F.col(column) if column in scores.columns else F.lit(0.0)
    table = (
        scores.select(
            "sample_id",
            F.col("label").cast("double").alias("label"),
            "p",
            F.col("logit_grad_norm").alias("norm"),
            score.alias("score"),
            F.col("sampling_rate").cast("double").alias("rate"),
        )
        .limit(2 * MOST_ROWS)
        .toArrow()
    )
    if not table.num_rows:
        raise DataError("'scores' is empty", remedy="check the split: no row lies before the cut")
    table = table.sort_by("sample_id")
    label, p, norm, values, rate = (
        table.column(name).to_numpy().astype(float) for name in ("label", "p", "norm", "score", "rate")
    )
    if values.min() < 0:
        raise ConfigError(
            f"weighting.score: '{column.removeprefix('score_')}' takes negative values",
            remedy="choose a score that is at least 0: grad_norm, error, loss or entropy",
        )
    return SolvingSample(Row(label, p, norm, values), rate)
