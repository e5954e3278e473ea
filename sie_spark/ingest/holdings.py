"""What a root holds already, and whether the source at hand goes with it, or can give all of it again."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sie_spark.ingest.canonical import every_row_counts
from sie_spark.platform.config.load import digest
from sie_spark.platform.errors import ConfigError
from sie_spark.sources.read import Snapshot

if TYPE_CHECKING:
    from sie_spark.platform.context import Context

IDENTITY_FILE = ("state", "dataset.json")
MAPPING = (
    "kind",
    "source",
    "columns",
    "event_time",
    "time_zone",
    "identifiers",
    "event_key",
    "sampling_rate",
    "rules",
)
# how records without a key are told apart, where equal ones are one and where every row counts; raised at changes
IDS = {False: 2, True: 3}


def check_root(ctx: Context) -> dict[str, Any]:
    """One data set a root, and one way to tell its records apart; returns what the root is to keep of it."""
    dataset, run = ctx.config.dataset, ctx.config.run
    if dataset.source.incremental and (run.date_from or run.date_to):
        raise ConfigError(
            "dataset.source.incremental reads what is new, run.date_from and run.date_to pick dates: not both",
            remedy="leave out the dates, or back-fill with --set dataset.source.incremental=false",
        )
    held, ids = held_identity(ctx), IDS[every_row_counts(dataset)]
    if held and held["dataset"] != dataset.name:
        raise ConfigError(
            f"{ctx.root.uri} holds data set '{held['dataset']}', and this is '{dataset.name}'",
            remedy="give each data set a --root of its own",
        )
    if held and not dataset.event_key and held.get("ids") != ids:
        raise ConfigError(
            f"{ctx.root.uri} was made by an earlier version or for another dataset.kind, which told records without"
            " dataset.event_key apart in another way: equal rows of a table were one, and records sent again would"
            " be taken for new ones",
            remedy="ingest into another --root",
        )
    return {"dataset": dataset.name, "mapping": mapping_digest(ctx), "ids": ids}


def held_identity(ctx: Context) -> dict[str, Any]:
    """What the root keeps of the data set that table events is of; nothing where there is no table."""
    return (ctx.root.read_json(*IDENTITY_FILE) or {}) if ctx.catalog.exists("events") else {}


def warn_of_mapping(ctx: Context, identity: dict[str, Any], files: Snapshot) -> None:
    """A mapping that changed is said, for rows that are in stay as they were read."""
    held = held_identity(ctx)
    if held and held["mapping"] != identity["mapping"]:
        ctx.progress.warn(
            "the data set's mapping (columns, rules, source) differs from the one that made table events: records"
            f" that are in already stay as they are; for all of them anew {way_to_remake(ctx, files)}"
        )


def made_of_this_alone(ctx: Context, files: Snapshot) -> bool:
    """Whether all that the tables hold came from this very source, which can give it again.

    Every commit of theirs says which bytes it was made from. A person who was forgotten would come back.
    """
    run = ctx.config.run
    if ctx.config.dataset.source.incremental or run.date_from or run.date_to:
        return False
    others = {"events": (), "quarantine": ("impressions", "maintain")}
    if not all(map(ctx.catalog.exists, others)):
        return False
    histories = {name: ctx.catalog.whole_history(name) for name in others}
    return all(
        history is not None
        and all(stamp.get("source") == files.digest or stamp.get("job") in others[name] for stamp in history)
        for name, history in histories.items()
    )


def way_to_remake(ctx: Context, files: Snapshot) -> str:
    """What a user can do to have table events made anew."""
    if made_of_this_alone(ctx, files):
        return "add --set run.force=true, which makes the tables anew from this source"
    return "ingest into another --root"


def mapping_digest(ctx: Context) -> str:
    """The settings that decide what a source row becomes, the place of the source aside."""
    options = ctx.config.dataset.options()
    chosen = {name: options[name] for name in MAPPING}
    chosen["source"] = {**chosen["source"], "path": None}
    return digest(chosen)
