"""Errors are part of the product: each says what was wrong, where, and what to do next.

Every error a user can cause derives from :class:`SieError`; the command line prints its two lines
(``error`` and ``remedy``) and never a stack trace.
"""

from __future__ import annotations

import re


class SieError(Exception):
    """A failure a user can mend: ``str(error)`` says what and where, ``error.remedy`` what to do next."""

    def __init__(self, message: str, *, remedy: str) -> None:
        super().__init__(message)
        self.remedy = remedy


class ConfigError(SieError):
    """The configuration is wrong: an unknown key, a bad value, settings that contradict each other."""


class SourceError(SieError):
    """The source cannot be read: a missing file, an unreadable format, a schema that does not fit."""


class DataError(SieError):
    """The data cannot carry the next step: nothing left after cleaning, labels of one class only."""


class RowIdentityError(SieError):
    """Rows in differ from events + quarantined + duplicates; nothing was made visible."""


class ModelError(SieError):
    """A model cannot be loaded, trained or scored."""


class PlatformError(SieError):
    """The machine or the cluster lacks something: Java, jars, slots, disk, a tracking store."""


class StageOrderError(SieError):
    """A stage was asked to run before the table or model it reads exists."""


def worker_error(error: Exception, what: str, *, remedy: str, otherwise: str) -> ModelError:
    """What a Spark worker raised, in one line, without its stack trace.

    Parameters
    ----------
    what:
        was being done: 'scoring'.
    remedy, otherwise:
        for an error of this package, which says itself what to mend, and for any other.
    """
    text = str(error)
    ours = re.findall(r"^\s*sie_spark\.[\w.]+: (.+)$", text, flags=re.MULTILINE)
    if ours:
        return ModelError(f"{what} failed in a worker: {ours[-1]}", remedy=remedy)
    others = re.findall(r"^\s*((?:[\w.]*Error|[\w.]*Exception): .+)$", text, flags=re.MULTILINE)
    said = others[-1] if others else (text.strip().splitlines() or [type(error).__name__])[0]
    return ModelError(f"{what} failed: {said[:300]}", remedy=otherwise)
