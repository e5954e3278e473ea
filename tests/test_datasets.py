"""Every shipped data set, by its YAML alone: small files in the format of those that are not at hand, and the
real ones where they lie beside the checkout."""

import random
from collections import Counter
from pathlib import Path

import pytest

from helpers.logs import rows
from sie_spark.impressions import impressions
from sie_spark.ingest import ingest

pytestmark = pytest.mark.spark


def run(make_context, name: str, source: Path):
    ctx = make_context(name, source=str(source))
    return ctx, ingest.run(ctx), impressions.run(ctx)


def test_criteo_format(make_context, tmp_path: Path) -> None:
    draw = random.Random(0)
    lines = []
    for n in range(60):
        numbers = [str(draw.randrange(99)) if draw.random() < 0.8 else "" for _ in range(13)]
        words = [f"{draw.randrange(16**8):08x}" if draw.random() < 0.9 else "" for _ in range(26)]
        lines.append("\t".join([str(n % 2), *numbers, *words]))
    lines += [lines[0], "2" + lines[1][1:], lines[2].replace("\t", "\tx", 1), "0\t1\t2"]
    (tmp_path / "train.txt").write_text("\n".join(lines) + "\n")
    ctx, ingested, sampled = run(make_context, "criteo", tmp_path / "train.txt")
    assert ingested.rows.as_dict() == {"read": 64, "kept": 61, "quarantined": 3, "duplicate": 0}
    found = {tuple(row["reasons"]) for row in rows(ctx.catalog.read("quarantine"))}
    assert found == {("label:not 0 or 1",), ("type:I1",), ("unparsable",)}
    assert sampled.metrics["impressions"] == 61 and sampled.metrics["clicks"] == 30
    row = ctx.catalog.read("impressions").first().asDict()
    assert row["label"] in (0.0, 1.0) and len(row["C26"] or "8 digits") == 8
    assert row["group_key"] == row["impression_id"]


def test_avazu_format(make_context, tmp_path: Path) -> None:
    header = "id,click,hour,C1,banner_pos,site_id,site_domain,site_category,app_id,app_domain,app_category,"
    header += "device_id,device_ip,device_model,device_type,device_conn_type,C14,C15,C16,C17,C18,C19,C20,C21"
    tail = "1005,0,s1,d1,c1,a1,ad1,ac1,dev,ip{},m1,1,0,15706,320,50,1722,0,35,-1,79"
    lines = [f"{n},{n % 2},141021{n % 24:02d},{tail.format(n % 5)}" for n in range(30)]
    lines += [lines[3], f"99,0,14102199,{tail.format(1)}", f"98,yes,14102101,{tail.format(1)}"]
    (tmp_path / "train.csv").write_text("\n".join([header, *lines]) + "\n")
    ctx, ingested, sampled = run(make_context, "avazu", tmp_path / "train.csv")
    assert ingested.rows.as_dict() == {"read": 33, "kept": 30, "quarantined": 2, "duplicate": 1}
    found = {tuple(row["reasons"]) for row in rows(ctx.catalog.read("quarantine"))}
    assert found == {("event_ts:required",), ("label:not 0 or 1", "click:not 0 or 1")}
    assert sampled.metrics["clicks"] == 15
    held = rows(ctx.catalog.read("impressions"))
    assert len({row["group_key"] for row in held}) == 5
    assert {str(row["event_ts"])[:13] for row in held} == {f"2014-10-21 {hour:02d}" for hour in range(24)}
    assert not any("ip" in row["user_id"] or row["device_id"] == "dev" for row in held)


def test_credit_risk_table(make_context, tmp_path: Path) -> None:
    header = (
        ",SeriousDlqin2yrs,RevolvingUtilizationOfUnsecuredLines,age,NumberOfTime30-59DaysPastDueNotWorse,"
    )
    header += "DebtRatio,MonthlyIncome,NumberOfOpenCreditLinesAndLoans,NumberOfTimes90DaysLate,"
    header += "NumberRealEstateLoansOrLines,NumberOfTime60-89DaysPastDueNotWorse,NumberOfDependents"
    lines = [f"{n},{int(n % 7 == 0)},0.{n},4{n % 10},{n % 3},0.8,91{n}0,13,0,6,0,2" for n in range(40)]
    lines += ["40,0,0.5,0,0,0.3,NA,1,0,0,0,NA", "41,0,0.5,55,0,0.3,NA,1,0,0,0,NA"]
    (tmp_path / "credit.csv").write_text("\n".join([header, *lines]) + "\n")
    ctx, ingested, sampled = run(make_context, "credit_risk", tmp_path / "credit.csv")
    assert ingested.rows.as_dict() == {"read": 42, "kept": 41, "quarantined": 1, "duplicate": 0}
    assert ingested.details["reasons"] == {"age:range": 1}
    assert sampled.metrics["impressions"] == 41 and sampled.metrics["clicks"] == 6
    missing = [row for row in rows(ctx.catalog.read("impressions")) if row["income"] is None]
    assert len(missing) == 1 and missing[0]["dependents"] is None


