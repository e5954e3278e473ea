"""``sie doctor``: is this machine ready, and if not, the one line that mends it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

from sie_spark.platform.config import Config
from sie_spark.platform.errors import PlatformError, SieError, cause_of
from sie_spark.platform.java import java_version
from sie_spark.platform.progress import Progress
from sie_spark.platform.result import StageResult
from sie_spark.platform.root import Root
from sie_spark.platform.session import open_session
from sie_spark.platform.workers import check_workers, task_slots

GIBIBYTE = 2**30
UNTRIED = "not tried"
Check = Callable[[Config, Root], str]


def run(config: Config, root: Root, progress: Progress) -> StageResult:
    """Run every check and print a table.

    Raises
    ------
    PlatformError
        when a check fails; its remedy joins those of all failed checks.
    """
    rows, remedies, found = [], [], []
    failed: list[str] = []
    for name, check in CHECKS.items():
        missing = [needed for needed in NEEDS.get(name, ()) if needed in failed]
        if missing:
            rows.append([name, UNTRIED, f"needs {missing[0]}"])
            failed.append(name)
            continue
        try:
            rows.append([name, "ok", check(config, root)])
        except SieError as error:
            rows.append([name, "FAILED", str(error)])
            failed.append(name)
            found.append(f"{name} ({error})")
            remedies.append(f"{name}: {error.remedy}")
    progress.table("sie doctor", ["check", "state", "found"], rows)
    if failed:
        untried = [row[0] for row in rows if row[1] == UNTRIED]
        message = f"not ready: {'; '.join(found)}" + (f"; not tried: {', '.join(untried)}" if untried else "")
        raise PlatformError(message, remedy="; ".join(remedies))
    return StageResult(metrics={"checks": float(len(rows)), "failed": 0.0})


def _java(config: Config, root: Root) -> str:
    if "SPARK_REMOTE" in os.environ:
        return "not needed here: Spark Connect"
    return java_version()


def _session(config: Config, root: Root) -> str:
    return f"Spark {open_session(config.session).version}"


def _delta(config: Config, root: Root) -> str:
    spark = open_session(config.session)
    with root.trial() as trial:
        try:
            spark.range(3).write.format("delta").save(trial.path("table"))
            rows = spark.read.format("delta").load(trial.path("table")).count()
        except (
            Exception
        ) as error:  # jars missing, version clash, no permission: all mean Delta does not work here
            raise PlatformError(
                f"Delta cannot write under {root.uri}: {cause_of(error)[:200]}",
                remedy="let the first start download the Delta jars, or pass them through spark.jars (air-gapped)",
            ) from error
    return f"wrote and read {rows} rows"


def _workers(config: Config, root: Root) -> str:
    found = check_workers(open_session(config.session))
    return "; ".join(sorted({str(worker) for worker in found}))


def _slots(config: Config, root: Root) -> str:
    spark = open_session(config.session)
    slots = task_slots(spark)
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
    there = next(place for place in (Path(root.uri), *Path(root.uri).parents) if place.exists())
    if not os.access(there, os.W_OK | os.X_OK):
        raise PlatformError(f"{there} cannot be written to", remedy="choose a --root that you may write to")
    free = shutil.disk_usage(there).free / GIBIBYTE
    if free < 5:
        raise PlatformError(
            f"{free:.1f} GiB free under {root.uri}", remedy="free 5 GiB, or choose another --root"
        )
    return f"{free:.0f} GiB free"


def _store(config: Config, root: Root) -> str:
    from sie_spark.platform.tracking import find_experiment, sqlite_file, store_uri

    uri, name = store_uri(config, root), config.mlflow.experiment
    file = sqlite_file(uri)
    if file is None or file.exists():
        known = find_experiment(uri, name) is not None
        return uri if known else f"{uri}, where the first run makes experiment '{name}'"
    with Root(file.parent, make=False).trial() as trial:
        find_experiment(f"sqlite:///{trial.path(file.name)}", name)
    return f"{uri}, which the first run makes"


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
    "workers": _workers,
    "slots": _slots,
    "mlflow store": _store,
    "pseudonym key": _key,
}
NEEDS = {
    "session": ("java",),
    "delta": ("session",),
    "workers": ("session",),
    "slots": ("session",),
}
