"""MLflow: one parent run a job, a child a stage, with settings, table versions, metrics and the page."""

from __future__ import annotations

import contextlib
import logging
import math
import os
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
        when the store cannot be reached.
    """

    def __init__(self, config: Config, root: Root) -> None:
        check_tracking(config, root)
        os.environ.setdefault("MLFLOW_ENABLE_ASYNC_LOGGING", "false")
        os.environ.setdefault("GIT_PYTHON_REFRESH", "quiet")
        import mlflow

        for name in ("alembic", "mlflow"):  # after the import, which sets levels of its own
            logging.getLogger(name).setLevel(logging.ERROR)
        self._mlflow = mlflow
        self.uri = config.mlflow.tracking_uri or f"sqlite:///{root.path('mlflow.db')}"
        try:
            mlflow.set_tracking_uri(self.uri)
            client = mlflow.MlflowClient()
            found = client.get_experiment_by_name(config.mlflow.experiment)
            if found is None:
                location = Path(root.path("artifacts")).as_uri() if self.uri.startswith("sqlite:") else None
                client.create_experiment(config.mlflow.experiment, artifact_location=location)
            mlflow.set_experiment(config.mlflow.experiment)
        except Exception as error:  # MLflow wraps network, database and permission errors in many types
            raise PlatformError(
                f"the MLflow store {self.uri} cannot be used: {str(error).splitlines()[0][:200]}",
                remedy="check mlflow.tracking_uri; 'sie doctor' tests it",
            ) from error

    @contextlib.contextmanager
    def run(self, name: str, config: Config, *, nested: bool = False) -> Iterator[str]:
        """A run that is closed as failed when its body raises."""
        with self._mlflow.start_run(run_name=name, nested=nested) as active:
            self._mlflow.set_tag(
                "sie.config", config.fingerprint("dataset", "model", "training", "weighting")
            )
            if not nested:
                self._mlflow.log_dict(config.model_dump(mode="json"), "config.yaml")
                self._mlflow.log_params(_params(config))
            yield active.info.run_id

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
