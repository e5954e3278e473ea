"""Layered YAML: base, environment, data set file, then ``--set``; later layers win key by key."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

import yaml
from pydantic import Field, field_validator

from sie_spark.platform.config.arms import Arm, check_arms, over_defaults
from sie_spark.platform.config.base import Settings, validate
from sie_spark.platform.config.dataset import Dataset
from sie_spark.platform.config.scalars import read_word, read_yaml, settle
from sie_spark.platform.config.stages import (
    Evaluation,
    Explain,
    Importance,
    Model,
    Pilot,
    Reference,
    Report,
    Run,
    Session,
    Simulator,
    Tracking,
    Training,
    Weighting,
)
from sie_spark.platform.errors import ConfigError

# a file that maps columns maps all of them: no column of another data set may shine through
WHOLE = frozenset({"columns", "parallel", "types"})


class Config(Settings):
    """Everything a job can be told."""

    dataset: Dataset
    model: Model = Model()  # type: ignore[call-arg]
    pilot: Pilot = Pilot()  # type: ignore[call-arg]
    reference: Reference = Reference()  # type: ignore[call-arg]
    training: Training = Training()  # type: ignore[call-arg]
    importance: Importance = Importance()  # type: ignore[call-arg]
    weighting: Weighting = Weighting()  # type: ignore[call-arg]
    arms: dict[str, Arm] = Field(
        {}, validate_default=True, description="models fitted on different rows; NAME: null switches one off"
    )
    evaluation: Evaluation = Evaluation()  # type: ignore[call-arg]
    report: Report = Report()  # type: ignore[call-arg]
    explain: Explain = Explain()  # type: ignore[call-arg]
    simulator: Simulator = Simulator()  # type: ignore[call-arg]
    session: Session = Session()  # type: ignore[call-arg]
    mlflow: Tracking = Tracking()  # type: ignore[call-arg]
    run: Run = Run()  # type: ignore[call-arg]

    @field_validator("arms", mode="before")
    @classmethod
    def _arms_over_defaults(cls, given: Any) -> Any:
        return over_defaults(given)

    @field_validator("arms")
    @classmethod
    def _arms_fit(cls, arms: dict[str, Arm]) -> dict[str, Arm]:
        check_arms(arms)
        return arms

    @property
    def scorers(self) -> list[str]:
        """Names of the scores to compute: those asked for, those that arms are drawn by, and rarity for a floor."""
        drawn = [self.weighting.score, *(arm.score for arm in self.arms.values())]
        rarity = ["rarity"] if self.weighting.id_floor else []
        return list(dict.fromkeys([*self.importance.scorers, *filter(None, drawn), *rarity]))

    @property
    def fits_reference(self) -> bool:
        """Whether a model on all rows is fitted: an arm is that model, or it is asked for."""
        asked = self.reference.fit
        return any(arm.rows == "all" for arm in self.arms.values()) if asked is None else asked

    @property
    def shown_score(self) -> str:
        """The score by which people are shown rows: the one that arms are drawn by, or the first that is asked for."""
        return self.weighting.score or next(
            (name for name in ("error", *self.scorers) if name in self.scorers), "error"
        )

    def fingerprint(self, *sections: str) -> str:
        """Hash of the named sections ('dataset', 'model', 'dataset.features', ...): what a stage depends on."""
        data = self.model_dump(mode="json")
        chosen: dict[str, Any] = {}
        for section in sections:
            value: Any = data
            for part in section.split("."):
                value = value[part]
            chosen[section] = value
        return digest(chosen)


def digest(value: Any) -> str:
    """A 16-character hash of plain data, the same in every process."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()[:16]


def load_config(
    path: str | Path,
    *,
    overrides: Sequence[str] = (),
    environment: str | None = None,
    source: str | None = None,
) -> Config:
    """Read a configuration.

    Parameters
    ----------
    path:
        a YAML file, or the name of a shipped one (``trivago``, ``simulated``).
    overrides:
        ``a.b=value`` pairs; the value is read as YAML, and as text where the setting is text.
    environment:
        ``local``, ``cluster`` or ``databricks``: the overlay of that name in ``conf/``.
    source:
        where the raw records lie; same as ``--set dataset.source.path=...``.

    Raises
    ------
    ConfigError
        for a missing file, YAML that does not parse, an unknown key, a value of the wrong type.
    """
    file = _find(path)
    data = _read(_shipped("base.yaml"))
    if environment:
        data = _merge(data, _read(_shipped(f"{environment}.yaml")), whole=WHOLE)
    data = _merge(data, _read(file), whole=WHOLE)
    for pair in overrides:
        data = _merge(data, _override(pair))
    if source is not None:
        data = _merge(data, {"dataset": {"source": {"path": source}}})
    return validate(Config, settle(data, Config), where=str(file))


def conf_dir() -> Traversable:
    """The shipped settings: inside a wheel (a zip on spark-submit), or ``conf/`` of a checkout."""
    installed = resources.files("sie_spark") / "conf"
    return installed if installed.is_dir() else Path(__file__).resolve().parents[3] / "conf"


def shipped_datasets() -> list[str]:
    """Names of the data sets that come with the package."""
    names = (file.name for file in (conf_dir() / "datasets").iterdir())
    return sorted(name.removesuffix(".yaml") for name in names if name.endswith(".yaml"))


def _find(path: str | Path) -> Traversable:
    file = Path(path)
    if file.is_file():
        return file
    shipped = _shipped(f"datasets/{path}.yaml")
    if shipped.is_file():
        return shipped
    raise ConfigError(
        f"configuration '{path}' not found",
        remedy=f"give a YAML file or one of the shipped data sets: {', '.join(shipped_datasets())}",
    )


def _shipped(name: str) -> Traversable:
    return conf_dir().joinpath(*name.split("/"))


def _read(file: Traversable) -> dict[str, Any]:
    try:
        data = read_yaml(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{file}: {error.strerror}", remedy="check the path and its permissions") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        mark = getattr(error, "problem_mark", None)
        at = f", line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise ConfigError(f"{file}{at}: not valid YAML", remedy="correct the file at that place") from None
    if data is None:
        return {}
    if not isinstance(data, dict):
        raise ConfigError(
            f"{file}: a mapping is expected at the top", remedy="see conf/datasets for examples"
        )
    return _written_out(data)


def _override(pair: str) -> dict[str, Any]:
    key, equals, text = pair.partition("=")
    if not equals or not key.strip():
        raise ConfigError(f"--set {pair}: not of the form a.b=value", remedy="write --set section.name=value")
    try:
        value: Any = read_word(text)
    except yaml.YAMLError:
        raise ConfigError(f"--set {pair}: the value is not valid YAML", remedy="quote the value") from None
    for part in reversed(key.strip().split(".")):
        value = {part: value}
    return _written_out(value)


def _written_out(layer: dict[str, Any]) -> dict[str, Any]:
    """``model: package.module:Class``, the short form, as the mapping that other layers may add to."""
    model = layer.get("model")
    return {**layer, "model": {"name": model}} if isinstance(model, str) else layer


def _merge(
    low: dict[str, Any], high: dict[str, Any], *, whole: frozenset[str] = frozenset()
) -> dict[str, Any]:
    """``high`` over ``low``, key by key; mappings named in ``whole`` are replaced as one."""
    merged = dict(low)
    for key, value in high.items():
        if isinstance(value, dict) and isinstance(merged.get(key), dict) and key not in whole:
            merged[key] = _merge(merged[key], value, whole=whole)
        else:
            merged[key] = value
    return merged
