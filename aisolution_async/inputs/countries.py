"""Countries as people write them: by name, by their ISO codes, by their calling codes.

Names are those of English, Indonesian, Malay, Filipino, Vietnamese and Hindi in Latin script (`countries.txt`, of
Unicode CLDR) and what else is in use; case, accents, signs and the order of the words do not matter, and neither does
"Republic of". What may be two countries is none: `Nga` is Russia in Viet Nam, and NGA is Nigeria everywhere.
"""

from __future__ import annotations

import functools
import re
import unicodedata
from collections.abc import Iterator, Sequence
from importlib.resources import files

# What else is in use. A name of two countries is refused.
_MORE = """
AE UAE; Emirates; Persatuan Emirat Arab; UEA
AT Áo
AU Aussie; Úc; Australya
BN Brunei Darussalam
BO Plurinational State of Bolivia
BS The Bahamas
CD DRC; DR Congo; Democratic Republic of the Congo; Congo; Kongo
CF CAR
CG Republic of the Congo; Congo; Kongo
CI Ivory Coast; Pantai Gading
CN People's Republic of China; PRC; RRC; RRT; Cina; Mainland China; Tsina
CV Cape Verde; Cabo Verde
CZ Czech Republic
DE Alemanya
EG Ehipto
ES Espanya
FR Pransiya
FM Federated States of Micronesia
GB Great Britain; Britain; England; Scotland; Wales; Northern Ireland; Inggris; Britania Raya; Anh; Anh Quốc; Inglatera
GB United Kingdom of Great Britain and Northern Ireland; Gran Britanya
GM The Gambia
HK Hong Kong; Hongkong
ID Indonesian; Indo; NKRI; Negara Kesatuan Republik Indonesia; Indonesya; In-đô-nê-xi-a; Nam Dương
IE Éire
IN Bharat Ganrajya; Hindustan; Hindusthan; Bharath; Indya
IR Islamic Republic of Iran
IT Italya
JP Nippon; Hapon
KH Kampuchea; Kamboja; Campuchia
KP DPRK; North Korea; Democratic People's Republic of Korea; Korut; Korea; Triều Tiên
KR ROK; Nam Triều Tiên; Republic of Korea; Korsel; Korea; Đại Hàn Dân Quốc
LA Laos; Lao; Lao PDR; Lao People's Democratic Republic
LY Libyan Arab Jamahiriya
MD Republic of Moldova
MK Macedonia; Republic of Macedonia
MM Myanmar; Burma; Birma; Miến Điện; Republic of the Union of Myanmar
MO Macau; Makau; Macao
MY Federation of Malaysia; Mã Lai; Malaya
NL Holland; The Netherlands; Hà Lan
PH Phil; Phils; Pinas; Pilipinas; Republika ng Pilipinas; Filipinas; Philipines; Phillipines; Philippine; Phi-líp-pin
PS Palestine; State of Palestine
RU Russian Federation; Federasi Rusia
SA KSA; Kingdom of Saudi Arabia
SG Singapore; Singapura; Sing; Spore; S'pore; Xing-ga-po; Republic of Singapore
SY Syrian Arab Republic
SZ Swaziland
TH Thai; Siam; Muangthai; Muang Thai
TL East Timor; Timor-Leste; Timor Timur
TR Turkey; Turki
TW Republic of China; Taiwan ROC; Taiwan, Province of China; Chinese Taipei; Đài Loan
TZ United Republic of Tanzania
US U.S.; U.S.A.; United States of America; Amerika; Mỹ; Hợp chủng quốc Hoa Kỳ; Estados Unidos ng Amerika
VA Vatican; Holy See; Vatican City State
VE Bolivarian Republic of Venezuela
VN Vietnam; Viet Nam; Việt Nam; Vietnamese; Biyetnam; Socialist Republic of Viet Nam
"""
SLIPS = {"UK": "GB", "RI": "ID", "RP": "PH", "UC": "AU"}
"""Two letters that are no code of ISO 3166-1, and whose they are all the same."""

_GENERIC = """republic republik republika kingdom kerajaan kaharian negara federal federation islamic islam socialist
    sosialis democratic demokratik peoples rakyat sultanate kesultanan union commonwealth principality bansang arab
    hashemite cong hoa xa hoi chu nghia dan nhan vuong quoc nuoc ganrajya special administrative region"""
