"""What ``sie settings`` says is what a YAML file may hold."""

import json
from pathlib import Path

import pytest
import yaml
from jsonschema import Draft202012Validator

from sie_spark.cli import main
from sie_spark.platform.config import Config
from sie_spark.platform.config.reference import reference, schema
from sie_spark.platform.errors import ConfigError

SHIPPED = sorted((Path(__file__).parents[2] / "conf" / "datasets").glob("*.yaml"))


def test_every_setting_says_what_it_is() -> None:
    silent = [
        f"{section}.{name}"
        for section, held in Config.model_json_schema()["$defs"].items()
        for name, field in held["properties"].items()
        if "$ref" not in str(field) and not field.get("description")
    ]
    assert not silent


def test_lines_of_the_reference() -> None:
    said = reference("dataset").splitlines()
    assert 'dataset.source.format: json | csv | parquet | delta ("parquet")' in said
    assert "dataset.event_key: list of text ([])" in said
    assert "dataset.impressions.click_event.match: list of text (required)" in said
    assert "dataset.history.recent_items: whole number >= 0 (0)" in said
    assert "dataset.features[].hash_size: whole number >= 2 or null (null)" in said
    assert "# dataset.rules[]: One quality rule" in reference("dataset.rules")
    assert reference("dataset.rules") == reference("dataset.rules[]")
    assert set(reference("weighting").splitlines()) < set(reference().splitlines())
    with pytest.raises(ConfigError, match="no setting 'dataset.rulez'") as raised:
        reference("dataset.rulez")
    assert "dataset.rules[]" in raised.value.remedy


def test_the_schema_takes_what_files_hold_and_nothing_else() -> None:
    validator = Draft202012Validator(schema())
    assert len(SHIPPED) >= 7
    for file in SHIPPED:
        assert not list(validator.iter_errors(yaml.safe_load(file.read_text()))), file.name
    columns = {"name": 7, "columns": {"label": True}}
    absent = {"on_missing_column": None}  # as YAML reads an unquoted null
    written = {"dataset": {**columns, "source": absent}, "model": "my.package:Net"}
    assert not list(validator.iter_errors(written))
    for wrong in ({"featurez": []}, {"kind": "rows"}, {"source": {"format": None}}):
        assert list(validator.iter_errors({"dataset": {**columns, **wrong}})), wrong


def test_the_command_prints_both_and_refuses_what_there_is_not(capsys) -> None:
    assert main(["settings", "dataset.split"]) == 0
    assert capsys.readouterr().out == reference("dataset.split") + "\n"
    assert main(["settings", "--schema"]) == 0
    assert json.loads(capsys.readouterr().out) == schema()
    assert main(["settings", "datasets.split"]) == 2
    assert "did you mean 'dataset.split'?" in capsys.readouterr().err
