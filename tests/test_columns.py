"""What columns are named, and which of them is meant: by name, by cells, or by nobody."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aisolution_async import Call, ConfigurationError, FaceCompare, IdHolding, WhatsAppDetail
from aisolution_async.bulk import BulkRun, Forecast, forecast_bulk
from aisolution_async.inputs.columns import Fit, Role, fit

from .commands import run
from .sheets import jsonl, left, sane, write
from .support import Vendor, client_of, picture

PHONES = """
No HP Aktif; Nomor Ponsel; Telpon; Phone 1; No. HP / WA; no_hp_nasabah; NO.HP; noHP; NOMORHP; No HP (aktif); HP 1
1. No HP; Phone (mobile); Mobile No.; Mobile Number (10 digits); Mob. No; WhatsApp Number; No. Whats App; Telp.1
Nomor Telepon Seluler; Telepon Genggam; No. H/P; Số điện thoại; SĐT; Số ĐT KH; Điện thoại di động; so_dien_thoai
Cellphone No.; Numero ng telepono; CP No.; Selpon; Mobile sankhya; Mobile Nambar; Sampark Number; phoneNumber
PhoneNo1; Phone #2; No Tlp; No HP yang bisa dihubungi; No HP (sesuai KTP); PHONE_NUMBER_CUSTOMER; Contact Number
Nomor HP (contoh: 081234567890); Handphone Nasabah
"""
OTHERS = """
No HP Darurat; Telepon Rumah; Office Phone; HP Pasangan; Phone (office); No HP Istri; Kontak Darurat; Alternate Mobile
"""
NEVER = """
NIK; No KTP; KTP Number; No Rekening; Rekening; Account No.; NPWP; Fax; Email; Nama Kontak; Contact Person Name; Merk HP
Phone Model; Phone Verified; Status HP; Phone Country Code; Tanggal Telepon; Aadhaar No.; Số CCCD; Số tài khoản; ID
IMEI; Foto KTP; VA Number; Alamat
"""


def names(text: str) -> list[str]:
    return [name.strip() for name in text.replace("\n", ";").split(";") if name.strip()]


@pytest.mark.parametrize("name", names(PHONES))
def test_phone_numbers(name: str) -> None:
    assert fit(name, Role.NUMBER) is Fit.SURE


@pytest.mark.parametrize("name", ["Kontak", "Contact", "CP", "Liên hệ"])
def test_what_may_be_a_name_too(name: str) -> None:
    assert fit(name, Role.NUMBER) is Fit.WEAK


@pytest.mark.parametrize("name", names(OTHERS))
def test_somebody_else_s_number(name: str) -> None:
    assert fit(name, Role.NUMBER) is Fit.OTHER


@pytest.mark.parametrize("name", names(NEVER))
def test_what_is_surely_something_else(name: str) -> None:
    assert fit(name, Role.NUMBER) is Fit.NEVER


@pytest.mark.parametrize("name", ["No", "Nomor", "Number of dependents", "Data", "Nama", "Телефон"])
def test_names_that_say_nothing_of_it(name: str) -> None:
    assert fit(name, Role.NUMBER) not in (Fit.SURE, Fit.WEAK)


@pytest.mark.parametrize(
    ("name", "roles"),
    [
        *((name, {Role.PHOTO, Role.FIRST_PHOTO}) for name in names("Foto Selfie; Selfie URL; Ảnh chân dung; Pas Foto")),
        *((name, {Role.CARD_PHOTO}) for name in names("Foto KTP; Foto e-KTP; Ảnh CCCD mặt trước; ID Picture")),
        *((name, {Role.CARD_PHOTO}) for name in names("Photo ID; KTP_URL; Link Foto KTP; Aadhaar Photo; KTP; ID Card")),
        *((name, {Role.CARD_PHOTO}) for name in names("Gambar KTP; Foto KTP-el; Valid ID; Voter ID Photo")),
        *((name, {Role.HELD_PHOTO}) for name in names("Foto Selfie dengan KTP; Selfie + KTP; Foto diri dengan KTP")),
        ("Ảnh cầm CCCD", {Role.HELD_PHOTO}),
        ("Selfie with valid ID", {Role.HELD_PHOTO}),
        *((name, {Role.PHOTO, Role.FIRST_PHOTO, Role.HELD_PHOTO}) for name in names("Foto; Larawan; Foto Nasabah")),
        ("Photo 1", {Role.PHOTO, Role.FIRST_PHOTO, Role.HELD_PHOTO}),
        ("Foto 2", {Role.PHOTO, Role.CARD_PHOTO, Role.HELD_PHOTO}),
        *((name, set()) for name in names("No KTP; NIK; ID; Foto Rumah; Foto KK; Ảnh CCCD mặt sau; Nama; KTP Number")),
    ],
)  # fmt: skip
def test_photos(name: str, roles: set[Role]) -> None:
    every = (Role.PHOTO, Role.FIRST_PHOTO, Role.CARD_PHOTO, Role.HELD_PHOTO)
    assert {role for role in every if fit(name, role) in (Fit.SURE, Fit.WEAK)} == roles


@pytest.mark.parametrize(
    "name", names("Country; Negara; Kode Negara; Quốc gia; Bansa; Desh; Dial Code; country_iso3; Country/Region")
)
def test_countries(name: str) -> None:
    assert fit(name, Role.COUNTRY) in (Fit.SURE, Fit.WEAK)


@pytest.mark.parametrize("name", names("Nationality; Country of Birth; Negara Lahir; Kode; Phone; Kode Pos"))
def test_no_countries(name: str) -> None:
    assert fit(name, Role.COUNTRY) is Fit.UNKNOWN


@pytest.mark.parametrize(
    "name", names("ID Nasabah; No Aplikasi; Nomor Pengajuan; Mã hồ sơ; Mã KH; Ref. No; Loan Number; id")
)
def test_keys(name: str) -> None:
    assert fit(name, Role.KEY) in (Fit.SURE, Fit.WEAK)


@pytest.mark.parametrize(
    "name", names("NIK; No KTP; No; Nomor; No HP; No Rekening; Nama; Passport ID; ID Card; Email ID")
)
def test_no_keys(name: str) -> None:
    assert fit(name, Role.KEY) is Fit.UNKNOWN


@given(st.text(), st.sampled_from(Role))
def test_whatever_a_column_is_named(name: str, role: Role) -> None:
    assert fit(name, role) in Fit


# ----------------------------------------------------------------------------------------------------- which is meant


async def chosen(
    source: Path, call: type[Call[Any]] = WhatsAppDetail, **options: Any
) -> tuple[list[str], list[str], Forecast]:
    """What a run says before its first call, the numbers that it sends, and what a dry run said."""
    said: list[str] = []
    before: list[int] = []
    vendor = Vendor(sane)
    async with client_of(vendor) as client:
        dry = await forecast_bulk(client, call, source, **options)
        assert not vendor.requests

        def hear(line: str) -> None:
            said.append(line)
            before.append(len(vendor.requests))

        target = source.with_name("out.jsonl")
        await BulkRun(client, call, source, target, on_start=hear, overwrite=True, **options).run()
    assert set(before) == {0}
    return said, [parse_qs(request.content.decode()).get("number", [""])[0] for request in vendor.requests], dry


def sheet(folder: Path, *lines: str) -> Path:
    return write(folder / "in.csv", "".join(f"{line}\n" for line in lines))


async def test_by_its_cells(tmp_path: Path) -> None:
    rows = [f"Budi {n},32730103039200{n:02},+6281387300{n:03},{1234567890 + n}" for n in range(10)]
    source = sheet(tmp_path, "Nama,NIK,Data,No Rekening", *rows)
    said, sent, dry = await chosen(source)
    assert len(sent) == 10
    assert said[1] == (
        "number is read from 'Data' by its cells: no column is named like a phone number, and 10 of its first 10 cells "
        "are one; --number COLUMN says another column"
    )
    assert dry.columns == [said[1].split(";")[0]]


async def test_by_its_cells_with_the_row_s_country(tmp_path: Path) -> None:
    cells = ["81387300008", "81211002201", "81387300001", "81211002203"]
    source = sheet(tmp_path, "Nama,Data,Negara", *(f"A,{cell},Indonesia" for cell in cells))
    _, sent, _ = await chosen(source)
    assert sorted(sent) == sorted(f"+62{cell}" for cell in cells)


@pytest.mark.parametrize(
    ("lines", "options", "problem"),
    [
        (["Nama,Data", "A,12", "B,13"], {}, "no column looks like a phone number (say which with --number COLUMN): "),
        (["Nama,NIK", "A,081387300008"], {}, "these are the columns: 'Nama', 'NIK'"),
        (["Nama,No Rekening", "A,081387300008"], {}, "these are the columns: 'Nama', 'No Rekening'"),
        (["A,B", "081387300008,081211002201"], {}, "'A' and 'B' may both be number, by their cells: say which"),
        (["Nama,No HP Darurat", "A,081387300008"], {}, "'No HP Darurat' may be number, or somebody else's: say which"),
        (["No HP,Telpon", "081387300008,081211002201"], {}, "'No HP' and 'Telpon' may both be number: say which"),
        (["Phone 1,Phone 2,HP", "081387300008,081211002201,081211002202"], {}, "may each be number: say which"),
        # Ids that count up are numbers in India's range as well.
        (["Nama,Data", "A,9123456780", "B,9123456781", "C,9123456789"], {"values": {"country": "IN"}}, "these are"),
        # An agent's number that stands in each row.
        (["Nama,Data", *["A,081387300008"] * 4], {}, "no column looks like a phone number"),
        # No header: the first number would be lost.
        (["Ayu,081387300008", "Budi,081211002201"], {}, "the first line looks like data, and must name the columns"),
        (["Nama,Kontak", "A,Ibu Siti", "B,Pak Budi"], {}, "no column looks like a phone number"),
    ],
)  # fmt: skip
async def test_what_nobody_can_be_sure_of(
    tmp_path: Path, lines: list[str], options: dict[str, Any], problem: str
) -> None:
    source = sheet(tmp_path, *lines)
    with pytest.raises(ConfigurationError) as caught:
        await chosen(source, **options)
    assert problem in str(caught.value)
    assert not any(digits in str(caught.value) for digits in ("081387300008", "081211002201"))
    assert left(tmp_path) == {"in.csv"}


async def test_a_contact_is_a_number_by_its_cells(tmp_path: Path) -> None:
    said, sent, _ = await chosen(sheet(tmp_path, "Nama,Kontak", "A,81387300008", "B,81211002201", "C,-"))
    assert sorted(sent) == ["81211002201", "81387300008"]
    assert "number from 'Kontak'" in said[0]


async def test_of_two_the_one_that_has_numbers(tmp_path: Path) -> None:
    said, sent, _ = await chosen(sheet(tmp_path, "Telpon,HP", ",+6281387300008", "-,+6281211002201"))
    assert len(sent) == 2
    assert said[1].startswith(
        "number is read from 'HP' by its name and its cells: in the first 2 rows, 'Telpon' has no phone number"
    )


async def test_the_photo_is_taken_and_not_the_card_s_number(tmp_path: Path) -> None:
    write(tmp_path / "a.jpg", picture(1))
    write(tmp_path / "b.jpg", picture(2))
    said, _, _ = await chosen(sheet(tmp_path, "KTP,Foto KTP,Foto Selfie", "3273010101900001,b.jpg,a.jpg"), FaceCompare)
    assert ": img1 from 'Foto Selfie', img2 from 'Foto KTP', " in said[0]
    with pytest.raises(ConfigurationError, match="has no column 'img2' for img2"):
        await chosen(sheet(tmp_path, "KTP,Foto Selfie", "3273010101900001,a.jpg"), FaceCompare)
    said, _, _ = await chosen(sheet(tmp_path, "Foto Selfie,Selfie dengan KTP", "a.jpg,b.jpg"), IdHolding)
    assert ": img from 'Selfie dengan KTP', " in said[0]


# ------------------------------------------------------------------------------------------------- before the first row


async def test_zeros_without_a_country_are_told_before_the_first_row(tmp_path: Path) -> None:
    source = sheet(
        tmp_path, "No HP,Negara", "081387300008,", "+6281211002201,", "081211002203,Indonesia", "0812-1100-2204,"
    )
    said, sent, dry = await chosen(source)
    assert said[1] == (
        "2 of the first 4 numbers begin with 0, and nothing says their country (line 2: column 'No HP'): say it, as in "
        "--country ID, or in a column; else the vendor decides whose they are"
    )
    assert len(sent) == 4
    assert dry.warnings == [
        "2 numbers are without a country, with a 0 in front: say the country, as in --country ID, or in a column: "
        "line 2: column 'No HP' is the first"
    ]
    said, _, _ = await chosen(sheet(tmp_path, "No HP", "081387300008"), values={"country": "ID"})
    assert len(said) == 1


@pytest.mark.parametrize("begin", ["812340", "85712", "91712", "9812", "90123"])
async def test_numbers_that_lost_their_zero_are_told_before_the_first_row(tmp_path: Path, begin: str) -> None:
    """Japan's code is 81, and nobody there was asked for."""
    rows = [f"{begin}{place:05}" for place in range(12345, 12355)]
    said, sent, _ = await chosen(sheet(tmp_path, "No HP", *rows))
    assert len(sent) == 10
    assert said[1] == (
        "10 of the first 10 numbers begin with no country's code, nor with the 0 that Excel drops, and nothing says "
        "their country (line 2: column 'No HP'): say it, as in --country ID, or in a column; else the vendor decides "
        "whose they are"
    )
    said, _, _ = await chosen(sheet(tmp_path, "No HP", *rows), values={"country": "ID"})
    assert len(said) == 1


