"""What earlier runs wrote: no answer in it is lost, none goes to another row, and none is bought a second time."""

from __future__ import annotations

import io
import json
import stat
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from random import Random
from types import SimpleNamespace
from typing import Any
from urllib.parse import parse_qs

import httpx
import pytest

from aisolution_async import Call, Charge, ConfigurationError, FaceCompare, WhatsAppDetail
from aisolution_async.batching import Batch
from aisolution_async.bulk import BulkError, BulkRun, Summary, forecast_bulk, run_bulk
from aisolution_async.bulk.earlier import sources_of
from aisolution_async.bulk.origins import origin_of
from aisolution_async.bulk.outputs import Output, UnwrittenError
from aisolution_async.bulk.rows import Rows
from aisolution_async.ledger import Ledger, LedgerError

from .support import Vendor, client_of, picture, says

ENDINGS = ["csv", "tsv", "jsonl", "parquet", "xlsx"]
GONE = "of the answers paid for are not in its ledger any more, and would be paid for again"


class Echo(Vendor):
    """A vendor that says the number it was asked for, and counts what it charged for each question."""

    def __init__(self, said: Callable[[str], str] = lambda number: "yes") -> None:
        self.bought: Counter[bytes] = Counter()
        super().__init__(self._answer)
        self._said = said

    def _answer(self, request: httpx.Request, number: int) -> httpx.Response:
        body = request.content
        if request.url.path.endswith("facecompare"):
            self.bought[body] += 1
            return says("OK", {"similarity": 50.0, "result": "NOT SURE"})
        asked = parse_qs(body.decode())["number"][0]
        said = self._said(asked)
        self.bought[body] += said in ("yes", "no")
        return says("OK", {"number": asked, "whatsapp": said, "signature": "=hi"})


async def bulk(
    source: Path, output: Path, vendor: Vendor, call: type[Call[Any]] = WhatsAppDetail, **options: Any
) -> Summary:
    async with client_of(vendor) as client:
        return await run_bulk(client, call, source, output, **options)


