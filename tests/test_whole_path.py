"""One log, several ways: the notebook in local mode, the same again, through Spark Connect, the wheel on a cluster."""

import base64
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyspark
import pytest

from sie_spark.pipeline import run_all
from sie_spark.platform.config.names import SAMPLE, SAMPLE_PREFIXES
from sie_spark.platform.context import Context
from sie_spark.platform.tracking import Tracker

REPOSITORY = Path(__file__).resolve().parents[1]
NOTEBOOK = REPOSITORY / "notebooks" / "quickstart.ipynb"
KEY = "the same key on both sides"
# for a JVM that lives for one run of a small log: HotSpot's second compiler would take longer than it saves
SHORT_LIVED = "-XX:TieredStopAtLevel=1"
SMALL = [
    "simulator.impressions=12000",
    "simulator.days=3",
    "evaluation.bootstrap=20",
    "training.min_steps=30",
]
TABLES = ("events", "quarantine", "impressions", "samples")

nbformat = pytest.importorskip("nbformat")
nbclient = pytest.importorskip("nbclient")
pytest.importorskip("ipykernel")


@pytest.fixture(scope="module")
def executed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Path]:
    """The notebook after it ran on a small log, in a process and a session of its own, and its root."""
    here = tmp_path_factory.mktemp("notebook")
    # the kernel of this very interpreter, whatever kernels the machine knows
    kernels = here / "jupyter" / "kernels" / "python3"
    kernels.mkdir(parents=True)
    argv = f'["{sys.executable}", "-m", "ipykernel_launcher", "-f", "{{connection_file}}"]'
    (kernels / "kernel.json").write_text(f'{{"argv": {argv}, "display_name": "t", "language": "python"}}')
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    for cell in notebook.cells:
        cell.source = cell.source.replace("simulator.impressions=60000", '", "'.join(SMALL))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TMPDIR", str(here))
        patch.setenv("PYTHONPATH", str(REPOSITORY))
        patch.setenv("JUPYTER_PATH", str(here / "jupyter"))
        patch.setenv("SIE_PSEUDONYM_KEY", KEY)
        patch.setenv("JDK_JAVA_OPTIONS", SHORT_LIVED)
        nbclient.NotebookClient(notebook, timeout=900, kernel_name="python3").execute()
    return notebook, here / "sie_quickstart"


def test_the_notebook_is_stored_without_output() -> None:
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert len(code) == 10
    assert all(not cell.outputs and cell.execution_count is None for cell in code)


@pytest.mark.slow
def test_the_notebook_runs(executed: tuple[Any, Path]) -> None:
    notebook, root = executed
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert "report.html" in "".join(output.get("text", "") for output in code[-1].outputs)
    assert (root / "report.html").stat().st_size > 20_000
    figures = [cell for cell in code if any("image/png" in output.get("data", {}) for output in cell.outputs)]
    assert len(figures) == 4


def said(root: Path) -> dict[str, bytes]:
    """What the stages said of their work, without how long it took: the page is made again."""
    files = (root / "details").glob("*.json")
    return {file.name: file.read_bytes() for file in files if file.name != "seconds.json"}


