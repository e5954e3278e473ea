"""What is shipped: the wheel holds every package, and no code names a master, a package or a path."""

import importlib.metadata
import re
import tomllib
from pathlib import Path
from typing import Any

import pyspark
import pytest
import yaml

from sie_spark.cli import _parser
from sie_spark.pipeline import STAGES
from sie_spark.platform.config import load_config

REPOSITORY = Path(__file__).resolve().parents[2]


def test_spark_defaults_name_the_pinned_delta() -> None:
    text = (REPOSITORY / "conf" / "spark-defaults.conf").read_text()
    found = re.search(r"delta-spark_([\d.]+)_2\.13:([\d.]+)", text)
    assert found is not None
    assert found.group(1) == ".".join(pyspark.__version__.split(".")[:2])
    assert found.group(2) == importlib.metadata.version("delta-spark")


def test_no_master_package_or_path_outside_the_session_helper() -> None:
    for file in [*(REPOSITORY / "sie_spark").rglob("*.py"), *(REPOSITORY / "jobs").glob("*.py")]:
        if file.name != "session.py":
            text = file.read_text()
            assert ".master(" not in text and "spark.jars" not in text.replace("through spark.jars", ""), file


def test_the_wheel_holds_every_package() -> None:
    listed = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    found = {
        ".".join(file.parent.relative_to(REPOSITORY).parts)
        for file in (REPOSITORY / "sie_spark").rglob("__init__.py")
    }
    shipped = {
        ".".join(("sie_spark", *file.parent.relative_to(REPOSITORY).parts))
        for file in (REPOSITORY / "conf").rglob("*.yaml")
    }
    assert set(listed) == found | shipped


def test_pyspark_is_left_to_who_brings_it() -> None:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    assert not [need for need in project["dependencies"] if re.match("pyspark|delta", need)]
    assert project["optional-dependencies"]["spark"][0] == f"pyspark=={pyspark.__version__}"


BUNDLE = REPOSITORY / "databricks"
DAY = "2024-03-02"


@pytest.fixture(scope="module")
def bundle() -> dict[str, Any]:
    """The bundle, each variable with its default or a value of the kind it asks for."""
    text = (BUNDLE / "databricks.yml").read_text(encoding="utf-8")
    given = {"source": "/Volumes/a/b/raw", "root": "s3://bucket/sie", "node_type": "m5.xlarge"}
    for name, variable in yaml.safe_load(text)["variables"].items():
        text = text.replace(
            f"${{var.{name}}}", str(variable["default"] if "default" in variable else given.pop(name))
        )
    assert not given and "${" not in text
    found: dict[str, Any] = yaml.safe_load(text)
    return found


def tasks_of(bundle: dict[str, Any]) -> list[dict[str, Any]]:
    (job,) = bundle["resources"]["jobs"].values()
    return job["tasks"]


def test_the_bundle_lies_in_a_folder_of_its_own(bundle: dict[str, Any]) -> None:
    for folder, held in ((BUNDLE, ["databricks.yml"]), (REPOSITORY, [])):  # the first one upwards is the root
        assert [file.name for file in folder.glob("databricks.y*ml")] == held
    assert bundle["bundle"]["name"] and len(bundle["targets"]) == 1


def test_every_file_of_the_bundle_is_there_and_below_its_root(bundle: dict[str, Any]) -> None:
    for task in tasks_of(bundle):
        file = (BUNDLE / task["spark_python_task"]["python_file"]).resolve()
        assert file.is_file() and file.is_relative_to(BUNDLE)
        (library,) = task["libraries"]
        assert (BUNDLE / library["whl"]).resolve().relative_to(BUNDLE.resolve()).as_posix() == "dist/*.whl"
    (artifact,) = bundle["artifacts"].values()
    target, where = re.fullmatch(r'make -C \.\. (\w+) DIST="\$PWD/(\w+)"', artifact["build"]).groups()
    assert (
        re.search(rf"^{target}:", (REPOSITORY / "Makefile").read_text(), flags=re.MULTILINE)
        and where == "dist"
    )
    assert artifact["path"] == "." and (REPOSITORY / "Makefile").read_text().count("--outdir $(DIST)") == 1


def test_the_tasks_are_the_stages_in_order_and_wait_for_each_other(bundle: dict[str, Any]) -> None:
    tasks = tasks_of(bundle)
    assert [task["task_key"] for task in tasks] == [name for name in STAGES if name != "simulate"]
    assert [task.get("depends_on", []) for task in tasks[1:]] == [
        [{"task_key": one["task_key"]}] for one in tasks[:-1]
    ]
    assert "depends_on" not in tasks[0]
    (cluster,) = bundle["resources"]["jobs"]["sie_nightly"]["job_clusters"]
    assert {task["job_cluster_key"] for task in tasks} == {cluster["job_cluster_key"]}


def as_run(bundle: dict[str, Any], task: dict[str, Any], **changed: str) -> list[str]:
    """A task's parameters as the platform hands them over."""
    (job,) = bundle["resources"]["jobs"].values()
    known = {"task.name": task["task_key"], "job.trigger.time.iso_date": DAY}
    given = {one["name"]: one["default"] for one in job["parameters"]} | changed
    known = {**{f"job.parameters.{name}": value for name, value in given.items()}, **known}
    words = list(task["spark_python_task"]["parameters"])
    for _ in range(2):  # a parameter's default is a reference itself
        words = [re.sub(r"{{([^}]+)}}", lambda found: known[found[1]], word) for word in words]
    return words


def test_every_task_says_what_the_command_line_takes(bundle: dict[str, Any]) -> None:
    for task in tasks_of(bundle):
        options = _parser().parse_args(as_run(bundle, task))
        config = load_config(
            options.config, overrides=options.set, environment=options.environment, source=options.source
        )
        assert options.job == task["task_key"] and options.root == "s3://bucket/sie"
        assert config.dataset.source.path == "/Volumes/a/b/raw" and config.session.mode == "existing"
        assert (config.run.date_from, config.run.date_to) == (None, "2024-03-01")  # the last closed day


def test_an_incremental_source_is_forced_to_no_date(bundle: dict[str, Any]) -> None:
    options = _parser().parse_args(as_run(bundle, tasks_of(bundle)[0], before=""))
    assert load_config(options.config, overrides=options.set).run.date_to is None
