"""One data set, described without code: where it lies, what its columns mean, what makes a row valid.

Expressions are Spark SQL over the *source* columns (``columns``) or over the canonical ones (everything
else), so that a new log is onboarded by one YAML file.
"""

from __future__ import annotations

import difflib
import re
from datetime import UTC, datetime
from typing import Annotated, Any, Literal
from zoneinfo import available_timezones

from pydantic import AfterValidator, Field, field_validator, model_validator

from sie_spark.platform.config.base import Settings
from sie_spark.platform.config.features import Feature, Selection, StartVectors, check_features
from sie_spark.platform.config.names import check_names, counted
from sie_spark.platform.errors import ConfigError

CENTURY = 36_525  # days: no log is longer, and dates are reckoned with this far around it
Once = Annotated[list[str], AfterValidator(lambda names: list(dict.fromkeys(names)))]  # twice says no more
Hours = Annotated[float, Field(ge=0, le=24 * CENTURY, allow_inf_nan=False)]


class Source(Settings):
    """Where the raw records lie and how they are read."""

    path: str | None = Field(None, description="file, directory or glob; --source sets it")
    format: Literal["json", "csv", "parquet", "delta"] = Field(
        "parquet", description="json: one object a line; gzip is read as it is"
    )
    options: dict[str, str] = Field({}, description="passed to Spark's reader (sep, header, encoding, ...)")
    columns: str | None = Field(
        None, description="expected source columns as DDL; required for CSV without header"
    )
    on_new_column: Literal["refuse", "ignore", "add", "quarantine"] = Field(
        "ignore", description="add: undeclared columns are kept in events, in the map column 'extra'"
    )
    on_missing_column: Literal["refuse", "null", "quarantine"] = Field(
        "refuse", description="null: declared columns that are missing are null"
    )
    on_type_change: Literal["refuse", "cast", "quarantine"] = Field(
        "refuse", description="cast: what fits is kept; quarantine: rows with the other type are rejected"
    )
    incremental: bool = Field(False, description="read only files not read before (Spark's availableNow)")

    @field_validator("on_missing_column", mode="before")
    @classmethod
    def _null_is_a_word_here(cls, given: Any) -> Any:
        return "null" if given is None else given  # what YAML makes of an unquoted null


class EventTime(Settings):
    """The event's time, read so that absurd values are rejected rows and not failed jobs."""

    expression: str = Field(description="SQL over source columns: a number, text or timestamp")
    format: str = Field(
        "iso", description="epoch_seconds, epoch_millis, epoch_micros, iso, or a pattern such as yyMMddHH"
    )


class Rule(Settings):
    """One quality rule on one canonical column; ``error`` quarantines the row, ``warn`` only counts it."""

    column: str = Field(description="canonical column that is judged")
    check: Literal["required", "type", "range", "set", "regex", "not_future", "reference", "expression"] = (
        Field(description="what is asked of it; a null breaks only required and expression")
    )
    severity: Literal["error", "warn"] = Field(
        "error", description="error: the record goes to quarantine; warn: it is counted and stays"
    )
    name: str | None = Field(
        None, description="the reason that a rejected record carries; default: column:check"
    )
    min: float | None = Field(
        None,
        description="range: the least value, of times in seconds since 1970; NaN lies outside: nullif(x, 'NaN') in"
        " columns makes it null",
    )
    max: float | None = Field(None, description="range: the greatest value")
    values: list[str] | None = Field(None, description="set: the values that are valid")
    pattern: str | None = Field(
        None, description="regex: Java's, found anywhere in the text; ^ and $ for all of it"
    )
    type: str | None = Field(None, description="type: Spark SQL type that the text must read as, e.g. int")
    tolerance_hours: Annotated[float, Field(allow_inf_nan=False)] = Field(
        24.0, description="not_future: how far ahead of this clock a time may lie"
    )
    table: str | None = Field(
        None, description="reference: Delta or Parquet path that holds the valid values"
    )
    key: str | None = Field(None, description="reference: column of that table")
    expression: str | None = Field(None, description="expression: Spark SQL that is true for a valid row")

    @field_validator("min", "max", mode="before")
    @classmethod
    def _seconds_of_times(cls, bound: Any) -> Any:
        if not isinstance(bound, str) or not re.match(r"\d{4}-\d\d-\d\d", bound):
            return bound
        time = datetime.fromisoformat(bound)
        time = time.replace(tzinfo=time.tzinfo or UTC)
        raise ValueError(f"of a time write seconds since 1970: {time.isoformat()} is {int(time.timestamp())}")


