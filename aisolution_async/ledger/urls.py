"""Where a ledger is: a file's path, or the URL of a schema on a PostgreSQL server; and how each is opened.

Passwords are libpq's business: `~/.pgpass`, PGPASSFILE, PGPASSWORD, or the URL itself. A URL is shown without its own.
"""

from __future__ import annotations

import os
import re
import sqlite3
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from decimal import Decimal
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, quote

from aisolution_async.checks import kind_of
from aisolution_async.errors import ConfigurationError
from aisolution_async.hiding import Secret
from aisolution_async.ledger import peek, schema
from aisolution_async.ledger.sqlite import Ledger
from aisolution_async.ledger.store import Store
from aisolution_async.names import exists, scheme_of

SCHEMA = "aisolution"
"""The schema of a URL that names none."""

_URL = re.compile(r"postgres(?:ql)?://([^/?]*)(/[^?]*)?(?:\?(.*))?", re.DOTALL)
_HOST = re.compile(r"(\[[0-9A-Fa-f:.%]+\]|[^:\[\]@]*)(:[0-9]*)?")
_NAME = re.compile(r"[a-z_][a-z0-9_]{0,62}")
# What of a URL may be shown: nothing in it is secret, and it leads to the same ledger again.
_SHOWN = frozenset(
    (
        *("host", "hostaddr", "port", "dbname", "user", "service", "passfile", "target_session_attrs"),
        *("sslmode", "sslrootcert", "sslcert", "sslkey", "connect_timeout"),
    )
)


class Server:
    """The schema of a PostgreSQL server that a ledger is in. `str()` of it is its URL, without secrets."""

    __slots__ = ("_address", "_shown", "hides", "schema", "url")

    def __init__(self, url: str) -> None:
        self._shown = _EXAMPLE  # until it is known what may be shown
        found = _URL.fullmatch(url)
        if found is None or "\0" in url:
            raise ConfigurationError(f"a ledger's URL is like {_EXAMPLE}")
        access, path, query = found[1], found[2] or "", found[3] or ""
        self.url = Secret(url)
        """As it was given."""
        del url  # tracebacks show locals
        userinfo, at, hosts = access.rpartition("@")
        if "@" in path or not all(_HOST.fullmatch(host) for host in hosts.split(",")):
            raise ConfigurationError(
                f"the ledger's URL cannot be read: it is like {_EXAMPLE}, and in a password, "
                "/ is written as %2F, ? as %3F, @ as %40, : as %3A"
            )
        try:
            given = parse_qsl(query, keep_blank_values=True, strict_parsing=bool(query))
        except ValueError:
            given = [("", "")]
        if not all(re.fullmatch("[a-z_]+", name) for name, _ in given):
            raise ConfigurationError(
                f"what stands after the ? of the ledger's URL cannot be read: it is like {_EXAMPLE}"
            )
        names = [value for name, value in given if name == "schema"] or [SCHEMA]
        if len(names) > 1 or not _NAME.fullmatch(names[0]) or names[0].startswith("pg_"):
            raise ConfigurationError(
                "the schema of a ledger's URL is one name of small letters, digits and _, like ?schema=applicants"
            )
        self.schema = names[0]
        rest = [(name, value) for name, value in given if name != "schema"]
        self._address = Secret(f"postgresql://{access}{path}{_query(rest)}")
        user = userinfo.partition(":")[0] + at
        shown = [(name, value) for name, value in rest if name in _SHOWN]
        self._shown = f"postgresql://{user}{hosts}{path}{_query([*shown, ('schema', self.schema)])}"
        self.hides: bool = bool(userinfo.partition(":")[2]) or len(shown) < len(rest)
        """Whether the URL has what is not shown, as a password."""

    @property
    def address(self) -> Secret:
        """What libpq connects to."""
        return self._address

    @property
    def name(self) -> str:
        """What a file's name is to a file."""
        return str(self)

    def __str__(self) -> str:
        return self._shown

    def __repr__(self) -> str:
        return f"<Server {self._shown}>"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Server) and self._shown == other._shown

    def __hash__(self) -> int:
        return hash(self._shown)


def _query(given: list[tuple[str, str]]) -> str:
    # Not quote_plus: libpq takes a + for itself.
    return "".join(f"{'&' if n else '?'}{name}={quote(value, safe='/')}" for n, (name, value) in enumerate(given))


