"""How much of the training rows is kept: a share, a number of rows, a time, or as little as will do."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import AfterValidator

AUTO = "auto"
UNITS = {"s": 1.0, "min": 60.0, "h": 3600.0}


def seconds_of(budget: float | str) -> float | None:
    """Seconds of a budget that is a time (``600 s``, ``10 min``, ``1 h``); None for another one."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?) ?(s|min|h)", budget) if isinstance(budget, str) else None
    return float(found[1]) * UNITS[found[2]] if found else None


def _checked(given: float | str) -> float | str:
    if isinstance(given, str):
        if given != AUTO and not seconds_of(given):
            raise ValueError("write a share (0.1), a number of rows (50000), a time (600 s) or auto")
    elif not given > 0 or (given > 1 and given != int(given)):
        raise ValueError("write a share above 0 and up to 1 (0.1), or a whole number of rows (50000)")
    return given


# at most 1: a share; more: rows; text: a time, or auto
Budget = Annotated[float | str, AfterValidator(_checked)]