class Attribution(Settings):
    """How a later event (click, purchase) finds the row it belongs to."""

    event: str = Field(description="SQL predicate over the event that carries the outcome")
    match: list[str] = Field(
        description="canonical columns equal on both sides; must include a user, session or list"
    )
    window_hours: Hours = Field(24.0, description="how long after the row an outcome still belongs to it")
    strictly_later: bool = Field(
        False, description="an event at the same (time, seq) does not count; for outcomes that are rows too"
    )


class Impressions(Settings):
    """How shown items, one a row, come out of the events."""

    event: str = Field("true", description="SQL predicate: which events show items")
    items: str | None = Field(
        None, description="array column of shown items; null: one item an event (item_id)"
    )
    parallel: dict[str, str] = Field({}, description="impression column: array column parallel to the items")
    list_id: str | None = Field(
        None,
        description="SQL for the id of the shown list, all of whose events in one session and day are one list; default:"
        " column list_id, and without one each event is a list",
    )
    position: str | None = Field(
        None,
        description="SQL for the 1-based position where there is no array; with one: its place, or parallel.position",
    )
    list_relative: Once = Field(
        [],
        description="numbers compared within the list: adds list_size, <column>_rank (1 = least) and <column>_ratio"
        " (to the list's mean)",
    )
    context: Once = Field([], description="event columns carried to every impression of the list")
    click: str | None = Field(
        None,
        description="SQL over event and item_id when the same event tells the click: 0, 1, true or false, all else"
        " is quarantined, null too, as in coalesce(clicks > 0, false)",
    )
    click_event: Attribution | None = Field(
        None, description="where clicks are events of their own: which, and how they find the shown item"
    )
    conversion: str | None = Field(
        None, description="SQL when the row itself tells the conversion; the same values as click"
    )
    conversion_event: Attribution | None = Field(
        None,
        description="purchases as events of their own, which find the click; without clicks the shown item",
    )
    session_gap_minutes: float | None = Field(
        None,
        gt=0,
        le=24 * 60 * CENTURY,
        allow_inf_nan=False,
        description="cut sessions by inactivity; null: session_id comes with the events",
    )

    @model_validator(mode="after")
    def _one_position(self) -> Impressions:
        if self.items and self.position:
            raise ValueError(
                "position is for events that show one item; with items, the place in the array is the position,"
                " or name an array of positions in parallel.position"
            )
        return self


class History(Settings):
    """What happened strictly before the impression, by (event_ts, seq), ties excluded."""

    types: Once | dict[str, str] = Field(
        [],
        description="event types counted per (session, item); empty: none. Adds hist_events, hist_<type>,"
        " hist_seconds_since, hist_list_events, hist_list_share (of the list as shown so far); as a map, name: event"
        " type, adds hist_<name>",
    )
    session: bool = Field(
        True,
        description="of the session so far: adds hist_session_events, hist_last_is_item, hist_last_distance (places"
        " in the list)",
    )
    rates: Once = Field(
        [],
        description="columns of impressions: adds rate_<column>, the smoothed click rate as of the day before, and"
        " count_<column>, of how many impressions",
    )
    rate_strength: float = Field(20.0, gt=0, description="pseudo-impressions of the prior, the overall rate")
    recent_items: int = Field(
        0, ge=0, description="adds recent_items, so many items of the session, the last first"
    )
    session_days: int = Field(
        2, ge=1, le=CENTURY, description="no session lasts longer: how far back a rebuilt date reads"
    )

    @property
    def counted(self) -> dict[str, str]:
        """Column: the event type counted in it."""
        return counted(self.types)


class Split(Settings):
    """Train, validation and test by time; the test part is never filtered, weighted or looked at by a fit."""

    test_fraction: float = Field(0.2, gt=0, lt=1, description="last share of impressions by time")
    test_from: str | None = Field(None, description="ISO timestamp; overrides test_fraction")
    by: Literal["time", "hash"] = Field("time", description="hash: for tables without a time (by group_id)")
    validation_fraction: float = Field(
        0.1,
        ge=0,
        lt=1,
        description="share of the training rows set apart to choose settings by: the last ones by time, or some by"
        " hash of the group where there is no time or labels take long to be final; 0: none",
    )

    @field_validator("test_from")
    @classmethod
    def _iso_time(cls, text: str | None) -> str | None:
        try:
            _ = datetime.fromisoformat(text) if text else None
        except ValueError:
            raise ValueError("no ISO time; write it like 2024-03-01T18:00:00Z") from None
        return text


