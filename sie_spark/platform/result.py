"""What a stage returns and what the last line on stdout says: one JSON object with a versioned schema."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

SCHEMA_VERSION = 1


@dataclass(frozen=True)
class TableRef:
    """A table as it was read or written: path or catalogue name, Delta version, number of rows.

    ``content`` names the newest commit that changed rows, by version and fingerprint: compaction and clean-up
    come after it, and what was made from it is still up to date; a table made anew from something else in its
    place has another one at the same version.
    """

    path: str
    version: int
    rows: int | None = None
    content: str | None = field(default=None, compare=False)

    def as_dict(self) -> dict[str, Any]:
        """Plain data for the JSON line and for MLflow."""
        return {"path": self.path, "version": self.version, "rows": self.rows}


@dataclass(frozen=True)
class Rows:
    """The fate of every row a stage read: read = kept + quarantined + duplicate (+ dropped, for a sample)."""

    read: int = 0
    kept: int = 0
    quarantined: int = 0
    duplicate: int = 0

    def as_dict(self) -> dict[str, int]:
        """Plain data for the JSON line."""
        return {
            "read": self.read,
            "kept": self.kept,
            "quarantined": self.quarantined,
            "duplicate": self.duplicate,
        }


def ordered_cautions(by_stage: Mapping[str, Sequence[str]]) -> list[str]:
    """The cautions of all stages as people read them: those of the verdict first, then along the path."""
    stages = sorted(by_stage, key=lambda stage: stage != "evaluate")
    return [sentence for stage in stages for sentence in by_stage[stage]]


@dataclass
class StageResult:
    """What one stage did."""

    inputs: dict[str, TableRef] = field(default_factory=dict)
    outputs: dict[str, TableRef] = field(default_factory=dict)
    rows: Rows | None = None
    metrics: dict[str, float] = field(default_factory=dict)
    details: dict[str, Any] = field(
        default_factory=dict
    )  # plain data for the report: quality, curves, examples
    artifacts: list[str] = field(default_factory=list)  # files logged to MLflow
    skipped: bool = False  # everything was up to date
    report: str | None = None

    @property
    def cautions(self) -> list[str]:
        """What a reader must know before trusting the result: ``cautions`` among the stage's details.

        A stage that is skipped brings those of the run that made its tables.
        """
        return list(self.details.get("cautions", []))


def success(job: str, seconds: float, result: StageResult, mlflow_run_id: str | None) -> dict[str, Any]:
    """The object of a job that worked (schema in README, 'The last line')."""
    return {
        "schema_version": SCHEMA_VERSION,
        "job": job,
        "ok": True,
        "seconds": round(seconds, 3),
        "inputs": {name: ref.as_dict() for name, ref in result.inputs.items()},
        "outputs": {name: ref.as_dict() for name, ref in result.outputs.items()},
        "rows": (result.rows or Rows()).as_dict(),
        "metrics": {name: _number(value) for name, value in result.metrics.items()},
        "cautions": result.cautions,
        "report": result.report,
        "mlflow_run_id": mlflow_run_id,
        "skipped": result.skipped,
    }


def failure(job: str, seconds: float, *, error: str, remedy: str) -> dict[str, Any]:
    """The object of a job that failed."""
    return {
        "schema_version": SCHEMA_VERSION,
        "job": job,
        "ok": False,
        "seconds": round(seconds, 3),
        "error": error,
        "remedy": remedy,
    }


def line(result: dict[str, Any]) -> str:
    """One line of strict JSON (no NaN)."""
    return json.dumps(result, sort_keys=False, allow_nan=False)


def _number(value: float) -> float | None:
    return None if value is None or not math.isfinite(value) else float(value)
