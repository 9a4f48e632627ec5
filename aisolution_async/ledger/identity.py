"""What makes two calls the same: a hash under the ledger's own key, which says nothing to who lacks that."""

from __future__ import annotations

import functools
import json
from collections.abc import Iterable
from hashlib import blake2b

from aisolution_async.errors import Key


class Identities:
    """The identities of one ledger's questions. Thread-safe."""

    def __init__(self, key: bytes) -> None:
        self._keyed = blake2b(digest_size=16, key=key)

    def of(self, endpoint: str, payload: Iterable[tuple[str, str | bytes]], key: Key = None) -> bytes:
        """See `Store.identity`."""
        digest = self._keyed.copy()
        said = _endpoint(endpoint)
        for name, value in payload:
            if isinstance(value, str):
                data = value.encode("utf-8", "surrogatepass")
                said += b"%b%d %b" % (_field(name, is_text=True), len(data), data)
            else:
                digest.update(said + b"%b%d " % (_field(name, is_text=False), len(value)))
                digest.update(value)
                said = b""
        if key is not None:
            said += f" key {json.dumps(key, default=str)}".encode()
        digest.update(said)
        return digest.digest()


@functools.lru_cache(64)
def _endpoint(name: str) -> bytes:
    return b"%d %s" % (len(name), name.encode())


@functools.lru_cache(64)
def _field(name: str, *, is_text: bool) -> bytes:
    return b" %d %s %a " % (len(name), name.encode(), is_text)
