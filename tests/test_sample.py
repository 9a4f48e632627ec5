"""Before a list is paid for: a sample of it, what a dry run says as a file, and answers that are all alike."""

from __future__ import annotations

import json
import random
from collections import Counter
from decimal import Decimal
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import httpx
import pytest

from aisolution_async import AddFace, ConfigurationError, FaceCompare, SearchFace, WhatsAppDetail
from aisolution_async.bulk import BulkRun, Estimate, ListSample, alike, run_bulk, sample_bulk
from aisolution_async.bulk.alike import LOOKED_AT
from aisolution_async.bulk.intervals import Interval
from aisolution_async.ledger import Ledger, LedgerError

from .commands import left, numbers, run, the_error
from .sheets import jsonl, read, write
from .support import NUMBER, Vendor, client_of, ok_whatsapp, picture, says

PRICES = {"whatsapp-detail": Decimal("0.05")}
BULK = ("bulk", "whatsapp-detail", "in.csv", "-o", "out.csv", "--sandbox")
pytestmark = pytest.mark.usefixtures("command_environment")


def asked(request: httpx.Request) -> str:
    """The number that a request asks for."""
    return parse_qs(request.url.query.decode() + "&" + request.content.decode())["number"][0]


def answering(words: dict[str, str]) -> Vendor:
    """A vendor that knows a word for each number; of the others, their status is no number."""

    def script(request: httpx.Request, number: int) -> httpx.Response:
        return says("OK", {"number": NUMBER, "whatsapp": words[asked(request)]})

    return Vendor(script)


def a_list(count: int, words: dict[str, float], seed: int = 1, *, alike: int = 0) -> tuple[Path, dict[str, str]]:
    """A list whose answers are sorted, with `alike` rows again at its end, and five that cannot be asked."""
    rng = random.Random(seed)
    mixed = sorted(rng.choices([*words], [*words.values()], k=count))
    known = {f"+62813{rng.randrange(10**8):08}": word for word in mixed}
    rows = [*known, *rng.choices([*known], k=alike), *["abc", "", "12", "xyz", "-"]]
    return write(Path("in.csv"), "id,number\n" + "".join(f"{n},{row}\n" for n, row in enumerate(rows))), known


async def sampled(vendor: Vendor, size: int, source: Path = Path("in.csv"), **options: Any) -> Estimate:
    async with client_of(vendor) as client:
        return await sample_bulk(
            client, WhatsAppDetail, source, "out.csv", size, **{"ledger": "l", "prices": PRICES, **options}
        )


async def whole(vendor: Vendor, source: Path = Path("in.csv"), **options: Any) -> Any:
    async with client_of(vendor) as client:
        return await run_bulk(client, WhatsAppDetail, source, "out.csv", **{"ledger": "l", **options})


# ---------------------------------------------------------------------------------------------------- what it says


async def test_a_sample_is_paid_for_once() -> None:
    _source, known = a_list(400, {"yes": 0.6, "no": 0.3, "unavailable": 0.1}, alike=100)
    vendor = answering(known)
    found = await sampled(vendor, 60)
    assert (found.rows, found.failed, found.asked, found.asks) == (505, 5, 60, {"gliswadetail": 500})
    assert left() == {"in.csv", "l"}, "no results are written"
    first = len(vendor.requests)
    assert first <= 60
    again = await sampled(vendor, 60)
    free = found.drawn["gliswadetail"].get("unavailable", 0)
    assert len(vendor.requests) - first <= free, "only what was free, and is not settled, is asked again"
    assert (again.answers, again.charges) == (found.answers, found.charges)
    larger = await sampled(vendor, 90)
    assert len(vendor.requests) - first <= 2 * free + 30, "a larger sample has the smaller one's rows"
    assert larger.asked == 90
    done = await whole(vendor)
    assert (done.rows, done.failed) == (505, 5)
    charged = Counter(asked(request) for request in vendor.requests if known[asked(request)] != "unavailable")
    assert set(charged.values()) == {1}, "each answer is bought once"
    for estimate in (found, larger):
        charges = estimate.charges["gliswadetail"]
        assert charges.questions == 400
        assert charges.whole.low <= len(charged) <= charges.whole.high
        assert estimate.cost is not None
        assert estimate.cost.low == charges.whole.low * PRICES["whatsapp-detail"]
    assert found.charges["gliswadetail"].paid == len({asked(r) for r in vendor.requests[:first]} & charged.keys())


