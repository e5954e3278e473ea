"""``sie doctor``: is this machine ready, and if not, the one line that mends it."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable

from sie_spark.platform.config import Config
from sie_spark.platform.errors import PlatformError, SieError
from sie_spark.platform.java import java_version
from sie_spark.platform.progress import Progress
from sie_spark.platform.result import StageResult
from sie_spark.platform.root import Root
from sie_spark.platform.session import open_session

GIBIBYTE = 2**30
Check = Callable[[Config, Root], str]


def run(config: Config, root: Root, progress: Progress) -> StageResult:
    """Run every check and print a table.

    Raises
    ------
    PlatformError
        when a check fails; its remedy joins those of all failed checks.
    """
    rows, remedies = [], []
    failed: list[str] = []
    for name, check in CHECKS.items():
        missing = [needed for needed in NEEDS.get(name, ()) if needed in failed]
        if missing:
            rows.append([name, "not tried", f"needs {missing[0]}"])
            failed.append(name)
            continue
        try:
            rows.append([name, "ok", check(config, root)])
        except SieError as error:
            rows.append([name, "FAILED", str(error)])
            failed.append(name)
            remedies.append(f"{name}: {error.remedy}")
    progress.table("sie doctor", ["check", "state", "found"], rows)
    if failed:
        raise PlatformError(f"doctor: {', '.join(failed)} not ready", remedy="; ".join(remedies))
    return StageResult(metrics={"checks": float(len(rows)), "failed": 0.0})


def _java(config: Config, root: Root) -> str:
    if "SPARK_REMOTE" in os.environ:
        return "not needed here: Spark Connect"
    return java_version()


def _session(config: Config, root: Root) -> str:
    return f"Spark {open_session(config.session).version}"


def _delta(config: Config, root: Root) -> str:
    spark = open_session(config.session)
    try:
        probe = root.path("tables", ".doctor")
        spark.range(3).write.format("delta").mode("overwrite").save(probe)
        rows = spark.read.format("delta").load(probe).count()
        if root.is_local:
            shutil.rmtree(probe)
    except (
        Exception
    ) as error:  # jars missing, version clash, no permission: all mean Delta does not work here
        raise PlatformError(
            f"Delta cannot write under {root.uri}: {str(error).splitlines()[0][:200]}",
            remedy="let the first start download the Delta jars, or pass them through spark.jars (air-gapped)",
        ) from error
    return f"wrote and read {rows} rows"


def _worker(config: Config, root: Root) -> str:
    spark = open_session(config.session)

    def versions(batches):  # type: ignore[no-untyped-def]
        import platform as machine

        import pyarrow as pa
        import torch

        list(batches)
        yield pa.RecordBatch.from_pydict(
            {"found": [f"Python {machine.python_version()}, torch {torch.__version__}"]}
        )

    try:
        row = spark.range(1, numPartitions=1).mapInArrow(versions, "found string").first()
    except Exception as error:  # a worker that cannot import is a Py4J or a Connect error
        raise PlatformError(
            f"a Python worker cannot run: {str(error).splitlines()[0][:200]}",
            remedy="install sie_spark on the workers, and set PYSPARK_PYTHON to that Python",
        ) from error
    found = str(row[0]) if row else ""
    if f"Python {sys.version_info.major}.{sys.version_info.minor}." not in found:
        raise PlatformError(
            f"workers run {found}, the driver {sys.version.split()[0]}",
            remedy="set PYSPARK_PYTHON to the same Python",
        )
    return found


def _slots(config: Config, root: Root) -> str:
    spark = open_session(config.session)
    try:
        slots = spark.sparkContext.defaultParallelism
    except Exception:  # Connect does not tell
        return "unknown on Spark Connect"
    need = config.training.processes
    if config.training.distributed and slots < need:
        raise PlatformError(
            f"{slots} slots, training.processes is {need}",
            remedy=f"--set training.processes={slots}, or more cores (session.cores)",
        )
    return f"{slots} slots, {need} training processes"


def _disk(config: Config, root: Root) -> str:
    if not root.is_local:
        return "object store"
    free = shutil.disk_usage(root.uri).free / GIBIBYTE
    if free < 5:
        raise PlatformError(
            f"{free:.1f} GiB free under {root.uri}", remedy="free 5 GiB, or choose another --root"
        )
    return f"{free:.0f} GiB free"


def _store(config: Config, root: Root) -> str:
    from sie_spark.platform.tracking import Tracker

    return Tracker(config, root).uri


def _key(config: Config, root: Root) -> str:
    if os.environ.get("SIE_PSEUDONYM_KEY"):
        return "SIE_PSEUDONYM_KEY is set"
    if root.is_local:
        return "no SIE_PSEUDONYM_KEY: one key a local root"
    raise PlatformError(
        "SIE_PSEUDONYM_KEY is not set", remedy="set it from your secret store: identifiers are hashed with it"
    )


CHECKS: dict[str, Check] = {
    "java": _java,
    "disk": _disk,
    "session": _session,
    "delta": _delta,
    "worker python": _worker,
    "slots": _slots,
    "mlflow store": _store,
    "pseudonym key": _key,
}
NEEDS = {
    "session": ("java",),
    "delta": ("session",),
    "worker python": ("session",),
    "slots": ("session",),
}
