"""A bounded uniform sample of the scores, on which the policies' constants are solved."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from sie_spark.platform.draws import Draw, uniform_column
from sie_spark.platform.errors import DataError
from sie_spark.weighting.terms import Row

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

MOST_ROWS = 200_000
RARITY = "rarity"  # the scorer behind a row's least inclusion probability


@dataclass(frozen=True)
class SolvingSample:
    """What policies read of the sample's rows, float64 [N] each.

    Parameters
    ----------
    rate:
        the log's own sampling rate.
    seen:
        whether the pilot was fitted on the row, bool [N].
    """

    label: np.ndarray
    rate: np.ndarray
    seen: np.ndarray
    p: np.ndarray | None = None
    scores: Mapping[str, np.ndarray] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.label)

    def row(self, score: str | None, id_floor: float = 0.0) -> Row:
        """The rows as a policy sees them."""
        least = np.minimum(1.0, id_floor * self.scores[RARITY]) if id_floor else None
        return Row(self.label, self.p, None if score is None else self.scores[score], least)


def solving_sample(
    scores: DataFrame, columns: Collection[str], *, rows: int, seed: int, pilot: Draw
) -> SolvingSample:
    """About ``MOST_ROWS`` rows at most, by a draw of their own (purpose ``solve``), in the order of their ids.

    Parameters
    ----------
    columns:
        those that the arms' policies read, see :attr:`Plan.columns`.
    pilot:
        the rows that the pilot was fitted on.

    Raises
    ------
    DataError
        when the table is empty.
    """
    from pyspark.sql import functions as F

    if rows > MOST_ROWS:
        draw = uniform_column(F.col("sample_id"), seed=seed, purpose="solve")
        scores = scores.where(draw < MOST_ROWS / rows)
    names = sorted({"label", "sampling_rate", *columns})
    table = (
        scores.select("sample_id", *[F.col(name).cast("double") for name in names])
        .limit(2 * MOST_ROWS)
        .toArrow()
    )
    if not table.num_rows:
        raise DataError("'scores' is empty", remedy="check the split: no row lies before the cut")
    table = table.sort_by("sample_id")
    found = {name: table.column(name).to_numpy() for name in names}
    return SolvingSample(
        label=found["label"],
        rate=found["sampling_rate"],
        seen=pilot.keeps(table.column("sample_id").to_numpy()),
        p=found.get("p"),
        scores={name.removeprefix("score_"): values for name, values in found.items() if "score_" in name},
    )
