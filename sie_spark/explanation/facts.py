"""What is known of an explained row, as plain data, and how its parts are said: pure."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from sie_spark.explanation.neighbours import Neighbour
from sie_spark.explanation.rows import Standing
from sie_spark.explanation.shares import REMOVAL, Shares
from sie_spark.report.words import percent, readable

NO_DAY = "1970-01-01"  # what a table without times has for every row


@dataclass(frozen=True)
class Explained:
    """One row, explained.

    Parameters
    ----------
    p, loss:
        of the reference, as audits read it.
    pilot_p:
        what stands beside the scores; None for a row without scores.
    columns:
        model input -> column of impressions that it is made of.
    words:
        sample_id -> feature columns with their values: of the row, its neighbours and the worst rows.
    how:
        by what neighbours are nearest.
    share:
        of the training rows that were candidates.
    rows, by, lowest:
        the worst rows, the score they are worst in, and whether low is worst.
    """

    dataset: str
    sample_id: int
    split: str
    date: str
    label_name: str
    label: float
    loss: float
    p: float
    pilot_p: float | None
    columns: dict[str, str]
    words: dict[int, dict[str, Any]]
    shares: Shares
    standings: list[Standing]
    arms: list[dict[str, Any]]
    helpful: list[Neighbour]
    harmful: list[Neighbour]
    how: str
    share: float = 1.0
    rows: list[dict[str, Any]] = field(default_factory=list)
    by: str = ""
    lowest: bool = False

    def outcome(self, label: float) -> str:
        """A label in words: click, no click."""
        return self.label_name if label else f"no {self.label_name}"

    def headline(self) -> str:
        """The row and what the reference made of it."""
        return f"{self.outcome(self.label)}, predicted {self.p:.3f}: loss {self.loss:.3g}"

    def where(self) -> str:
        """Id, part of the samples and day."""
        day = "" if self.date == NO_DAY else f", {self.date}"
        return f"sample {self.sample_id} ({self.split} row{day})"

    def kept(self) -> str:
        """Which arms kept the row, and with what probability."""
        if not self.arms:
            return "no arm kept it" if self.standings else ""
        said = [
            f"arm {one['arm']} kept it with probability {one['pi']:.3g} (weight {one['weight']:.3g})"
            for one in self.arms
        ]
        return "; ".join(said)

    def value_of(self, name: str) -> str:
        """The value of a model input before it was encoded; empty where it is not kept in words."""
        found = self.words.get(self.sample_id, {}).get(self.columns.get(name, name))
        if isinstance(found, float):
            return f"{found:.4g}"
        if isinstance(found, list):
            return ", ".join(map(str, found))
        return "" if found is None else str(found)

    def said(self, sample_id: int, values: int = 8) -> str:
        """A row in one line, by some of its values."""
        return readable(self.words.get(sample_id, {}), values)

    def fields(self) -> list[tuple[str, str, float]]:
        """Model input, value and share, the largest first."""
        ordered = sorted(self.shares.fields.items(), key=lambda item: -item[1])
        return [(name, self.value_of(name), share) for name, share in ordered]

    def layers(self) -> list[tuple[str, float]]:
        """Layer and share, the largest first."""
        return sorted(self.shares.layers.items(), key=lambda item: -item[1])

    def about_fields(self) -> str:
        """How shares of fields are defined, and what they leave out."""
        if self.shares.how == REMOVAL or self.shares.of_gradient is None:
            return (
                "Share of the squared change of the logit where the field is taken away: the first layers of a model of"
                " your own are not known."
            )
        return (
            "Share of the squared gradient: of ids the rows of embedding tables they touched, of numbers the columns of"
            f" first layers they feed. Fields account for {percent(self.shares.of_gradient)} of the whole; the rest lies"
            " in hidden layers, biases and what first layers do with embeddings."
        )

    def about_neighbours(self) -> str:
        """How neighbours were looked for."""
        rows = (
            "all training rows"
            if self.share == 1.0
            else f"a draw of {percent(self.share)} of the training rows"
        )
        return (
            f"Looked for among {rows}, by {self.how}. Positive: a step on that row lowers the loss here. Rows with the same"
            " inputs and label are counted together. p is the reference's."
        )

    def about_scores(self) -> str:
        """How ranks are meant."""
        return (
            "Rank 1 is the highest value; in class: among rows with the same label. Scores are of the pilot or the"
            " reference, as the catalogue says."
        )

    def worst_title(self) -> str:
        """Title of the list of worst rows."""
        return f"The {len(self.rows)} rows {'lowest' if self.lowest else 'highest'} in {self.by}"

    def as_dict(self) -> dict[str, Any]:
        """Plain data for MLflow: what was asked and found, without the rows' values."""
        return {
            "sample_id": str(self.sample_id),
            "split": self.split,
            "label": self.label,
            "loss": self.loss,
            "p": self.p,
            "fields": self.shares.fields,
            "layers": self.shares.layers,
            "helpful": {str(one.sample_id): one.value for one in self.helpful},
            "harmful": {str(one.sample_id): one.value for one in self.harmful},
            "how": self.how,
            "by": self.by,
        }


def influence(value: float) -> str:
    """+0.0123, -76,500: three digits and a sign."""
    return f"{value:+,.0f}" if abs(value) >= 1000 else f"{value:+.3g}"


def rank(standing: Standing) -> str:
    """12 of 250,026."""
    return f"{standing.above + 1:,} of {standing.rows:,}"


def top(standing: Standing, *, in_class: bool) -> str:
    """The share of rows that stand at least as high as this one."""
    above, rows = (standing.in_class, standing.class_rows) if in_class else (standing.above, standing.rows)
    return f"top {percent((above + 1) / rows)}"
