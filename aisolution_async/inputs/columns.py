"""What people call their columns: in English, Indonesian, Malay, Filipino, Vietnamese and Hindi in Latin script.

A name is read as words, without case, accents, dots, underscores and numbers: `No. HP Aktif`, `noHP_1` and `NOMORHP`
say the same. Each word is known to be of some kinds, and a name fits where all its words do, and one of them says what
is looked for: `No HP Nasabah` is a phone number, nobody can be sure of `HP x`, and `No KTP` or `Merk HP` is surely
something else. What stands in brackets may be a unit or a note, and counts only where it is known.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum, IntEnum

from aisolution_async.inputs.countries import folded_words


class Role(Enum):
    """What a column may be looked for."""

    NUMBER = "a phone number"
    COUNTRY = "a country"
    KEY = "an id of your own"
    PHOTO = "a photo of a face"
    FIRST_PHOTO = "the photo of a face, the first of two"
    CARD_PHOTO = "the photo of an ID card"
    HELD_PHOTO = "the photo of a person who holds an ID card"


class Fit(IntEnum):
    """How well a column's name fits."""

    SURE = 0
    WEAK = 1
    """It says so, and may as well hold something else, as `Kontak` may hold a name: its cells have to agree."""
    LIKELY = 2
    """A word says so, and another one is not known."""
    OTHER = 3
    """It is one, but of somebody or something else, as of an office or a spouse."""
    UNKNOWN = 4
    """The name says nothing."""
    NEVER = 5
    """It is surely something else."""


def _set(words: str) -> frozenset[str]:
    return frozenset(words.split())


