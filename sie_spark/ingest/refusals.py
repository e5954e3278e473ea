"""What a source as a whole is refused for, before anything of it is visible, or doubted: no row's reason can say it."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from sie_spark.ingest.canonical import UNPARSABLE, judged_by, outcome_columns
from sie_spark.ingest.examples import (
    duplicate_examples,
    outcome_texts,
    rejected_examples,
    some_outcomes,
    unparsed_lines,
)
from sie_spark.ingest.outcomes import mapping, named, reason_of
from sie_spark.ingest.staging import BAD, DRIFTED, Counts, staged
from sie_spark.ingest.tolerance import NOTABLE, OWN_RULES, go_on, part, percent
from sie_spark.ingest.unparsed import diagnosis
from sie_spark.platform.config import Dataset, Source
from sie_spark.platform.errors import SourceError
from sie_spark.sources.drift import NEW_COLUMN, REPEATED, REPLACED, Raw

if TYPE_CHECKING:
    from sie_spark.platform.context import Context

TOP = 3  # reasons that are named
ENOUGH_ROWS = 100  # a JSON column that none of so many records has is missing
# by the reason that every row is rejected for
WHAT_TO_MEND = {
    "event_ts:required": "check dataset.event_time: its expression is null, or reads otherwise than its format says",
    "event_ts:absurd": "check dataset.event_time.format: read so, the times lie before 1990 or after 2099",
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


def check_read(settings: Source, counts: Counts) -> None:
    """Refuse a source without records, or without any of the asked dates."""
    source = settings.path
    if counts.read == 0 and counts.outside == 0:
        raise SourceError(f"{source}: holds no records", remedy="check the source: its files are empty")
    if counts.read == 0:
        raise SourceError(
            f"{source}: none of its {counts.outside:,} records lie in the asked dates",
            remedy="check run.date_from and run.date_to",
        )


def check_shares(ctx: Context, fingerprint: str, counts: Counts, duplicates: int) -> None:
    """Refuse a batch of which too much cannot be used: more than ``dataset.tolerate``, or every row of it.

    Parameters
    ----------
    fingerprint:
        of the staged batch, which examples are taken from.
    duplicates:
        accepted rows that the batch holds already.

    Raises
    ------
    SourceError
        with the most frequent reasons, examples that name nobody, and how to go on.
    """
    dataset, read = ctx.config.dataset, counts.read
    rows = {"unreadable": counts.unreadable, "unclear": counts.unclear, "duplicate": duplicates}
    over = {kind: number for kind, number in rows.items() if number > dataset.tolerate * read}
    # a whole delivery with a drifted column is what on_new_column and its like asked to quarantine
    nothing_left = counts.rejected - counts.drifted == read >= ALL_ROWS_WRONG
    if nothing_left and not over:
        over = {kind: number for kind, number in rows.items() if number} or {"ruled_out": counts.ruled_out}
    if not over:
        return
    looks = {
        "unreadable": _unreadable,
        "unclear": _unclear,
        "duplicate": _duplicate,
        "ruled_out": _ruled_out,
    }
    found = [looks[kind](ctx, fingerprint, counts, number) for kind, number in over.items()]
    remedies = list(dict.fromkeys(remedy for _, remedy in found))
    if not nothing_left:
        remedies.append(f"to go on without these records, {go_on(max(over.values()) / read)}")
    allowed = f"; dataset.tolerate allows {percent(dataset.tolerate)} of each" if not nothing_left else ""
    raise SourceError(
        f"{dataset.source.path}: {'; '.join(said for said, _ in found)}{allowed}; nothing was made visible",
        remedy="; ".join(remedies),
    )


def _unreadable(ctx: Context, fingerprint: str, counts: Counts, number: int) -> tuple[str, str]:
    dataset, rows = ctx.config.dataset, staged(ctx, fingerprint)
    own, outcomes = judged_by(dataset)
    reasons = {
        reason: n
        for reason, n in counts.reasons.items()
        if reason not in (*own, *outcomes) and not re.match(DRIFTED, reason)
    }
    worst = sorted(reasons, key=lambda reason: _blame(reason, counts), reverse=True)
    remedies = [_what_to_mend(ctx, fingerprint, counts, reason) for reason in worst[:1]]
    said = _with_examples(rows, {reason: reasons[reason] for reason in worst}, dataset)
    return f"{part(number, counts.read, 'records')} cannot be read as the data set says: {said}", remedies[0]


def _unclear(ctx: Context, fingerprint: str, counts: Counts, number: int) -> tuple[str, str]:
    said, lines = _outcomes(ctx, fingerprint, counts, counted=True)
    what = f"{part(number, counts.read, 'records')} have an outcome that is neither 0 nor 1: {said}"
    return what, f"say what is meant, {lines}"


def _duplicate(ctx: Context, fingerprint: str, counts: Counts, number: int) -> tuple[str, str]:
    dataset = ctx.config.dataset
    examples = "; ".join(duplicate_examples(ctx, fingerprint))
    if dataset.event_key:
        same, others = (
            f"have the dataset.event_key ({', '.join(dataset.event_key)}) of another one",
            (
                "name the columns in dataset.event_key that tell them apart"
                + (", or leave it out: every row of a table counts then" if dataset.kind == "tabular" else "")
            ),
        )
    else:
        same, others = (
            "are equal to another one",
            "equal records are one event"
            + (
                "; where each of them counts, set dataset.kind: tabular"
                if dataset.kind == "impressions"
                else ""
            ),
        )
    return f"{part(number, counts.read, 'records')} {same} of this delivery: {examples}", others


def _ruled_out(ctx: Context, fingerprint: str, counts: Counts, number: int) -> tuple[str, str]:
    rows, dataset = staged(ctx, fingerprint), ctx.config.dataset
    broken = own_reasons(ctx, counts)
    said = _with_examples(rows, broken, dataset)
    return (
        f"{part(number, counts.read, 'records')} break the rules of the data set: {said}",
        "the columns or the rules in the YAML do not fit this source",
    )


def own_reasons(ctx: Context, counts: Counts) -> dict[str, int]:
    """How many rows break each of the user's rules, the most frequent first."""
    own, _ = judged_by(ctx.config.dataset)
    return {
        name: counts.reasons[name]
        for name in sorted(own, key=lambda name: -counts.reasons.get(name, 0))
        if name in counts.reasons
    }


