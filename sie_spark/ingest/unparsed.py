"""Why lines cannot be parsed, told from some of them: a setting is named only where the lines themselves say so."""

from __future__ import annotations

import csv
import json
import re
from collections import Counter
from collections.abc import Callable, Sequence

from sie_spark.platform.config import Source

ENCODED = "base64:"  # before the bytes of a line that is not UTF-8
SEPARATORS = (",", ";", "\t", "|")
MOST, SOME = 0.5, 0.1  # shares of the lines


def diagnosis(lines: Sequence[str], source: Source, fields: int) -> str:
    """What to set, or to mend in the files; empty where the lines do not tell.

    Parameters
    ----------
    lines:
        some that could not be parsed, as they are kept.
    fields:
        how many columns a line of a CSV should have; 0: unknown.
    """
    found = [line for line in lines if line.strip()]
    if not found:
        return "the lines are empty" if lines else ""
    return _of_csv(found, source, fields) if source.format == "csv" else _of_json(found)


def _of_csv(lines: Sequence[str], source: Source, fields: int) -> str:
    given = {name.lower(): value for name, value in source.options.items()}
    sep, quote = given.get("sep", given.get("delimiter", ",")), given.get("quote", '"')
    if _share(lines, lambda line: line.lstrip().startswith("{")) >= MOST:
        return "the lines look like JSON: set dataset.source.format: json"
    backslash = "escape" not in given and _share(lines, lambda line: f"\\{quote}" in line) >= SOME
    if quote and backslash:
        return "quotes within fields are written with a backslash: set dataset.source.options.escape: '\\'"
    if quote and given.get("multiline", "false").lower() != "true":
        pieces = sum(map(_torn(sep, quote), lines))
        if pieces >= 2 and pieces >= SOME * len(lines):
            return "fields in quotes hold line breaks: set dataset.source.options.multiLine: 'true'"
    counted = Counter(_fields(line, sep, quote) for line in lines)
    usual, times = counted.most_common(1)[0]
    if usual == 1 and times >= MOST * len(lines):
        for other in SEPARATORS:
            several = Counter(_fields(line, other, quote) for line in lines).most_common(1)[0]
            if other != sep and several[0] > 1 and several[1] >= MOST * len(lines):
                written = r"\t" if other == "\t" else other
                return f'the fields lie between "{written}": set dataset.source.options.sep: "{written}"'
    if not fields:
        return ""
    least, most = min(counted), max(counted)
    many = f"{usual}" if times == len(lines) else f"from {least} to {most}, mostly {usual},"
    header = given.get("header", "false").lower() == "true"
    known = "its header names" if header else "dataset.source.columns declares"
    mend = "mend the header or the lines" if header else "declare every column there"
    return f"these lines have {many} fields, where {known} {fields}: {mend}; a field that holds {sep!r} needs quotes"


def _of_json(lines: Sequence[str]) -> str:
    if _share(lines, lambda line: line.startswith(ENCODED)) >= MOST:
        return "the bytes are not UTF-8: set dataset.source.options.encoding: ISO-8859-1"
    if _share(lines, lambda line: bool(re.search(r"\}\s*\{", line))) >= MOST:
        return "several objects stand on a line: write one object a line (jq -c . FILE)"
    piece = re.compile(r'\s*(?:[\[\]{}]+,?|\},\s*\{|"[^"]*"\s*:.*|"[^"]*",?|[-\w.]+,?)\s*')
    if _share(lines, lambda line: bool(piece.fullmatch(line))) >= MOST:
        return "objects are spread over several lines: write one object a line (jq -c . FILE; of an array jq -c '.[]' FILE)"
    if _share(lines, lambda line: _is_json(line) or _is_json(line.strip().strip("[],"))) >= MOST:
        return "the objects are elements of an array: write one object a line (jq -c '.[]' FILE)"
    for sep in SEPARATORS:
        if _share(lines, lambda line, sep=sep: "{" not in line and sep in line) >= MOST:  # type: ignore[misc]
            return "the lines look like CSV: set dataset.source.format: csv, and its options"
    return ""


def _torn(sep: str, quote: str) -> Callable[[str], bool]:
    """Whether a line begins or ends within a field in quotes."""
    q, s = re.escape(quote), re.escape(sep)
    field = rf"(?:{q}(?:[^{q}]|{q}{q})*{q}|[^{q}{s}]*)"
    opens = re.compile(rf"(?:{field}{s})*\s*{q}(?:[^{q}]|{q}{q})*")
    closes = re.compile(rf"(?:[^{q}]|{q}{q})*{q}(?:{s}{field})*")
    return lambda line: line.count(quote) % 2 == 1 and bool(opens.fullmatch(line) or closes.fullmatch(line))


def _fields(line: str, sep: str, quote: str) -> int:
    if len(sep) != 1 or len(quote) != 1:
        return line.count(sep) + 1
    try:
        return len(next(csv.reader([line], delimiter=sep, quotechar=quote), [""]))
    except csv.Error:
        return line.count(sep) + 1


def _share(lines: Sequence[str], test: Callable[[str], bool]) -> float:
    return sum(map(test, lines)) / len(lines)


def _is_json(line: str) -> bool:
    try:
        return isinstance(json.loads(line), (dict, list))
    except (ValueError, RecursionError):  # a line of brackets is no record, however deep they go
        return False
