"""Job ``explain``: one row in words, its scores and ranks, what carries its gradient, its nearest training rows."""

from __future__ import annotations

import importlib
from concurrent.futures import ThreadPoolExecutor

from sie_spark.platform.context import Context
from sie_spark.platform.errors import ConfigError
from sie_spark.platform.result import StageResult

WHERE_IDS_ARE = (
    "ids are column sample_id of tables samples, scores and training_set; 'sie explain --worst 10' shows some"
)


def run(
    ctx: Context,
    *,
    sample_id: str | None = None,
    worst: int | None = None,
    query_row: str | None = None,
    by: str | None = None,
) -> StageResult:
    """Explain a row; one of the first three arguments is given.

    Parameters
    ----------
    sample_id:
        of a training or validation row, which has scores.
    worst:
        so many rows that are the highest in a score (the lowest, where a low score means harm); the first in full.
    query_row:
        sample_id of any row, a test row too.
    by:
        the score that ``worst`` goes by; default: loss, else error, else the first there is.

    Raises
    ------
    ConfigError
        for an id that is no number, or a score that is not there.
    DataError
        for an id that no row has, or a test row as ``sample_id``.
    StageOrderError
        when samples, scores or the reference are missing, or are of other rows.
    """
    if by is not None and worst is None:
        raise ConfigError("--by says what --worst goes by", remedy="give --worst N too, or leave out --by")
    asked = 0
    for option, text in (("--sample-id", sample_id), ("--query-row", query_row)):
        asked = asked if text is None else _number(text, option)
    with ThreadPoolExecutor(1) as pool:  # torch is imported while the JVM starts: a person waits
        importing = pool.submit(importlib.import_module, "sie_spark.explanation.one_row")
        ctx.spark  # noqa: B018
        one_row = importing.result()
    result: StageResult = one_row.explain_row(ctx, asked, worst=worst, query=query_row is not None, by=by)
    return result


def _number(text: str, option: str) -> int:
    try:
        found = int(text)
    except ValueError:
        found = 2**63
    if not -(2**63) <= found < 2**63:
        raise ConfigError(
            f"{option} {text!r} is no sample_id: a whole number of 64 bits", remedy=WHERE_IDS_ARE
        )
    return found
