"""Doctor looks, says what mends a machine, and leaves nothing behind."""

import platform
from pathlib import Path
from typing import Any

import pytest

from helpers.command_line import last_line
from sie_spark import __version__
from sie_spark.cli import main
from sie_spark.platform import workers
from sie_spark.platform.errors import WORKERS_PYTHON, PlatformError
from sie_spark.platform.root import Root
from sie_spark.platform.workers import Worker


@pytest.mark.spark
def test_doctor_leaves_nothing_behind(spark: Any, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "other").mkdir()
    assert main(["doctor", "--root", str(tmp_path / "runs" / "new")]) == 0
    out, table = capfd.readouterr()
    assert '"failed": 0.0' in out and f"sie_spark {__version__}" in table and "torch 2" in table
    assert [path.name for path in tmp_path.iterdir()] == ["other"]
    Root(tmp_path / "old").write_bytes(b"x", "tables", "events", "_delta_log", "x.json")
    before = sorted(tmp_path.rglob("*"))
    assert main(["doctor", "--root", str(tmp_path / "old")]) == 0
    assert last_line(capfd)["ok"] and sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"lacks": ("No module named 'sie_spark'",)}, "environment/bin/python on h: No module named 'sie_spark'"),
        ({"lacks": ("No module named 'torch'", "OSError: libgomp")}, "No module named 'torch'; OSError: libgomp"),
        ({"versions": (("torch", "2.1"), ("sie_spark", "0.1"))}, "sie_spark 0.1 on"),
        ({"python": "3.9.1"}, "on Python 3.9, and the driver has"),
    ],
)  # fmt: skip
def test_a_worker_that_differs_is_named_with_the_remedy(
    changed: dict[str, Any], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    good = {
        "host": "h",
        "executable": "environment/bin/python",
        "python": platform.python_version(),
        "lacks": (),
        "versions": (("torch", "2.1"), ("sie_spark", __version__)),
    }
    found = [Worker(**good), Worker(**{**good, **changed})]
    monkeypatch.setattr(workers, "look_at_workers", lambda spark: found)
    with pytest.raises(PlatformError) as caught:
        workers.check_workers(None)
    assert said in str(caught.value) and caught.value.remedy == WORKERS_PYTHON
    found[1] = found[0]
    assert workers.check_workers(None) == found