@pytest.mark.slow
def test_trivago(make_context, shared_data: Path) -> None:
    file = shared_data / "trivago_search_clicks" / "trivago_val_100k.parquet"
    _ctx, ingested, sampled = run(make_context, "trivago", file)
    assert ingested.rows.as_dict() == {"read": 100_003, "kept": 100_003, "quarantined": 0, "duplicate": 0}
    assert sampled.metrics["impressions"] == 312_539
    # one list has its clicked item outside of the list
    assert sampled.metrics["clicks"] == 13_596
    rates = {row["position"]: row["clicks"] / row["impressions"] for row in sampled.details["by_position"]}
    assert rates[1] == pytest.approx(0.31, abs=0.005) and rates[25] == pytest.approx(0.015, abs=0.002)


@pytest.mark.slow
def test_taobao(make_context, shared_data: Path) -> None:
    file = shared_data / "taobao_userbehavior" / "users_815" / "UserBehavior.csv"
    lines = file.read_text().splitlines()
    whole = [line.split(",") for line in lines if line.count(",") == 4]
    stray = {tuple(row) for row in whole if not 1511539200 <= int(row[4]) <= 1512316799}
    good = {tuple(row) for row in whole} - stray
    _ctx, ingested, sampled = run(make_context, "taobao_userbehavior", file)
    held = ingested.rows
    assert held.read == len(lines) == 84_476
    assert held.kept == len(good) and held.quarantined == len(stray) + 1
    views = sorted((row for row in good if row[3] == "pv"), key=lambda row: int(row[4]))
    assert sampled.metrics["impressions"] == len(views)
    # by hand: a purchase belongs to the latest view of the item before it, at most 72 hours before
    viewed: dict[tuple[str, str], list[int]] = {}
    for user, item, _, _, ts in views:
        viewed.setdefault((user, item), []).append(int(ts))
    bought = set()
    for user, item, _, kind, ts in good:
        earlier = [at for at in viewed.get((user, item), []) if at <= int(ts)]
        if kind == "buy" and earlier and int(ts) - max(earlier) <= 72 * 3600:
            bought.add((user, item, max(earlier)))
    assert sampled.metrics["conversions"] == len(bought)


@pytest.mark.slow
def test_open_bandit(make_context, shared_data: Path) -> None:
    ctx, ingested, sampled = run(
        make_context, "open_bandit", shared_data / "open_bandit" / "random" / "men" / "men.csv"
    )
    assert ingested.rows.read == 10_000 and ingested.rows.quarantined == 0
    assert sampled.metrics["clicks"] == 46
    shown = rows(ctx.catalog.read("impressions").groupBy("propensity").count())
    assert len(shown) == 1 and shown[0]["propensity"] == pytest.approx(1 / 34)
    assert {len(row["affinity"]) for row in rows(ctx.catalog.read("impressions").limit(50))} == {34}


@pytest.mark.slow
def test_online_retail(make_context, shared_data: Path) -> None:
    import pyarrow.parquet as pq

    file = shared_data / "online_retail" / "retail_session.parquet"
    table = pq.read_table(file).to_pandas()
    distinct = table.drop_duplicates()
    cancelled = distinct.InvoiceNo.str.upper().str.startswith("C")
    counts = Counter(
        {
            "cancellation": int(cancelled.sum()),
            "no customer": int(distinct.CustomerID.isna().sum()),
            "quantity below one": int((distinct.Quantity < 1).sum()),
        }
    )
    ctx, ingested, sampled = run(make_context, "online_retail", file)
    held = ingested.rows
    assert held.read == len(table) == 541_909
    assert held.duplicate == len(table) - len(distinct)
    in_table = {
        name: ctx.catalog.read("quarantine").where(f"array_contains(reasons, '{name}')").count()
        for name in counts
    }
    assert in_table == dict(counts)
    assert 0.05 < sampled.metrics["conversions"] / sampled.metrics["impressions"] < 0.6
