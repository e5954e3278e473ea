"""What a source as a whole is refused for, before anything of it is visible, or doubted: no row's reason can say it."""

from __future__ import annotations

from typing import Any

from pyspark.sql import Column
from pyspark.sql import functions as F

from sie_spark.clickstream.drift import NEW_COLUMN, REPEATED, REPLACED, Raw
from sie_spark.clickstream.staging import BAD, Counts
from sie_spark.platform.config import Source
from sie_spark.platform.errors import SourceError

ENOUGH_ROWS = 100  # a JSON column that none of so many records has is missing
# by the reason that every row is rejected for
WHAT_TO_MEND = {
    "event_ts:required": "check dataset.event_time: its expression is null, or reads otherwise than its format says",
    "event_ts:absurd": "check dataset.event_time.format: read so, the times lie before 1990 or after 2099",
    "label:not 0 or 1": "make dataset.columns.label 0 or 1, e.g. cast(clicks > 0 AS INT)",
    REPEATED: "each record says a key twice, with two values (a reason in quarantine names it): mend what writes them",
    "sampling_rate:not in (0, 1]": "make dataset.sampling_rate a probability: of percents, percent / 100",
}
ALL_ROWS_WRONG = 20  # a column whose every value has another type, over at least so many rows, was retyped


class ColumnsSeen:
    """What only a pass over JSON can tell of its columns: some never came, others nobody declared."""

    def __init__(self, raw: Raw, settings: Source) -> None:
        self.settings = settings
        self.bits = raw.bits
        self.measures: list[Column] = []
        if not raw.bits:
            return
        self.measures.append(F.count(F.when(F.col("unparsed").isNull(), 1)).alias("parsed"))
        self.measures += [F.bit_or(mask).alias(mask) for mask in raw.masks]
        if settings.on_new_column == "refuse":
            new = F.array_max(F.filter("reasons", lambda reason: reason.startswith(NEW_COLUMN)))
            self.measures.append(F.max(F.when(F.col(BAD), new)).alias("new"))

    def check(self, saw: dict[str, Any]) -> None:
        """Refuse, where the settings say so, before anything is visible."""
        settings = self.settings
        if saw.get("new"):
            raise SourceError(
                f"{settings.path}: a new column '{saw['new'].removeprefix(NEW_COLUMN)}',"
                " not in dataset.source.columns",
                remedy="declare it, or set source.on_new_column to ignore, add or quarantine",
            )
        absent = [name for name, (mask, bit) in self.bits.items() if not (saw[mask] or 0) >> bit & 1]
        if absent and saw["parsed"] >= ENOUGH_ROWS and settings.on_missing_column == "refuse":
            raise SourceError(
                f"{settings.path}: declared column(s) {', '.join(absent)} are in none of its records",
                remedy="mend the source or dataset.source.columns, or set source.on_missing_column to null",
            )


def check_counts(settings: Source, counts: Counts) -> None:
    """Refuse an empty source, and one that is of another kind altogether.

    Raises
    ------
    SourceError
        naming the reason that most rows are rejected for, and what to mend.
    """
    source = settings.path
    if counts.read == 0 and counts.outside == 0:
        raise SourceError(f"{source}: holds no records", remedy="check the source: its files are empty")
    if counts.read == 0:
        raise SourceError(
            f"{source}: none of its {counts.outside:,} records lie in the asked dates",
            remedy="check run.date_from and run.date_to",
        )
    unparsed = counts.reasons.get("unparsable", 0)
    if unparsed == counts.read >= ALL_ROWS_WRONG:
        raise SourceError(
            f"{source}: no record can be parsed as {settings.format}",
            remedy="check dataset.source.format and source.options",
        )
    # a whole delivery with a drifted column is what on_new_column and its like asked to quarantine
    if counts.rejected - counts.drifted == counts.read >= ALL_ROWS_WRONG:
        worst = max(counts.reasons, key=lambda reason: _blame(reason, counts), default="unknown")
        retyped = worst.removeprefix("type:")
        raise SourceError(
            f"{source}: every one of {counts.read:,} rows is rejected, mostly for '{worst}'",
            remedy=f"declare '{retyped}' in dataset.source.columns as what it holds: of 1.0 a DOUBLE, else a STRING"
            if retyped != worst
            else WHAT_TO_MEND.get(worst, "the columns or the rules in the YAML do not fit this source"),
        )
    if settings.on_type_change != "refuse":
        return
    for reason, rows in counts.reasons.items():
        if reason.startswith("type:") and rows == counts.read - unparsed >= ALL_ROWS_WRONG:
            raise SourceError(
                f"{source}: every value of column '{reason[5:]}' has another type than declared",
                remedy="correct dataset.source.columns, or set source.on_type_change to quarantine",
            )


def _blame(reason: str, counts: Counts) -> tuple[bool, int]:
    """Most rows first; a column that could not be read before what is wrong with the null that it left."""
    rows = counts.reasons[reason]
    return reason.startswith("type:") and 2 * rows > counts.read, rows


def doubts(settings: Source, counts: Counts) -> list[str]:
    """What to set where a CSV was perhaps read otherwise than it was written."""
    said, given = [], {name.lower(): value for name, value in settings.options.items()}
    if number := counts.warnings.get(REPLACED):
        encoding = given.get("encoding", given.get("charset", "UTF-8"))
        said.append(
            f"{number:,} records hold the letter U+FFFD, which stands for bytes that are not {encoding}: set"
            " dataset.source.options.encoding to the file's own (ISO-8859-1, perhaps)"
        )
    number = counts.reasons.get("unparsable", 0)
    if number and settings.format == "csv" and given.get("multiline", "false").lower() == "false":
        said.append(
            f"{number:,} lines of the CSV cannot be parsed: where fields in quotes hold line breaks set"
            " dataset.source.options.multiLine: 'true'"
        )
    return said
