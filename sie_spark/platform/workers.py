"""What Spark's Python workers, and the ranks that torch starts from them, can import; how many run at once."""

from __future__ import annotations

import json
import platform
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sie_spark import __version__
from sie_spark.platform.errors import WORKERS_PYTHON, PlatformError, cause_of

if TYPE_CHECKING:
    import pyarrow as pa
    from pyspark.sql import SparkSession

# what the functions that run there need: torch and all others come with the modules that use them
MODULES = (
    *("torch", "sie_spark", "sie_spark.importance.worker", "sie_spark.training.job"),
    "sie_spark.evaluation.yardsticks",
)
MOST = 64  # workers asked
# run by the worker's own Python in a process of its own, as a rank is: it inherits no path that Spark added
CODE = """
import importlib, json, platform, sys
lacks, versions = [], {}
for name in sys.argv[1:]:
    try:
        module = importlib.import_module(name)
        if "." not in name:
            versions[name] = module.__version__
    except Exception as error:
        kind = "" if isinstance(error, ModuleNotFoundError) else f"{type(error).__name__}: "
        lacks.append(kind + (str(error).strip().splitlines() or [""])[0])
print(json.dumps({"python": platform.python_version(), "lacks": lacks, "versions": versions}))
"""


@dataclass(frozen=True)
class Worker:
    """What one host's worker said of itself."""

    host: str
    executable: str
    python: str
    lacks: tuple[str, ...]  # why a module cannot be imported, each reason once
    versions: tuple[tuple[str, str], ...]

    def __str__(self) -> str:
        names = ", ".join(f"{name} {version}" for name, version in self.versions)
        return f"Python {self.python}{', ' if names else ''}{names}"


def check_workers(spark: SparkSession) -> list[Worker]:
    """Ask the workers what they can import, and compare it with this process.

    Raises
    ------
    PlatformError
        naming what a worker lacks or has of another version, and the remedy.
    """
    try:
        found = look_at_workers(spark)
    except Exception as error:  # a worker that cannot start is a Py4J or a Connect error
        raise PlatformError(
            f"a Python worker cannot run: {cause_of(error)}", remedy=WORKERS_PYTHON
        ) from error
    ours = (__version__, ".".join(platform.python_version_tuple()[:2]))
    for worker in found:
        who = f"workers' Python {worker.executable} on {worker.host}"
        if worker.lacks:
            raise PlatformError(f"{who}: {'; '.join(worker.lacks)}", remedy=WORKERS_PYTHON)
        theirs = (dict(worker.versions)["sie_spark"], worker.python.rpartition(".")[0])
        if ours != theirs:
            raise PlatformError(
                f"{who}: sie_spark {theirs[0]} on Python {theirs[1]}, and the driver has {ours[0]} on {ours[1]}",
                remedy=WORKERS_PYTHON,
            )
    return found


def look_at_workers(spark: SparkSession) -> list[Worker]:
    """Ask a worker of every slot, at most :data:`MOST`, what it can import; those that say the same are one."""
    # nested, so that it travels by value: a function of this package could not be read where the package is missing
    code, modules = CODE, MODULES

    def look(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        import socket
        import subprocess
        import sys

        import pyarrow as pa

        list(batches)
        done = subprocess.run(
            [sys.executable, "-c", code, *modules], capture_output=True, text=True, check=False
        )
        said = done.stdout.splitlines()[-1:] or [f"\0{done.stderr.strip()[-300:]}"]
        yield pa.RecordBatch.from_pydict(
            {"host": [socket.gethostname()], "executable": [sys.executable], "said": said}
        )

    asked = 1 if is_local(spark) else min(task_slots(spark), MOST)
    rows = spark.range(0, asked, 1, asked).mapInArrow(look, "host string, executable string, said string")
    return [_worker(*row) for row in sorted(set(map(tuple, rows.collect())))]


def _worker(host: str, executable: str, said: str) -> Worker:
    if said.startswith("\0"):
        return Worker(host, executable, "", (said[1:],), ())
    found = json.loads(said)
    lacks = dict.fromkeys(found["lacks"])
    return Worker(host, executable, found["python"], tuple(lacks), tuple(found["versions"].items()))


def is_local(spark: SparkSession) -> bool:
    """Whether Spark runs in one process (``local[..]``): its ranks then run beside the driver."""
    master = str(spark.conf.get("spark.master", "") or "")
    return master == "local" or master.startswith("local[")


def task_slots(spark: SparkSession) -> int:
    """Tasks that can run at once, as far as a session, classic or Connect, can see."""
    from pyspark.sql import functions as F

    cpus = max(1, int(spark.conf.get("spark.task.cpus", "1") or 1))
    # a range without a partition count has as many partitions as the cluster has cores
    cores = spark.range(100_000).select(F.spark_partition_id()).distinct().count()
    return max(1, cores // cpus)