async def test_numbers_in_full_without_a_plus_need_no_country(tmp_path: Path) -> None:
    rows = ["6281387300008", "639171234567", "84912345678", "919812345678", "12025550123", "447911123456"]
    said, _, _ = await chosen(sheet(tmp_path, "No HP", *rows, "622112345678", "81387300008"))
    assert len(said) == 1  # one of eight is a slip


async def test_countries_as_people_write_them(tmp_path: Path) -> None:
    countries = ["Indonesia", "IDN", "+62", "62", "Republic of Indonesia", "id"]
    rows = (f"{n},08121100220{n},{country},+1" for n, country in enumerate(countries))
    source = sheet(tmp_path, "id,No HP,Country,Phone Country Code", *rows)
    said, sent, _ = await chosen(source)
    assert ", country from 'Country', " in said[0]
    assert sorted(sent) == [f"+628121100220{n}" for n in range(len(countries))]


async def test_a_country_that_may_be_none(tmp_path: Path) -> None:
    """0811234567 is a mobile number of Namibia, whose code is what statistics programs write for an empty cell."""
    _, sent, dry = await chosen(sheet(tmp_path, "No HP,Country", "0811234567,NA", "0811234567,Namibia"))
    assert sent == ["+264811234567"]
    assert dry.problems == [
        "line 2: column 'Country' may be Namibia, or not available: write NAM, or leave the cell empty"
    ]


