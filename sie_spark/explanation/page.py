"""An explained row in, one HTML text out: pure."""

from __future__ import annotations

from importlib import resources
from typing import Any

from jinja2 import Environment, StrictUndefined

from sie_spark.explanation.facts import Explained, influence, rank, top
from sie_spark.explanation.neighbours import Neighbour
from sie_spark.report.words import percent

LITTLE = 0.001  # a share that gets no bar

FOLDER = "explanations"  # of the root, where pages lie


def render(found: Explained) -> str:
    """The page; every text is escaped, the report's style stands inside it."""
    style = resources.files("sie_spark.report").joinpath("page.css").read_text(encoding="utf-8")
    template = resources.files("sie_spark.explanation").joinpath("page.html").read_text(encoding="utf-8")
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    return environment.from_string(template).render(page=view(found), style=style)


def view(found: Explained) -> dict[str, Any]:
    """What the template shows, as text ready to print."""
    return {
        "title": f"{found.headline()} – {found.dataset}",
        "dataset": found.dataset,
        "where": found.where(),
        "headline": found.headline(),
        "summary": found.said(found.sample_id),
        "kept": found.kept(),
        "pilot": "" if found.pilot_p is None else f"The pilot predicts {found.pilot_p:.3f}.",
        "tone": "good" if (found.p >= 0.5) == (found.label >= 0.5) else "open",
        "worst": [
            {
                "label": found.outcome(one["label"]),
                "p": f"{one['p']:.3f}",
                "score": f"{one['score']:.3g}",
                "sample_id": str(one["sample_id"]),
                "what": found.said(one["sample_id"]),
            }
            for one in found.rows
        ],
        "worst_title": found.worst_title(),
        "by": found.by.replace("_", " "),
        "fields": [
            {"name": name, "value": value or "–", "share": percent(share), "width": round(100 * share, 2)}
            for name, value, share in found.fields()
            if share >= LITTLE
        ],
        "little": ", ".join(name for name, _, share in found.fields() if share < LITTLE),
        "about_fields": found.about_fields(),
        "layers": [
            {"name": name, "share": percent(share), "width": round(100 * share, 2)}
            for name, share in found.layers()
        ],
        "scores": [
            {
                "name": one.name.replace("_", " "),
                "value": f"{one.value:.4g}",
                "rank": rank(one),
                "all": top(one, in_class=False),
                "class": top(one, in_class=True),
            }
            for one in found.standings
        ],
        "about_scores": found.about_scores(),
        "neighbours": [
            {"title": "Training rows that helped it most", "rows": _neighbours(found, found.helpful)},
            {"title": "Training rows that harmed it most", "rows": _neighbours(found, found.harmful)},
        ],
        "about_neighbours": found.about_neighbours(),
    }


def _neighbours(found: Explained, rows: list[Neighbour]) -> list[dict[str, str]]:
    return [
        {
            "label": found.outcome(one.label),
            "p": f"{one.p:.3f}",
            "value": influence(one.value).replace("-", "−"),
            "rows": f"{one.rows:,}",
            "sample_id": str(one.sample_id),
            "what": found.said(one.sample_id),
        }
        for one in rows
    ]