@pytest.mark.slow
@pytest.mark.spark
def test_the_same_again_writes_nothing(
    executed: tuple[Any, Path], make_context: Callable[..., Context], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, root = executed
    monkeypatch.setenv("SIE_PSEUDONYM_KEY", KEY)
    overrides = (*SMALL, "training.distributed=false")
    ctx = make_context("simulated", root=root, overrides=overrides, source=str(root / "raw"))
    tables = [folder.name for folder in (root / "tables").iterdir()]
    before = {table: ctx.catalog.ref(table) for table in tables}
    details = said(root)
    again, _ = run_all(ctx, Tracker(ctx.config, ctx.root), simulate=True)
    assert again.skipped and {*TABLES, "training_set"} <= set(again.outputs) <= set(before)
    assert all(ref == before[table] for table, ref in again.outputs.items())
    assert {table: ctx.catalog.ref(table) for table in tables} == before
    assert said(root) == details
    for table in ("samples", "scores", "training_set", "predictions"):
        made = {name for name in ctx.catalog.read(table).columns if not name.startswith(SAMPLE_PREFIXES)}
        assert made <= {*SAMPLE, "query_text"}, table  # else a feature under that name would be replaced
    assert 0.5 < again.metrics["auc_weighted"] < 1
    assert again.rows is not None
    rows = again.rows.as_dict()
    assert rows["read"] == rows["kept"] + rows["quarantined"] + rows["duplicate"] > 0


def assert_same_rows(
    spark: Any, table: str, one: Path, other: Path, *, where: str = "true", columns: tuple[str, ...] = ("*",)
) -> None:
    """Both roots hold the same rows of a table, whenever and from wherever they were read."""
    ours, theirs = (
        spark.read.format("delta").load(f"{root}/tables/{table}").drop("quarantined_at", "source_file")
        for root in (one, other)
    )
    assert sorted(ours.dtypes) == sorted(theirs.dtypes)
    theirs = theirs.select(*ours.columns).where(where).select(*columns)
    ours = ours.where(where).select(*columns)
    assert ours.count() > 0 or table == "quarantine"
    assert ours.exceptAll(theirs).count() == 0 and theirs.exceptAll(ours).count() == 0, table


@pytest.mark.slow
@pytest.mark.spark
def test_spark_connect_gives_the_tables_of_local_mode(
    executed: tuple[Any, Path], connect: str, tmp_path: Path, spark: Any
) -> None:
    """The data path, from a process that has no JVM."""
    _, local = executed
    stages = ("ingest", "samples", "encode")
    settings = [word for pair in SMALL for word in ("--set", pair)]
    words = ["--config", "simulated", *settings, "--source", str(local / "raw"), "--root", str(tmp_path)]
    code = f"import sys; from sie_spark.cli import main; sys.exit(any(main([s, *{words}]) for s in {stages}))"
    no_java = {"JAVA_HOME": str(tmp_path / "none")}
    environment = {**os.environ, **no_java, "SPARK_REMOTE": connect, "SIE_PSEUDONYM_KEY": KEY}
    environment.pop("PYSPARK_GATEWAY_PORT", None)
    run([sys.executable, "-c", code], environment)
    for table in TABLES:
        assert_same_rows(spark, table, tmp_path, local)


def run(command: list[str], environment: dict[str, str]) -> str:
    """Run a job to its good end; returns its progress and logs."""
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, cwd=REPOSITORY, env=environment
    )
    assert done.returncode == 0, done.stderr[-4000:]
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    assert result["ok"], result
    return done.stderr


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("dist")
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(out)]
    subprocess.run(build, check=True, capture_output=True, cwd=REPOSITORY)
    return next(out.glob("*.whl"))


@pytest.mark.slow
@pytest.mark.spark
def test_spark_submit_gives_the_tables_of_local_mode(
    executed: tuple[Any, Path], wheel: Path, tmp_path: Path, spark: Any
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
        "JDK_JAVA_OPTIONS": f"{SHORT_LIVED} -XX:+UseSerialGC",  # three JVMs on two cores
        "SPARK_HOME": str(home),
        "SPARK_LOCAL_IP": "127.0.0.1",
        "PYSPARK_PYTHON": sys.executable,
        "PYSPARK_DRIVER_PYTHON": sys.executable,
        "SIE_PSEUDONYM_KEY": KEY,
    }
    environment.pop("PYSPARK_GATEWAY_PORT", None)
    (tmp_path / "history").mkdir()
    cluster, (_, local) = tmp_path / "cluster", executed
    settings = [
        word for pair in (*SMALL, "training.processes=2", "arms.full=false") for word in ("--set", pair)
    ]
    progress = run(
        [
            *(*submit, "--config", "simulated", *settings, "--environment", "cluster"),
            *("--source", str(local / "raw"), "--root", str(cluster)),
        ],
        environment,
    )
    logs = [file.read_bytes() for file in (tmp_path / "history").rglob("*") if file.is_file()]
    assert sum(log.count(b"SparkListenerTaskEnd") for log in logs) > 100
    key = KEY.encode()
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
    for text in (*logs, progress.encode(), *[file.read_bytes() for file in kept]):
        assert not name.search(text)

    for table in TABLES:
        assert_same_rows(spark, table, cluster, local)
    # pi comes from a model fitted by another number of threads
    drawn = ("sample_id", "event_date", "cat", "label")
    assert_same_rows(spark, "training_set", cluster, local, where="arm = 'random'", columns=drawn)
