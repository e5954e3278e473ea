"""Errors are part of the product: each says what was wrong, where, and what to do next.

Every error a user can cause derives from :class:`SieError`; the command line prints its two lines
(``error`` and ``remedy``) and never a stack trace.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any


class SieError(Exception):
    """A failure a user can mend: ``str(error)`` says what and where, ``error.remedy`` what to do next."""

    def __init__(self, message: str, *, remedy: str) -> None:
        super().__init__(message)
        self.remedy = remedy

    def __reduce__(self) -> tuple[Any, ...]:
        """To and from other processes, where a pool would wait for ever for an error that cannot be read."""
        return partial(type(self), remedy=self.remedy), self.args


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


# how a worker without the package, torch or another library, or without that Python at all, fails
_LACKING = re.compile(r"No module named|Cannot run program|PYTHON_VERSION_MISMATCH|cannot import name")
WORKERS_PYTHON = (
    "send the environment with the job: 'make environment', then spark-submit with --archives"
    " dist/environment.tar.gz#environment and --conf spark.pyspark.python=environment/bin/python (for a Connect server"
    " PYSPARK_PYTHON=../environment/bin/python); README, 'On a cluster'; 'sie doctor' there tells what the workers lack"
)
_RANK = re.compile(r"^\[\w+\]:\s?", flags=re.MULTILINE)  # torch's mark before every line of a rank
# the line that ends a Python traceback
_RAISED = re.compile(r"Traceback \(most recent call last\):\n(?:[ \t].*\n|\n)*(\S.*)")
_OURS = re.compile(r"^\s*sie_spark\.[\w.]+: (.+)$", flags=re.MULTILINE)
_PACKED = re.compile(
    r"ChildFailedError|PythonException|SerializationError|Command \[|^(?:java|org|py4j|scala)\."
)
_LAST = re.compile(r"(?!at ).*\w(?:Exception|Error): (?=.)")  # of a line that names several, the innermost


def worker_said(error: BaseException) -> str | None:
    """What a Python worker, or a rank that torch started there, raised: one line; None where none raised.

    Spark, py4j, Connect and torchrun pack it into texts of their own, above and below.

    >>> text = "Job aborted\\n[PYTHON_EXCEPTION] Traceback (most recent call last):\\n  File x\\nKeyError: 'a'\\n\\tat org.x"
    >>> worker_said(RuntimeError(text))
    "KeyError: 'a'"
    """
    text = _RANK.sub("", str(error))
    if ours := _OURS.findall(text):
        return str(ours[-1])
    raised = [line for line in _RAISED.findall(text) if not _PACKED.search(line)]
    return raised[-1].removeprefix("ModuleNotFoundError: ")[:300] if raised else None


def cause_of(error: BaseException) -> str:
    """Why something failed, in one line: a worker's words, else those of the JVM, never a line of a stack trace."""
    if said := worker_said(error):
        return said
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    first = next(iter(lines), type(error).__name__)
    if first.startswith(("An error occurred while calling", "Job aborted")):
        causes = [line[found.end() :] for line in lines if (found := _LAST.match(line))]
        first = next((cause for cause in causes if not cause.startswith("Job aborted")), first)
    return first[:300]


def worker_error(error: Exception, what: str, *, remedy: str, otherwise: str) -> ModelError:
    """What a Spark worker raised, in one line, without its stack trace.

    Parameters
    ----------
    what:
        was being done: 'scoring'.
    remedy, otherwise:
        for an error of this package, which says itself what to mend, and for any other; of a worker that lacks
        the package or a library the remedy is to send it.
    """
    cause = cause_of(error)
    if _LACKING.search(cause):
        return ModelError(f"{what} failed in a worker: {cause}", remedy=WORKERS_PYTHON)
    if _OURS.search(_RANK.sub("", str(error))):
        return ModelError(f"{what} failed in a worker: {cause}", remedy=remedy)
    return ModelError(f"{what} failed: {cause}", remedy=otherwise)


@contextmanager
def workers(what: str, *, remedy: str, otherwise: str) -> Iterator[None]:
    """Whatever Spark raises inside becomes a :func:`worker_error`; an error of this package stays as it is."""
    try:
        yield
    except SieError:
        raise
    except Exception as error:  # a worker's failure arrives as py4j's, PySpark's or Connect's own type
        raise worker_error(error, what, remedy=remedy, otherwise=otherwise) from error
