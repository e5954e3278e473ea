"""Two tables of the page: what each arm kept, and what it cost beside the fit on all rows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sie_spark.evaluation.costs import NOT_MEASURED
from sie_spark.platform.config.arms import FULL
from sie_spark.report import figures, words

Cells = list[dict[str, str]]
NONE = "–"


def kept(arms: Mapping[str, dict[str, Any]], titles: Mapping[str, str]) -> list[dict[str, Any]]:
    """A row an arm that keeps some, of the details of ``weigh``; none for details of an earlier version."""
    known = {name: arm for name, arm in arms.items() if "by_class" in arm}
    return [_row(name, titles, _kept_cells(known[name])) for name in _ordered(known, titles)]


def costs(found: Mapping[str, Any], titles: Mapping[str, str]) -> list[dict[str, Any]]:
    """The fit on all rows, then a row an arm, of the ``costs`` among the details of ``evaluate``."""
    arms: dict[str, dict[str, Any]] = found.get("arms", {})
    if not arms:
        return []
    audited = any(cost["reference"] != 0 for cost in arms.values())
    whole = _row(FULL, {FULL: "all rows", **titles}, _full_cells(found["full"], audited=audited))
    return [whole, *(_row(name, titles, _cost_cells(arms[name], audited)) for name in _ordered(arms, titles))]


def started(found: Mapping[str, Any], titles: Mapping[str, str]) -> str:
    """A sentence on the arms that begin with the weights of another model; empty where none does."""
    names = [titles.get(name, name) for name, cost in found.get("arms", {}).items() if cost.get("start")]
    if not names:
        return ""
    return f"Fits that start from another model ({', '.join(names)}): its own time is counted only where scores read it."


def _ordered(arms: Mapping[str, Any], titles: Mapping[str, str]) -> list[str]:
    """As people see them; an arm that was not judged comes last."""
    return [*(name for name in titles if name in arms), *(name for name in arms if name not in titles)]


def _row(name: str, titles: Mapping[str, str], cells: Cells) -> dict[str, Any]:
    colour = figures.style(name, [*titles, name])[0]
    return {"key": name, "title": titles.get(name, name), "colour": colour, "cells": cells}


def _cell(label: str, value: str, span: str = "") -> dict[str, str]:
    return {"label": label, "value": value, "span": span}


def _kept_cells(arm: Mapping[str, Any]) -> Cells:
    by_pi, floor = arm["sampling_ess"], arm["floor_share"]
    cells = [
        _cell(f"{word.capitalize()} kept", f"{rows['kept']:,}", f"of {rows['rows']:,}")
        for word, rows in (
            ("positives", arm["by_class"]["positive"]),
            ("others", arm["by_class"]["negative"]),
        )
    ]
    cells += [
        _cell("Effective rows", f"{arm['ess']:,.0f}"),
        _cell("By 1/π", NONE if by_pi is None else f"{by_pi:,.0f}"),
        _cell("Largest 1/π", _three_digits(arm["largest_inverse"])),
        _cell("Variance", f"× {arm['variance_inflation']:.2f}"),
        _cell("π is 1", words.percent(arm["capped_share"])),
        _cell("π at floor", NONE if floor is None else words.percent(floor)),
    ]
    ids: Mapping[str, dict[str, Any]] = arm.get("ids", {})
    if not ids:
        return [*cells, _cell("Ids kept", NONE), _cell("With 10 rows", NONE)]
    field, least = min(ids.items(), key=lambda item: (item[1]["kept"], item[1]["kept_enough"]))
    return [
        *cells,
        _cell("Ids kept", words.percent(least["kept"]), f"of {field}"),
        _cell(
            "With 10 rows", words.percent(least["kept_enough"]), f"of {words.percent(least['enough_before'])}"
        ),
    ]


def _full_cells(full: Mapping[str, Any], *, audited: bool) -> Cells:
    seconds = _seconds(full["seconds"])
    parts = [_cell(label, NONE) for label in _before(audited).values()]
    return [
        *parts,
        _cell("Retrain", seconds),
        _cell("Together", seconds),
        _cell("Of the full fit", "1.00" if full["seconds"] else NOT_MEASURED),
        _cell("Pays after", NONE),
        _cell("One more row", _row_seconds(full["row_seconds"])),
    ]


def _cost_cells(cost: Mapping[str, Any], audited: bool) -> Cells:
    share, retrain, after = cost["share"], cost["retrain_share"], cost["pays_after"]
    pays = NOT_MEASURED if after is None else f"{after:,} retrain{'s' if after > 1 else ''}"
    return [
        *(_cell(label, _seconds(cost[part])) for part, label in _before(audited).items()),
        _cell("Retrain", _seconds(cost["retrain"])),
        _cell("Together", _seconds(cost["total"])),
        _cell(
            "Of the full fit",
            NOT_MEASURED if share is None else f"{share:.2f}",
            "" if retrain is None else f"retrain {retrain:.2f}",
        ),
        _cell("Pays after", "never" if cost["never"] else pays),
        _cell("One more row", _row_seconds(cost["row_seconds"])),
    ]


def _before(audited: bool) -> dict[str, str]:
    """Part -> heading; the reference only where an arm's scores read it."""
    parts = {"pilot": "Pilot", "reference": "Reference", "scoring": "Scoring", "selection": "Selection"}
    return {part: label for part, label in parts.items() if part != "reference" or audited}


def _three_digits(value: float) -> str:
    """1.25, 12.5, 1,250: never 1.25e+03."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _seconds(value: float | None) -> str:
    if value is None:
        return NOT_MEASURED
    return words.seconds(value) if value else NONE


def _row_seconds(value: float | None) -> str:
    return NOT_MEASURED if value is None else words.small_seconds(value)