_PHONES = _set(
    """genggam bimbit handset gawai phone phones phoneno telephone telefon telepon telpon telfon telephon telp telpn
    tlp tlpn tlf telf tel mobile mobil mobail mob mbl handphone handpone handphon hanphone hape hp ponsel smartphone
    cellphone cellphones cell cellular celular selular seluler selluler selpon whatsapp whatsap watsap watsapp
    whatapp wa wapp msisdn gsm sdt sodt dtdd dienthoai didong phn telepono teleponong doorbhash durbhash"""
)
_CONTACTS = _set(
    "fon fone contact contacts contak kontak kontek cp ph cel dt tele hubungi sampark ugnayan lienhe lienlac"
)
"""What is a phone number with a word like `No` beside it, and may be a name or something else without."""
_NUMBERS = _set(
    """no nos nomor nomer nomr nmr nmor nr num nums number numbers nummer numer numero numerong nambar namber sankhya
    so bilang nombor nomber nbr"""
)
_OWNERS = _set(
    """nasabah pemohon debitur debtor konsumen customer customers cust client clients klien borrower peminjam applicant
    applicants aplikan pelamar candidate calon user users pengguna member members anggota karyawan pegawai employee
    staff siswa student peserta pelanggan pembeli buyer subscriber patient pasien driver mitra lead leads khachhang
    kh nguoivay nguoidung grahak avedak aplikante kliyente customernya pemilik owner pribadi personal own sendiri
    ybs bersangkutan your my anda kamu saya aking iyong aapka apka mera"""
)
_NEUTRAL = _set(
    """aktif active utama primary main current saat ini sekarang terbaru baru new latest terkini moi chinh hientai
    registered terdaftar terdata dangky aktibo of for the ng sa ke di yang yg dan and or atau ya with dengan untuk
    cua ka ki ke dihubungi bisa dapat w international internasional e format full lengkap required wajib canhan data
    kolom field column isi"""
)
_OTHERS = _set(
    """rumah home house bahay nha kantor office work kerja pekerjaan opisina congty landline tetap fixed darurat
    emergency emergencies khancap pasangan partner suami istri isteri spouse husband wife asawa orangtua ortu parent
    parents ayah bapak ibu father mother nanay tatay bome keluarga family pamilya giadinh saudara sibling kerabat
    kerabatnya relative relatives teman friend kaibigan referensi referral referrer reference references referee
    rekan colleague atasan boss supervisor spv hr hrd marketing sales agent agen ahente surveyor kolektor collector
    penjamin guarantor perusahaan company employer alternatif alternate alternative alt lain lainnya other others
    secondary backup cadangan kedua second ketiga third khac nguoithan nguoithamchieu thamchieu old lama cu bos toko
    shop store cabang branch merchant vendor supplier penanggung pengirim sender penerima receiver recipient"""
)
_PHOTO = _set(
    """image images img imgs photo photos foto fotos fotografi photograph picture pictures pic pics pict gambar poto
    anh hinh hinhanh larawan litrato tasveer tasvir tasvirein scan scans"""
)
_FILES = _set(
    "path paths file files filename fname link lokasi location berkas url uri tep duongdan upload name nama jpg jpeg"
)
_FACES = _set(
    """diri selfie selfies selfi selpi swafoto swa face faces wajah muka mukha portrait potret chandung khuonmat chehra
    chehre liveness live pasfoto pas"""
)
_CARDS = _set(
    """ktp ektp ektpel idcard nric mykad cccd cmnd cancuoc cancuoccongdan chungminh aadhaar aadhar adhaar adhar paspor
    passport passpor umid philid philsys nid kartu card cards sim pan identitas identity pehchan pahchan patra depan
    front mattruoc truoc tanda penduduk national license licence lisensya"""
)
_OF_CARDS = _set("valid gov govt government issued voter el ic resmi")
_OF_PHOTOS = _set("unggah unggahan dokumen document doc docs bukti proof kirim chup giayto")
_HELD = _set("holding handheld held hold memegang pegang hawak cam pakad")
_COUNTRIES = _set("country countries negara bansa quocgia nuoc desh countrycode countryiso isocountry")
_CODES = _set("code codes kode kod ma iso alpha isocode dial dialing dialling calling prefix awalan region")
_DIALLING = _set("dial dialing dialling calling")
_NAMES = _set("name nama ten pangalan naam")
_ID = _set("id ids")
_IDS = _set("id ids uid uuid guid key ref refno referenceid kode code ma kunci no nomor nomer nomr num number so")
_ENTITIES = _set(
    """application applications aplikasi app pengajuan permohonan loan pinjaman kredit credit kontrak contract case
    kasus tiket ticket order pesanan transaksi transaction trx record row reg registrasi registration pendaftaran
    polis policy hoso hopdong donvay khoanvay external internal reference referensi internalid lead data request req
    avedan rin"""
)
# What no phone number, no photo and no id of a row is named.
_NEVER = _set(
    """nik npwp bpjs kk rekening rek norek rekg account acct acc accno akun taikhoan stk bank swift iban va
    kartukeluarga simcard fax faks faksimile faximile email mail imel surel alamat address diachi tirahan pata
    tanggal tgl date dates ngay petsa dinank waktu time jam gio dob lahir birth born sinh umur usia age tuoi gender
    kelamin sex status verified verifikasi verify verifiedby merk merek brand tipe type model jenis imei imsi iccid
    serial os device perangkat provider operator carrier network jaringan pulsa bill tagihan harga price amount
    jumlah total plafon limit tenor gaji salary income penghasilan keterangan catatan note notes remark remarks
    ghichu komentar comment result hasil check cek response respon score skor flag pos zip kodepos postal postcode
    kota city provinsi province kecamatan kelurahan rt rw ext extension pin otp password sandi person latitude
    longitude lat lng nip nis nisn nuptk invoice faktur resi awb plat plate polisi nopol tin sss gsis philhealth
    pagibig gst gstin ifsc upi masothue mst bhyt ketp"""
)
_BACK = _set("belakang back matsau sau likod")