_SMALL = "and the of dan va at ng"
_CALLING = re.compile(r"\(?\s*(?:(\+|00)\s*([0-9]{1,3})|([0-9]{2,3}))\s*\)?")
_FLAG = re.compile("([\U0001f1e6-\U0001f1ff])([\U0001f1e6-\U0001f1ff])")
_PARTS = re.compile(r"[()\[\]/|,;:=\n]|\s+[-\u2010-\u2015]\s+|(?<=[^\W\d])\s*(?=\+)|(?<=[0-9])\s+(?=[^\W\d])")
_LONGEST = 80


@functools.lru_cache(maxsize=1024)
def codes_of(text: str) -> tuple[str, ...]:
    """The ISO 3166-1 alpha-2 codes of the countries that `text` may be; none where it is no country."""
    if len(text) > _LONGEST:
        return ()
    text = _FLAG.sub(_letters, unicodedata.normalize("NFKC", text)).strip(" \t\r\n.*'\"/")
    if found := _whole(text):
        return found
    for parts in (_PARTS.split(text), re.split(r"[-_]", text)):
        said = [_whole(part.strip()) for part in parts if part.strip(" .-")]
        if said and all(said):
            # Each part says it in its own way: what all of them may be is meant.
            return tuple(code for code in said[0] if all(code in each for each in said))
    return ()


def _whole(text: str) -> tuple[str, ...]:
    """The same for what says it in one way."""
    if (found := _CALLING.fullmatch(text)) is not None:
        return _calling(int(found[2] or found[3]))
    if len(text) == 2 and text.isascii() and text.isalpha():
        code = text.upper()
        return (SLIPS.get(code, code),)
    by_name = _by_name()
    if not text.isascii() and (found_exactly := by_name.get(_accented(text))):
        return found_exactly
    words = _words(text)
    own = [word for word in words if word not in _GENERIC.split()]
    for key in (*_keys(words), *(_keys(own) if len(own) < len(words) else ())):
        if key in by_name:
            return by_name[key]
    return ()


def _calling(code: int) -> tuple[str, ...]:
    """The country of a calling code; where several have one, the one that its numbers are read in."""
    from phonenumbers import COUNTRY_CODE_TO_REGION_CODE  # noqa: PLC0415  # takes 15 ms, and most programs do without

    return tuple(region for region in COUNTRY_CODE_TO_REGION_CODE.get(code, ())[:1] if region.isalpha())


@functools.cache
def _by_name() -> dict[str, tuple[str, ...]]:
    found: dict[str, dict[str, None]] = {}
    for code, name in _names():
        for key in dict.fromkeys([*([] if name.isascii() else [_accented(name)]), *_keys(_words(name))]):
            found.setdefault(key, {})[code] = None
    # Two letters without an accent are an ISO code, whatever name they may be.
    return {key: tuple(codes) for key, codes in found.items() if len(key) > 2 or not key.isascii()}


def _names() -> Iterator[tuple[str, str]]:
    table = files(__package__).joinpath("countries.txt").read_text(encoding="utf-8")
    for line in table.splitlines():
        if line[:1] != "#":
            code, iso3, names = line.split(" ", 2)
            yield code, iso3
            yield from ((code, name) for name in names.split("; "))
    for line in _MORE.strip().splitlines():
        code, names = line.split(" ", 1)
        yield from ((code, name) for name in names.split("; "))


def _words(name: str) -> list[str]:
    words = folded_words(name)
    # Of one word alone, none is small: AND is Andorra.
    return ["saint" if word == "st" else word for word in words if word not in _SMALL.split() or len(words) == 1]


def _keys(words: Sequence[str]) -> tuple[str, str]:
    """What a name is looked up by: its words in whatever order, and in one."""
    return " ".join(sorted(words)), "".join(words)


def folded_words(text: str) -> list[str]:
    """The words of `text` without case, accents and signs."""
    plain = unicodedata.normalize("NFKD", text.casefold().replace("\u0111", "d"))
    plain = "".join(char for char in plain if not unicodedata.combining(char) and char not in "'\u2018\u2019`.\u02bc")
    return re.findall(r"[^\W_]+", plain)


def _accented(text: str) -> str:
    """The same with accents, in one."""
    return "".join(re.findall(r"[^\W_]+", unicodedata.normalize("NFC", text.casefold())))


def _letters(flag: re.Match[str]) -> str:
    return f" {''.join(chr(ord(sign) - 0x1F1E6 + 65) for sign in flag.groups())} / "
