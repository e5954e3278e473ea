"""Details in, one HTML text out: pure, so that every state of a run (even an empty one) can be tested."""

from __future__ import annotations

from dataclasses import dataclass, field
from importlib import resources
from typing import Any

from jinja2 import Environment, StrictUndefined

from sie_spark.platform.config.arms import CANDIDATE
from sie_spark.platform.result import ordered_cautions
from sie_spark.report import figures, ledger, words
from sie_spark.report.words import number, ratio

CELLS = (
    ("auc", "AUC", ratio),
    ("calibration", "Calibration", lambda value: number(value, 3)),
    ("ne", "Norm. entropy", lambda value: number(value, 4)),
    ("logloss", "Log-loss", lambda value: number(value, 4)),
    ("gauc", "gAUC", ratio),
    ("ece", "ECE", lambda value: number(value, 4)),
)
WITH_SPAN = ("auc", "calibration")
TOP = 12
SLICES = 40
NO_DAY = "1970-01-01"  # what a table without times has for every row


@dataclass(frozen=True)
class Facts:
    """Everything the page is made of, as plain data.

    Parameters
    ----------
    details:
        stage -> what it left by ``ctx.save_details``; missing stages are missing keys.
    importance:
        see :func:`sie_spark.report.summaries.importance`.
    tables:
        (name, version, rows).
    made:
        (name, text): fingerprint, versions of the software, root.
    """

    dataset: str
    details: dict[str, dict[str, Any]] = field(default_factory=dict)
    importance: dict[str, Any] = field(default_factory=dict)
    tables: list[tuple[str, int, int | None]] = field(default_factory=list)
    made: list[tuple[str, str]] = field(default_factory=list)

    def of(self, stage: str) -> dict[str, Any]:
        """Details of a stage, or an empty dict."""
        return self.details.get(stage) or {}

    def cautions(self) -> list[str]:
        """What the stages say a reader must know."""
        return ordered_cautions({stage: self.of(stage).get("cautions", []) for stage in self.details})


def render(facts: Facts) -> str:
    """The page; every text is escaped, figures and style stand inside it."""
    files = resources.files("sie_spark.report")
    style = files.joinpath("page.css").read_text(encoding="utf-8")
    template = files.joinpath("page.html").read_text(encoding="utf-8")
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    return environment.from_string(template).render(page=view(facts), style=style)


def view(facts: Facts) -> dict[str, Any]:
    """What the template shows, as text ready to print."""
    evaluated, weighed = facts.of("evaluate"), facts.of("weigh").get("arms", {}).get(CANDIDATE, {})
    verdict = words.headline(evaluated)
    clusters = evaluated.get("clusters", {})
    group = clusters.get("group", "group")
    titles, costs = dict(evaluated.get("titles", [])), evaluated.get("costs", {})
    days = [row["date"] for row in facts.of("impressions").get("by_date", []) if row["date"] != NO_DAY]
    return {
        "title": f"{verdict.title} – {facts.dataset}",
        "dataset": facts.dataset,
        "dates": f"{days[0]} to {days[-1]}" if days else "",
        "headline": verdict,
        "summary": words.summary(weighed, evaluated),
        "arms": _arms(facts),
        "test_rows": f"{evaluated.get('rows', 0):,}",
        "split": words.split(facts.of("encode")),
        "confidence": f"{evaluated.get('confidence', 0.95) * 100:g} %",
        "resampled": "rows, taken as independent" if clusters.get("by_row") else f"{group}s",
        "group_one": group,
        "figures": _figures(facts),
        "kept_facts": _kept_facts(weighed),
        "kept": ledger.kept(facts.of("weigh").get("arms", {}), titles),
        "costs": ledger.costs(costs, titles),
        "started": ledger.started(costs, titles),
        "cautions": facts.cautions(),
        "slices": _slices(evaluated.get("slices", []), list(dict(evaluated.get("titles", [])))),
        "titles": [title for _, title in evaluated.get("titles", [])],
        "score": str(facts.importance.get("score", "score")).replace("_", " "),
        "top": _top(facts.of("weigh").get("top", [])),
        "selection": _selection(facts.of("encode").get("selection", {})),
        "flow": _flow(facts),
        "identity": _identity(facts.of("ingest").get("rows", {})),
        "reasons": [
            (name, f"{rows:,}")
            for name, rows in sorted(facts.of("ingest").get("reasons", {}).items(), key=lambda item: -item[1])
        ],
        "search": _search(facts.of("train").get("search", {})),
        "timings": _timings(facts.of("seconds")),
        "tables": [
            {"name": name, "version": version, "rows": "–" if rows is None else f"{rows:,}"}
            for name, version, rows in facts.tables
        ],
        "made": facts.made,
    }


