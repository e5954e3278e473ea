"""What a stage leaves of itself, and when it may be skipped."""

from pathlib import Path
from typing import Any

import pytest

from sie_spark.platform.config import load_config
from sie_spark.platform.context import Context
from sie_spark.platform.root import Root


class Tables:
    """A catalogue that knows one commit."""

    fingerprint_of: str | None = "now"

    def fingerprint(self, name: str, *, scope: str = "") -> str | None:
        return self.fingerprint_of


@pytest.fixture
def ctx(tmp_path: Path) -> Context:
    found = Context(load_config("simulated"), Root(tmp_path))
    found.__dict__["catalog"] = Tables()
    return found


def test_a_stage_is_finished_when_table_and_details_say_so(ctx: Context) -> None:
    def finished() -> dict[str, Any] | None:
        return ctx.finished("weigh", "now", table="training_set")

    assert finished() is None  # nothing was kept
    ctx.save_details("weigh", {"rows": 1}, fingerprint="before")
    assert finished() is None  # killed between the commit and the details: those are of an older run
    ctx.save_details("weigh", {"rows": 2})
    assert finished() is None
    ctx.save_details("weigh", {"rows": 3}, fingerprint="now")
    assert finished() == {"rows": 3} == ctx.load_details("weigh")
    ctx.__dict__["catalog"].fingerprint_of = "other"
    assert finished() is None


def test_a_forced_stage_is_never_finished(tmp_path: Path) -> None:
    ctx = Context(load_config("simulated", overrides=["run.force=true"]), Root(tmp_path))
    ctx.__dict__["catalog"] = Tables()
    ctx.save_details("weigh", {}, fingerprint="now")
    assert ctx.finished("weigh", "now", table="training_set") is None