class Dataset(Settings):
    """A data set: one YAML file, no code."""

    name: str = Field(description="one data set a root: another name is refused there")
    kind: Literal["events", "impressions", "tabular"] = Field(
        "events",
        description="events: with types, impressions are made of them; impressions: labelled rows; tabular: rows"
        " without sessions; without an event_key each of them counts, equal ones too",
    )
    source: Source = Source()  # type: ignore[call-arg]
    columns: dict[str, str] = Field(
        description="canonical column: SQL over source columns. events need event_ts and event_type, impressions"
        " and tabular need label; user_id, session_id, item_id, seq (the order within one time), list_id, position,"
        " click and conversion mean what they say, any other name is yours; label, click and conversion hold 0, 1,"
        " true or false, all else goes to quarantine, null too (of events: where the event shows an item)"
    )
    event_time: EventTime | None = Field(
        None, description="instead of columns.event_ts: a time and its format"
    )
    time_zone: str = Field("UTC", description="zone of times that name none")
    layout: Literal["partition", "cluster"] = Field(
        "partition", description="chosen when the tables are made: event_date partitions or liquid clustering"
    )
    unparsed_days: int = Field(
        30, ge=0, le=CENTURY, description="verbatim text of unparsable records is kept this long"
    )
    identifiers: list[str] = Field(
        ["user_id", "session_id"], description="pseudonymised by a keyed hash at ingest"
    )
    event_key: list[str] = Field(
        [],
        description="canonical columns that identify a record; empty: all of it, and of kind tabular its"
        " number among equal rows of one delivery",
    )
    dedup_days: int = Field(
        0,
        ge=0,
        le=CENTURY,
        description="an id is looked for so many days before and after its own date too, for sources that send "
        "a record again with another time; costs a look at those days' ids",
    )
    sampling_rate: str | None = Field(
        None,
        description="SQL: probability with which the log had kept the row; carried into offset and weight",
    )
    rules: list[Rule] = []
    tolerate: float = Field(
        0.05,
        ge=0,
        le=1,
        description="a run stops, and nothing of it is visible, where a larger share of its records cannot be read, or"
        " has a label, click or conversion that is neither 0 nor 1, or is a duplicate within the delivery; each is"
        " counted by itself, what your own rules reject is not",
    )
    impressions: Impressions = Impressions()  # type: ignore[call-arg]
    history: History = History()  # type: ignore[call-arg]
    maturity_hours: Hours | None = Field(
        None, description="age at which labels count as final; default: the attribution windows"
    )
    group: str | None = Field(
        "user_id", description="column whose rows are resampled together (clusters, gAUC)"
    )
    label: Literal["click", "conversion"] = Field(
        "click", description="what models predict: CTR or CVR; of tabular data the column label"
    )
    split: Split = Split()  # type: ignore[call-arg]
    features: list[Feature] = []
    selection: Selection = Selection()  # type: ignore[call-arg]
    start_vectors: StartVectors | None = None

    @property
    def final_hours(self) -> float:
        """Age at which every label of an impression counts as final."""
        if self.maturity_hours is not None:
            return self.maturity_hours
        events = (self.impressions.click_event, self.impressions.conversion_event)
        return sum(event.window_hours for event in events if event is not None)

    @property
    def label_hours(self) -> float:
        """How long after an impression its label may still come; a fit must not know it earlier."""
        if self.label == "conversion":
            return self.final_hours
        return self.impressions.click_event.window_hours if self.impressions.click_event is not None else 0.0

    @field_validator("time_zone")
    @classmethod
    def _known_zone(cls, zone: str) -> str:
        known = available_timezones()  # none where the machine has no zone files
        if known and zone not in known and not re.fullmatch(r"[+-]\d{2}:\d{2}", zone):
            raise ValueError("no time zone; write it like Europe/Berlin, UTC or +02:00")
        return zone

    @model_validator(mode="after")
    def _one_time(self) -> Dataset:
        if self.event_time is not None and "event_ts" in self.columns:
            raise ConfigError(
                "dataset.event_time and dataset.columns.event_ts both say when a record happened",
                remedy="leave out one of them",
            )
        return self

    @model_validator(mode="after")
    def _features_go_together(self) -> Dataset:
        check_features(self.features)
        categories = [one.input_name for one in self.features if one.kind == "category"]
        if self.start_vectors is not None:
            for key, name in (("user", self.start_vectors.user), ("item", self.start_vectors.item)):
                if name not in categories:
                    raise ConfigError(
                        f"dataset.start_vectors.{key}: '{name}' is no category; "
                        f"there are: {', '.join(categories) or 'none'}",
                        remedy="add the feature with kind: category, or name another one",
                    )
        names = [one.input_name for one in self.features]
        for name in self.selection.keep:
            if name not in names:
                near = difflib.get_close_matches(name, names, n=1) or names
                raise ConfigError(
                    f"dataset.selection.keep: there is no feature '{name}'",
                    remedy=f"name one of dataset.features: {', '.join(near) or 'there are none'}",
                )
        return self

    @model_validator(mode="after")
    def _a_name_is_one_column(self) -> Dataset:
        check_names(self)
        return self

    def options(self) -> dict[str, Any]:
        """Plain data, for logs and hashes."""
        return self.model_dump(mode="json")