@pytest.mark.no_cover
@pytest.mark.parametrize(("lists", "least"), [(25, 0.9), pytest.param(60, 0.95, marks=pytest.mark.long)])
async def test_what_it_says_is_right_for_most_lists(tmp_path: Path, lists: int, least: float) -> None:
    """Sorted lists with rows that are alike, unavailable numbers that are free, and a word that is rare."""
    held = Counter[str]()
    for seed in range(lists):
        source, known = a_list(150, {"yes": 0.5, "no": 0.37, "checking": 0.1, "unavailable": 0.03}, seed, alike=80)
        found = await sampled(answering(known), 40, ledger=tmp_path / f"{seed}.ledger")
        true = Counter(known[row["number"]] for row in read(source) if row["number"] in known)
        for word in found.answers["gliswadetail"]:
            share = found.answers["gliswadetail"][word]
            held[word] += share.low <= true[word] <= share.high
        held["of"] += "yes" in found.answers["gliswadetail"]
        charges = found.charges["gliswadetail"].whole
        paid = sum(word in ("yes", "no") for word in known.values())
        held["charges"] += charges.low <= paid <= charges.high
    assert held["of"] == lists
    assert min(held["yes"], held["no"], held["charges"]) >= least * lists


@pytest.mark.parametrize("size", [1, 4, 1000])
async def test_samples_of_any_size(size: int) -> None:
    _, known = a_list(4, {"yes": 1})
    found = await sampled(answering(known), size)
    charges = found.charges["gliswadetail"].whole
    assert found.asked == min(size, 4)
    assert (charges.likely, charges.high) == (4, 4)
    assert (charges.low == 4) is (size >= 4)


async def test_a_list_of_which_nothing_can_be_asked() -> None:
    source = write(Path("in.csv"), "number\nabc\n12\n")
    vendor = answering({})
    found = await sampled(vendor, 5, source)
    assert (found.asked, found.failed, vendor.requests) == (0, 2, [])
    assert found.charges["gliswadetail"].whole.high == 0


async def test_rows_stay_in_the_sample_when_others_are_mended_or_moved() -> None:
    source, known = a_list(300, {"yes": 1})
    vendor = answering(known)
    await sampled(vendor, 50)
    before = {asked(request) for request in vendor.requests}
    lines = source.read_text().splitlines()
    random.Random(2).shuffle(rows := lines[1:-5])
    write(source, "\n".join([lines[0], *rows, *lines[-4:], ""]))
    await sampled(vendor, 50)
    assert {asked(request) for request in vendor.requests} == before
    assert len(vendor.requests) == 50


async def test_what_the_budget_does_not_allow_makes_it_wider() -> None:
    _, known = a_list(300, {"yes": 1})
    found = await sampled(answering(known), 50, max_charges=20)
    share = found.answers["gliswadetail"]["yes"]
    assert found.drawn["gliswadetail"] == {"yes": 20, "BudgetExhaustedError": 30}
    assert [*found.answers["gliswadetail"]] == ["yes"]
    assert (share.likely, share.high) == (300, 300)
    assert share.low < 200
    assert (found.charges["gliswadetail"].whole.high, found.charges["gliswadetail"].paid) == (300, 20)


async def test_two_endpoints_and_a_row_that_can_be_asked_one_of_them() -> None:
    write(Path("a.jpg"), picture(1))
    cells = [f"a.jpg,+62813{n:08}\n" for n in range(20)] + [f"gone.jpg,+62813{n:08}\n" for n in range(20, 30)]
    source = write(Path("in.csv"), "img,number\n" + "".join(cells))

    def script(request: httpx.Request, number: int) -> httpx.Response:
        return says("OK", []) if "searchface" in request.url.path else ok_whatsapp()

    async with client_of(Vendor(script)) as client:
        found = await sample_bulk(client, [SearchFace, WhatsAppDetail], source, "out.csv", 30, ledger="l")
    assert found.answers["searchface"]["not found"].likely == 20
    assert found.asks == {"searchface": 20, "gliswadetail": 30}
    assert {name: each.questions for name, each in found.charges.items()} == {"searchface": 1, "gliswadetail": 30}
    assert found.cost is None


