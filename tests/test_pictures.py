"""Pictures on and in the cells of a workbook, and what its cells link to."""

from __future__ import annotations

import base64
import io
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import pytest
import xlsxwriter

from aisolution_async import FaceCompare
from aisolution_async.bulk import Summary, pictures
from aisolution_async.bulk.calls import Calls
from aisolution_async.bulk.pictures import Pictures
from aisolution_async.bulk.rows import Rows
from aisolution_async.errors import ConfigurationError

from .pictures import encoded, portrait
from .sheets import bulk, read, sane, write
from .support import Vendor
from .test_looks import unlookable

PHOTOS = [encoded(portrait(number), quality=70) for number in range(4)]
SMALL = {"x_scale": 0.05, "y_scale": 0.05}  # 12 by 15 pixels, in a row of 20


def workbook(path: Path, fill: Callable[[Any, Any], None], *, header: bool = True) -> Path:
    book = xlsxwriter.Workbook(path)
    sheet = book.add_worksheet()
    if header:
        sheet.write_row(0, 0, ["Nama", "Foto Selfie", "Foto KTP"])
    fill(book, sheet)
    book.close()
    return path


def paste(sheet: Any, row: int, column: int, photo: int, **options: Any) -> None:
    sheet.insert_image(row, column, f"{photo}.jpg", {"image_data": io.BytesIO(PHOTOS[photo]), **SMALL, **options})


async def sent(source: Path, **options: Any) -> tuple[Summary, list[dict[str, str]], list[tuple[int, int]]]:
    """What came of it: the rows, and which two photos went out."""
    vendor = Vendor(sane)
    output = source.parent / "out.csv"
    summary = await bulk(source, output, FaceCompare, vendor=vendor, overwrite=True, concurrency=1, **options)
    asked = []
    for request in vendor.requests:
        said = parse_qs(request.content.decode())
        first, second = (PHOTOS.index(base64.b64decode(said[name][0])) for name in ("img1", "img2"))
        asked.append((first, second))
    return summary, read(output), asked


async def test_pasted_pictures_belong_to_the_cell_that_they_are_on(tmp_path: Path) -> None:
    def fill(book: Any, sheet: Any) -> None:
        sheet.write_column(1, 0, ["Ayu", "Bima", "Citra", "Dewi"])
        paste(sheet, 1, 1, 0)
        paste(sheet, 1, 2, 1, x_scale=1, y_scale=1)  # which covers the rows below too
        paste(sheet, 1, 1, 1, y_offset=14)  # it begins at the end of the row above
        paste(sheet, 2, 2, 2, x_offset=2, y_offset=3, x_scale=0.5, y_scale=0.5)
        sheet.set_row(3, 60)
        paste(sheet, 3, 1, 2, y_offset=30, object_position=3)  # in the middle of a high row
        paste(sheet, 3, 1, 3, x_offset=60)  # it begins at the end of the column before
        paste(sheet, 4, 1, 3)
        paste(sheet, 4, 2, 0)

    summary, rows, asked = await sent(workbook(tmp_path / "in.xlsx", fill))
    assert [row["problem"] for row in rows] == [""] * 4
    assert asked == [(0, 1), (1, 2), (2, 3), (3, 0)]
    assert not summary.warnings


async def test_pictures_in_cells(tmp_path: Path) -> None:
    def fill(book: Any, sheet: Any) -> None:
        for row, (first, second) in enumerate([(0, 1), (1, 2), (2, 0)], 1):
            sheet.write(row, 0, "Ayu")
            sheet.embed_image(row, 1, "a.jpg", {"image_data": io.BytesIO(PHOTOS[first])})
            sheet.embed_image(row, 2, "b.jpg", {"image_data": io.BytesIO(PHOTOS[second])})

    _, rows, asked = await sent(workbook(tmp_path / "in.xlsx", fill))
    assert [row["ok"] for row in rows] == ["true"] * 3
    assert asked == [(0, 1), (1, 2), (2, 0)]


