"""Which passes the wanted scorers need: fits by level, each level one pass, then one pass for all scores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sie_spark.importance.contracts import Fit, Given, Scorer


@dataclass(frozen=True)
class Plan:
    """The passes, in order.

    Parameters
    ----------
    levels:
        fits that only read artefacts of earlier levels.
    scorers:
        those whose columns are to be computed.
    kept:
        columns that table ``scores`` has already, as they would come out.
    """

    levels: tuple[tuple[Fit, ...], ...]
    scorers: tuple[Scorer, ...]
    kept: tuple[str, ...] = ()

    def gradient(self, given: Given) -> bool:
        """Whether the score pass goes backward; otherwise it is forward only."""
        return any(scorer.goes_backward(given) for scorer in self.scorers)

    def models(self, given: Given) -> tuple[str, ...]:
        """Models that the score pass runs."""
        wanted = {name for scorer in self.scorers for name in scorer.models(given)}
        return tuple(name for name in given.models if name in wanted)

    def rows(self, given: Given, there: Mapping[str, bool]) -> list[list[str]]:
        """The plan as a table: pass, rows, models, how, what of it is there already."""
        table = []
        for level, fits in enumerate(self.levels, start=1):
            for fit in fits:
                state = "kept from before" if there[fit.key] else "to be fitted"
                most = fit.most(given.settings)
                rows = f"{fit.rows}, {'all' if most is None else f'{most:,} at most'}" if fit.rows else "none"
                models = ", ".join(fit.models()) or "none"
                how = "a pass" if fit.rows else "on the driver"
                table.append([f"{level}. fit {fit.key}", rows, models, how, state])
        names = ", ".join(scorer.name for scorer in self.scorers) or "nothing new"
        backward, models = self.gradient(given), ", ".join(self.models(given)) or "none"
        how = "forward and backward" if backward else "no model" if models == "none" else "forward"
        state = f"kept: {', '.join(self.kept)}" if self.kept else "all columns are made"
        last = f"{len(self.levels) + 1}. score {names}"
        table.append([last, "train, validation", models, how, state])
        return table


def make_plan(scorers: Sequence[Scorer], given: Given, kept: Sequence[str] = ()) -> Plan:
    """The plan of these scorers: their fits once each, ordered by what they read."""
    levels: list[list[Fit]] = []
    placed: dict[str, int] = {}

    def place(fit: Fit) -> int:
        if fit.key not in placed:
            level = max((place(before) + 1 for before in fit.after()), default=0)
            placed[fit.key] = level
            while len(levels) <= level:
                levels.append([])
            levels[level].append(fit)
        return placed[fit.key]

    for scorer in scorers:
        scorer.models(given)  # one that is lacking is said before anything is asked of it
        for fit in scorer.fits(given):
            place(fit)
    return Plan(tuple(map(tuple, levels)), tuple(scorers), tuple(kept))


def version_of(scorer: Scorer, given: Given, artefacts: Mapping[str, Any]) -> dict[str, Any]:
    """What a scorer's column depends on beside the rows and the code."""
    names, known = scorer.models(given), given.models
    return {
        "scorer": [scorer.name, scorer.version],
        "options": {name: getattr(given.settings, name) for name in scorer.options},
        "models": {name: [known[name].digest, known[name].learning_rate] for name in names},
        "artefacts": {fit.key: artefacts[fit.key] for fit in scorer.fits(given)},
    }
