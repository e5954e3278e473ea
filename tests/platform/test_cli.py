import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from helpers.command_line import last_line
from sie_spark.cli import main

WITHOUT_PYSPARK = """
import importlib.util, sys
found = importlib.util.find_spec
importlib.util.find_spec = lambda name, package=None: None if name == "pyspark" else found(name, package)
sys.modules["pyspark"] = None  # any import of it fails
from sie_spark.cli import main
main(["run", "--root", sys.argv[1]])
"""


@pytest.mark.parametrize(
    ("arguments", "error", "remedy"),
    [
        (["run", "--config", "nowhere"], "'nowhere' not found", "trivago"),
        (["run", "--config", "trivago", "--set", "pilot.fractoin=1"], "pilot.fractoin", "fraction"),
        (["run", "--config", "trivago", "--root", "s3://bucket/x"], "object store", "mlflow.tracking_uri"),
        (["run", "--set", "weighting.policy=rare_evnt"], "rare_evnt", "rare_event"),
        (["run", "--set", "importance.scorers=[los]"], "'los'", "loss"),
        (["run", "--set", "model=dcnv3"], "dcnv3", "dcnv2"),
        (["run", "--root", "/proc/nothing"], "--root /proc/nothing", "choose a directory"),
    ],
)
def test_failures_end_with_one_json_line_and_a_remedy(
    arguments: list[str], error: str, remedy: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    if "--root" not in arguments:
        arguments = [*arguments, "--root", str(tmp_path)]
    assert main(arguments) == 1
    said = last_line(capfd)
    assert said["ok"] is False and said["schema_version"] == 1 and said["job"] == "run"
    assert error in said["error"] and remedy in said["remedy"]
    assert "Traceback" not in said["error"]


@pytest.mark.parametrize(
    ("arguments", "job", "error"),
    [
        (["run", "--bogus"], "run", "--bogus"),
        (["run", "--environment", "moon"], "run", "moon"),
        (["forget"], "forget", "--user"),
        (["explain"], "explain", "--query-row"),
        (["explain", "--worst", "0"], "explain", "between 1 and"),
        (["explain", "--worst", "2", "--sample-id", "-3"], "explain", "not allowed with"),
        (["rnu"], "sie", "rnu"),
        ([], "sie", "JOB"),
    ],
)
def test_wrong_usage_ends_with_the_json_line_too(
    arguments: list[str], job: str, error: str, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    out, err = capfd.readouterr()
    said = json.loads(out)
    assert (said["job"], said["ok"], said["schema_version"]) == (job, False, 1) and error in said["error"]
    assert said["remedy"] == ("see 'sie --help'" if job == "sie" else f"see 'sie {job} --help'")
    assert "usage: sie" in err and error in err


def test_help_stays_help(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["run", "--help"])
    assert caught.value.code == 0 and "--root" in capfd.readouterr().out


def test_a_stage_before_its_time_says_which_comes_first(tmp_path: Path) -> None:
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "sie_spark.cli",
            "weigh",
            "--root",
            str(tmp_path),
            "--set",
            "session.memory=1g",
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    said = json.loads(done.stdout.splitlines()[-1])
    assert done.returncode == 1 and len(done.stdout.splitlines()) == 1
    assert "'scores' does not exist" in said["error"] and "sie score" in said["remedy"]
    assert "Traceback" not in done.stderr


test_a_stage_before_its_time_says_which_comes_first = pytest.mark.spark(
    test_a_stage_before_its_time_says_which_comes_first
)


@pytest.mark.parametrize("command", ["doctor", "ingest"])
def test_a_machine_without_java_is_told_what_to_install(tmp_path: Path, command: str) -> None:
    settings = ["--config", "simulated"] if command == "ingest" else []
    done = subprocess.run(
        [sys.executable, "-m", "sie_spark.cli", command, "--root", str(tmp_path), *settings],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "JAVA_HOME": str(tmp_path / "nowhere")},
    )
    said = json.loads(done.stdout.splitlines()[-1])
    assert done.returncode == 1 and "openjdk-17" in said["remedy"] and "Traceback" not in done.stderr
    if command == "doctor":
        assert said["error"].startswith("not ready: java (no java found: ")
        assert said["error"].endswith("; not tried: session, delta, workers, slots")
        assert said["remedy"].count("java:") == 1 and "delta:" not in said["remedy"]
    else:
        assert said["error"].startswith("no java found")


def test_a_python_without_pyspark_is_told_how_to_have_it(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_PYSPARK, str(tmp_path)], capture_output=True, text=True, check=False
    )
    said = json.loads(done.stdout.splitlines()[-1])
    assert "has no pyspark" in said["error"] and "sie-spark[spark]" in said["remedy"]


def test_every_job_has_its_shim() -> None:
    from sie_spark.pipeline import STAGES

    folder = Path(__file__).resolve().parents[2] / "jobs"
    assert {file.stem for file in folder.glob("*.py")} >= {*STAGES, "run", "demo", "doctor"}
    for file in folder.glob("*.py"):
        assert f'main(["{file.stem}"' in file.read_text()
        assert len(file.read_text().splitlines()) <= 12
