"""What makes two calls the same: a hash under the ledger's own key, which says nothing to who lacks that."""

from __future__ import annotations

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
        said = b"%d %s" % (len(endpoint), endpoint.encode())
        for name, value in payload:
            text = isinstance(value, str)
            data = value.encode("utf-8", "surrogatepass") if isinstance(value, str) else value
            said += b" %d %s %a %d " % (len(name), name.encode(), text, len(data))
            if text:
                said += data
            else:
                digest.update(said)
                digest.update(data)
                said = b""
        if key is not None:
            said += f" key {json.dumps(key, default=str)}".encode()
        digest.update(said)
        return digest.digest()
