"""YAML in, one frozen :class:`Config` out."""

from sie_spark.platform.config.arms import Arm
from sie_spark.platform.config.dataset import (
    Attribution,
    Dataset,
    EventTime,
    History,
    Impressions,
    Rule,
    Source,
    Split,
)
from sie_spark.platform.config.features import Feature, Selection, StartVectors
from sie_spark.platform.config.load import Config, load_config
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

__all__ = [
    "Arm",
    "Attribution",
    "Config",
    "Dataset",
    "Evaluation",
    "EventTime",
    "Explain",
    "Feature",
    "History",
    "Importance",
    "Impressions",
    "Model",
    "Pilot",
    "Reference",
    "Report",
    "Rule",
    "Run",
    "Selection",
    "Session",
    "Simulator",
    "Source",
    "Split",
    "StartVectors",
    "Tracking",
    "Training",
    "Weighting",
    "load_config",
]
