"""MLflow: one parent run a job, a child a stage, with settings, table versions, metrics and the page."""

from __future__ import annotations

import contextlib
import logging
import math
import os
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sie_spark.platform.config import Config
from sie_spark.platform.errors import ConfigError, PlatformError
from sie_spark.platform.result import StageResult
from sie_spark.platform.root import Root


class Tracker:
    """Writes to one MLflow store; the driver alone writes.

    Raises
    ------
    ConfigError
        when the root is an object store and ``mlflow.tracking_uri`` is not set.
    PlatformError
        when the store cannot be reached, or the experiment was deleted.
    """

    def __init__(self, config: Config, root: Root) -> None:
        check_tracking(config, root)
        import mlflow

        self._mlflow = mlflow
        self._open: list[str] = []  # ids of the runs that are under way, the outermost first
        self.uri, name = store_uri(config, root), config.mlflow.experiment
        self._experiment = find_experiment(self.uri, name)
        if self._experiment is None:
            file = sqlite_file(self.uri)
            beside = (file.parent / "artifacts").as_uri() if file else None  # a server has a place of its own
            with _usable(self.uri):
                client = mlflow.MlflowClient(self.uri)
                self._experiment = client.create_experiment(name, artifact_location=beside)

    @contextlib.contextmanager
    def run(self, name: str, config: Config, *, nested: bool = False) -> Iterator[str]:
        """A run that is closed as failed when its body raises.

        It is a new one of the configured experiment, whatever run and experiment the environment names and
        whatever run the process has open; ``nested``: below the one that this tracker opened before.
        """
        from mlflow.tracking.context.registry import resolve_tags

        mlflow, before = self._mlflow, self._mlflow.get_tracking_uri()
        above = {"mlflow.parentRunId": self._open[-1]} if nested and self._open else {}
        said = {"sie.config": config.fingerprint("dataset", "model", "training", "weighting")}
        mlflow.set_tracking_uri(self.uri)
        try:
            mlflow.set_experiment(experiment_id=self._experiment)
            client = mlflow.MlflowClient(self.uri)
            made = client.create_run(self._experiment, tags=resolve_tags({**above, **said}), run_name=name)
            with mlflow.start_run(run_id=made.info.run_id, nested=True) as active:
                self._open.append(active.info.run_id)
                if not nested:
                    mlflow.log_dict(config.model_dump(mode="json"), "config.yaml")
                    mlflow.log_params(_params(config))
                try:
                    yield active.info.run_id
                finally:
                    self._open.pop()
        finally:
            mlflow.set_tracking_uri(before)

    def log(self, result: StageResult) -> None:
        """Log a stage's table versions, row counts, metrics and files to the active run."""
        mlflow = self._mlflow
        for role, tables in (("input", result.inputs), ("output", result.outputs)):
            for name, ref in tables.items():
                mlflow.set_tag(f"sie.{role}.{name}", f"{ref.path}@v{ref.version}")
                if role == "input":
                    mlflow.log_input(_lineage(name, ref.path, ref.version), context=role)
        if result.rows is not None:
            mlflow.log_metrics({f"rows_{key}": float(value) for key, value in result.rows.as_dict().items()})
        mlflow.log_metrics(
            {key: float(value) for key, value in result.metrics.items() if math.isfinite(value)}
        )
        mlflow.set_tag("sie.skipped", str(result.skipped).lower())
        if result.cautions:
            mlflow.log_dict({"cautions": result.cautions}, "cautions.json")
        for file in result.artifacts:
            mlflow.log_artifact(file)


def find_experiment(uri: str, name: str) -> str | None:
    """The id of a store's experiment; None where it has none of that name.

    Raises
    ------
    PlatformError
        when the store cannot be reached, or the experiment was deleted.
    """
    os.environ.setdefault("MLFLOW_ENABLE_ASYNC_LOGGING", "false")
    os.environ.setdefault("GIT_PYTHON_REFRESH", "quiet")
    import mlflow

    for library in ("alembic", "mlflow"):  # after the import, which sets levels of its own
        logging.getLogger(library).setLevel(logging.ERROR)
    with _usable(uri):
        found = mlflow.MlflowClient(uri).get_experiment_by_name(name)
    if found is not None and found.lifecycle_stage == "deleted":
        raise PlatformError(
            f"the MLflow experiment '{name}' of {uri} was deleted",
            remedy="choose another with --set mlflow.experiment=NAME, or take it back:"
            f" MLFLOW_TRACKING_URI={shlex.quote(uri)} mlflow experiments restore --experiment-id {found.experiment_id}",
        )
    return str(found.experiment_id) if found is not None else None


@contextlib.contextmanager
def _usable(uri: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # MLflow wraps network, database and permission errors in many types
        raise PlatformError(
            f"the MLflow store {uri} cannot be used: {str(error).splitlines()[0][:200]}",
            remedy="check mlflow.tracking_uri; 'sie doctor' tests it",
        ) from error


def store_uri(config: Config, root: Root) -> str:
    """The configured store, or the root's own."""
    return config.mlflow.tracking_uri or f"sqlite:///{root.path('mlflow.db')}"


def sqlite_file(uri: str) -> Path | None:
    """The file of a sqlite store; None for a store of another kind."""
    name = uri.removeprefix("sqlite:///").partition("?")[0]
    return Path(name).absolute() if uri.startswith("sqlite:///") else None


def check_tracking(config: Config, root: Root) -> None:
    """Refuse, before any work, an object-store root without a tracking store."""
    if not root.is_local and not config.mlflow.tracking_uri:
        raise ConfigError(
            f"--root {root.uri} is an object store, and mlflow.tracking_uri is not set",
            remedy="add --set mlflow.tracking_uri=<server>: a sqlite file cannot live in an object store",
        )


def _lineage(name: str, path: str, version: int) -> Any:
    from mlflow.data.delta_dataset_source import DeltaDatasetSource
    from mlflow.data.meta_dataset import MetaDataset

    source = DeltaDatasetSource(path=path, delta_table_version=version)
    return MetaDataset(source, name=name)  # type: ignore[abstract]


def _params(config: Config) -> dict[str, Any]:
    data = config.model_dump(mode="json")
    flat: dict[str, Any] = {"dataset": config.dataset.name, "label": config.dataset.label}
    for section in ("model", "pilot", "training", "importance", "weighting", "arms", "evaluation"):
        for key, value in data[section].items():
            flat[f"{section}.{key}"] = str(value)[:500]
    return flat
