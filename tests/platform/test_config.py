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


@pytest.mark.parametrize("written", ["null", "~", '"null"', ""])
def test_a_missing_column_may_be_null_with_and_without_quotes(file: Path, written: str) -> None:
    file.write_text(MINIMAL.replace("y}}", f"y}}, source: {{on_missing_column: {written}}}}}"))
    assert load_config(file).dataset.source.on_missing_column == "null"
    over = [f"dataset.source.on_missing_column={written}"]
    assert load_config("trivago", overrides=over).dataset.source.on_missing_column == "null"


def test_a_hash_on_the_command_line_begins_no_comment(file: Path) -> None:
    over = [
        "mlflow.tracking_uri=sqlite:////exp #1/m.db",
        "mlflow.experiment= #2 ",
        "dataset.name='x # y' # z",
    ]
    config = load_config(file, overrides=over)
    assert config.mlflow.tracking_uri == "sqlite:////exp #1/m.db" and config.mlflow.experiment == "#2"
    assert config.dataset.name == "x # y"


def test_dates_before_a_day_end_with_the_day_before(file: Path) -> None:
    run = load_config(file, overrides=["run.before=2024-03-01"]).run
    assert run == load_config(file, overrides=["run.date_to=2024-02-29"]).run
    assert load_config(file, overrides=["run.before="]).run.date_to is None
    with pytest.raises(ConfigError, match="give one of them"):
        load_config(file, overrides=["run.before=2024-03-01", "run.date_to=2024-03-01"])
    with pytest.raises(ConfigError, match="no ISO date"):
        load_config(file, overrides=["run.before=today"])
    with pytest.raises(ConfigError, match="date_from is after date_to"):
        load_config(file, overrides=["run.before=2024-03-01", "run.date_from=2024-03-01"])


def test_users_model_in_short_form(file: Path) -> None:
    file.write_text(MINIMAL + "model: my.package:Net\n")
    assert load_config(file).model.name == "my.package:Net"


def test_the_short_form_keeps_what_other_layers_say_of_the_model(file: Path) -> None:
    short, option = "model=my.pkg:Net", "model.options.width=3"
    for order in ([short, option], [option, short]):
        model = load_config(file, overrides=order).model
        assert (model.name, model.options) == ("my.pkg:Net", {"width": 3})


def test_columns_are_whole_in_a_file_and_key_by_key_on_the_command_line(file: Path) -> None:
    config = load_config(file, overrides=["dataset.columns.price=p"])
    assert config.dataset.columns == {"label": "y", "price": "p"}


def test_text_settings_take_what_yaml_reads_as_something_else(file: Path) -> None:
    file.write_text(
        MINIMAL.replace("y}}", "007, no: yes}, impressions: {click: true}}")
        + "run: {date_from: 2024-03-01, date_to: 2024-03-02}\n"
    )
    config = load_config(
        file,
        overrides=[
            *("simulator.start=2024-04-01", "dataset.split.test_from=2024-03-02T10:00:00"),
            *("dataset.source.options.header=true", "dataset.source.options.sep=1", "session.memory=4"),
            "dataset.rules=[{column: a, check: set, values: [no, 1.50]}]",
            *("model.options={wide: true, at: 2024-01-01, depth: 3}", "session.cores=3", "run.force=true"),
        ],
    )
    assert (config.run.date_from, config.run.date_to, config.run.force) == ("2024-03-01", "2024-03-02", True)
    assert config.dataset.columns == {"label": "007", "no": "yes"}
    assert config.dataset.impressions.click == "true" and config.session.memory == "4"
    assert config.dataset.source.options == {"header": "true", "sep": "1"}
    assert config.dataset.rules[0].values == ["no", "1.50"]
    assert config.simulator.start == "2024-04-01" and config.session.cores == 3
    assert config.dataset.split.test_from == "2024-03-02T10:00:00"
    assert config.model.options == {"wide": True, "at": "2024-01-01", "depth": 3}


@pytest.mark.parametrize(
    "setting",
    [
        "impressions.click_event={event: a, match: [user_id], window_hours: .inf}",
        "impressions.click_event={event: a, match: [user_id], window_hours: -1}",
        "impressions.session_gap_minutes=0",
        "impressions.session_gap_minutes=.nan",
        "history.session_days=1000000000",
        "dedup_days=10000000",
        "maturity_hours=1e300",
    ],
)
def test_spans_of_time_that_no_calendar_holds_are_refused(file: Path, setting: str) -> None:
    with pytest.raises(ConfigError, match=r"Input should be (greater|less) than|finite number"):
        load_config(file, overrides=[f"dataset.{setting}"])


@pytest.mark.parametrize("setting", ["run.date_from", "run.date_to", "simulator.start"])
def test_dates_are_iso_dates(file: Path, setting: str) -> None:
    for text in ("2024-3-1", "2024-02-30", "yesterday", "20"):
        with pytest.raises(ConfigError, match=f"'{setting}'.*2024-03-01") as caught:
            load_config(file, overrides=[f"{setting}={text}"])
        assert text in str(caught.value)
    assert load_config(file, overrides=["run.date_from=20240301"]).run.date_from == "2024-03-01"


@pytest.mark.parametrize(
    ("override", "said", "remedy"),
    [
        ("weighting.polcy=x", "weighting.polcy", "did you mean 'policy'?"),
        ("dataset.source.pth=x", "dataset.source.pth", "did you mean 'path'?"),
        ("dataset.rules=[{colum: a, check: required}]", "dataset.rules.0.colum", "did you mean 'column'?"),
        ("trainig.epochs=1", "trainig", "did you mean 'training'?"),
        ("columns={label: y}", "unknown setting 'columns'", "'columns' belongs under 'dataset:'"),
        ("epochs=3", "unknown setting 'epochs'", "under 'training:'"),
        ("training.epochs=0", "training.epochs", "correct 'training.epochs'"),
        ("training.epochs=many", "got 'many'", "correct 'training.epochs'"),
        ("no-equals", "not of the form", "write --set"),
        (
            "dataset={name: x, columns: {label: y, event_ts: t}, event_time: {expression: t}}",
            "both say",
            "leave out one",
        ),
        ("a.b={", "not valid YAML", "quote"),
        ("run.date_from=2024-02-01", "run", "correct 'run"),
        (
            "dataset.rules=[{column: event_ts, check: range, min: 2017-11-25, max: 2017-12-03T08:00:00+08:00}]",
            "2017-11-25T00:00:00+00:00 is 1511568000",
            "correct 'dataset.rules.0.min'",
        ),
        (
            "dataset.rules=[{column: event_ts, check: range, max: 2017-12-03T08:00:00+08:00}]",
            "is 1512259200",
            "correct 'dataset.rules.0.max'",
        ),
        (
            "dataset.rules=[{column: price, check: range, min: low}]",
            "valid number",
            "correct 'dataset.rules.0.min'",
        ),
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
    logs = {"trivago", "simulated", "taobao_userbehavior", "open_bandit", "online_retail", "criteo", "avazu"}
    assert logs | {"credit_risk"} <= set(names)
    for name in names:
        made = load_config(name).dataset
        assert made.name == name and made.features


@pytest.mark.parametrize(("word", "meant"), [("off", "off"), ("auto", "auto"), ("on", "auto")])
def test_off_is_a_word_that_yaml_reads_as_false(word: str, meant: str) -> None:
    assert load_config("trivago", overrides=[f"training.tune={word}"]).training.tune == meant
