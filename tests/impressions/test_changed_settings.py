"""Impressions whose settings or columns changed since some of their dates were made."""

from pathlib import Path

import pytest

from helpers.logs import DAY, START, event, rows, settings, write
from sie_spark.impressions import impressions
from sie_spark.ingest import ingest
from sie_spark.platform.errors import ConfigError, DataError
from sie_spark.platform.progress import Progress

pytestmark = pytest.mark.spark
SECOND = {"run": {"date_from": "2024-03-02", "date_to": "2024-03-02"}}


def test_single_dates_are_not_made_anew_by_other_settings(make_context, tmp_path: Path) -> None:
    log = write(tmp_path / "log.json", *[event(str(n), ts=START + n * DAY) for n in range(3)])
    before, after = settings(log), settings(log, history={"types": ["view"]})
    ingest.run(make_context(before))
    nowhere = {"run": {"date_from": "2024-04-01"}}
    with pytest.raises(
        DataError, match=r"none of the 3 .* \(2024-03-01 to 2024-03-03\) lies in the asked dates"
    ):
        impressions.run(make_context(before | nowhere))
    for config in (before | SECOND, before):
        impressions.run(make_context(config))
    with pytest.raises(ConfigError, match="changed since table impressions was made"):
        impressions.run(make_context(after | SECOND))
    ctx = make_context(after)
    impressions.run(ctx)
    held = rows(ctx.catalog.read("impressions").orderBy("event_ts"))
    assert [row["hist_view"] for row in held] == [0, 1, 2]
    with pytest.raises(ConfigError, match="changed since table impressions was made"):  # whose columns it has
        impressions.run(make_context(before | SECOND))
    assert impressions.run(make_context(after | SECOND)).outputs["impressions"].rows == 3


def test_dates_that_changed_and_were_not_asked_for_are_said(
    make_context, tmp_path: Path, monkeypatch
) -> None:
    said: list[str] = []
    monkeypatch.setattr(Progress, "warn", lambda self, text: said.append(text))
    log = tmp_path / "log"
    for n in range(2):
        write(log / f"{n}.json", *[event(f"{n}{day}", ts=START + day * DAY) for day in range(3)])
        ingest.run(make_context(settings(log)))
        impressions.run(make_context(settings(log) if n == 0 else settings(log) | SECOND))
    assert [text for text in said if "2 date(s) outside the asked ones may differ now, 2024-03-01 to" in text]
    said.clear()
    impressions.run(make_context(settings(log)))
    ctx = make_context(settings(log) | SECOND)
    assert impressions.run(ctx).outputs["impressions"].rows == 6 and not said


def test_a_killed_run_leaves_no_doubt_about_what_made_the_table(
    make_context, tmp_path: Path, monkeypatch
) -> None:
    log = write(tmp_path / "log.json", *[event(str(n), ts=START + n * DAY) for n in range(3)])
    before, after = settings(log), settings(log, history={"types": ["view"]})
    ingest.run(make_context(before))
    impressions.run(make_context(before))

    def killed(_):
        raise KeyboardInterrupt

    with (
        monkeypatch.context() as patch,
        pytest.raises(KeyboardInterrupt),
    ):  # the table is written, no state is
        patch.setattr(impressions, "label_counts", killed)
        impressions.run(make_context(after))
    with pytest.raises(ConfigError, match="changed since table impressions was made"):
        impressions.run(make_context(before | SECOND))
    assert impressions.run(make_context(after | SECOND)).outputs["impressions"].rows == 3
