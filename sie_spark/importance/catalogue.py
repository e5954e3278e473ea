"""The scorers as README lists them, from what each says of itself."""

from __future__ import annotations

from sie_spark.importance.registry import SCORERS

HEAD = (
    "| score | what it is | for | label | reads | costs | after |",
    "|---|---|---|---|---|---|---|",
)


def table() -> str:
    """A Markdown table, one line a scorer; ``python -m sie_spark.importance.catalogue`` prints it."""
    lines = []
    for name in sorted(SCORERS):
        scorer = SCORERS[name]
        first = (
            " ".join((scorer.__doc__ or "").strip().split("\n\n")[0].split())
            .replace("|", "\\|")
            .replace("``", "`")
        )
        sign = ", signed" if scorer.signed else ""
        label = "yes" if scorer.uses_label else "no"
        cells = (
            f"`{name}`",
            first,
            f"{', '.join(scorer.uses)}{sign}",
            label,
            scorer.reads,
            scorer.cost,
            scorer.citation,
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join([*HEAD, *lines])


if __name__ == "__main__":
    print(table())  # noqa: T201