def _arms(facts: Facts) -> list[dict[str, Any]]:
    evaluated, fits = facts.of("evaluate"), facts.of("retrain").get("arms", {})
    group = evaluated.get("clusters", {}).get("group", "group")
    rows = []
    plain = {one["name"]: one for one in evaluated.get("yardsticks", [])}
    beside = [[name, one["title"]] for name, one in plain.items()]
    for arm, title in [*evaluated.get("titles", []), *beside]:
        values = evaluated.get("arms", {}).get(arm)
        if not values:
            continue
        fit = plain.get(arm) or fits.get(arm, {})
        cells = [{"label": "Rows", "value": f"{fit['rows']:,}" if "rows" in fit else "–", "span": ""}]
        for key, label, form in CELLS:
            span = evaluated.get("intervals", {}).get(f"{key}_{arm}") if key in WITH_SPAN else None
            text = f"[{form(span[0])}, {form(span[1])}]" if span else ""
            shown = form(values.get(key))
            if key == "auc":
                shown = words.about(values.get(key), values.get("auc_error_bound"))
            if key == "gauc" and "gauc_groups" in values:
                text = f"({values['gauc_groups']:,.0f} {group}s)"
            cells.append({"label": label, "value": shown, "span": text})
        time = words.seconds(fit["seconds"]) if "seconds" in fit else "–"
        cells.append({"label": "Fit", "value": time, "span": ""})
        rows.append(
            {
                "key": arm,
                "title": title,
                "colour": "none" if arm in plain else figures.style(arm, list(dict(evaluated["titles"])))[0],
                "cells": cells,
            }
        )
    return rows


def _figures(facts: Facts) -> dict[str, str]:
    evaluated, found = facts.of("evaluate"), {}
    titles = dict(evaluated.get("titles", []))
    curves = {arm: evaluated.get("curves", {}).get(arm) for arm in titles}
    curves = {arm: curve for arm, curve in curves.items() if curve and any(p["rate"] > 0 for p in curve)}
    if curves:
        found["calibration"] = figures.calibration(curves, titles)
    if any("low" in entry for entry in evaluated.get("differences", [])):
        found["differences"] = figures.differences(
            evaluated["differences"], evaluated["margin"], list(titles)
        )
    if facts.importance.get("histogram"):
        name = str(facts.importance["score"]).replace("_", " ")
        found["score"] = figures.histogram(
            facts.importance["histogram"], f"importance ({name})", "Training rows by importance score"
        )
    if facts.importance.get("pi"):
        found["pi"] = figures.histogram(
            facts.importance["pi"], "inclusion probability of kept rows", "Kept rows by inclusion probability"
        )
    if len(facts.importance.get("positions", [])) > 1:
        found["positions"] = figures.positions(facts.importance["positions"])
    return {name: found.get(name, "") for name in ("calibration", "differences", "score", "pi", "positions")}


def _kept_facts(weighed: dict[str, Any]) -> list[tuple[str, str]]:
    if not weighed:
        return []
    smallest = weighed.get("pi_quantiles", {}).get("0")
    facts = [
        ("Policy", str(weighed.get("policy", "–")).replace("_", " ")),
        (
            "Corrected by",
            "nothing (biased)" if weighed.get("biased") else str(weighed.get("corrects_by", "–")),
        ),
        ("Rows kept", f"{weighed.get('kept', 0):,}"),
        ("Effective sample size", f"{weighed.get('ess', 0):,.0f}"),
        ("Positives among kept", f"{weighed.get('positive_share', 0) * 100:.1f} %"),
        (
            "Rows they stand for",
            f"{weighed.get('estimated_rows', 0):,.0f} of {weighed.get('rows', 0):,}",
        ),
    ]
    if smallest is not None:
        facts.append(("Least inclusion probability", f"{smallest:.3g}"))
    return facts


def _slices(entries: list[dict[str, Any]], arms: list[str]) -> list[dict[str, Any]]:
    cells: dict[tuple[str, str], dict[str, Any]] = {}
    for entry in entries:
        if (entry["kind"], entry["slice"]) == ("day", NO_DAY):
            continue
        row = cells.setdefault(
            (entry["kind"], entry["slice"]), {"rows": entry["rows"], "clicks": entry["clicks"]}
        )
        row[entry["arm"]] = words.about(entry["auc"], entry.get("auc_error_bound"))
    rows = []
    for (kind, value), row in list(cells.items())[:SLICES]:
        text = str(int(value)) if kind == "position" else value
        if kind not in ("position", "day"):
            text = value.partition(" ")[2]  # the leading digit only orders
        if kind == "position" and text == "21":
            text = "21 and below"
        rows.append(
            {
                "name": f"{kind.removesuffix('_id')} {text}"
                if kind in ("position", "day")
                else f"{kind.removesuffix('_id')}: {text}",
                "rows": f"{row['rows']:,.0f}",
                "clicks": f"{row['clicks']:,.0f}",
                "arms": [row.get(arm, "–") for arm in arms],
            }
        )
    return rows