_EXAMPLE = "postgresql://host/database?schema=applicants"


Place = Path | Server
"""Where a ledger is."""


def place_of(path_or_url: str | os.PathLike[str] | Server) -> Place:
    """Where a ledger is. Raises ConfigurationError for a URL that is none of a ledger; none is taken for a file."""
    if isinstance(path_or_url, Server):
        return path_or_url
    text = os.fspath(path_or_url)
    written = scheme_of(text)
    if written is None:
        return Path(path_or_url)
    if not written:
        raise ConfigurationError(f"the ledger is written in words like host=…: write it as a URL, like {_EXAMPLE}")
    scheme = written.lower()
    if scheme not in ("postgresql", "postgres"):
        raise ConfigurationError(
            f"a ledger is a file, or a schema of a PostgreSQL server, as in {_EXAMPLE}: there is none at {scheme}:"
        )
    if not isinstance(path_or_url, str):
        raise ConfigurationError(f"the ledger's URL is {kind_of(path_or_url)}: pass it as text, like {_EXAMPLE!r}")
    return Server(scheme + text.strip().removeprefix(written))


def open_ledger(
    path_or_url: str | os.PathLike[str] | Server,
    *,
    max_charges: int | None = None,
    prices: Mapping[str, Decimal] | None = None,
    max_cost: Decimal | None = None,
) -> Store:
    """The ledger at a path, or at a URL like `postgresql://host/database?schema=applicants`, which machines share.

    ```python
    async with open_ledger("postgresql://host/database?schema=applicants", max_charges=1000) as ledger:
        ...
    ```

    `max_charges`, `prices` and `max_cost` are as in `Ledger`. Raises ConfigurationError for a URL that cannot be, and
    where the driver is missing (`pip install 'aisolution-async[postgres]'`).
    """
    place = place_of(path_or_url)
    options: dict[str, Any] = {"max_charges": max_charges, "prices": prices, "max_cost": max_cost}
    if isinstance(place, Path):
        return Ledger(place, **options)
    _check_driver(place)
    from aisolution_async.ledger.postgres import SharedLedger  # noqa: PLC0415  # its driver is in an extra

    return SharedLedger(place, **options)


def open_peek(place: str | os.PathLike[str] | Server | None) -> peek.Peek:
    """A look into the ledger there: see `Peek`."""
    where = None if place is None else place_of(place)
    if where is None or isinstance(where, Path):
        return peek.Peek(where)
    _check_driver(where)
    from aisolution_async.ledger.postgres import SharedPeek  # noqa: PLC0415  # as above

    return SharedPeek(where)


def check_is_ledger(place: Place) -> None:
    """Raise LedgerError for what is there and no ledger, or not what it was. Nothing is changed."""
    if isinstance(place, Path):
        schema.check_is_ledger(place)
    else:
        open_peek(place).close()


def is_there(place: Place) -> bool:
    """Whether there is a ledger. Raises LedgerError where nobody can tell."""
    if isinstance(place, Path):
        try:
            return exists(place)
        except OSError as exc:
            raise schema.fault(place, exc) from None
    _check_driver(place)
    from aisolution_async.ledger import server  # noqa: PLC0415  # as above

    return server.is_there(place)


@contextmanager
def copied(place: Server) -> Iterator[sqlite3.Connection]:
    """What is in a shared ledger, in a file's tables and without its key: for figures that are counted in SQLite."""
    _check_driver(place)
    from aisolution_async.ledger.postgres import copy_into  # noqa: PLC0415  # as above

    with (
        tempfile.TemporaryDirectory(prefix="aisolution-") as folder,
        closing(sqlite3.connect(Path(folder) / "copy", isolation_level=None)) as db,
    ):
        db.execute("PRAGMA synchronous = OFF")
        db.execute("PRAGMA journal_mode = OFF")
        for migration in schema.MIGRATIONS:
            migration(db)
        copy_into(db, place)
        yield db


def _check_driver(place: Server) -> None:
    try:
        import psycopg  # noqa: PLC0415, F401  # in an extra; without libpq, it cannot even be imported
    except ImportError:
        pass
    else:
        return
    raise ConfigurationError(f"the ledger {place} needs a driver: pip install 'aisolution-async[postgres]'")
