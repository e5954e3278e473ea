"""What is shipped: the wheel holds every package, and no code names a master, a package or a path."""

import importlib.metadata
import re
import tomllib
from pathlib import Path

import pyspark

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
