"""Which passes the wanted scorers need: fits by level, each level one pass, then one pass for all scores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sie_spark.importance.contracts import Fit, ModelRef, Scorer


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

    @property
    def gradient(self) -> bool:
        """Whether the score pass goes backward; otherwise it is forward only."""
        return any(scorer.gradient for scorer in self.scorers)

    def models(self, known: Mapping[str, ModelRef]) -> tuple[str, ...]:
        """Models that the score pass runs."""
        wanted = {name for scorer in self.scorers for name in scorer.models(known)}
        return tuple(name for name in known if name in wanted)

    def rows(self, known: Mapping[str, ModelRef], there: Mapping[str, bool]) -> list[list[str]]:
        """The plan as a table: pass, rows, models, how, what of it is there already."""
        table = []
        for level, fits in enumerate(self.levels, start=1):
            for fit in fits:
                state = "kept from before" if there[fit.key] else "to be fitted"
                table.append([f"{level}. fit {fit.key}", fit.rows, ", ".join(fit.models), "backward", state])
        names = ", ".join(scorer.name for scorer in self.scorers) or "nothing new"
        how = "forward and backward" if self.gradient else "forward" if self.models(known) else "no model"
        state = f"kept: {', '.join(self.kept)}" if self.kept else "all columns are made"
        last = f"{len(self.levels) + 1}. score {names}"
        table.append([last, "train, validation", ", ".join(self.models(known)) or "none", how, state])
        return table


def make_plan(scorers: Sequence[Scorer], known: Mapping[str, ModelRef], kept: Sequence[str] = ()) -> Plan:
    """The plan of these scorers: their fits once each, ordered by what they read."""
    levels: list[list[Fit]] = []
    placed: dict[str, int] = {}

    def place(fit: Fit) -> int:
        if fit.key not in placed:
            level = max((place(before) + 1 for before in fit.after), default=0)
            placed[fit.key] = level
            while len(levels) <= level:
                levels.append([])
            levels[level].append(fit)
        return placed[fit.key]

    for scorer in scorers:
        for fit in scorer.fits(known):
            place(fit)
    return Plan(tuple(map(tuple, levels)), tuple(scorers), tuple(kept))


def version_of(scorer: Scorer, known: Mapping[str, ModelRef], artefacts: Mapping[str, Any]) -> dict[str, Any]:
    """What a scorer's column depends on beside the rows and the code."""
    names = scorer.models(known)
    return {
        "scorer": [scorer.name, scorer.version],
        "models": {name: [known[name].digest, known[name].learning_rate] for name in names},
        "artefacts": {fit.key: artefacts[fit.key] for fit in scorer.fits(known)},
    }