# Written as two words or more.
_PHRASES = {
    "whats app": "whatsapp",
    "hand phone": "handphone",
    "cell phone": "cellphone",
    "dien thoai": "dienthoai",
    "di dong": "didong",
    "lien he": "lienhe",
    "lien lac": "lienlac",
    "khach hang": "khachhang",
    "nguoi vay": "nguoivay",
    "nguoi dung": "nguoidung",
    "nguoi than": "nguoithan",
    "tham chieu": "thamchieu",
    "khan cap": "khancap",
    "cong ty": "congty",
    "gia dinh": "giadinh",
    "bo me": "bome",
    "ca nhan": "canhan",
    "hien tai": "hientai",
    "dang ky": "dangky",
    "quoc gia": "quocgia",
    "chan dung": "chandung",
    "khuon mat": "khuonmat",
    "hinh anh": "hinhanh",
    "duong dan": "duongdan",
    "can cuoc": "cancuoc",
    "chung minh": "chungminh",
    "mat truoc": "mattruoc",
    "mat sau": "matsau",
    "ho so": "hoso",
    "hop dong": "hopdong",
    "don vay": "donvay",
    "khoan vay": "khoanvay",
    "tai khoan": "taikhoan",
    "dia chi": "diachi",
    "ghi chu": "ghichu",
    "ma so thue": "masothue",
    "orang tua": "orangtua",
    "kartu keluarga": "kartukeluarga",
    "kode pos": "kodepos",
    "id card": "idcard",
    "e ktp": "ektp",
    "h p": "hp",
    "giay to": "giayto",
    "hand held": "handheld",
    "sim card": "simcard",
    "swa foto": "swafoto",
    "pas foto": "pasfoto",
    "phil id": "philid",
}
_PHRASE = re.compile(rf"\b(?:{'|'.join(sorted(_PHRASES, key=len, reverse=True))})\b")
_VOCABULARY = frozenset().union(
    *(_PHONES, _CONTACTS, _NUMBERS, _OWNERS, _NEUTRAL, _OTHERS, _PHOTO, _FILES, _FACES, _CARDS, _HELD, _COUNTRIES),
    *(_CODES, _NAMES, _OF_CARDS, _OF_PHOTOS, _IDS, _ENTITIES, _NEVER, _BACK),
)
# These go before what is only made of such words.
_KEYS = _set(
    """key id ref reference refno referenceid referencenumber externalid applicantid applicant applicantno
    applicationid applicationno applicationnumber application customerid customerno clientid userid loanid loanno
    caseid caseno recordid rowid"""
)
# These go before all others, as `Country` does before `Phone Country Code`.
_COUNTRY_NAMES = _set(
    "country countrycode countryiso countryiso2 isocountry isocountrycode negara kodenegara quocgia bansa desh"
)
_BRACKETS = re.compile(r"[(\[{<\uff08\u3010][^)\]}>\uff09\u3011]*[)\]}>\uff09\u3011]?")
_CAMEL = re.compile(r"(?<=[a-z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")
_DIGITS = re.compile(r"(?<=[^\W\d_])(?=[0-9])|(?<=[0-9])(?=[^\W\d_])")
_LONGEST = 200


@dataclass(frozen=True, slots=True)
class _Name:
    """A column's name: its words, those of them that are a note in brackets, and its last number."""

    words: frozenset[str]
    notes: frozenset[str]
    number: int | None

    def fits(self, *kinds: frozenset[str]) -> bool:
        """Whether all its words are of these kinds, and what is known of its notes too."""
        known = frozenset().union(*kinds)
        return self.words <= known and self.notes & _VOCABULARY <= known

    def has(self, kind: frozenset[str]) -> bool:
        return not kind.isdisjoint(self.words) or not kind.isdisjoint(self.notes)


@functools.lru_cache(maxsize=4096)
def fit(name: str, role: Role) -> Fit:
    """How well a column that is named so fits what is looked for."""
    read = _read(name)
    if role is Role.NUMBER:
        return _number(read)
    if role is Role.COUNTRY:
        return _country(read, bare(name))
    if role is Role.KEY:
        return _key(read, bare(name))
    return _photo(read, role)


def bare(name: str) -> str:
    """A column's name without what people vary: case, accents, spaces, underscores and other signs."""
    return "".join(folded_words(name))


def _number(name: _Name) -> Fit:
    is_phone, is_contact = name.has(_PHONES), name.has(_CONTACTS)
    # "No HP (sesuai KTP)" is the number that stands with the card.
    if name.has(_NEVER) or name.has(_PHOTO | _COUNTRIES | _CODES) or not (_CARDS | _ID).isdisjoint(name.words):
        return Fit.NEVER
    if not (is_phone or is_contact):
        return Fit.OTHER if name.has(_OTHERS) and name.has(_NUMBERS) else Fit.UNKNOWN
    if name.has(_OTHERS):
        return Fit.OTHER
    if name.has(_FILES | _NAMES):
        return Fit.NEVER
    if not _Name(name.words, name.notes - _CARDS, None).fits(_PHONES, _CONTACTS, _NUMBERS, _OWNERS, _NEUTRAL):
        return Fit.LIKELY
    return Fit.SURE if is_phone or not _NUMBERS.isdisjoint(name.words) else Fit.WEAK