async def test_pictures_in_cells_of_wps(tmp_path: Path) -> None:
    def fill(book: Any, sheet: Any) -> None:
        for row, names in enumerate([("A1", "B2"), ("B2", "A1"), ("A1", "gone")], 1):
            sheet.write(row, 0, "Ayu")
            for column, name in enumerate(names, 1):
                sheet.write_formula(row, column, f'=_xlfn.DISPIMG("ID_{name}",1)', None, f'=DISPIMG("ID_{name}",1)')

    def picture(number: int, name: str) -> str:
        return (
            f'<etc:cellImage><xdr:pic><xdr:nvPicPr><xdr:cNvPr id="{number}" name="ID_{name}"/></xdr:nvPicPr>'
            f'<xdr:blipFill><a:blip r:embed="rId{number}"/></xdr:blipFill></xdr:pic></etc:cellImage>'
        )

    source = workbook(tmp_path / "in.xlsx", fill)
    images = (
        '<etc:cellImages xmlns:etc="http://www.wps.cn/officeDocument/2017/etCustomData" xmlns:xdr="http://x" '
        'xmlns:a="http://a" xmlns:r="http://schemas.openxmlformats.org/officeDocument/2006/relationships">'
        f"{picture(1, 'A1')}{picture(2, 'B2')}</etc:cellImages>"
    )
    relations = "".join(
        f'<Relationship Id="rId{number}" Type="http://x/image" Target="media/image{number}.jpeg"/>' for number in (1, 2)
    )
    with zipfile.ZipFile(source, "a") as archive:
        archive.writestr("xl/cellimages.xml", images)
        archive.writestr("xl/_rels/cellimages.xml.rels", f"<Relationships>{relations}</Relationships>")
        archive.writestr("xl/media/image1.jpeg", PHOTOS[1])
        archive.writestr("xl/media/image2.jpeg", PHOTOS[2])
    _, rows, asked = await sent(source)
    assert asked == [(1, 2), (2, 1)]
    assert "column 'Foto KTP': img2 " in rows[2]["problem"]


async def test_linked_cells(tmp_path: Path) -> None:
    folder = tmp_path / "Foto KTP"
    folder.mkdir()
    for number, path in enumerate((tmp_path / "selfie1.jpg", folder / "ayu ktp.JPG", folder / "Bima.jpeg")):
        write(path, PHOTOS[number])
    web = "https://drive.google.com/file/d/1abc/view"

    def fill(book: Any, sheet: Any) -> None:
        sheet.write_column(1, 0, [*"abcdefgh"])
        sheet.write_url(1, 1, "external:selfie1.jpg", string="Lihat foto")
        sheet.write_url(1, 2, "external:Foto KTP/ayu ktp.JPG", string="KTP Ayu")
        sheet.write_formula(2, 1, '=HYPERLINK("selfie1.jpg","Lihat")', None, "Lihat")
        sheet.write_url(2, 2, r"external:C:\Users\Rina\Foto KTP\bima.jpeg", string="KTP")
        sheet.write_url(3, 1, web, string="selfie1.jpg")  # the file is here
        sheet.write(3, 2, "Bima")
        sheet.write_url(4, 1, web, string="Lihat foto")
        sheet.write(4, 2, "Bima")
        sheet.write_url(5, 1, "external:selfie1.jpg", string="Bima.jpeg")
        sheet.write(5, 2, "Bima")
        sheet.write_url(6, 1, "internal:Sheet1!A1", string="selfie1")
        sheet.write_url(6, 2, "mailto:ayu@example.com", string="Bima")
        sheet.write_formula(7, 1, '=HYPERLINK("foto/"&A8&".jpg","Lihat")', None, "Lihat")
        sheet.write(7, 2, "Bima")
        sheet.write_formula(8, 1, '=IMAGE("https://example.com/a.jpg")', None, "#VALUE!")
        sheet.write(8, 2, "Bima")

    _, rows, asked = await sent(workbook(tmp_path / "in.xlsx", fill))
    assert asked == [(0, 1), (0, 2)]  # the others that are good ask the same as the second
    assert [row["ok"] for row in rows] == ["true"] * 3 + ["false"] * 2 + ["true"] + ["false"] * 2
    problems = [row["problem"].partition("'Foto Selfie': img1 ")[2] for row in rows if row["problem"]]
    assert problems == [
        "has a link that is a URL: download the image, and name its file",
        "names 'Bima.jpeg' and links to 'selfie1.jpg': leave the one that is meant",
        "has a link that a formula makes: write the file's name",
        "shows a picture that is fetched from the web: download it, and name its file",
    ]


