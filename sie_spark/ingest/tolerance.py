"""How much of a log may be wrong before a run stops: shares in words, and what to set to go on."""

from __future__ import annotations

import math

NOTABLE = 0.02  # a share that a reader should know of
OWN_RULES = 0.2  # what the user's own rules reject is theirs to judge; above this share a caution says it


def part(rows: int, of: int, what: str) -> str:
    """``1,204 of 9,000 records (13.4 %)``, or ``every one of 9,000 records``."""
    if rows == of:
        return f"every one of {of:,} {what}"
    return f"{rows:,} of {of:,} {what} ({percent(rows / of)})"


def percent(share: float) -> str:
    """A share to a tenth of a percent, and never rounded to nothing."""
    return f"{round(100 * share, 1):g} %" if share >= 0.0005 or not share else "less than 0.1 %"


def go_on(share: float) -> str:
    """The setting with which a run of such a share goes on."""
    return f"--set dataset.tolerate={min(1.0, math.ceil(100 * share) / 100):g}"
