"""One place for what the arms are called, in which order they stand, and which are compared."""

from __future__ import annotations

from collections.abc import Mapping

from sie_spark.platform.config.arms import BASELINE, CANDIDATE, CONSTANT, FULL, YARDSTICKS, Arm


def titles(arms: Mapping[str, Arm]) -> dict[str, str]:
    """Name -> title, in the order in which people see them: all rows, the candidate, the others."""
    first = [name for name in (FULL, CANDIDATE) if name in arms]
    order = [*first, *(name for name in arms if name not in first)]
    return {name: arms[name].title or name.replace("_", " ") for name in order}


def pairs(names: list[str]) -> list[tuple[str, str]]:
    """Which differences are shown: the candidate against all rows and random ones, the others, all against yardsticks."""
    wanted = [(CANDIDATE, FULL), (CANDIDATE, BASELINE)]
    arms = [name for name in names if name not in (*YARDSTICKS, CONSTANT)]
    for name in arms:
        if name not in (CANDIDATE, FULL):
            wanted.append((name, FULL))
            if name != BASELINE:
                wanted.append((name, BASELINE))
    wanted += [(arm, yardstick) for arm in (FULL, CANDIDATE) for yardstick in YARDSTICKS]
    return [(first, second) for first, second in wanted if first in names and second in names]