def _with_examples(rows: DataFrame, reasons: dict[str, int], dataset: Dataset) -> str:
    """The top reasons, how often each comes, and examples."""
    said = []
    for reason, number in list(reasons.items())[:TOP]:
        examples = " | ".join(rejected_examples(rows, reason, dataset))
        said.append(
            f"'{reason}' {number:,} times, such as {examples}" if examples else f"'{reason}' {number:,} times"
        )
    return "; ".join(said)


def _outcomes(ctx: Context, fingerprint: str, counts: Counts, *, counted: bool) -> tuple[str, str]:
    """What the outcome columns hold beside 0 and 1, in words, and the settings that map it."""
    dataset, rows = ctx.config.dataset, staged(ctx, fingerprint)
    said, lines = [], []
    for name in outcome_columns(dataset):
        reason = reason_of(name)
        if reason not in counts.reasons:
            continue
        sql, kind = dataset.columns[name], rows.schema[name].dataType.simpleString()
        values = outcome_texts(rows, name, dataset) if counted else some_outcomes(rows, name, reason, dataset)
        if told := named(values):
            said.append(f"'{reason}', where {sql} is {told}")
            lines.append(mapping(f"dataset.columns.{name}", sql, values, kind, keep=True))
    return "; ".join(said), " and ".join(lines)


def _what_to_mend(ctx: Context, fingerprint: str, counts: Counts, reason: str) -> str:
    source = ctx.config.dataset.source
    if reason == UNPARSABLE:
        return why_unparsed(ctx, fingerprint, counts) or "check dataset.source.format and source.options"
    if reason.startswith("type:"):
        name = reason.removeprefix("type:")
        return (
            f"declare '{name}' in dataset.source.columns as what it holds: of 1.0 a DOUBLE, else a STRING"
            + ("" if source.format in ("csv", "json") else ", and cast it in dataset.columns")
        )
    return WHAT_TO_MEND.get(reason, f"check dataset.columns.{reason.partition(':')[0]}")


def why_unparsed(ctx: Context, fingerprint: str, counts: Counts) -> str:
    """Why records of a staged batch cannot be parsed, where they tell."""
    if not counts.reasons.get(UNPARSABLE):
        return ""
    lines = unparsed_lines(staged(ctx, fingerprint))
    return diagnosis(lines, ctx.config.dataset.source, counts.fields)


def _blame(reason: str, counts: Counts) -> tuple[bool, int]:
    """Most rows first; a column that could not be read before what is wrong with the null that it left."""
    rows = counts.reasons[reason]
    return reason.startswith("type:") and 2 * rows > counts.read, rows


def cautions(ctx: Context, fingerprint: str, counts: Counts, duplicates: int) -> list[str]:
    """What a reader of the result must know of the records that are in quarantine, or stayed."""
    read, said = counts.read, []
    if number := counts.warnings.get(REPLACED):
        given = {name.lower(): value for name, value in ctx.config.dataset.source.options.items()}
        encoding = given.get("encoding", given.get("charset", "UTF-8"))
        said.append(
            f"{number:,} records hold the letter U+FFFD, which stands for bytes that are not {encoding}: set"
            " dataset.source.options.encoding to the file's own (ISO-8859-1, perhaps)."
        )
    if counts.unclear:
        told, lines = _outcomes(ctx, fingerprint, counts, counted=False)
        found = part(counts.unclear, read, "records")
        said.append(
            f"{found} are in quarantine for an outcome that is neither 0 nor 1: {told}. Say what is meant, {lines}."
        )
    if counts.unreadable > NOTABLE * read:
        said.append(f"{part(counts.unreadable, read, 'records')} cannot be read as the data set says.")
    torn = counts.reasons.get(UNPARSABLE, 0)
    if torn > 1 and (why := why_unparsed(ctx, fingerprint, counts)):  # one line alone is a log that was cut
        said.append(f"{part(torn, read, 'records')} cannot be parsed: {why}.")
    if twice := counts.reasons.get(REPEATED):
        said.append(
            f"{twice:,} records say a key twice, with two values: nobody can tell which is meant, and they are set aside"
            f" (reason '{REPEATED}' in quarantine, and which key)."
        )
    if duplicates > NOTABLE * read:
        found = part(duplicates, read, "records")
        said.append(f"{found} are duplicates within the delivery, and were dropped.")
    if counts.ruled_out > OWN_RULES * read:
        broken = ", ".join(f"{name} {n:,}" for name, n in own_reasons(ctx, counts).items())
        said.append(f"The data set's own rules reject {part(counts.ruled_out, read, 'records')}: {broken}.")
    said += [
        f"Quality warning '{name}': {rows:,} rows (kept)."
        for name, rows in sorted(counts.warnings.items())
        if name != REPLACED
    ]
    return said