def _top(entries: list[dict[str, Any]]) -> list[dict[str, str]]:
    return [
        {
            "day": "–" if entry["event_date"] == NO_DAY else entry["event_date"],
            "label": "click" if entry["label"] else "no click",
            "p": f"{entry['p']:.3f}",
            "score": f"{entry['score']:.3g}",
            "what": words.readable(entry.get("features", {})),
        }
        for entry in entries[:TOP]
    ]


def _selection(found: dict[str, Any]) -> dict[str, Any]:
    """What feature selection did, or would have done, and to which features; empty where it did not run."""
    if not found:
        return {}
    dropped, saved = found["dropped"], found["kept_despite"]
    against: dict[str, list[str]] = {}
    for verdict in found["verdicts"]:
        votes = against.setdefault(verdict["feature"], [])
        if verdict["drop"]:
            votes.append(f"{verdict['method']}: {verdict['reason']}")
    done = "dropped" if found["applied"] else "would be dropped"
    rows = []
    for name, votes in against.items():
        if not votes:
            continue
        fate = done if name in dropped else f"kept: {saved.get(name, 'too few votes')}"
        rows.append({"name": name, "fate": fate, "why": "; ".join(votes)})
    return {
        "title": f"Feature selection: {len(dropped)} of {len(against)} features {done}",
        "note": f"Judged on {found['rows']:,} training rows."
        + ("" if found["applied"] else " Nothing was dropped: dataset.selection.apply is false."),
        "rows": sorted(rows, key=lambda row: row["fate"].startswith("kept")),
    }


def _search(found: dict[str, Any]) -> dict[str, Any]:
    """What was tried for the settings of all fits, the best of the most rows first; empty where nothing was."""
    if not found:
        return {}
    tried = sorted(found["outcomes"], key=lambda one: (-one["rows"], one["loss"] is None, one["loss"]))
    return {
        "title": f"Settings of all fits: {found['words']}",
        "note": f"Chosen on {found['rows']:,} training rows by their log-loss on {found['validation_rows']:,}"
        f" validation rows, in {words.seconds(found['seconds'])}; no test row was read.",
        "rows": [
            {
                "words": one["words"],
                "rows": f"{one['rows']:,}",
                "epochs": one["epochs"],
                "loss": "failed" if one["loss"] is None else f"{one['loss']:.5f}",
            }
            for one in tried
        ],
    }


def _flow(facts: Facts) -> list[dict[str, Any]]:
    ingest, labels = facts.of("ingest").get("rows", {}), facts.of("encode").get("labels", {})
    weighed = facts.of("weigh").get("arms", {}).get(CANDIDATE, {})
    steps: list[tuple[str, str, float | None]] = [
        ("records read", "all", ingest.get("read")),
        ("set aside (quarantine)", "lost", ingest.get("quarantined")),
        ("duplicates dropped", "lost", ingest.get("duplicate")),
        ("events", "all", ingest.get("kept")),
        ("shown items (impressions)", "all", facts.of("impressions").get("impressions")),
    ]
    if facts.of("impressions").get("rejected"):
        steps.append(
            ("shown, clicked or not is unclear (quarantine)", "lost", facts.of("impressions")["rejected"])
        )
    out = sum(counts.get(state, 0) for counts in labels.values() for state in ("null", "immature"))
    if out:
        steps.append(("no label, or not final yet", "lost", out))
    parts = {"test": "test samples", "validation": "validation samples", "train": "training samples"}
    for part, name in parts.items():
        counts = labels.get(part)
        if part == "validation" and not any((counts or {}).values()):
            continue  # none was asked for
        steps.append((name, "all", counts["zero"] + counts["one"] if counts else None))
    steps.append(("important rows kept", "kept", weighed.get("kept")))
    known = [(name, kind, rows) for name, kind, rows in steps if rows is not None]
    most = max((rows for _, _, rows in known), default=0) or 1
    return [
        {"name": name, "kind": kind, "rows": f"{rows:,}", "width": round(100 * rows / most, 2)}
        for name, kind, rows in known
    ]


def _identity(rows: dict[str, int]) -> str:
    if not rows:
        return ""
    return (
        f"{rows['read']:,} read = {rows['kept']:,} events + {rows['quarantined']:,} set aside"
        f" + {rows['duplicate']:,} duplicates; checked before anything became visible."
    )


def _timings(seconds: dict[str, float]) -> list[tuple[str, str]]:
    rows = [(name, words.seconds(value)) for name, value in seconds.items()]
    return [*rows, ("all stages", words.seconds(sum(seconds.values())))] if rows else []