async def test_all_problems_of_a_row_are_told_at_once(tmp_path: Path) -> None:
    write(tmp_path / "a.jpg", picture(1))
    source = sheet(tmp_path, "selfie,ktp,No HP,Country", ",http://x.example/b.jpg,2024-01-15,Java")
    _, _, dry = await chosen(source, FaceCompare)
    assert dry.problems == [
        "line 2: column 'selfie' is empty: fill it in, or delete the row in the list itself; "
        "column 'ktp' is a URL: download the image, and name its file"
    ]
    _, _, dry = await chosen(source)
    [row] = jsonl(tmp_path / "out.jsonl")
    assert [row["problem"]] == dry.problems
    assert row["problem"].startswith("line 2: column 'Country': country is no two-letter country code")
    assert "; column 'No HP': number is a date" in row["problem"]


def test_a_dry_run_says_the_columns_and_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    sheet(tmp_path, "No HP Aktif,NIK,land", "081387300008,3273010101900001,ID")
    result = run("bulk", "whatsapp-detail", "in.csv", "--dry-run", "--sandbox", "--json", "--country-column", "land")
    why = ["number is read from 'No HP Aktif' by its name", "country is read from 'land' as was said"]
    assert json.loads(result.stdout)["columns"] == why
    assert all(line in result.stderr for line in why)


async def test_reading_ahead_changes_nothing(tmp_path: Path) -> None:
    """Rows that cannot be read are told where they stand, and all others are asked."""
    rows = [f"+62813{n:08},A" for n in range(500)]
    _, sent, dry = await chosen(sheet(tmp_path, "No HP,Nama", *rows[:3], "1,2,3", *rows[3:]))
    assert (len(sent), dry.rows, dry.failed) == (500, 501, 1)
    assert [row["No HP"] for row in jsonl(tmp_path / "out.jsonl")][2:5] == ["+6281300000002", "1", "+6281300000003"]