def _country(name: _Name, joined: str) -> Fit:
    if joined in _COUNTRY_NAMES:
        return Fit.SURE
    says = name.has(_COUNTRIES) or (name.has(_DIALLING) and name.has(_CODES - _DIALLING))
    known = (_COUNTRIES, _CODES, _NUMBERS, _OWNERS, _NEUTRAL, _PHONES, _NAMES)
    return Fit.WEAK if says and name.fits(*known) else Fit.UNKNOWN


def _key(name: _Name, joined: str) -> Fit:
    if joined in _KEYS:
        return Fit.SURE
    if not name.has(_IDS) or name.has(_PHONES | _CONTACTS | _CARDS | _NEVER):
        return Fit.UNKNOWN
    is_whose = name.has(_ENTITIES) or name.has(_OWNERS)
    return Fit.WEAK if is_whose and name.fits(_IDS, _ENTITIES, _OWNERS) else Fit.UNKNOWN


def _photo(name: _Name, role: Role) -> Fit:
    if name.has(_BACK) or name.has(_NEVER) or name.has(_PHONES) or not _NUMBERS.isdisjoint(name.words):
        return Fit.UNKNOWN
    if not name.fits(_PHOTO, _FILES, _FACES, _CARDS, _HELD, _OWNERS, _NEUTRAL, _ID, _OF_CARDS, _OF_PHOTOS):
        return Fit.UNKNOWN
    is_face, is_photo = name.has(_FACES), name.has(_PHOTO)
    is_card = name.has(_CARDS) or (name.has(_ID) and (is_photo or is_face or name.has(_HELD | _OF_CARDS)))
    is_held = name.has(_HELD) or (is_face and is_card)
    is_plain = is_photo and not (is_face or is_card or is_held)
    if role is Role.HELD_PHOTO:
        return Fit.SURE if is_held or is_plain else Fit.UNKNOWN
    if role is Role.CARD_PHOTO:
        if is_plain:
            return Fit.SURE if name.number == 2 else Fit.UNKNOWN
        if not is_card or is_held:
            return Fit.UNKNOWN
        return Fit.SURE if is_photo or name.has(_FILES) else Fit.WEAK
    if is_plain:
        return Fit.SURE if role is Role.PHOTO or name.number in (None, 1) else Fit.UNKNOWN
    return Fit.SURE if is_face and not is_held else Fit.UNKNOWN


# -------------------------------------------------------------------------------------------- from a name to words


def _read(name: str) -> _Name:
    name = name[:_LONGEST]
    notes = " ".join(_BRACKETS.findall(name))
    outside = _BRACKETS.sub(" ", name)
    if not folded_words(outside):
        outside, notes = notes, ""
    words = [*_words(outside)]
    numbers = [int(word) for word in words if word.isdecimal() and len(word) < 3]
    return _Name(
        frozenset(word for word in words if not word.isdecimal()),
        frozenset(word for word in _words(notes) if not word.isdecimal()),
        numbers[-1] if numbers else None,
    )


def _words(text: str) -> Iterator[str]:
    written = _DIGITS.sub(" ", " ".join(folded_words(_CAMEL.sub(" ", text))))
    for word in _PHRASE.sub(lambda phrase: _PHRASES[phrase[0]], written).split():
        yield from [word] if word in _VOCABULARY else _parted(word) or [word]


@functools.lru_cache(maxsize=4096)
def _parted(word: str) -> tuple[str, ...]:
    """The fewest known words that `word` is made of, nothing where it is not."""
    best: tuple[str, ...] = ()
    for end in range(2, len(word) + 1):
        if word[:end] not in _VOCABULARY:
            continue
        rest = _parted(word[end:]) if end < len(word) else ()
        if (end == len(word) or rest) and (not best or len(rest) + 1 < len(best)):
            best = (word[:end], *rest)
    return best
