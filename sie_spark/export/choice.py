"""From the evidence to a recommendation, and to what a reader must know of the rows that were exported."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sie_spark.export.arms import KeptArm
from sie_spark.export.evidence import Compared


@dataclass(frozen=True)
class Choice:
    """The arm that is recommended, and why; ``lacking`` where there is no arm of random rows to recommend."""

    arm: str
    why: str
    lacking: bool = False

    def describe(self) -> dict[str, Any]:
        """Plain data for export.json."""
        return {"arm": self.arm, "why": self.why}


def choose(arms: Mapping[str, KeptArm], evidence: Sequence[Compared], absent: str) -> Choice:
    """The unbiased arm whose rows make trees better than random rows, beyond chance; else random rows.

    Parameters
    ----------
    absent:
        why there is no evidence, where there is none.
    """
    sound = {one.arm: one for one in evidence if not arms[one.arm].biased and one.difference is not None}
    better = [one for one in sound.values() if one.low is not None and one.low > 0]
    if better:
        best = max(better, key=lambda one: one.auc)
        return Choice(best.arm, f"its rows make trees better than as many random rows: AUC {said(best)}")
    why = absent and f"there is no evidence for another arm: {absent}"
    why = why or "no other arm's rows make trees better than as many random rows, beyond chance"
    uniform = [arm for arm in arms.values() if arm.uniform]
    if uniform:
        return Choice(max(uniform, key=lambda arm: arm.total).name, why)
    unbiased = [name for name, arm in arms.items() if not arm.biased]
    ranked = sorted(unbiased, key=lambda name: -(sound[name].difference or 0.0) if name in sound else 0.0)
    return Choice((ranked or list(arms))[0], f"there is no arm of random rows; {why}", lacking=True)


def cautions(
    arm: KeptArm, choice: Choice, evidence: Sequence[Compared], absent: str, *, asked: bool
) -> list[str]:
    """What to know before the exported rows are used, the gravest first."""
    found = next((one for one in evidence if one.arm == arm.name), None)
    told = []
    if found is not None and found.difference is not None:
        if found.difference < 0:
            told.append(
                f"Random rows are safer here: trees on rows of arm '{arm.name}' rank validation rows worse than trees on"
                f" as many random rows, AUC {said(found)}."
            )
        elif found.low is None or found.low <= 0:
            told.append(
                f"Random rows may be as good: trees on rows of arm '{arm.name}' are not better than on as many random"
                f" rows beyond chance, AUC {said(found)}."
            )
    elif not arm.uniform:
        told.append(
            f"Nothing shows that rows of arm '{arm.name}' are better than random ones:"
            f" {absent or 'trees could not be fitted on them'}."
        )
    if arm.biased:
        told.append(
            f"Policy '{arm.policy}' of arm '{arm.name}' is biased: its weights emphasise rows, nothing corrects for it,"
            " and a learner's probabilities will be wrong."
        )
    if choice.lacking and not asked:
        told.append("The training set has no arm of random rows: leave arms.random in and run 'sie weigh'.")
    return told


def said(one: Compared) -> str:
    """A difference with its interval, or why there is none.

    >>> said(Compared("a", 10, 0.7, "random", 10, 0.72, -0.02, -0.03, -0.01))
    '-0.0200 [-.0300, -.0100]'
    """
    return _signed(one, f" (no interval: {one.unsure})")


def _signed(one: Compared, otherwise: str) -> str:
    ends = [f"{end:+.4f}".replace("0.", ".", 1) for end in (one.low, one.high) if end is not None]
    return f"{one.difference:+.4f}" + (f" [{', '.join(ends)}]" if ends else otherwise)


def table(arms: Mapping[str, KeptArm], evidence: Sequence[Compared]) -> list[list[str]]:
    """Rows of the table that a person reads: arm, policy, kept rows, AUC, difference to random rows."""
    by_arm = {one.arm: one for one in evidence}
    rows = []
    for name, arm in arms.items():
        one = by_arm.get(name)
        rows.append(
            [
                name,
                f"{arm.policy}{', biased' if arm.biased else ''}",
                f"{arm.total:,}",
                f"{one.auc:.4f}" if one else "-",
                _signed(one, "") if one and one.difference is not None else "-",
            ]
        )
    return rows
