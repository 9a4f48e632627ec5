"""What is learned of an origin from the requests that were lost on its connections."""

from __future__ import annotations

import math

_SHORTEST = 0.001  # an idle time below which a connection is used again or is not, as there is no telling them apart
_REST = 10.0  # seconds from a loss to the first trial
_LONGEST_REST = 640.0


class Reuse:
    """After how long an idle time a connection to one origin may be used again: learned from what was lost.

    A server that closes a connection as a request arrives on it leaves an unknown charge. Its states:

        free        any idle time that the pool allows. A request lost on a reused connection, with no byte of an answer
                    → limited
        limited     idle times below `limit`: half the shortest at which a request was lost; none if that is below a
                    millisecond. After a rest, one connection at a time is tried after a longer time: up to twice
                    `limit`, and twice as much again with each rest that passes. Answered: `limit` doubles, or is twice
                    the time tried; the next is tried; once `limit` reaches the pool's own → free. Lost: `limit` as
                    above, and the rest is twice as long from now on. So one restart of the server does not end reuse,
                    and a server that never keeps connections costs one request a trial.
        distrusted  none, for good: the server sent what nobody asked for, so that answers may be those of other
                    requests.
    """

    __slots__ = ("_expiry", "_lost_at", "_rest", "_tried_at", "_try_at", "distrusted", "limit")

    def __init__(self, expiry: float) -> None:
        self.limit = math.inf
        self.distrusted = False
        self._expiry = expiry
        self._rest = _REST
        self._lost_at = self._tried_at = self._try_at = -math.inf

    def longest(self, now: float) -> float:
        """Seconds that a connection may idle and be used again."""
        if self.limit == math.inf or self.distrusted or now < self._try_at:
            return self.limit
        return max(self.limit, _SHORTEST / 2) * math.exp2(min((now - self._lost_at) / self._rest, 60.0))

    def tried(self, now: float) -> None:
        """A connection that idled for longer than `limit` is used again: no other one until this one has its answer."""
        self._tried_at, self._try_at = now, now + self._rest

    def answered(self, idled: float, now: float) -> None:
        """A trial went well."""
        if not self.distrusted and self._lost_at < self._tried_at:
            self.limit = max(2 * self.limit, 2 * idled, _SHORTEST)
            self._try_at = now
            if self.limit >= self._expiry:
                self.limit, self._rest = math.inf, _REST

    def lost(self, idled: float, now: float, *, trial: bool) -> None:
        """A request was lost on a connection that had idled for so long."""
        if self.distrusted:
            return
        self.limit = min(self.limit, idled / 2)
        if self.limit < _SHORTEST:
            self.limit = 0.0
        if trial:
            self._rest = min(2 * self._rest, _LONGEST_REST)
        self._lost_at, self._try_at = now, now + self._rest

    def distrust(self) -> None:
        """The server sent what nobody asked for."""
        self.distrusted, self.limit = True, 0.0
