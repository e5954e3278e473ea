"""``sie``: one sub-command a stage, plus run, demo and doctor. The last line on stdout is one JSON object."""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NoReturn

from sie_spark import __version__
from sie_spark.pipeline import ON_DEMAND, STAGES, UPKEEP, run_all, run_stage
from sie_spark.platform import doctor
from sie_spark.platform.config import Config, load_config
from sie_spark.platform.config.base import Settings
from sie_spark.platform.config.reference import reference, schema
from sie_spark.platform.context import Context
from sie_spark.platform.errors import (
    ConfigError,
    PlatformError,
    SieError,
    cause_of,
    worker_error,
    worker_said,
)
from sie_spark.platform.progress import Progress
from sie_spark.platform.result import StageResult, failure, line, success
from sie_spark.platform.root import Root
from sie_spark.platform.session import check_spark
from sie_spark.platform.tracking import Tracker, check_tracking
from sie_spark.summary import show

WRONG_USAGE = 2
INTERRUPTED = 130  # what a shell gives for Ctrl-C
OF_JOB = {"explain": ("session.jit=quick",)}  # settings whose default a job knows better
MOST_ROWS = 1000  # that a person looks through
JOBS = (*STAGES, "run", "demo", *ON_DEMAND, *UPKEEP, "doctor")
HELP = {
    "simulate": "write a clickstream whose truth is known",
    "ingest": "raw records -> events + quarantine",
    "impressions": "events -> impressions: labels and history",
    "encode": "impressions -> samples: fixed-width rows by a frozen encoder",
    "train": "choose the settings of all fits; fit the pilot that scores and the reference on all rows",
    "score": "samples -> scores: loss, error, gradient norm of every row",
    "weigh": "scores -> training_set: inclusion probabilities, offsets, weights",
    "retrain": "fit the weighted model and the comparison arms",
    "evaluate": "judge every arm on the untouched test rows",
    "report": "one HTML page that stands alone",
    "run": "all stages in order",
    "demo": "all stages on a simulated clickstream",
    "export": "the kept rows of an arm with weights, as Parquet and libsvm, for other learners",
    "explain": "one row in words: its scores and ranks, what carries its gradient, the training rows that pushed it",
    "maintain": "compact the tables, expire old files, assert what the tables promise",
    "forget": "remove a person from every table, and name what had learnt from them",
    "doctor": "check Java, jars, workers, slots, disk and tracking store",
}
DOCTOR = "run 'sie doctor'; if it finds nothing, this is a defect: please report it"
SETTINGS = "what a YAML file may hold: every setting with its kind, default and meaning"


class UsageError(Exception):
    """Arguments that argparse refuses; the usage is on stderr already."""


