"""The one place that knows how a Spark session begins; no job names a master, a package or a path."""

from __future__ import annotations

import importlib.util
import logging
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from sie_spark.platform.config import Session
from sie_spark.platform.errors import PlatformError
from sie_spark.platform.java import java_version

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

# What any session needs, wherever it was started; refused confs (serverless) are passed over.
DATA_PATH_CONF = {
    "spark.sql.session.timeZone": "UTC",
    "spark.sql.execution.arrow.pyspark.enabled": "true",
    "spark.sql.execution.arrow.pyspark.validateSchema.enabled": "true",
    "spark.sql.execution.arrow.maxRecordsPerBatch": "8192",
    # what is replaced as a whole keeps nothing of before, where the platform's own default is dynamic
    "spark.sql.sources.partitionOverwriteMode": "static",
    # without -XX:-DontCompileHugeMethods HotSpot only interprets methods of more than 8,000 bytes, and with it
    # compiles the widest of them badly: projections are split instead
    "spark.sql.codegen.hugeMethodLimit": "8000",
    # the line of Python that made each Column: three more calls to the JVM for every one of them
    "spark.python.sql.dataFrameDebugging.enabled": "false",
}
JIT = {"full": "", "quick": " -XX:TieredStopAtLevel=1"}


def check_spark() -> None:
    """Refuse, before any work, a Python without PySpark, which clusters bring and ``pip install`` leaves to them.

    Raises
    ------
    PlatformError
        naming both ways to have it.
    """
    if importlib.util.find_spec("pyspark") is None:
        raise PlatformError(
            f"{sys.executable} has no pyspark",
            remedy="pip install 'sie-spark[spark]', or start the job by the cluster's spark-submit",
        )


def open_session(settings: Session) -> SparkSession:
    """The session the platform started (spark-submit, Databricks, Connect), or a local one.

    Raises
    ------
    PlatformError
        when no session exists and ``session.mode`` is ``existing``, or when a local one cannot start.
    """
    from pyspark.sql import SparkSession

    _say_errors_once()
    active = SparkSession.getActiveSession()
    submitted = any(
        name in os.environ for name in ("PYSPARK_GATEWAY_PORT", "DATABRICKS_RUNTIME_VERSION", "SPARK_REMOTE")
    )
    if active is None and not submitted:
        if settings.mode == "existing":
            raise PlatformError(
                "session.mode is 'existing', but no Spark session was started",
                remedy="start the job with spark-submit, or use --set session.mode=local",
            )
        return local_session(settings)
    if settings.mode == "local" and active is None:
        return local_session(settings)
    session = active or SparkSession.builder.getOrCreate()
    _apply(session, {**DATA_PATH_CONF, **settings.conf})
    return session


def local_session(settings: Session, *, master: str | None = None) -> SparkSession:
    """A local session with Delta; used by tests, the demo and single machines."""
    from delta import configure_spark_with_delta_pip
    from pyspark.sql import SparkSession

    # under pipes Python drops to ASCII where no locale is set, and the workers inherit it
    os.environ.setdefault("PYTHONUTF8", "1")
    os.environ["PYSPARK_PYTHON"] = sys.executable
    os.environ.setdefault("SPARK_LOCAL_IP", "127.0.0.1")
    cores = settings.cores or min(os.cpu_count() or 1, 8)
    scratch = Path(tempfile.gettempdir()) / f"sie_spark-{os.getuid()}"
    scratch.mkdir(exist_ok=True, mode=0o700)
    conf = {
        "spark.sql.extensions": "io.delta.sql.DeltaSparkSessionExtension",
        "spark.sql.catalog.spark_catalog": "org.apache.spark.sql.delta.catalog.DeltaCatalog",
        "spark.driver.memory": settings.memory,
        "spark.driver.extraJavaOptions": f"-Dderby.system.home={scratch} -XX:+UseParallelGC"
        f" -XX:-DontCompileHugeMethods{JIT[settings.jit]}",
        "spark.sql.warehouse.dir": str(scratch / "warehouse"),
        "spark.local.dir": str(scratch),
        "spark.sql.shuffle.partitions": str(settings.shuffle_partitions),
        "spark.databricks.delta.snapshotPartitions": "2",
        # a run has more generated classes than the 100 that are kept otherwise, and would compile them again
        "spark.sql.codegen.cache.maxEntries": "2000",
        "spark.ui.enabled": "false",
        "spark.ui.showConsoleProgress": "false",
        "spark.log.level": "ERROR",
        "spark.sql.files.maxPartitionBytes": "32m",
        **DATA_PATH_CONF,
        **settings.conf,
    }
    builder = SparkSession.builder.appName("sie_spark").master(master or f"local[{cores}]")
    for key, value in conf.items():
        builder = builder.config(key, value)
    log = scratch / f"spark-{os.getpid()}.log"
    try:
        with _output_to(
            log
        ):  # the JVM inherits it for life: Ivy's, Spark's and VACUUM's chatter is not the user's
            return configure_spark_with_delta_pip(builder).getOrCreate()
    except Exception as error:  # the gateway raises plain RuntimeError or Py4J errors of many kinds
        java_version()
        raise PlatformError(
            f"no local Spark session: {str(error).splitlines()[0][:300]} (Spark's own words: {log})",
            remedy="look there; the first start downloads the Delta jars (on a machine without a network name them"
            " in session.conf: spark.jars), and session.memory must be free",
        ) from error


@contextmanager
def _output_to(file: Path) -> Iterator[None]:
    sys.stdout.flush()
    sys.stderr.flush()
    ours = [os.dup(1), os.dup(2)]
    with open(file, "ab") as handle:
        os.dup2(handle.fileno(), 1)
        os.dup2(handle.fileno(), 2)
    try:
        yield
    finally:
        for number, kept in enumerate(ours, start=1):
            os.dup2(kept, number)
            os.close(kept)


def _say_errors_once() -> None:
    """PySpark writes every error to stderr before it raises it, JVM trace and all; here the message is enough."""
    from pyspark.logger import PySparkLogger

    for name in ("SQLQueryContextLogger", "DataFrameQueryContextLogger"):
        PySparkLogger.getLogger(name).setLevel(logging.CRITICAL)


def _apply(session: SparkSession, conf: dict[str, str]) -> None:
    from pyspark.errors import PySparkException

    for key, value in conf.items():
        try:
            session.conf.set(key, value)
        except PySparkException:  # serverless refuses most confs, and static ones cannot change
            continue


def stop_session(session: SparkSession) -> None:
    """Stop a session unless the platform owns it (Databricks keeps its own)."""
    if "DATABRICKS_RUNTIME_VERSION" not in os.environ:
        session.stop()
