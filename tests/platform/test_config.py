from pathlib import Path

import pytest

from sie_spark.platform.config import load_config
from sie_spark.platform.errors import ConfigError

MINIMAL = "dataset: {name: x, columns: {label: y}}\n"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "mine.yaml"
    path.write_text(MINIMAL)
    return path


def test_layers_win_in_order(file: Path) -> None:
    file.write_text(MINIMAL + "training: {epochs: 3}\nsession: {memory: 1g}\n")
    config = load_config(
        file, overrides=["training.epochs=5", "model.hidden=[8, 4]"], environment="cluster", source="s3://b/x"
    )
    assert config.training.epochs == 5
    assert config.model.hidden == [8, 4]
    assert config.session.mode == "existing" and config.session.memory == "1g"
    assert config.dataset.source.path == "s3://b/x"


def test_users_model_in_short_form(file: Path) -> None:
    file.write_text(MINIMAL + "model: my.package:Net\n")
    assert load_config(file).model.name == "my.package:Net"


@pytest.mark.parametrize(
    ("override", "said", "remedy"),
    [
        ("weighting.polcy=x", "weighting.polcy", "did you mean 'policy'?"),
        ("dataset.source.pth=x", "dataset.source.pth", "did you mean 'path'?"),
        ("dataset.rules=[{colum: a, check: required}]", "dataset.rules.0.colum", "did you mean 'column'?"),
        ("trainig.epochs=1", "trainig", "did you mean 'training'?"),
        ("training.epochs=0", "training.epochs", "correct 'training.epochs'"),
        ("training.epochs=many", "got 'many'", "correct 'training.epochs'"),
        ("no-equals", "not of the form", "write --set"),
        ("a.b={", "not valid YAML", "quote"),
        ("run.date_from=2024-02-01", "run", "correct 'run"),
    ],
)
def test_refused_with_the_nearest_name(file: Path, override: str, said: str, remedy: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(file, overrides=["run.date_to='2024-01-01'", override])
    assert said in str(caught.value)
    assert remedy in caught.value.remedy


def test_a_missing_or_broken_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="'nowhere' not found") as caught:
        load_config("nowhere")
    assert "trivago" in caught.value.remedy
    broken = tmp_path / "broken.yaml"
    broken.write_text("dataset:\n  name: [\n")
    with pytest.raises(ConfigError, match=r"broken.yaml, line \d+, column \d+"):
        load_config(broken)
    broken.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="not valid YAML"):
        load_config(broken)
    broken.write_text("- 1")
    with pytest.raises(ConfigError, match="a mapping is expected"):
        load_config(broken)


def test_settings_are_frozen_and_the_fingerprint_follows_what_it_names(file: Path) -> None:
    first = load_config(file)
    with pytest.raises(Exception, match="frozen"):
        first.training.epochs = 2  # type: ignore[misc]
    second = load_config(file, overrides=["training.epochs=2"])
    assert first.fingerprint("dataset", "model") == second.fingerprint("dataset", "model")
    assert first.fingerprint("training") != second.fingerprint("training")


def test_every_shipped_data_set_loads() -> None:
    from sie_spark.platform.config.load import shipped_datasets

    names = shipped_datasets()
    assert {"trivago", "simulated"} <= set(names)
    for name in names:
        assert load_config(name).dataset.name == name