async def test_what_cannot_be_looked_at_may_be_what_a_cell_means(tmp_path: Path) -> None:
    """Neither the file that the cell links to, nor the picture on it, is taken for what its text names."""
    for name in ("a/1.jpg", "shut/1.jpg"):
        (tmp_path / name).parent.mkdir()
        write(tmp_path / name, PHOTOS[0])

    def fill(book: Any, sheet: Any) -> None:
        sheet.write_column(1, 0, ["Ayu", "Bima", "Citra", "Dewi"])
        sheet.write_column(1, 2, ["a/1.jpg"] * 4)
        sheet.write_url(1, 1, "external:a/1.jpg", string="shut/1.jpg")
        sheet.write_url(2, 1, "external:shut/1.jpg", string="a/1.jpg")
        sheet.write(3, 1, "shut/1.jpg")
        paste(sheet, 3, 1, 1)
        sheet.write_url(4, 1, "external:a/1.jpg", string="Lihat")

    source = workbook(tmp_path / "in.xlsx", fill)
    with unlookable(tmp_path / "shut"):
        _, rows, asked = await sent(source)
    assert asked == [(0, 0)]
    problems = [row["problem"].partition("'Foto Selfie': img1 ")[2] for row in rows]
    unseen = "names 'shut/1.jpg', which cannot be looked at: Permission denied"
    assert problems == [unseen, f"has a link that {unseen}", unseen, ""]


