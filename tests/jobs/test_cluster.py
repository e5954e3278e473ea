"""The wheel under a real scheduler gives the same tables as local mode."""

import base64
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyspark
import pytest

from sie_spark.pipeline import run_all
from sie_spark.platform.tracking import Tracker

REPOSITORY = Path(__file__).resolve().parents[2]
SMALL = ["simulator.impressions=12000", "simulator.days=3", "evaluation.bootstrap=20", "training.processes=2"]
SMALL += ["training.min_steps=30", "arms.full=false"]
COMPARED = {
    "events": "event_id",
    "quarantine": "record_id",
    "impressions": "impression_id",
    "samples": "sample_id",
    "training_set": "sample_id",
}

pytestmark = [pytest.mark.slow, pytest.mark.spark]


def settings() -> list[str]:
    return [word for pair in SMALL for word in ("--set", pair)]


def run(command: list[str], environment: dict[str, str]) -> str:
    """Run a job to its good end; returns its progress and logs."""
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, cwd=REPOSITORY, env=environment
    )
    assert done.returncode == 0, done.stderr[-4000:]
    said: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    assert said["ok"], said
    return done.stderr


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("dist")
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(out)]
    subprocess.run(build, check=True, capture_output=True, cwd=REPOSITORY)
    return next(out.glob("*.whl"))


def test_spark_submit_gives_the_tables_of_local_mode(
    wheel: Path, tmp_path: Path, spark: Any, make_context: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = Path(pyspark.__file__).parent
    submit = [
        str(home / "bin" / "spark-submit"),
        "--master",
        "local-cluster[2,1,2048]",
        "--properties-file",
        "conf/spark-defaults.conf",
        "--conf",
        "spark.sql.shuffle.partitions=4",
        "--conf",
        "spark.executor.memory=1g",
        "--conf",
        "spark.databricks.delta.snapshotPartitions=2",  # fifty tasks to read the log of so small a table
        *(
            "--conf",
            "spark.eventLog.enabled=true",
            "--conf",
            "spark.eventLog.compress=false",
            "--conf",
            f"spark.eventLog.dir=file:{tmp_path}/history",
        ),
        "--py-files",
        str(wheel),
        "jobs/run.py",
    ]
    environment = {
        **os.environ,
        "SPARK_HOME": str(home),
        "SPARK_LOCAL_IP": "127.0.0.1",
        "PYSPARK_PYTHON": sys.executable,
        "PYSPARK_DRIVER_PYTHON": sys.executable,
        "SIE_PSEUDONYM_KEY": "the same key on both sides",
    }
    environment.pop("PYSPARK_GATEWAY_PORT", None)
    (tmp_path / "history").mkdir()
    monkeypatch.setenv("SIE_PSEUDONYM_KEY", environment["SIE_PSEUDONYM_KEY"])
    cluster, local = tmp_path / "cluster", tmp_path / "local"
    here = (*SMALL, "training.distributed=false")
    ctx = make_context("simulated", root=local, overrides=here, source=str(local / "raw"))
    first, second = (run_all(ctx, Tracker(ctx.config, ctx.root), simulate=True)[0] for _ in range(2))
    assert second.skipped and not first.skipped
    assert second.outputs == first.outputs, "the same command again must not write a version or a row"
    assert second.metrics["auc_weighted"] == first.metrics["auc_weighted"]
    assert first.rows is not None
    rows = first.rows.as_dict()
    assert rows["read"] == rows["kept"] + rows["quarantined"] + rows["duplicate"] > 0

    said = run(
        [
            *(*submit, "--config", "simulated", *settings(), "--environment", "cluster"),
            *("--source", str(local / "raw"), "--root", str(cluster)),
        ],
        environment,
    )
    logs = [file.read_bytes() for file in (tmp_path / "history").rglob("*") if file.is_file()]
    assert sum(log.count(b"SparkListenerTaskEnd") for log in logs) > 100
    key = environment["SIE_PSEUDONYM_KEY"].encode()
    padded = [bytes(byte ^ pad for byte in key) for pad in (0x36, 0x5C)]  # as HMAC takes it
    for word in (key, *padded):
        forms = (word, word.hex().encode(), word.hex().upper().encode(), base64.b64encode(word)[:-4])
        assert not [form for form in forms for log in logs if form in log]

    raw = spark.read.json(f"{local}/raw").selectExpr("explode(array(user_id, session_id)) AS name")
    names = raw.where("length(name) > 4").distinct().limit(50).collect()
    assert len(names) == 50
    name = re.compile(rb"(?<!\w)(" + b"|".join(row[0].encode() for row in names) + rb")(?!\w)")
    files = [file for file in cluster.rglob("*") if file.is_file()]
    kept = [file for file in files if file.relative_to(cluster).parts[0] != "tables"]
    assert {"mlflow.db", "report.html"} <= {file.name for file in kept}
    for text in (*logs, said.encode(), *[file.read_bytes() for file in kept]):
        assert not name.search(text)

    for table, key in COMPARED.items():
        ours, theirs = (
            spark.read.format("delta").load(f"{root}/tables/{table}").drop("quarantined_at", "source_file")
            for root in (cluster, local)
        )
        columns = [
            name
            for name, kind in ours.dtypes
            if not (table == "training_set" and kind in ("float", "double"))
        ]
        assert sorted(ours.columns) == sorted(theirs.columns)
        if table == "training_set":  # pi comes from a model fitted by another number of threads
            columns = [name for name in columns if name != "policy_version"]
            columns = [name for name in columns if name in {"cat", "label", key, "event_date"}]
            ours, theirs = ours.where("arm = 'random'"), theirs.where("arm = 'random'")
        left, right = ours.select(*columns), theirs.select(*columns)
        assert left.count() > 0 or table == "quarantine"
        assert left.exceptAll(right).count() == 0 and right.exceptAll(left).count() == 0, table


def test_spark_defaults_name_the_pinned_delta() -> None:
    import importlib.metadata

    text = (REPOSITORY / "conf" / "spark-defaults.conf").read_text()
    found = re.search(r"delta-spark_([\d.]+)_2\.13:([\d.]+)", text)
    assert found is not None
    assert found.group(1) == ".".join(pyspark.__version__.split(".")[:2])
    assert found.group(2) == importlib.metadata.version("delta-spark")


def test_no_master_package_or_path_outside_the_session_helper() -> None:
    for file in [*(REPOSITORY / "sie_spark").rglob("*.py"), *(REPOSITORY / "jobs").glob("*.py")]:
        if file.name != "session.py":
            text = file.read_text()
            assert ".master(" not in text and "spark.jars" not in text.replace("through spark.jars", ""), file


def test_the_wheel_holds_every_package() -> None:
    import tomllib

    listed = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    found = {
        ".".join(file.parent.relative_to(REPOSITORY).parts)
        for file in (REPOSITORY / "sie_spark").rglob("__init__.py")
    }
    assert set(listed) == found | {"sie_spark.conf"}
