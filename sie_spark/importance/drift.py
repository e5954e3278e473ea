"""Whether new dates still look as those did that the models and scores were made of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from sie_spark.metrics.ranking import auc

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame

BINS = 10
SHIFTED = 0.2  # population stability index from which on two distributions are usually called different
DROP = 0.02  # of the AUC
LEAST = 1e-4  # share of a bin that is empty
FINE = 20  # bins a logit of the histogram that the AUC is counted in
RANGE = 20  # logits to both sides


@dataclass(frozen=True)
class Drift:
    """New dates against those before them.

    Parameters
    ----------
    psi:
        column -> population stability index of its values, by deciles of the earlier dates.
    auc, auc_before:
        of the reference, or of the pilot where there is none, on new dates and on the validation rows before them;
        None where a class is missing. ``error``: the standard error of their difference.
    """

    psi: dict[str, float]
    auc: float | None
    auc_before: float | None
    error: float

    def cautions(self) -> list[str]:
        """What speaks for fitting the models anew."""
        moved = {name: value for name, value in self.psi.items() if value > SHIFTED}
        said = []
        if moved:
            worst = max(moved, key=lambda name: moved[name])
            said.append(
                f"Scores of the new dates are spread differently from those before ({len(moved)} of {len(self.psi)}"
                f" columns; {worst}: population stability index {moved[worst]:.2f}): set reference.refit_after=0 for"
                " a run, or to drift."
            )
        if self.auc is not None and self.auc_before is not None:
            drop = self.auc_before - self.auc
            if drop > DROP and drop > 2 * self.error:
                said.append(
                    f"The model behind the scores ranks the new dates worse than the validation rows before them: AUC"
                    f" {self.auc:.4f} against {self.auc_before:.4f}; fit it anew (reference.refit_after)."
                )
        return said

    def as_dict(self) -> dict[str, Any]:
        """Plain data for the report."""
        return {
            "psi": self.psi,
            "auc": self.auc,
            "auc_before": self.auc_before,
            "found": bool(self.cautions()),
        }


def find_drift(scores: DataFrame, new: str, columns: Sequence[str], judged: DataFrame) -> Drift:
    """Compare the dates of a predicate with the others.

    Parameters
    ----------
    scores:
        table ``scores``.
    new:
        predicate over ``event_date``.
    columns:
        to be compared.
    judged:
        rows of both kinds with label, ``p`` and ``new`` (boolean), not seen by the model in its fit where not new.
    """
    before = scores.where(f"NOT ({new})")
    cuts = _cuts(before, columns)
    shares = [_shares(rows, cuts) for rows in (before, scores.where(new))]
    psi = {
        name: stability(shares[0][name], shares[1][name])
        for name in cuts
        if shares[0][name].sum() and shares[1][name].sum()
    }
    ranked = [_ranked(judged, new=kind) for kind in (True, False)]
    newer, older = (None if counts is None else float(auc(*counts)) for counts in ranked)
    error = float(np.sqrt(sum(_variance(counts) for counts in ranked if counts is not None)))
    return Drift(psi, newer, older, error)


def stability(expected: np.ndarray, found: np.ndarray) -> float:
    """The population stability index ``sum (a - b) log(a / b)`` of two histograms, counts [B] each."""
    a, b = (np.maximum(counts / counts.sum(), LEAST) for counts in (found, expected))
    return float(((a - b) * np.log(a / b)).sum())


def _cuts(rows: DataFrame, columns: Sequence[str]) -> dict[str, list[float]]:
    from pyspark.sql import functions as F

    at = [F.lit(step / BINS) for step in range(1, BINS)]
    found = rows.agg(*[F.percentile_approx(name, F.array(*at)).alias(name) for name in columns]).first()
    return {name: sorted(set(found[name])) for name in columns if found is not None and found[name]}


def _shares(rows: DataFrame, cuts: Mapping[str, Sequence[float]]) -> dict[str, np.ndarray]:
    """Column -> rows by bin, counted in one pass."""
    from pyspark.sql import functions as F

    def inside(name: str, bin: int) -> Column:
        edges, column = cuts[name], F.col(name)
        above = column > edges[bin - 1] if bin else F.lit(True)
        return above & (column <= edges[bin] if bin < len(edges) else F.lit(True))

    asked = [
        F.count_if(inside(name, bin)).alias(f"{name}:{bin}")
        for name in cuts
        for bin in range(len(cuts[name]) + 1)
    ]
    found = rows.agg(*asked).first()
    assert found is not None
    return {
        name: np.array([found[f"{name}:{bin}"] for bin in range(len(cuts[name]) + 1)], float) for name in cuts
    }


def _ranked(rows: DataFrame, *, new: bool) -> tuple[np.ndarray, np.ndarray] | None:
    """Positives and negatives by bin of the logit; None where a class is missing."""
    from pyspark.sql import functions as F

    p = F.greatest(F.least(F.col("p"), F.lit(1 - 1e-9)), F.lit(1e-9))
    bin = F.floor(F.greatest(F.least(F.log(p / (1 - p)), F.lit(RANGE)), F.lit(-RANGE)) * FINE).cast("int")
    counted = (
        rows.where(F.col("new") == F.lit(new))
        .groupBy(bin.alias("bin"))
        .agg(F.count_if(F.col("label") > 0), F.count_if(F.col("label") <= 0))
        .collect()  # a row a bin
    )
    counts = np.array([[positive, negative] for _, positive, negative in sorted(counted)], float).reshape(
        -1, 2
    )
    return (counts[:, 0], counts[:, 1]) if len(counts) and counts.sum(axis=0).min() > 0 else None


def _variance(counts: tuple[np.ndarray, np.ndarray]) -> float:
    """Of an AUC (Hanley & McNeil 1982)."""
    a, (m, n) = float(auc(*counts)), (float(part.sum()) for part in counts)
    q1, q2 = a / (2 - a), 2 * a * a / (1 + a)
    return (a * (1 - a) + (m - 1) * (q1 - a * a) + (n - 1) * (q2 - a * a)) / (m * n)