async def test_a_sample_that_cannot_be() -> None:
    source = numbers(3)
    nobody = answering({})
    with pytest.raises(ConfigurationError, match="a sample needs a ledger"):
        await sampled(nobody, 2, ledger=None)
    with pytest.raises(ConfigurationError, match="of 1 row at least, not 0"):
        await sampled(nobody, 0)
    with pytest.raises(ConfigurationError, match="reads its list twice"):
        await sampled(nobody, 2, Path("-"), columns={"number": "number"})
    write(Path("a.jpg"), picture(1))
    faces = write(Path("faces.csv"), "img\na.jpg\n")
    async with client_of(nobody) as client:
        with pytest.raises(ConfigurationError, match="without a column of keys"):
            await sample_bulk(client, AddFace, faces, "out.csv", 1, ledger="l")
    assert (nobody.requests, left()) == ([], {source.name, "a.jpg", "faces.csv"})


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
async def test_an_answer_of_the_sample_that_the_ledger_cannot_take_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    end, known = Ledger.end, {f"+62813{n:08}": "yes" for n in range(6)}
    source = write(Path("in.csv"), "id,number\n" + "".join(f"{n},{number}\n" for n, number in enumerate(known)))

    async def failing(self: Ledger, started: Any, result: Any) -> None:
        if started.ask.key == "3":
            raise LedgerError("the disk is full")
        await end(self, started, result)

    monkeypatch.setattr(Ledger, "end", failing)
    vendor = answering(known)
    found = await sampled(vendor, 6, source)
    assert found.charges["gliswadetail"].whole == Interval(6, 6, 6)
    [rescued] = Path().glob("out.csv.rescued-*.jsonl")
    assert [row["id"] for row in jsonl(rescued)] == ["3"]
    monkeypatch.setattr(Ledger, "end", end)
    done = await whole(vendor, source)
    assert (done.ok, done.taken_back, len(vendor.requests)) == (6, 1, 6)


async def test_what_an_earlier_run_wrote_and_its_ledger_lacks_is_not_bought_by_a_sample() -> None:
    _, known = a_list(20, {"yes": 1})
    vendor = answering(known)
    await whole(vendor, ledger=None)
    found = await sampled(vendor, 25, rescued=["out.csv"], overwrite=True)
    assert (found.charges["gliswadetail"].paid, len(vendor.requests)) == (20, 20)


async def test_a_sample_that_is_stopped_says_nothing() -> None:
    _, known = a_list(100, {"yes": 1})
    vendor = answering(known)
    async with client_of(vendor) as client:
        sample = ListSample(50)
        bulk = BulkRun(client, WhatsAppDetail, "in.csv", "out.csv", sample=sample, ledger="l")
        bulk.stop()
        await bulk.run()
    assert (sample.estimate, vendor.requests) == (None, [])


# ------------------------------------------------------------------------------------------- on the command line


def test_a_sample_for_people_for_machines_and_as_a_file() -> None:
    numbers(300)
    result = run(*BULK, "--sample", "80", "--price", "whatsapp-detail=0.05", "--plan", "plan.txt")
    assert result.exit_code == 0, result.stderr
    assert "sample          80 of the 300 rows that can be asked\n" in result.stderr
    assert "to ask the rest: " in result.stderr
    assert " --price whatsapp-detail=0.05 " in result.stderr
    assert "number is read from 'number' by its name\n" in Path("plan.txt").read_text()
    assert "cost of all     " in Path("plan.txt").read_text()
    assert left() == {"in.csv", "out.csv.sandbox.ledger", "plan.txt"}
    said = json.loads(run(*BULK, "--sample", "80", "--json", "--quiet", "--plan", "plan.json").stdout)
    assert (said["sample"], said["rows"], said["asked"], said["cost"]) == (True, 300, 80, None)
    assert json.loads(Path("plan.json").read_text()) == said
    found = json.loads(run(*BULK, "--json", "--quiet").stdout)
    assert said["charges"]["gliswadetail"]["low"] <= found["charged"] + found["from_ledger"]
    assert found["from_ledger"] >= 60


