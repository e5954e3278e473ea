"""An explained row in the terminal: a few tables."""

from __future__ import annotations

from sie_spark.explanation.facts import Explained, influence, rank, top
from sie_spark.explanation.neighbours import Neighbour
from sie_spark.platform.progress import Progress
from sie_spark.report.words import percent

FIELDS = 10
LAYERS = 6
WORDS = 4  # values of a neighbour
WIDEST = 30  # letters of a value


def tell(progress: Progress, found: Explained) -> None:
    """Print it."""
    if found.rows:
        progress.table(
            found.worst_title(),
            ["", "label", "p", found.by, "sample_id"],
            [
                [
                    found.said(one["sample_id"], WORDS),
                    found.outcome(one["label"]),
                    f"{one['p']:.3f}",
                    f"{one['score']:.3g}",
                    str(one["sample_id"]),
                ]
                for one in found.rows
            ],
        )
    progress.say(f"explain: {found.where()}: {found.headline()}")
    progress.say(f"explain: {found.said(found.sample_id)}")
    if found.kept():
        progress.say(f"explain: {found.kept()}")
    if found.standings:
        progress.table(
            "Scores, and where the row stands",
            ["score", "value", "rank", "of all", "in class"],
            [
                [one.name, f"{one.value:.4g}", rank(one), top(one, in_class=False), top(one, in_class=True)]
                for one in found.standings
            ],
        )
    progress.table(
        "Fields that carry its gradient",
        ["field", "value", "share"],
        [[name, value[:WIDEST], percent(share)] for name, value, share in found.fields()[:FIELDS]],
    )
    progress.table(
        "Layers that carry its gradient",
        ["layer", "share"],
        [[name, percent(share)] for name, share in found.layers()[:LAYERS]],
    )
    for title, rows in (("helped", found.helpful), ("harmed", found.harmful)):
        if rows:
            progress.table(
                f"Training rows that {title} it most",
                ["", "label", "p", "influence", "rows", "sample_id"],
                [_neighbour(found, one) for one in rows],
            )
    progress.say(f"explain: {found.about_neighbours()}")


def _neighbour(found: Explained, one: Neighbour) -> list[str]:
    return [
        found.said(one.sample_id, WORDS),
        found.outcome(one.label),
        f"{one.p:.3f}",
        influence(one.value),
        f"{one.rows:,}",
        str(one.sample_id),
    ]
