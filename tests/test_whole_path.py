"""One log, several ways: the notebook in local mode, the same again, through Spark Connect, on a cluster as README says."""

import base64
import json
import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
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
    "training.tune=off",
    "training.refit=false",
    "training.batch_size=128",
    "evaluation.yardstick_rows=2000",
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
    overrides = (*SMALL, "training.distributed=false", "importance.scorers=[loss, error, grad_norm]")
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
    stages = ("ingest", "impressions", "encode")
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
    """Run a job to its good end; returns all it printed."""
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, cwd=REPOSITORY, env=environment
    )
    assert done.returncode == 0, done.stderr[-4000:]
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    assert result["ok"], result
    return done.stdout + done.stderr


HOME = Path(pyspark.__file__).parent
PLACE = {
    "SPARK_HOME": str(HOME),
    "SPARK_LOCAL_IP": "127.0.0.1",
    "PATH": f"{HOME / 'bin'}:{os.environ['PATH']}",
    "JDK_JAVA_OPTIONS": f"{SHORT_LIVED} -XX:+UseSerialGC",  # six JVMs on two cores
}


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A standalone Master and two Workers on loopback; the Master's address."""
    here = tmp_path_factory.mktemp("cluster")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    start = [str(HOME / "bin" / "spark-class")]
    at = ["--host", "127.0.0.1", "--webui-port", "0"]
    master = [*start, "org.apache.spark.deploy.master.Master", *at, "--port", port]
    work = ["--cores", "1", "--memory", "2g", "--work-dir", str(here), f"spark://127.0.0.1:{port}"]
    worker = [*start, "org.apache.spark.deploy.worker.Worker", *at, *work]
    environment = {**os.environ, **PLACE, "SPARK_DAEMON_MEMORY": "256m"}
    environment["LOG4J_CONFIGURATION_FILE"] = str(REPOSITORY / "conf" / "log4j2.properties")
    with ExitStack() as stack:
        log = stack.enter_context(open(here / "log.txt", "w"))
        for command in (master, worker, worker):  # a Worker tries again until the Master is there
            process = subprocess.Popen(command, stdout=log, stderr=log, env=environment)
            stack.callback(process.wait)
            stack.callback(process.kill)
        yield f"spark://127.0.0.1:{port}"


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What ``make environment`` builds: here the package alone, over the libraries of this Python."""
    dist = tmp_path_factory.mktemp("dist")
    words = [f"DIST={dist}", f"PYTHON={sys.executable}", f"BIN={Path(sys.executable).parent}"]
    make = ["make", "-o", "setup", "environment", *words, f"DEPENDENCIES={HOME.parent}"]
    done = subprocess.run(make, check=False, capture_output=True, text=True, cwd=REPOSITORY)
    assert done.returncode == 0, done.stderr[-2000:]
    return dist / "environment.tar.gz"


def as_readme_says(job: str, master: str, archive: Path, *more: str) -> tuple[list[str], dict[str, str]]:
    """The command of README for this master, archive and job, with more options of spark-submit; its environment."""
    text = (REPOSITORY / "README.md").read_text(encoding="utf-8").replace("\\\n", " ")
    (line,) = re.findall(r"^LOG4J.*jobs/run.py.*$", text, flags=re.MULTILINE)
    line = line.replace("spark://HOST:7077", master).replace(
        "dist/environment", str(archive.parent / "environment")
    )
    words = shlex.split(line.partition(" --config ")[0].replace("jobs/run.py", job))
    at = words.index("spark-submit")
    command = [str(HOME / "bin" / "spark-submit"), *words[at + 1 : -1], *more, words[-1]]
    said = dict(word.split("=", 1) for word in words[:at])
    environment = {**os.environ, **PLACE, **said, "SIE_PSEUDONYM_KEY": KEY}
    environment.pop("PYSPARK_GATEWAY_PORT", None)
    return command, environment


SIZES = ("--conf", "spark.executor.memory=1g", "--conf", "spark.sql.shuffle.partitions=4")


@pytest.mark.slow
def test_workers_without_the_package_are_told_what_they_lack(
    executed: tuple[Any, Path], cluster: str, archive: Path, tmp_path: Path
) -> None:
    """Their Python has all the libraries; doctor says so before work, and a stage that goes on all the same after."""
    bare = tmp_path / "bare"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(bare)], check=True)
    (folder,) = bare.glob("lib/python3*/site-packages")
    (folder / "base.pth").write_text(f"{HOME.parent}\n")
    root = shutil.copytree(executed[1], tmp_path / "root")
    words = ["--config", "simulated", "--environment", "cluster", "--root", str(root)]
    words += [word for pair in (*SMALL, "training.processes=2", "run.force=true") for word in ("--set", pair)]
    both = tmp_path / "both.py"
    both.write_text(
        f"from sie_spark.cli import main\nfor job in ('doctor', 'train'):\n    main([job, *{words}])\n"
    )
    other = ("--conf", f"spark.pyspark.python={bare}/bin/python", "--conf", "spark.archives=")
    command, environment = as_readme_says(str(both), cluster, archive, *SIZES, *other)
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, cwd=REPOSITORY, env=environment, timeout=400
    )
    # spark-submit gives what Python prints one stdout, its stderr too
    doctor, train = (json.loads(line) for line in done.stdout.splitlines() if line.startswith("{"))
    lacks = rf"not ready: workers \(workers' Python {bare}/bin/python on \S+: No module named 'sie_spark'\)"
    assert re.fullmatch(lacks, doctor["error"]), (doctor, done.stderr[-3000:])
    assert train["error"] == "the distributed fit failed in a worker: No module named 'sie_spark'"
    assert all("make environment" in said["remedy"] for said in (doctor, train))


@pytest.mark.slow
@pytest.mark.spark
def test_the_cluster_command_of_readme_gives_the_tables_of_local_mode(
    executed: tuple[Any, Path], cluster: str, archive: Path, tmp_path: Path, spark: Any
) -> None:
    history = {
        "spark.databricks.delta.snapshotPartitions": "2",  # fifty tasks to read the log of so small a table
        "spark.eventLog.enabled": "true",
        "spark.eventLog.compress": "false",
        "spark.eventLog.dir": f"file:{tmp_path}/history",
    }
    conf = [word for key, value in history.items() for word in ("--conf", f"{key}={value}")]
    command, environment = as_readme_says("jobs/run.py", cluster, archive, *SIZES, *conf)
    (tmp_path / "history").mkdir()
    theirs, (_, local) = tmp_path / "exp #1: 50% of ü", executed
    settings = [
        word for pair in (*SMALL, "training.processes=2", "arms.full=null") for word in ("--set", pair)
    ]
    progress = run(
        [
            *(*command, "--config", "simulated", *settings, "--environment", "cluster"),
            *("--source", str(local / "raw"), "--root", str(theirs)),
        ],
        environment,
    )
    assert " INFO " not in progress
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
    files = [file for file in theirs.rglob("*") if file.is_file()]
    kept = [file for file in files if file.relative_to(theirs).parts[0] != "tables"]
    assert {"mlflow.db", "report.html"} <= {file.name for file in kept}
    for text in (*logs, progress.encode(), *[file.read_bytes() for file in kept]):
        assert not name.search(text)

    for table in TABLES:
        assert_same_rows(spark, table, theirs, local)
    # pi comes from a model fitted by another number of threads
    drawn = ("sample_id", "event_date", "cat", "label")
    assert_same_rows(spark, "training_set", theirs, local, where="arm = 'random'", columns=drawn)