def test_the_budget_ends_a_sample() -> None:
    numbers(100)
    result = run(*BULK, "--sample", "50", "--max-charges", "10")
    assert result.exit_code == 4
    assert "not asked" in result.stderr


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        (["--sample", "5", "--dry-run"], "--sample asks the vendor, and --dry-run does not: give one of them"),
        (["--sample", "5", "--no-ledger"], "--sample needs its ledger: with --no-ledger, the run"),
        (["--plan", "plan.txt"], "--plan is for what --dry-run or --sample says"),
        (["--dry-run", "--plan", "in.csv"], "the plan 'in.csv' must end in .txt or .md"),
        (["--dry-run", "--plan", "mine.txt", "--overwrite"], "the plan 'mine.txt' is there already"),
        (["--dry-run", "--plan", "nowhere/plan.txt"], "the plan 'nowhere/plan.txt' cannot be written: No such file"),
    ],
)
def test_options_that_do_not_go_together(options: list[str], problem: str) -> None:
    numbers(1)
    Path("mine.txt").write_text("mine")
    result = run(*BULK, *options)
    assert result.exit_code in (1, 2)
    assert the_error(result).startswith(problem)
    assert (left(), Path("mine.txt").read_text()) == ({"in.csv", "mine.txt"}, "mine")


def test_a_dry_run_tells_problems_by_kind_and_writes_the_same() -> None:
    bad = ["abc", "", "xyz", "", "12", "", "+6281387300001", "+6281387300001"]
    write(Path("in.csv"), "id,number\n" + "".join(f"{n},{number}\n" for n, number in enumerate(bad)))
    result = run(*BULK, "--dry-run", "--plan", "plan.md", "--price", "whatsapp-detail=0.05")
    told = result.stderr.splitlines()
    assert (
        "line 3: column 'number' is empty: fill it in, or delete the row in the list itself (and 2 more like it)"
        in result.stderr
    )
    assert sum("more like it" in line for line in told) == 2
    assert told[-1] == "nothing was sent, and nothing was written but plan.md"
    assert [line for line in told if line not in Path("plan.md").read_text().splitlines()] == [told[-1]]
    said = json.loads(run(*BULK, "--dry-run", "--json", "--quiet").stdout)
    assert sorted(kind["calls"] for kind in said["kinds"]) == [3, 3]
    assert (said["shared"], said["charges"]) == (1, {"gliswadetail": 1})


# ------------------------------------------------------------------------------------------------ all answers alike


async def test_answers_that_are_all_alike_are_told_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(alike, "LOOKED_AT", 30)
    _source, known = a_list(100, {"no": 1}, alike=20)
    told: list[tuple[str, int]] = []
    vendor = answering(known)
    done = await whole(vendor, on_warning=lambda line: told.append((line, len(vendor.requests))), concurrency=1)
    line = "the first 30 answers are all 'no': look at the column 'number' (first: line 2) before more is paid"
    assert [each for each, _ in told] == [line] == done.warnings
    assert 30 <= told[0][1] < 60, "it is told while the run goes on"
    assert done.ok == 120


@pytest.mark.parametrize("other", ["at the end", "from the ledger", "free"])
async def test_what_is_not_suspicious(other: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(alike, "LOOKED_AT", 30)
    _source, known = a_list(30 if other == "at the end" else 50, {"no": 1})
    if other == "at the end":
        known[[*known][-1]] = "yes"
    elif other == "free":
        known = dict.fromkeys(known, "unavailable")
    else:
        await whole(answering(known))
    assert (await whole(answering(known), concurrency=1)).warnings == []


def test_how_many_are_looked_at() -> None:
    assert 0.99**LOOKED_AT < 0.05


async def test_alike_for_each_endpoint(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(alike, "LOOKED_AT", 5)
    for n in range(12):
        write(Path(f"{n}.jpg"), picture(n))
    rows = "".join(f"{n}.jpg,{n + 6}.jpg,+62813{n:08}\n" for n in range(6))
    source = write(Path("in.csv"), f"selfie,ktp,number\n{rows}")

    def script(request: httpx.Request, number: int) -> httpx.Response:
        if "facecompare" in request.url.path:
            return says("OK", {"similarity": 99.9, "result": "SAME PERSON"})
        return says("OK", {"number": NUMBER, "whatsapp": ["yes", "no"][number % 4 == 1]})

    async with client_of(Vendor(script)) as client:
        done = await run_bulk(client, [FaceCompare, WhatsAppDetail], source, "out.csv", concurrency=1)
    assert done.warnings == [
        "face-compare: the first 5 answers are all 'SAME PERSON': look at the columns 'selfie' and 'ktp' (first: "
        "line 2) before more is paid"
    ]