class _Parser(argparse.ArgumentParser):
    """Says what is wrong as argparse does, and leaves the exit to :func:`main`."""

    def error(self, message: str) -> NoReturn:
        self.print_usage(sys.stderr)
        sys.stderr.write(f"{self.prog}: error: {message}\n")
        raise UsageError(message)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one job; returns the exit status (0 worked, 1 failed, 2 wrong usage)."""
    words = list(sys.argv[1:] if argv is None else argv)
    try:
        options = _parser().parse_args(words)
    except UsageError as error:
        job = next((word for word in words if word in JOBS), "sie")
        command = "sie" if job == "sie" else f"sie {job}"
        said = failure(job, 0.0, error=str(error), remedy=f"see '{command} --help'")
        sys.stdout.write(line(said) + "\n")
        return WRONG_USAGE
    if options.job == "settings":
        return _settings(options)
    job, began = options.job, time.monotonic()
    progress = Progress(quiet=options.quiet)
    with _stdout_is_ours() as emit, _terminable() as terminated:
        try:
            result, run_id, details = _run(options, progress)
        except (KeyboardInterrupt, Exception) as error:
            message, remedy, status = _explained(error, options, interrupted=terminated())
            progress.error(message, remedy)
            emit(failure(job, time.monotonic() - began, error=message, remedy=remedy))
            return status
        if job in ("run", "demo", "evaluate"):
            show(progress, result, details)
        if job in UPKEEP:
            for name, value in result.details.items():
                progress.say(f"{name}: {value}")
        if result.report:
            progress.say(f"report: {result.report}")
        emit(success(job, time.monotonic() - began, result, run_id))
    return 0


def _settings(options: argparse.Namespace) -> int:
    """What a YAML file may hold, as text or as JSON Schema."""
    try:
        text = json.dumps(schema(), indent=1) if options.schema else reference(options.name, _options())
    except ConfigError as error:
        Progress().error(str(error), error.remedy)
        return WRONG_USAGE
    try:
        sys.stdout.write(f"{text}\n")
        sys.stdout.flush()
    except BrokenPipeError:  # a pager that was closed
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    return 0


def _options() -> dict[str, type[Settings]]:
    """What the policies know beside the settings that all share."""
    from sie_spark.weighting.registry import POLICIES

    known = {name: POLICIES[name].options for name in sorted(POLICIES)}
    return {f"weighting.options (policy {name})": held for name, held in known.items() if held.model_fields}


def _run(options: argparse.Namespace, progress: Progress) -> tuple[StageResult, str | None, dict[str, Any]]:
    check_spark()
    root = Root(options.root, make=options.job != "doctor")
    config = _config(options, root)
    check_tracking(config, root)
    if options.job == "doctor":
        return doctor.run(config, root, progress), None, {}
    ctx = Context(config=config, root=root, progress=progress)
    with root.lock(say=progress.warn):
        tracker = Tracker(config, root)
        try:
            if options.job in ("run", "demo"):
                result, run_id = run_all(ctx, tracker, simulate=_simulated(config, root))
            else:
                own = {
                    "forget": {"user": "user", "at_once": "at_once"},
                    "score": {"plan_only": "plan"},
                    "export": {"out": "out", "arm": "arm"},
                    "explain": {name: name for name in ("sample_id", "worst", "query_row", "by")},
                }
                arguments = {key: getattr(options, name) for key, name in own.get(options.job, {}).items()}
                result, run_id = run_stage(options.job, ctx, tracker, **arguments)
            details = ctx.load_details("evaluate")
        finally:
            ctx.close()
    return result, run_id, details


def _config(options: argparse.Namespace, root: Root) -> Config:
    name = options.config or "simulated"
    overrides = [*OF_JOB.get(options.job, ()), *options.set]
    config = load_config(
        name, overrides=overrides, environment=options.environment, source=getattr(options, "source", None)
    )
    if config.dataset.source.path is None and config.dataset.name == "simulated":
        config = load_config(
            name, overrides=overrides, environment=options.environment, source=root.path("raw")
        )
    return config


def _simulated(config: Config, root: Root) -> bool:
    return config.dataset.source.path == root.path("raw")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="sie", description="Which training samples matter.")
    parser.add_argument("--version", action="version", version=f"sie_spark {__version__}")
    jobs = parser.add_subparsers(dest="job", required=True, metavar="JOB")
    for name in JOBS:
        job = jobs.add_parser(name, help=HELP[name], description=HELP[name])
        job.add_argument("--config", help="YAML file, or the name of a shipped data set (default: simulated)")
        job.add_argument("--source", help="raw records: file, directory or glob (dataset.source.path)")
        job.add_argument("--root", default="runs/default", help="everything a run makes lies under it")
        job.add_argument("--environment", choices=["local", "cluster", "databricks"], help="overlay in conf/")
        job.add_argument(
            "--set", action="append", default=[], metavar="A.B=VALUE", help="override one setting"
        )
        if name == "forget":
            job.add_argument("--user", required=True, help="the identifier as it stands in the source")
            job.add_argument(
                "--at-once", action="store_true", help="vacuum now; ends the tables' time travel"
            )
        if name == "export":
            job.add_argument(
                "--out", required=True, metavar="DIR", help="an empty folder, or an earlier export"
            )
            job.add_argument("--arm", help="whose rows (default: those that the evidence recommends)")
        if name == "explain":
            _add_rows_to_explain(job)
        if name == "score":
            job.add_argument(
                "--plan", action="store_true", help="print the passes that would run, and do nothing"
            )
        job.add_argument("--quiet", action="store_true", help="no progress on stderr")
    settings = jobs.add_parser("settings", help=SETTINGS, description=SETTINGS)
    settings.add_argument("name", nargs="?", default="", help="those below a name, e.g. dataset.impressions")
    settings.add_argument("--schema", action="store_true", help="as JSON Schema, for an editor")
    return parser


def _add_rows_to_explain(job: argparse.ArgumentParser) -> None:
    which = job.add_mutually_exclusive_group(required=True)
    which.add_argument("--sample-id", metavar="ID", help="a row of table scores, by its column sample_id")
    which.add_argument(
        "--worst",
        metavar="N",
        type=_some_rows,
        help="the N rows highest in a score (lowest, of a signed audit: there a low score means harm); the first in full",
    )
    which.add_argument(
        "--query-row",
        metavar="ID",
        help="any row of table samples, a test row too: what pushed its prediction?",
    )
    job.add_argument(
        "--by", metavar="SCORE", help="the score that --worst goes by (default: loss, else error)"
    )


def _some_rows(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= MOST_ROWS:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of rows between 1 and {MOST_ROWS:,}")
    return int(text)


@contextmanager
def _stdout_is_ours() -> Iterator[Callable[[dict[str, Any]], None]]:
    """Send everything that prints to stdout (the JVM too) to stderr, and yield what writes the last line."""
    sys.stdout.flush()
    ours = os.dup(1)
    os.dup2(2, 1)

    def emit(result: dict[str, Any]) -> None:
        sys.stdout.flush()
        os.write(ours, (line(result) + "\n").encode())

    try:
        yield emit
    finally:
        sys.stdout.flush()
        os.dup2(ours, 1)
        os.close(ours)


@contextmanager
def _terminable() -> Iterator[Callable[[], bool]]:
    """SIGTERM ends a job as Ctrl-C does, so that it still says what it did; yields whether it came."""
    came: list[int] = []

    def stop(number: int, _: Any) -> None:
        came.append(number)
        raise KeyboardInterrupt

    def terminated() -> bool:
        return bool(came)

    try:
        before = signal.signal(signal.SIGTERM, stop)
    except ValueError:  # not the main thread (a notebook server)
        yield terminated
        return
    try:
        yield terminated
    finally:
        signal.signal(signal.SIGTERM, before)


def _explained(
    error: BaseException, options: argparse.Namespace, *, interrupted: bool
) -> tuple[str, str, int]:
    """Message, remedy and exit status. Whoever ends a job may end its JVM too: what fails then is no error."""
    if interrupted or isinstance(error, KeyboardInterrupt):
        return "interrupted", "run the same command again: it goes on where the tables stand", INTERRUPTED
    if isinstance(error, SieError):
        return str(error), error.remedy, 1
    return (*_unexpected(error, options), 1)


def _unexpected(error: BaseException, options: argparse.Namespace) -> tuple[str, str]:
    if isinstance(error, Exception) and worker_said(error):
        found = worker_error(error, options.job, remedy=DOCTOR, otherwise=DOCTOR)
        message, remedy = str(found), found.remedy
    else:
        message, remedy = f"{options.job}: unexpected {type(error).__name__}: {cause_of(error)}", DOCTOR
    try:
        file = Root(options.root, make=False).write_bytes(
            traceback.format_exc().encode(), "logs", f"{options.job}-error.txt"
        )
    except (OSError, PlatformError):
        return message, remedy
    return message, f"{remedy} (all of it: {file})"


if __name__ == "__main__":
    sys.exit(main())
