"""Starts the ranks of a job: in this process, as processes beside it, or as barrier tasks of the cluster.

TorchDistributor waits ten minutes and more where the cluster cannot run all ranks at once, so what it needs is
checked first.
"""

from __future__ import annotations

import json
import logging
import os
import socket
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

from sie_spark.platform.config import Training
from sie_spark.platform.errors import DataError, ModelError, PlatformError, SieError, worker_error
from sie_spark.platform.root import Root, read_bytes
from sie_spark.platform.workers import is_local, task_slots
from sie_spark.training.job import rank_main, run_rank
from sie_spark.training.loop import Stopped

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pyspark.sql import SparkSession

IN_PLACE = "or fit in the driver with --set training.distributed=false"
KINDS: dict[str, type[SieError]] = {
    kind.__name__: kind for kind in (DataError, ModelError, PlatformError, Stopped)
}


def launch(
    spark: SparkSession, settings: Training, root: Root, folder: tuple[str, ...], job_uri: str
) -> dict[str, Any]:
    """Run all ranks of a saved job and return rank 0's history.

    Raises
    ------
    PlatformError
        when the cluster cannot hold all ranks at once.
    SieError
        what a rank raised.
    """
    if not settings.distributed:
        return run_rank(job_uri, distributed=False)
    local = is_local(spark)
    check_cluster(spark, settings.processes, local=local)
    root.remove(*folder, "error.json")
    from pyspark.ml.torch.distributor import TorchDistributor

    try:
        with _environment(local, settings.processes):
            distributor = TorchDistributor(num_processes=settings.processes, local_mode=local, use_gpu=False)
            distributor.logger.setLevel(logging.WARNING)  # that it starts and ends is said here already
            history = distributor.run(rank_main, job_uri)
    except Exception as error:  # what a rank raised arrives as text inside many types
        raise _failure(root, folder, error) from error
    if history is None:
        raise ModelError(
            "the distributed fit returned nothing", remedy=f"look at the executors' logs, {IN_PLACE}"
        )
    found: dict[str, Any] = history
    return found


def threads_per_rank(spark: SparkSession, settings: Training) -> int:
    """Torch threads: the machine's cores shared by local ranks, or the cores of a Spark task."""
    if not settings.distributed or is_local(spark):
        processes = settings.processes if settings.distributed else 1
        return max(1, usable_cores() // processes)
    return max(1, int(spark.conf.get("spark.task.cpus", "1") or 1))


def usable_cores() -> int:
    """Cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)


def check_cluster(spark: SparkSession, processes: int, *, local: bool) -> None:
    """Fail at once where barrier execution could not start (SPARK-24942, SPARK-24819).

    Raises
    ------
    PlatformError
        for dynamic allocation, and for fewer task slots than processes.
    """
    if local:
        return
    if str(spark.conf.get("spark.dynamicAllocation.enabled", "false")).lower() == "true":
        raise PlatformError(
            "distributed training cannot run under dynamic allocation (SPARK-24942)",
            remedy=f"submit with spark.dynamicAllocation.enabled=false and fixed executors, {IN_PLACE}",
        )
    slots = task_slots(spark)
    if slots < processes:
        raise PlatformError(
            f"training.processes={processes}, but the cluster offers {slots} task slots (SPARK-24819)",
            remedy=f"add executors or cores, lower training.processes, {IN_PLACE}",
        )


@contextmanager
def _environment(local: bool, processes: int) -> Iterator[None]:
    """What local ranks inherit: their share of the cores, and loopback where the machine's name does not resolve."""
    wanted = {}
    if local:
        wanted["OMP_NUM_THREADS"] = str(max(1, usable_cores() // processes))
        try:
            socket.gethostbyname(socket.gethostname())
        except OSError:
            wanted["GLOO_SOCKET_IFNAME"] = "lo"
    added = {key: value for key, value in wanted.items() if key not in os.environ}
    os.environ.update(added)
    try:
        yield
    finally:
        for key in added:
            os.environ.pop(key, None)


def _failure(root: Root, folder: tuple[str, ...], error: Exception) -> SieError:
    """What the first rank that failed left, else what Spark and torchrun print of it."""
    otherwise = f"look at the lines above and at the executors' logs, {IN_PLACE}"
    with suppress(OSError, ValueError, KeyError):
        said = json.loads(read_bytes(root.path(*folder, "error.json")))
        return KINDS.get(said["kind"], ModelError)(said["error"], remedy=said["remedy"] or otherwise)
    return worker_error(
        error,
        "the distributed fit",
        remedy="mend what the message names and run the same command again: it goes on from the last saved state",
        otherwise=otherwise,
    )
