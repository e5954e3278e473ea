"""A job's runs are its own, whatever the environment and the process say; what cannot be is said before work."""

import os
import subprocess
from pathlib import Path

import mlflow
import pytest

from sie_spark.platform.config import load_config
from sie_spark.platform.errors import PlatformError
from sie_spark.platform.result import StageResult
from sie_spark.platform.root import Root
from sie_spark.platform.tracking import Tracker


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Root:
    """One store for all: making one takes seconds."""
    return Root(tmp_path_factory.mktemp("runs") / "exp #1")


def test_runs_of_others_are_left_alone(root: Root, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that the process has open in another store, and a run and an experiment that the environment names."""
    monkeypatch.chdir(tmp_path)
    theirs = f"sqlite:///{tmp_path}/theirs.db"
    mlflow.set_tracking_uri(theirs)
    mlflow.set_experiment("theirs")
    with mlflow.start_run() as open_run:
        monkeypatch.setenv("MLFLOW_RUN_ID", "0" * 32)
        monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "not there")
        monkeypatch.setenv("MLFLOW_EXPERIMENT_ID", "77")
        tracker = Tracker(config := load_config("simulated"), root)
        with tracker.run("run", config) as outer:
            with tracker.run("ingest", config, nested=True) as inner:
                tracker.log(StageResult(metrics={"rows": 3.0}))
            tracker.log(StageResult(metrics={"auc": 0.5}))
        assert mlflow.get_tracking_uri() == theirs and mlflow.active_run().info.run_id == open_run.info.run_id
    ours = mlflow.MlflowClient(tracker.uri)
    names = {
        run.info.run_id: run
        for run in ours.search_runs([ours.get_experiment_by_name("sie_spark").experiment_id])
    }
    assert set(names) == {outer, inner}
    assert names[inner].data.metrics == {"rows": 3.0} and names[outer].data.metrics == {"auc": 0.5}
    assert (
        names[inner].data.tags["mlflow.parentRunId"] == outer
        and "mlflow.parentRunId" not in names[outer].data.tags
    )
    assert {run.info.status for run in names.values()} == {"FINISHED"}
    left = mlflow.MlflowClient(theirs).get_run(open_run.info.run_id)
    assert left.info.status == "FINISHED" and not left.data.metrics and not left.data.params


def test_a_run_whose_stage_failed_says_so(root: Root) -> None:
    tracker = Tracker(config := load_config("simulated"), root)
    with pytest.raises(ZeroDivisionError), tracker.run("ingest", config) as failed:
        raise ZeroDivisionError
    assert mlflow.MlflowClient(tracker.uri).get_run(failed).info.status == "FAILED"
    assert mlflow.active_run() is None


def test_a_deleted_experiment_comes_back_as_the_remedy_says(root: Root) -> None:
    config = load_config("simulated", overrides=["mlflow.experiment=gone"])
    tracker = Tracker(config, root)
    client = mlflow.MlflowClient(tracker.uri)
    client.delete_experiment(client.get_experiment_by_name("gone").experiment_id)
    with pytest.raises(PlatformError, match="'gone' of sqlite:.* was deleted") as caught:
        Tracker(config, root)
    assert "--set mlflow.experiment=" in caught.value.remedy
    command = caught.value.remedy.partition("take it back: ")[2].replace(" mlflow ", " python -m mlflow ")
    bin_ = Path(os.sys.executable).parent
    subprocess.run(
        command, shell=True, check=True, env={**os.environ, "PATH": f"{bin_}:{os.environ['PATH']}"}
    )
    Tracker(config, root)


def test_sqlite_beside_a_root_in_an_object_store(root: Root, tmp_path: Path) -> None:
    """Artifacts then lie beside the database."""
    uri = f"sqlite:///{root.path('mlflow.db')}"
    config = load_config("simulated", overrides=[f"mlflow.tracking_uri={uri}", "mlflow.experiment=far"])
    tracker = Tracker(config, Root("s3://bucket/exp"))
    with tracker.run("ingest", config) as run_id:
        pass
    assert list(Path(root.uri).rglob(f"{run_id}/artifacts/config.yaml"))