def numbers(folder: Path, count: int = 12, *, keyed: bool = False) -> Path:
    lines = [f"{'K' * keyed}{n},+62813{n:08},=note {n}\n" for n in range(count)]
    source = folder / "in.csv"
    source.write_text(f"{'ref' if keyed else 'n'},number,note\n{''.join(lines)}")
    return source


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Callable[[int | None], None]:
    """Makes the ledger's disk full after so many answers; None for room again."""
    end = Ledger.end

    def fill(room: int | None) -> None:
        recorded = 0

        async def failing(self: Ledger, started: Any, result: Any) -> None:
            nonlocal recorded
            recorded += 1
            if room is not None and recorded > room:
                raise LedgerError("the disk is full")
            await end(self, started, result)

        monkeypatch.setattr(Ledger, "end", failing)

    return fill


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
@pytest.mark.parametrize("retry_unknown", [None, 1])
@pytest.mark.parametrize("rescued", ["beside", "gone"])
@pytest.mark.parametrize("ending", ENDINGS)
async def test_answers_that_the_ledger_could_not_take(
    tmp_path: Path, disk: Any, ending: str, rescued: str, retry_unknown: int | None
) -> None:
    """They stand in the output and in a rescue file, and each of the two is enough. The file stays byte for byte."""
    source, output, vendor = numbers(tmp_path), tmp_path / f"out.{ending}", Echo()
    disk(5)
    first = await bulk(source, output, vendor, ledger=tmp_path / "ledger", concurrency=1)
    assert first.ok == 12
    [rescue] = tmp_path.glob("out.*.rescued-*.jsonl")
    if rescued == "gone":
        rescue.unlink()
    written = output.read_bytes()
    disk(None)
    for _ in range(2):
        again = await bulk(source, output, vendor, ledger=tmp_path / "ledger", retry_unknown=retry_unknown)
        assert (again.ok, again.taken_back, again.from_ledger, again.held) == (12, 7, 5, 0)
        assert output.read_bytes() == written
    assert set(vendor.bought.values()) == {1}


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
@pytest.mark.parametrize("ending", ENDINGS)
async def test_a_part_file_goes_only_when_its_answers_are_kept(
    tmp_path: Path, disk: Any, ending: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stopped run left them in its part file alone; the run that goes on is stopped before it comes to them."""
    source, output, vendor = numbers(tmp_path, keyed=True), tmp_path / f"out.{ending}", Echo()
    disk(5)
    begin, begun = Ledger.begin, 0

    async def full(self: Ledger, ask: Any) -> Any:
        nonlocal begun
        begun += 1
        if begun > 9:
            raise LedgerError("the disk is full")
        return await begin(self, ask)

    monkeypatch.setattr(Ledger, "begin", full)
    options: dict[str, Any] = {"ledger": tmp_path / "ledger", "concurrency": 1}
    with pytest.raises(BulkError, match="the disk is full"):
        await bulk(source, output, vendor, **options)
    [rescue] = tmp_path.glob("out.*.rescued-*.jsonl")
    rescue.unlink()
    disk(None)
    begun = 9  # at once
    with pytest.raises(BulkError):
        await bulk(source, output, vendor, ordered=False, **options)
    monkeypatch.setattr(Ledger, "begin", begin)
    output.with_name(f"{output.name}.part").unlink(missing_ok=True)
    done = await bulk(source, output, vendor, **options)
    assert (done.ok, done.taken_back, done.from_ledger) == (12, 4, 5)
    assert set(vendor.bought.values()) == {1}


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
async def test_an_answer_goes_to_no_other_row(tmp_path: Path, disk: Any) -> None:
    """Rows that differ in any cell, even if only in an apostrophe that the output adds, are others."""
    source, output, vendor = tmp_path / "in.csv", tmp_path / "out.csv", Echo()
    source.write_text("ref,number\nA,+6281300000001\n=B,+6281300000002\n")
    disk(0)
    await bulk(source, output, vendor, ledger=tmp_path / "ledger")
    disk(None)
    source.write_text("ref,number\nA2,+6281300000001\n'=B,+6281300000002\n")
    with pytest.raises(ConfigurationError, match=f"2 {GONE}"):  # they have no row any more, and would be lost
        await bulk(source, output, vendor, ledger=tmp_path / "ledger")
    again = await bulk(source, output, vendor, ledger=tmp_path / "ledger", overwrite=True)
    assert (again.held, again.taken_back) == (2, 0)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
async def test_rows_that_are_alike_and_rows_that_ask_the_same(tmp_path: Path, disk: Any) -> None:
    source, output, vendor = tmp_path / "in.csv", tmp_path / "out.csv", Echo()
    source.write_text("ref,number\nA,+6281300000001\nA,+6281300000001\nB,+6281300000001\nA,+6281300000001\n")
    disk(0)
    await bulk(source, output, vendor, ledger=tmp_path / "ledger")
    written = output.read_bytes()
    disk(None)
    again = await bulk(source, output, vendor, ledger=tmp_path / "ledger")
    assert (again.ok, again.taken_back) == (4, 4)
    assert output.read_bytes() == written
    assert len(vendor.requests) == 1


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
async def test_one_of_two_endpoints(tmp_path: Path, disk: Any) -> None:
    """Each call of a row is looked at by itself."""
    (tmp_path / "a.jpg").write_bytes(picture(1))
    (tmp_path / "b.jpg").write_bytes(picture(2))
    source, output, vendor = tmp_path / "in.csv", tmp_path / "out.csv", Echo()
    source.write_text("img1,img2,number\na.jpg,b.jpg,+6281300000001\n")
    calls: Any = [FaceCompare, WhatsAppDetail]
    disk(1)
    await bulk(source, output, vendor, calls, ledger=tmp_path / "ledger", concurrency=1)
    written = output.read_bytes()
    disk(None)
    again = await bulk(source, output, vendor, calls, ledger=tmp_path / "ledger")
    assert (again.ok, again.taken_back, again.tally.total) == (1, 1, 0)
    assert output.read_bytes() == written


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
async def test_raw_answers_are_taken_back_too(tmp_path: Path, disk: Any) -> None:
    """An OK that did not fit was probably paid for, and its words are all there is."""
    source, output = numbers(tmp_path, 2), tmp_path / "out.csv"
    vendor = Vendor(lambda request, number: says("OK", {"odd": number}))
    disk(0)
    await bulk(source, output, vendor, ledger=tmp_path / "ledger", problems=tmp_path / "mend.csv", concurrency=1)
    written = output.read_bytes(), (tmp_path / "mend.csv").read_bytes()
    with Rows(tmp_path / "out-held.csv") as rows:
        held = [row.cells[:-1] for row in rows]  # and what to do
    assert b'"{""odd"": 1}"' in written[0]
    disk(None)
    again = await bulk(source, output, vendor, ledger=tmp_path / "ledger", problems=tmp_path / "mend.csv")
    assert (again.failed, again.errors, len(vendor.requests)) == (2, {"OutcomeUnknownError": 2}, 2)
    assert written == (output.read_bytes(), (tmp_path / "mend.csv").read_bytes())
    with Rows(tmp_path / "out-held.csv") as rows:
        assert [row.cells[:-1] for row in rows] == held
    assert len(held) == 2


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
@pytest.mark.parametrize("by", ["settled as free", "bought again", "bought again with another ledger"])
async def test_raw_answers_that_were_taken_back_are_settled(tmp_path: Path, disk: Any, by: str) -> None:
    """They are taken over as long as nobody has said what is to become of them."""
    source, output, ledger = numbers(tmp_path, 2, keyed=True), tmp_path / "out.csv", tmp_path / "ledger"
    disk(0)
    await bulk(source, output, Vendor(lambda *_: says("OK", {"odd": 1})), ledger=ledger, concurrency=1)
    disk(None)
    options: dict[str, Any] = {"ledger": ledger}
    if by == "bought again with another ledger":
        options = {"ledger": tmp_path / "other", "rescued": [output]}
        output = tmp_path / "new.csv"
    vendor = Echo()
    again = await bulk(source, output, vendor, **options)
    assert (again.failed, again.held, len(vendor.requests)) == (2, 2, 0)
    if by == "settled as free":
        async with Ledger(ledger) as opened:
            for key in ("K0", "K1"):
                assert await opened.resolve(key, Charge.FREE) == 1
    else:
        options["retry_unknown"] = 1
    again = await bulk(source, output, vendor, **options)
    assert (again.ok, again.held, len(vendor.requests)) == (2, 0, 2)


# --------------------------------------------------------------------------------- a ledger that lost its memory


def lose(path: Path, how: str, before: bytes) -> None:
    """Make the ledger one that knows less than it did, and does not know that."""
    for side in ("-wal", "-shm", "-mark"):
        Path(f"{path}{side}").unlink(missing_ok=True)
    path.write_bytes({"emptied": b"", "an older copy": before}[how])


# What is lost, whether rows have keys, and which file is left, is the same to all formats: one of text has all of it.
@pytest.mark.parametrize(
    ("ending", "how", "keyed", "kept"),
    [
        pytest.param(
            ending,
            how,
            keyed,
            kept,
            marks=[]
            if ending == "csv" or (keyed == (how != "emptied") and (ending == "xlsx" or keyed == (kept == "part")))
            else pytest.mark.long,
        )
        for how in ("emptied", "an older copy")
        for keyed in (True, False)
        for ending in ENDINGS
        for kept in ("part", "output")
    ],
)
async def test_a_ledger_that_lost_its_memory(tmp_path: Path, ending: str, how: str, keyed: bool, kept: str) -> None:
    """Also one that many lists share, and that has as many answers of others."""
    path, vendor = tmp_path / "ledger", Echo()
    others = tmp_path / "others"
    others.mkdir()
    other = others / "in.csv"
    other.write_text("number\n" + "".join(f"+62899{n:08}\n" for n in range(30)))
    await bulk(other, others / "out.csv", vendor, ledger=path)
    before = path.read_bytes()
    source, output = numbers(tmp_path, keyed=keyed), tmp_path / f"out.{ending}"
    await bulk(source, output, vendor, ledger=path)
    if kept == "part":
        output = output.rename(output.with_name(f"{output.name}.part"))
    paid_for = output.read_bytes()
    lose(path, how, before)
    options: dict[str, Any] = {"ledger": path}
    with pytest.raises(ConfigurationError, match=f"12 {GONE}.*'-wal' file; or say --rescued .*, or --overwrite"):
        await bulk(source, tmp_path / f"out.{ending}", vendor, **options)
    assert output.read_bytes() == paid_for
    assert len(vendor.requests) == 42
    again = await bulk(source, tmp_path / f"out.{ending}", vendor, rescued=[output], **options)
    assert (again.ok, again.taken_back, len(vendor.requests)) == (12, 12, 42)
    assert (tmp_path / f"out.{ending}").read_bytes() == paid_for
    done = await bulk(source, tmp_path / "new.csv", vendor, ledger=tmp_path / "other ledger", rescued=[again.output])
    assert (done.taken_back, len(vendor.requests)) == (12, 42)
    for rescue in tmp_path.glob("*.rescued-*"):
        rescue.unlink()
    assert (await bulk(source, tmp_path / f"out.{ending}", vendor, overwrite=True, **options)).from_ledger == 0
    assert len(vendor.requests) == 54


async def test_a_ledger_that_lost_one_answer(tmp_path: Path) -> None:
    """Of faces, whose answers are alike, and of rows without keys."""
    for name in "abcd":
        (tmp_path / f"{name}.jpg").write_bytes(picture(ord(name)))
    source, output, vendor, path = tmp_path / "in.csv", tmp_path / "out.csv", Echo(), tmp_path / "ledger"
    source.write_text("img1,img2\na.jpg,b.jpg\na.jpg,c.jpg\n")
    await bulk(source, output, vendor, FaceCompare, ledger=path)
    before = path.read_bytes()
    source.write_text("img1,img2\na.jpg,b.jpg\na.jpg,c.jpg\na.jpg,d.jpg\n")
    await bulk(source, output, vendor, FaceCompare, ledger=path)
    lose(path, "an older copy", before)
    with pytest.raises(ConfigurationError, match=f"1 {GONE}"):
        await bulk(source, output, vendor, FaceCompare, ledger=path)
    # To be asked with another picture is to be asked another thing: what was asked before is in the ledger.
    source.write_text("img1,img2\na.jpg,b.jpg\na.jpg,c.jpg\n")
    (tmp_path / "c.jpg").write_bytes(picture(1))
    output.unlink()
    await bulk(source, output, vendor, FaceCompare, ledger=path)
    (tmp_path / "b.jpg").write_bytes(picture(2))
    assert (await bulk(source, output, vendor, FaceCompare, ledger=path)).tally.charged == 1


async def test_what_may_have_been_charged_and_has_no_answer(tmp_path: Path) -> None:
    """It would be sent again."""
    source, output, vendor = numbers(tmp_path, 3), tmp_path / "out.csv", Vendor(lambda *_: httpx.Response(500))
    await bulk(source, output, vendor, ledger=tmp_path / "ledger")
    again = await bulk(source, output, vendor, ledger=tmp_path / "ledger")
    assert (again.held, len(vendor.requests)) == (3, 3)
    lose(tmp_path / "ledger", "emptied", b"")
    with pytest.raises(ConfigurationError, match=f"3 {GONE}"):
        await bulk(source, output, vendor, ledger=tmp_path / "ledger")
    assert len(vendor.requests) == 3


async def test_what_is_no_loss(tmp_path: Path) -> None:
    """Rows that were mended, another country, old answers, what is still being checked, what was settled by hand."""
    source, output, path = tmp_path / "in.csv", tmp_path / "out.csv", tmp_path / "ledger"
    vendor = Echo(lambda number: "checking" if number.endswith("3") else "no")
    source.write_text("ref,number\nA,81300000001\nB,81300000002\nC,81300000003\nD,bad\n")
    options: dict[str, Any] = {"ledger": path, "values": {"country": "ID"}}
    await bulk(source, output, vendor, **options)
    source.write_text("ref,number\nA,81300000001\nB,81300000002\nC,81300000003\nD,81300000004\n")
    assert (await bulk(source, output, vendor, **options)).tally.charged == 1
    source.write_text("ref,number\nA,81300000005\nB,81300000002\nD,81300000004\n")
    assert (await bulk(source, output, vendor, **options)).tally.charged == 1
    assert (await bulk(source, output, vendor, reuse_for=0, **options)).tally.charged == 3
    source.write_text("ref,number\nA,9123456781\nB,9123456782\n")
    options["values"] = {"country": "IN"}
    assert (await bulk(source, output, vendor, **options)).tally.charged == 2
    options["values"] = {"country": "PH"}
    assert (await bulk(source, output, vendor, **options)).tally.charged == 2
    # Settled as free: it is not held any more, and is sent again.
    lost = Vendor(lambda *_: httpx.Response(500))
    source.write_text("ref,number\nZ,9123456789\n")
    await bulk(source, output, lost, **options)
    async with Ledger(path) as ledger:
        await ledger.resolve("Z", "free")  # type: ignore[arg-type]  # as the command line has it
    assert (await bulk(source, output, vendor, **options)).tally.charged == 1


async def test_results_under_other_columns_are_counted(tmp_path: Path) -> None:
    source, output, vendor, path = numbers(tmp_path), tmp_path / "out.csv", Echo(), tmp_path / "ledger"
    await bulk(source, output, vendor, ledger=path)
    text = output.read_text().replace("answer_raw", "answer_words")
    output.write_text(text)
    assert (await bulk(source, output, vendor, ledger=path)).from_ledger == 12
    output.write_text(text)
    lose(path, "emptied", b"")
    with pytest.raises(ConfigurationError, match=f"12 {GONE}"):
        await bulk(source, output, vendor, ledger=path)
    assert len(vendor.requests) == 12


async def test_a_killed_parquet_file_cannot_be_read(tmp_path: Path) -> None:
    """A ledger without an answer is not the one it was written with."""
    source, output, vendor, path = numbers(tmp_path), tmp_path / "out.parquet", Echo(), tmp_path / "ledger"
    part = tmp_path / "out.parquet.part"
    async with Ledger(path):
        pass
    part.write_bytes(b"PAR1 and a row group")
    with pytest.raises(ConfigurationError, match=f"1 {GONE}"):
        await bulk(source, output, vendor, ledger=path)
    part.write_bytes(b"PAR1")
    assert (await bulk(source, output, vendor, ledger=path)).ok == 12


@pytest.mark.parametrize("part", [True, False])
@pytest.mark.parametrize("ending", ENDINGS)
async def test_a_ledger_that_was_moved_alone(tmp_path: Path, ending: str, part: bool) -> None:
    """Neither its -wal nor its mark came along, and a part file, if any: the ledger itself knows that it was in use."""
    source, vendor, path = numbers(tmp_path, 40), Echo(), tmp_path / "ledger"
    script = vendor._answer
    snapshot = b""

    def copied(request: httpx.Request, number: int) -> httpx.Response:
        nonlocal snapshot
        if number == 39:
            snapshot = path.read_bytes()
        return script(request, number)

    vendor._script = copied
    output = tmp_path / f"out.{ending}"
    await bulk(source, output, vendor, ledger=path, concurrency=1)
    new = tmp_path / "new"
    new.mkdir()
    (new / "ledger").write_bytes(snapshot)
    if part:
        (new / f"out.{ending}.part").write_bytes(b"PAR1" if ending == "parquet" else output.read_bytes())
    before = {file.name: file.read_bytes() for file in new.iterdir()}
    for _ in range(2):
        with pytest.raises(LedgerError, match="was in use when its process ended, and ledger-wal"):
            await bulk(source, new / f"out.{ending}", vendor, ledger=new / "ledger")
        async with client_of(vendor) as client:
            with pytest.raises(LedgerError, match="was in use"):
                await forecast_bulk(client, WhatsAppDetail, source, new / f"out.{ending}", ledger=new / "ledger")
    assert {file.name: file.read_bytes() for file in new.iterdir()} == before
    assert len(vendor.requests) == 40


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
@pytest.mark.parametrize("ending", ENDINGS)
async def test_a_ledger_that_knows_the_questions_and_lost_the_answers(tmp_path: Path, disk: Any, ending: str) -> None:
    """Nothing vouches for it, and no file of rescued rows says why: it forgot them, and maybe more."""
    source, output, vendor, path = numbers(tmp_path), tmp_path / f"out.{ending}", Echo(), tmp_path / "ledger"
    disk(5)
    await bulk(source, output, vendor, ledger=path, concurrency=1)
    disk(None)
    [rescue] = tmp_path.glob("out.*.rescued-*.jsonl")
    kept = rescue.rename(tmp_path / "elsewhere.jsonl")
    Path(f"{path}-mark").unlink()
    written = output.read_bytes()
    with pytest.raises(ConfigurationError, match=f"7 {GONE}"):
        await bulk(source, output, vendor, ledger=path)
    assert output.read_bytes() == written
    Path(f"{path}-mark").unlink()
    again = await bulk(source, output, vendor, ledger=path, rescued=[kept])
    assert (again.ok, again.taken_back, len(vendor.requests)) == (12, 7, 12)


@pytest.mark.parametrize("ending", ["csv", "jsonl", "xlsx"])
async def test_a_part_file_that_is_named_is_kept_until_its_answers_are_elsewhere(
    tmp_path: Path, ending: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its ledger is gone; the run that takes them over is ended at once."""
    source, output, vendor, path = numbers(tmp_path), tmp_path / f"out.{ending}", Echo(), tmp_path / "ledger"
    await bulk(source, output, vendor, ledger=path)
    part = output.rename(output.with_name(f"{output.name}.part"))
    for file in tmp_path.glob("ledger*"):
        file.unlink()

    def ended(*_: Any) -> None:
        raise RuntimeError("the end")

    with monkeypatch.context() as patch:
        patch.setattr(Batch, "__aenter__", ended)
        with pytest.raises(RuntimeError, match="the end"):
            await bulk(source, output, vendor, ledger=path, rescued=[part], overwrite=True)
    [rescue] = tmp_path.glob("out.*.rescued-*.jsonl")
    assert len(rescue.read_text().splitlines()) == 12
    again = await bulk(source, output, vendor, ledger=path, rescued=[rescue], overwrite=True)
    assert (again.ok, again.taken_back, len(vendor.requests)) == (12, 12, 12)


async def test_a_mended_file_under_another_name(tmp_path: Path) -> None:
    """Without the note of its ledger, what may have been charged is not sent again unasked."""
    vendor = Echo()

    def script(request: httpx.Request, number: int) -> httpx.Response:
        if number == 1:
            raise httpx.ReadError("lost")
        return vendor._answer(request, number)

    vendor._script = script
    source, output, mend = numbers(tmp_path, 4), tmp_path / "out.csv", tmp_path / "mend.csv"
    options: dict[str, Any] = {"ledger": tmp_path / "ledger", "problems": mend, "concurrency": 1}
    assert (await bulk(source, output, vendor, **options)).failed == 1
    other = tmp_path / "Save as.csv"
    other.write_bytes((tmp_path / "out-held.csv").read_bytes())
    fresh: dict[str, Any] = {"ledger": tmp_path / "m.ledger"}
    with pytest.raises(ConfigurationError, match=r"rows that an earlier run holds.*name it \(--ledger\)"):
        await bulk(other, tmp_path / "m.csv", vendor, **fresh)
    assert (await bulk(other, tmp_path / "m.csv", vendor, ledger=tmp_path / "ledger")).held == 1
    assert len(vendor.requests) == 4
    assert (await bulk(other, tmp_path / "n.csv", vendor, overwrite=True, **fresh)).ok == 1


@pytest.mark.parametrize("name", ["mend.csv.of", "mend.csv.part", "out.csv.part", "x-wal", "x-mark", "x-owner-0a"])
async def test_a_ledger_named_like_another_file_of_the_run(tmp_path: Path, name: str) -> None:
    source, vendor = numbers(tmp_path, 1), Echo()
    with pytest.raises(ConfigurationError, match="file of its own|name the ledger itself"):
        await bulk(source, tmp_path / "out.csv", vendor, ledger=tmp_path / name, problems=tmp_path / "mend.csv")
    assert vendor.requests == []


# ------------------------------------------------------------------------------------------------- and the opposite


@pytest.mark.parametrize("ending", ENDINGS)
async def test_part_files_of_a_run_that_had_asked_nothing(tmp_path: Path, ending: str) -> None:
    """It was killed before there was a ledger: nothing was sent, and nothing is in the way."""
    source, output, vendor = numbers(tmp_path, 2), tmp_path / f"out.{ending}", Echo()
    part, mend = tmp_path / f"out.{ending}.part", tmp_path / "mend.csv.part"
    options: dict[str, Any] = {"ledger": tmp_path / "ledger", "problems": tmp_path / "mend.csv"}
    whole = tmp_path / f"whole.{ending}"
    await bulk(source, whole, vendor, problems=tmp_path / "m.csv")
    begins = {"csv": whole.read_bytes().splitlines(True)[0], "tsv": whole.read_bytes().splitlines(True)[0]}
    header = begins.get(ending, b"PAR1" if ending == "parquet" else b"")
    for begun in (b"", header, header[:-3]):
        part.write_bytes(begun)
        mend.write_bytes(b"n,number,note,problem\n" if begun else b"")
        async with client_of(vendor) as client:
            assert (await forecast_bulk(client, WhatsAppDetail, source, output, ledger=tmp_path / "ledger")).rows == 2
        assert (await bulk(source, output, vendor, **options)).ok == 2
        for file in (output, tmp_path / "mend.csv", tmp_path / "mend.csv.of", tmp_path / "ledger"):
            file.unlink()
    for lines in (b"somebody's work\n", b"somebody's work", whole.read_bytes()):
        part.write_bytes(lines)
        with pytest.raises(ConfigurationError, match="and its ledger .* is not there: move it away"):
            await bulk(source, output, vendor, **options)
        assert part.read_bytes() == lines


# ------------------------------------------------------------------------------------------------- and further


@pytest.mark.parametrize("damage", ["gone", "cut in the middle", "random bytes", "all of it random"])
async def test_what_is_beside_the_ledger_belongs_to_it(tmp_path: Path, damage: str) -> None:
    """A run that was killed leaves most of its ledger in FILE-wal."""
    source, output, path = numbers(tmp_path, 60), tmp_path / "out.csv", tmp_path / "ledger"
    wal = Path(f"{path}-wal")
    snapshot: dict[Path, bytes] = {}
    vendor = Echo()
    script = vendor._answer

    def copied(request: httpx.Request, number: int) -> httpx.Response:
        if number == 59:  # the files as a kill would leave them
            snapshot.update({file: file.read_bytes() for file in (path, wal)})
        return script(request, number)

    vendor._script = copied
    await bulk(source, output, vendor, ledger=path, concurrency=1)
    lines = output.read_bytes().splitlines(keepends=True)
    output.unlink()
    part = tmp_path / "out.csv.part"
    part.write_bytes(b"".join(lines[:60]))  # of 59 rows
    log = snapshot[wal]
    random = Random(1)
    log = {
        "gone": b"",
        "cut in the middle": log[: len(log) // 2],
        "random bytes": log[: len(log) // 2] + random.randbytes(100) + log[len(log) // 2 + 100 :],
        "all of it random": random.randbytes(len(log)),
    }[damage]
    path.write_bytes(snapshot[path])
    wal.write_bytes(log)
    Path(f"{path}-mark").unlink()  # else the ledger itself finds out
    before = part.read_bytes()
    with pytest.raises(ConfigurationError, match=GONE):
        await bulk(source, output, vendor, ledger=path)
    assert part.read_bytes() == before
    assert len(vendor.requests) == 60


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
async def test_another_picture_under_the_same_name(tmp_path: Path, disk: Any) -> None:
    """The answer of the one is not the other's."""
    for name in "ab":
        (tmp_path / f"{name}.jpg").write_bytes(picture(ord(name)))
    source, output, vendor = tmp_path / "in.csv", tmp_path / "out.csv", Echo()
    source.write_text("img1,img2\na.jpg,b.jpg\n")
    disk(0)
    await bulk(source, output, vendor, FaceCompare, ledger=tmp_path / "ledger")
    disk(None)
    (tmp_path / "b.jpg").write_bytes(picture(1))
    with pytest.raises(ConfigurationError, match=f"1 {GONE}"):
        await bulk(source, output, vendor, FaceCompare, ledger=tmp_path / "ledger")
    again = await bulk(source, output, vendor, FaceCompare, ledger=tmp_path / "ledger", overwrite=True)
    assert (again.taken_back, again.tally.charged) == (0, 1)
    assert (await bulk(source, output, vendor, FaceCompare, ledger=tmp_path / "ledger")).from_ledger == 1


async def test_stopped_while_it_looks_back(tmp_path: Path) -> None:
    """Nothing is touched."""
    source, output, vendor, path = numbers(tmp_path), tmp_path / "out.csv", Echo(), tmp_path / "ledger"
    await bulk(source, output, vendor, ledger=path)
    lose(path, "emptied", b"")
    part = output.rename(tmp_path / "out.csv.part")
    before = part.read_bytes()
    async with client_of(vendor) as client:
        run: BulkRun = BulkRun(
            client, WhatsAppDetail, source, output, ledger=path, on_resume=lambda answers: run.stop()
        )
        summary = await run.run()
    assert (summary.rows, summary.part, part.read_bytes() == before) == (0, None, True)
    assert len(vendor.requests) == 12


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
async def test_an_input_that_can_be_read_once(tmp_path: Path, disk: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody can tell what the ledger knows of its rows: answers come back from files that are named."""
    output, vendor, path = tmp_path / "out.jsonl", Echo(), tmp_path / "ledger"
    lines = "".join(f'{{"ref": "{n}", "number": "+62813{n:08}"}}\n' for n in range(6))

    class Pipe(io.BytesIO):
        def seek(self, *arguments: Any) -> int:
            raise OSError("a pipe")

    async def piped(**options: Any) -> Summary:
        monkeypatch.setattr("sys.stdin", SimpleNamespace(buffer=Pipe(lines.encode())))
        return await bulk(Path("-"), output, vendor, ledger=path, **options)

    disk(2)
    await piped(concurrency=1)
    written = output.read_bytes()
    disk(None)
    with pytest.raises(ConfigurationError, match=f"4 {GONE}"):
        await piped()
    again = await piped(rescued=[output])
    assert (again.ok, again.taken_back, again.from_ledger, len(vendor.requests)) == (6, 4, 2, 6)
    assert output.read_bytes() == written


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
@pytest.mark.parametrize("moved", ["kept.csv", "out.csv.part.old", "rows.jsonl", "rows.parquet", "rows.xlsx"])
@pytest.mark.parametrize("ending", ENDINGS)
async def test_rows_are_taken_from_any_format(tmp_path: Path, disk: Any, moved: str, ending: str) -> None:
    source, vendor, path = numbers(tmp_path), Echo(), tmp_path / "ledger"
    first = tmp_path / f"first.{next(e for e in ENDINGS if e in moved)}"
    await bulk(source, first, vendor, ledger=path)
    first.rename(tmp_path / moved)
    whole = tmp_path / f"whole.{ending}"
    await bulk(source, whole, vendor, ledger=path)
    output = tmp_path / f"out.{ending}"
    again = await bulk(source, output, vendor, ledger=tmp_path / "new", rescued=[tmp_path / moved])
    assert (again.taken_back, again.rows, len(vendor.requests)) == (12, 12, 12)
    if not (moved.endswith(("csv", "old")) and ending in ("jsonl", "parquet", "xlsx")):  # an apostrophe more
        assert output.read_bytes() == whole.read_bytes()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
@pytest.mark.parametrize("place", ["beside", "temporary"])
async def test_rescued_rows_come_back_by_themselves(
    tmp_path: Path, disk: Any, place: str, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """From the temporary folder, too. Once the output has them, the file says so, and it goes on being read."""
    temporary = tmp_path_factory.mktemp("temporary")
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    source, output, vendor = numbers(tmp_path), tmp_path / "out.csv", Echo()
    disk(5)
    if place == "temporary":
        make = tempfile.mkstemp

        def mkstemp(**given: Any) -> Any:
            if given["dir"] is not None:
                raise OSError(28, "No space left on device")
            return make(**given)

        with monkeypatch.context() as full:
            full.setattr(tempfile, "mkstemp", mkstemp)
            await bulk(source, output, vendor, ledger=tmp_path / "ledger", concurrency=1)
        [rescue] = temporary.iterdir()
        # What somebody else could have put there is not read.
        (temporary / f"{rescue.name[:-12]}planted.jsonl").write_text('{"bad": 1}\n')
        (temporary / f"{rescue.name[:-12]}linked.jsonl").symlink_to(rescue)
    else:
        await bulk(source, output, vendor, ledger=tmp_path / "ledger", concurrency=1)
        [rescue] = tmp_path.glob("out.csv.rescued-*.jsonl")
    rows = rescue.read_bytes()
    output.unlink()
    disk(None)
    for _ in range(2):
        done = await bulk(source, output, vendor, ledger=tmp_path / "ledger")
        assert (done.ok, done.taken_back, done.from_ledger, done.held) == (12, 7, 5, 0)
        [taken] = tmp_path.glob("out.csv.rescued-*.jsonl")
        assert taken.name.endswith(".taken.jsonl")
        assert taken.read_bytes() == rows
        assert not rescue.exists()
        assert stat.S_IMODE(taken.stat().st_mode) == 0o600
        output.unlink()
    assert set(vendor.bought.values()) == {1}


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
async def test_rescued_rows_of_no_row_of_the_list_stay(tmp_path: Path, disk: Any) -> None:
    source, output, vendor = numbers(tmp_path), tmp_path / "out.csv", Echo()
    disk(5)
    await bulk(source, output, vendor, ledger=tmp_path / "ledger", concurrency=1)
    [rescue] = tmp_path.glob("out.csv.rescued-*.jsonl")
    disk(None)
    lines = source.read_text().splitlines()
    source.write_text("\n".join(lines[:-1]) + "\n")
    await bulk(source, output, vendor, ledger=tmp_path / "ledger", overwrite=True)
    assert rescue.exists()
    source.write_text("\n".join(lines) + "\n")
    await bulk(source, output, vendor, ledger=tmp_path / "ledger")
    assert not rescue.exists()
    assert set(vendor.bought.values()) == {1}


def test_files_to_take_rows_from(tmp_path: Path) -> None:
    output = Output(tmp_path / "out.csv", None)
    (tmp_path / "rows.txt").write_text("")
    for name, problem in (
        ("missing.jsonl", "No such file"),
        (".", "it is no regular file"),
        ("rows.txt", "must be named as"),
    ):
        with pytest.raises(ConfigurationError, match=problem):
            sources_of(output, [tmp_path / name], resumes=True, has_ledger=True)
    for name in ("out.csv", "out.csv.rescued-1.jsonl", "other.csv.rescued-2.jsonl", "out.csv.rescued-3.txt"):
        (tmp_path / name).write_text("")
    for has_ledger, found in ((True, {"out.csv", "out.csv.rescued-1.jsonl"}), (False, set())):
        sources = sources_of(output, [], resumes=has_ledger, has_ledger=has_ledger)
        assert {source.path.name for source in sources} == found


# ------------------------------------------------------------------------------- the ledger of a file of problems


@pytest.mark.parametrize("mended", [False, True])
@pytest.mark.parametrize("same", [True, False])
def test_which_of_two_files_of_problems_it_is(tmp_path: Path, same: bool, mended: bool) -> None:
    """A run was killed between the note and the name: what stands there is still the file of the run before."""
    mend = tmp_path / "mend.csv"
    for ledger, text in (("a", "old"), ("a" if same else "b", "new")):
        output = Output(mend, None)
        output.open([text, "problem"], replace=True)
        if text == "new":
            output.part.unlink()  # as if it had never come to its name
            with pytest.raises(UnwrittenError):
                output.finish(tmp_path / f"{ledger}.ledger", tmp_path / "out.csv")
            output.close()
            note = json.loads((tmp_path / "mend.csv.of").read_text())
            note["before"], note["digest"] = dict(note), "of the file to come"
            note["ledger"] = f"{ledger}.ledger"
            (tmp_path / "mend.csv.of").write_text(json.dumps(note))
        else:
            output.finish(tmp_path / f"{ledger}.ledger", tmp_path / "out.csv")
    if mended:
        mend.write_text("old,problem\nby hand,\n")
    origin = origin_of(mend)
    assert origin is not None
    known = "a" if same or not mended else "b"
    assert origin.ledger == tmp_path / f"{known}.ledger"
    assert origin.other == (None if same or not mended else tmp_path / "a.ledger")


# ---------------------------------------------------------------------------------------------- a loss of power

SECTOR = 512


def without_sectors(data: bytes, lost: Callable[[int], bool]) -> bytes:
    """`data` as a disk has it that lost some of its sectors, and not its size."""
    sectors = [data[place : place + SECTOR] for place in range(0, len(data), SECTOR)]
    return b"".join(bytes(len(sector)) if lost(number) else sector for number, sector in enumerate(sectors))


@pytest.mark.parametrize("ending", ["csv", "tsv", "jsonl", "xlsx"])
async def test_a_part_file_that_a_loss_of_power_tore_is_no_lost_answer(tmp_path: Path, ending: str) -> None:
    source, output, vendor = numbers(tmp_path, 20, keyed=True), tmp_path / f"out.{ending}", Echo()
    written = output.with_suffix(".jsonl") if ending == "xlsx" else output
    await bulk(source, written, vendor, ledger=tmp_path / "ledger")
    written.rename(part := Path(f"{output}.part"))
    whole = part.read_bytes()
    rows = [place + 1 for place, byte in enumerate(whole) if byte == ord("\n")]
    # A sector that was lost may begin and end anywhere in a row: so that the rest looks like one, or like none.
    for start, end in ((rows[2], rows[9]), (rows[2] + 1, rows[9] + 1), (rows[2] - 1, rows[9]), (0, rows[4] + 1)):
        part.write_bytes(whole[:start] + bytes(end - start) + whole[end:])
        again = await bulk(source, output, vendor, ledger=tmp_path / "ledger")
        assert (again.ok, again.from_ledger, again.taken_back) == (20, 20, 0), (start, end)
        assert not part.exists()
    assert set(vendor.bought.values()) == {1}


@pytest.mark.parametrize("ending", ["csv", "tsv"])
async def test_what_a_loss_of_power_left_of_a_header_alone_is_no_answer(tmp_path: Path, ending: str) -> None:
    source, output, vendor = numbers(tmp_path, 5), tmp_path / f"out.{ending}", Echo()
    source.write_text(source.read_text().replace("note", "n" * SECTOR, 1))  # a header of more than one sector
    await bulk(source, output, vendor)
    header = output.read_bytes().partition(b"\n")[0] + b"\n"
    assert len(header) > SECTOR
    part = Path(f"{output}.part")
    for lost in (lambda _: True, lambda n: n == 0, lambda n: n == 1):
        output.unlink()
        part.write_bytes(without_sectors(header, lost))
        assert (await bulk(source, output, vendor)).ok == 5
    # A row, or a piece of one, may have been paid for.
    output.rename(part)
    for torn in (bytes(SECTOR) + part.read_bytes()[SECTOR:], header[:20] + bytes(9) + b"yes,charged\n"):
        part.write_bytes(torn)
        with pytest.raises(ConfigurationError, match="may hold what a stopped run had"):
            await bulk(source, output, vendor)
        assert part.read_bytes() == torn
