"""Spark's failures in the user's words: which file, which column, what to do; never a stack trace."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from sie_spark.platform.errors import SieError, SourceError

if TYPE_CHECKING:
    from pyspark.errors import PySparkException

_FILE = re.compile(r"(?:file:|s3a?:|abfss:|gs:|hdfs:)/[^\s,'\"\]\)]+|(?<=file )/[^\s,'\"]+")

# words in Spark's text, what it means, what to do; the first that fits is said
_KNOWN: tuple[tuple[tuple[str, ...], str, str], ...] = (
    (
        ("PATH_NOT_FOUND", "does not exist"),
        "{source}: no such file or directory",
        "check --source (dataset.source.path)",
    ),
    (
        ("UNABLE_TO_INFER_SCHEMA",),
        "{source}: holds no readable files",
        "check the path and source.format",
    ),
    (
        ("not a Parquet file", "CANNOT_READ_FILE_FOOTER", "footer"),
        "{file}: is not a readable Parquet file",
        "check source.format, or fetch the file again: it may be cut off",
    ),
    (
        ("is not a Delta table", "DELTA_MISSING_DELTA_TABLE", "DELTA_TABLE_NOT_FOUND"),
        "{source}: is not a Delta table",
        "check the path and source.format",
    ),
    (
        ("Permission denied", "AccessControlException", "AccessDenied"),
        "{file}: permission denied",
        "give this user the right to read it",
    ),
    (
        ("CSV header does not conform", "Header length"),
        "{file}: its CSV header differs from the other files'",
        "read files of one layout at a time, or mend the header",
    ),
    (
        ("COLUMN_ALREADY_EXISTS",),
        "{source}: a record holds a column twice (or in upper and lower case): {first}",
        "declare dataset.source.columns: the columns are then not inferred from the records",
    ),
    (
        ("CANNOT_MERGE_SCHEMAS", "CANNOT_MERGE_INCOMPATIBLE_DATA_TYPE", "Failed merging schema"),
        "{source}: its files hold a column as different types: {first}",
        "declare dataset.source.columns, and source.on_type_change: cast or quarantine; each file is then judged by itself",
    ),
    (
        ("PARQUET_TYPE_ILLEGAL",),
        "{file}: a column has a type that Spark does not read: {first}",
        "write that column as another type (a time in microseconds, a number, text)",
    ),
    (
        ("INVALID_CHARACTERS_IN_COLUMN_NAMES",),
        "{source}: a nested field's name cannot stand in a table: {first}",
        "map its column as text, to_json(column), or give the fields other names with named_struct",
    ),
    (
        ("UNSUPPORTED_DATA_TYPE_FOR_DATASOURCE", "COMPLEX_TYPE_COLUMN_CONTAINS_NULL_TYPE"),
        "{source}: a column of dataset.columns has a type that a table cannot hold: {first}",
        "cast it there: an interval to seconds, as unix_seconds(a) - unix_seconds(b); an empty array to array<string>",
    ),
    (
        ("INVALID_PARAMETER_VALUE.CHARSET",),
        "{source}: source.options.encoding: {first}",
        "name one of these (ISO-8859-1 is near windows-1252), or convert the files with iconv -t UTF-8",
    ),
    (
        ("DELTA_SOURCE_TABLE_IGNORE_CHANGES", "DELTA_SOURCE_IGNORE_DELETE"),
        "{source}: rows of it were changed or deleted since it was read: {first}",
        "an incremental source is one that is only added to: set source.incremental: false, or pass over such commits"
        " with source.options.skipChangeCommits: 'true'",
    ),
    (
        ("TextParsingException", "maximum number of columns"),
        "{file}: a line has more fields, or a longer one, than the CSV reader takes",
        "raise source.options.maxColumns or maxCharsPerColumn, or mend that line",
    ),
    (
        ("overflow", "ArithmeticException", "CAST_INVALID_INPUT"),
        "{source}: an expression in the data set's YAML failed on a record: {first}",
        "use functions that give null instead (try_cast, try_divide, ...), and dataset.event_time",
    ),
    (
        ("FAILED_READ_FILE", "EOFException", "ZipException", "ZLIB"),
        "{file}: cannot be read to its end",
        "fetch the file again: it is damaged",
    ),
)


@contextmanager
def readable(source: str) -> Iterator[None]:
    """Turn what Spark raises while it reads ``source`` into a :class:`SourceError`."""
    from py4j.protocol import Py4JError
    from pyspark.errors import PySparkException

    try:
        yield
    except SieError:
        raise
    except (PySparkException, Py4JError) as error:
        raise explain(error, source) from None


def explain(error: Exception, source: str) -> SourceError:
    """The :class:`SourceError` that says what one of Spark's exceptions means for this source."""
    text = str(error)
    first = reason(error)
    files = [file.rstrip(".:;") for file in _FILE.findall(text) if "/_staging/" not in file]
    where = files[0] if files else source
    place = {"source": source, "file": where, "first": first}
    for words, message, remedy in _KNOWN:
        if any(word in text for word in words):
            return SourceError(message.format(**place), remedy=remedy)
    return SourceError(
        f"{where}: cannot be read, or not as the data set's YAML says: {first}",
        remedy="check the file and source.format; where it is about a value, the expressions of dataset.columns and"
        " rules: functions named try_ (try_parse_json, try_to_binary) give null instead",
    )


def reason(error: Exception) -> str:
    """The line that says why: of a failed call to the JVM the innermost cause, else the first that is not empty."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    first = next(iter(lines), type(error).__name__)
    if first.startswith("An error occurred while calling"):
        causes = [line for line in lines[1:] if line.startswith((": ", "Caused by: "))]
        first = (
            re.sub(r"^(?:Caused by)?: (?:[\w.$]+(?:Exception|Error): )?", "", causes[-1]) if causes else first
        )
    detail = next((line for line in lines if line.startswith("Invalid column names")), "")
    return f"{first} {detail}".strip()[:300]


def unresolved_column(error: PySparkException) -> str | None:
    """The column that an expression names and its source lacks, if this is what Spark has against it."""
    if not (error.getCondition() or "").startswith("UNRESOLVED_COLUMN"):
        return None
    return (error.getMessageParameters() or {}).get("objectName", "").replace("`", "") or None


def nearest(name: str, names: Sequence[str]) -> str:
    """A hint such as "did you mean 'x'?", or the list of names."""
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    if near and not near[0].isidentifier():
        return f"did you mean '{near[0]}'? In SQL such a name stands in backticks: `{near[0]}`"
    return f"did you mean '{near[0]}'?" if near else f"columns there: {', '.join(names)}"


def header_hint(column: str, names: Sequence[str]) -> str:
    """What to set where a CSV's header was read by another separator or encoding than its own; else empty."""
    if len(same := [name for at, name in enumerate(names) if name == f"{column}{at}"]) > 1:
        return f"the header has '{column}' more than once, and Spark names them by their places: {', '.join(same)}"
    for mark, written in ((";", ";"), ("\t", r"\t"), ("|", "|"), (",", ",")):
        if any(mark in name and column in name.split(mark) for name in names):
            return f"it is in the header '{', '.join(names)}': set source.options.sep: \"{written}\""
    # what is left of other encodings' letters
    for mark, encoding in (("\0", "UTF-16"), ("\ufffd", "ISO-8859-1")):
        if any(mark in name for name in names):
            return f"the header is not UTF-8: set source.options.encoding, to {encoding} perhaps"
    return ""