async def test_a_link_leads_nowhere_out_of_the_folder(tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    write(tmp_path / "secret.jpg", PHOTOS[0])
    write(folder / "ktp.jpg", PHOTOS[1])

    def fill(book: Any, sheet: Any) -> None:
        sheet.write_row(1, 0, ["a", "", "ktp.jpg"])
        sheet.write_url(1, 1, "external:secret.jpg", string="Lihat")
        sheet.write_row(2, 0, ["b", "", "ktp.jpg"])
        sheet.write_url(2, 1, "external:../secret.jpg", string="Lihat")

    _, rows, asked = await sent(workbook(tmp_path / "in.xlsx", fill), images_root=folder)
    assert not asked
    for row in rows:
        assert row["problem"].endswith("leads out of the images' folder (--images): name a file in it")


async def test_what_is_there_and_cannot_be_told(tmp_path: Path) -> None:
    def fill(book: Any, sheet: Any) -> None:
        sheet.write_column(1, 0, ["Ayu", "Bima", "Citra"])
        for column in (1, 2):
            paste(sheet, 1, column, 0)
            paste(sheet, 2, column, 0)
        paste(sheet, 1, 1, 1)
        paste(sheet, 3, 1, 1)
        paste(sheet, 3, 4, 2)
        for row in (4, 5):  # rows of which nothing but pictures is there
            paste(sheet, row, 1, 2)
        paste(sheet, 0, 1, 3)  # somebody's logo

    summary, rows, asked = await sent(workbook(tmp_path / "in.xlsx", fill))
    assert asked == [(0, 0)]
    assert rows[0]["problem"].endswith("column 'Foto Selfie': img1 has 2 pictures on it: leave one")
    assert rows[2]["problem"].endswith(
        "is empty: fill it in, or delete the row in the list itself (pictures are on B4, E4)"
    )
    assert summary.warnings == [
        "pictures lie on 2 rows without any text, which were not asked: write an id into row 5 and the others"
    ]


async def test_drawings_are_no_photos(tmp_path: Path) -> None:
    def fill(book: Any, sheet: Any) -> None:
        sheet.write(1, 0, "a")
        paste(sheet, 1, 1, 0)

    source = workbook(tmp_path / "plain.xlsx", fill)
    changed = tmp_path / "in.xlsx"
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(changed, "w") as new:
        for name in old.namelist():
            new.writestr(name.replace(".jpeg", ".emf"), old.read(name).replace(b"image1.jpeg", b"image1.emf"))
    _, rows, _ = await sent(changed)
    assert "column 'Foto Selfie' has a drawing on it (.emf), and no photo" in rows[0]["problem"]


async def test_an_ods_file(tmp_path: Path) -> None:
    write(tmp_path / "selfie1.jpg", PHOTOS[0])
    frame = '<draw:frame><draw:image x:href="Pictures/{}.jpg"/></draw:frame>'
    link = '<text:p><text:a x:href="../selfie1.jpg">Lihat</text:a></text:p>'
    formula = 'table:formula="of:=HYPERLINK(&quot;selfie1.jpg&quot;;&quot;Lihat&quot;)" office:value-type="string"'
    cells = [
        ("", "<text:p>Nama</text:p>", "", "<text:p>Foto Selfie</text:p>", "", "<text:p>Foto KTP</text:p>"),
        ("", "<text:p>a</text:p>", "", frame.format(1), "", frame.format(2)),
        ("", "<text:p>b</text:p>", "", link, "", frame.format(3)),
        ("", "<text:p>c</text:p>", formula, "<text:p>Lihat</text:p>", "", frame.format(1)),
        ("", "<text:p>d</text:p>", "", "", "", ""),
    ]
    text = 'office:value-type="string"'
    rows = [
        "".join(
            f"<table:table-cell {said or text}>{held}</table:table-cell>"
            for said, held in zip(row[::2], row[1::2], strict=True)
        )
        for row in cells
    ]
    gap = '<table:table-row table:number-rows-repeated="3"><table:table-cell/></table:table-row>'
    table = f"{gap}{''.join(f'<table:table-row>{row}</table:table-row>' for row in rows)}"
    spaces = "".join(
        f' xmlns:{name}="urn:oasis:names:tc:opendocument:xmlns:{name}:1.0"' for name in ("office", "table", "text")
    )
    kind = "application/vnd.oasis.opendocument.spreadsheet"
    manifest = "urn:oasis:names:tc:opendocument:xmlns:manifest:1.0"
    source = tmp_path / "in.ods"
    with zipfile.ZipFile(source, "w") as archive:
        archive.writestr("mimetype", kind)
        archive.writestr(
            "META-INF/manifest.xml",
            f'<m:manifest xmlns:m="{manifest}"><m:file-entry m:full-path="/" m:media-type="{kind}"/></m:manifest>',
        )
        archive.writestr(
            "content.xml",
            f'<office:document-content{spaces} xmlns:draw="urn:draw" xmlns:x="http://www.w3.org/1999/xlink"><office:body>'
            f'<office:spreadsheet><table:table table:name="S">{table}</table:table></office:spreadsheet></office:body>'
            "</office:document-content>",
        )
        for number in (1, 2, 3):
            archive.writestr(f"Pictures/{number}.jpg", PHOTOS[number])
    _, found, asked = await sent(source)
    assert asked == [(1, 2), (0, 3), (0, 1)]
    assert found[3]["problem"].startswith("row 8: column 'Foto Selfie' is empty")


def test_other_workbooks_say_that_pictures_cannot_be_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = workbook(tmp_path / "in.xlsx", lambda _, sheet: sheet.write_row(1, 0, ["a", "", ""]))
    with Rows(source) as rows:
        write(source, b"\xd0\xcf\x11\xe0 as .xls is")
        calls = Calls([FaceCompare], rows, columns={}, values={}, key=None)
        ((problem,),) = (calls.make(row) for row in rows)
        calls.close()
    remark = "is empty: fill it in, or delete the row in the list itself "
    remark += "(pictures in this workbook cannot be seen here: save it as .xlsx)"
    assert str(problem) == f"row 2: column 'Foto Selfie' {remark}; column 'Foto KTP' {remark}"


@pytest.mark.parametrize("kind", [".xls", ".xlsb"])
def test_other_workbooks_that_have_pictures_say_so(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Wherever in the file the picture is."""
    monkeypatch.setattr("aisolution_async.bulk.pictures._CHUNK", 64)
    source = workbook(tmp_path / "in.xlsx", lambda _, sheet: sheet.write_row(1, 0, ["a", "", ""]))
    for before in range(50, 70):
        with Rows(source) as rows:
            if kind == ".xls":
                write(source, b"\xd0\xcf\x11\xe0" + b"-" * before + PHOTOS[1])
            else:
                with zipfile.ZipFile(source, "w") as archive:
                    archive.writestr("xl/workbook.bin", b"-" * before)
                    archive.writestr("xl/media/image1.jpeg", PHOTOS[1])
            calls = Calls([FaceCompare], rows, columns={}, values={}, key=None)
            ((problem,),) = (calls.make(row) for row in rows)
            calls.close()
        assert "(there are pictures in this workbook, which cannot be read here: save it as .xlsx)" in str(problem)
        workbook(source, lambda _, sheet: sheet.write_row(1, 0, ["a", "", ""]))


def test_a_stranger_s_workbook(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Too many pictures are refused; XML that would not end, or is damaged, is not read."""

    def fill(book: Any, sheet: Any) -> None:
        sheet.write(1, 0, "Ayu")
        for row in range(1, 6):
            paste(sheet, row, 1, 0)

    source = workbook(tmp_path / "in.xlsx", fill)
    monkeypatch.setattr(pictures, "_MOST", 3)
    with Rows(source) as rows, pytest.raises(ConfigurationError, match="more than 3 pictures or links"):
        Pictures(rows)
    monkeypatch.undo()
    bomb = b'<!DOCTYPE x [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;">]><x>&b;</x>'
    for drawing in (bomb, b"<unclosed", b"", b"\xff\xfe"):
        changed = tmp_path / "changed.xlsx"
        with zipfile.ZipFile(source) as old, zipfile.ZipFile(changed, "w") as new:
            for name in old.namelist():
                new.writestr(name, drawing if name == "xl/drawings/drawing1.xml" else old.read(name))
        with Rows(changed) as rows:
            found = Pictures(rows)
            assert found.at(2, 1) is None
            assert found.remark
            found.close()
