"""What a seed stands for: a list of decisions, each of which can be dropped."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

PATIENCE = 30.0


class Behaviour(NamedTuple):
    """What the vendor does with one request.

    `kind` is in `vendor.KINDS`. It takes `connect` seconds until the first byte leaves, then `receive` until the vendor
    has it (and bills it), and then `answer` until the answer is there. `callbacks` are made so many seconds after
    that, and say so. Over a network, each piece of the request takes `slow` seconds to leave the client's memory, and
    `manner` is what the server does to the connection, one of `MANNERS`.
    """

    kind: str = "ok"
    connect: float = 0.01
    receive: float = 0.01
    answer: float = 0.1
    callbacks: tuple[tuple[float, str], ...] = ()
    slow: float = 0.0
    manner: str = ""


@dataclass(frozen=True)
class ClientPlan:
    """A process with a client; it is started again after its end, if anything is left to do."""

    retry_unknown: int = 0
    max_retries: int = 1
    reuse_for: float | None = None
    deadline: float = 20.0
    max_charges: int | None = None  # in memory
    patience: float = PATIENCE
    owns: bool = False  # its ledger is given by path
    ends_twice: bool = False  # each end is told twice
    connections: int = 3  # over a network

    @property
    def most(self) -> int | None:
        """What it may spend, if that is limited in memory: a ledger that it owns has the limit."""
        return None if self.owns else self.max_charges


@dataclass(frozen=True)
class Job:
    """Something that a client does at a time: `kind` is send, wait (for a callback), batch, resolve, purge or close."""

    client: int
    at: float
    kind: str
    asks: tuple[int, ...] = ()
    concurrency: int = 2
    dedupe: bool = True
    ordered: bool = False
    inbox: bool = False
    leave_after: int | None = None
    drain: float = 0.05
    recheck: bool = False
    max_charges: int | None = None
    charged: bool = False  # of resolve: settle what was charged, too
    older: float = 0.0  # of purge


class Strike(NamedTuple):
    """At the `at`-th event, or the `at`-th of those called so, and after so many turns more, something happens.

    `kind` says what; `target` is a job or a client.
    """

    at: int
    hops: int
    kind: str
    target: int
    amount: float = 0.0
    event: str = ""


@dataclass(frozen=True)
class Plan:
    """All of it. `seed` is for what is not decided here: how long the store takes."""

    seed: int
    has_ledger: bool = True
    most: int | None = None  # max_charges of the ledger
    priced: bool = False  # the limit is in money
    is_strict: bool = True  # the vendor bills a callback also where the number was answered otherwise before
    clients: tuple[ClientPlan, ...] = (ClientPlan(),)
    jobs: tuple[Job, ...] = ()
    does: tuple[tuple[int, int, Behaviour], ...] = ()
    strikes: tuple[Strike, ...] = ()
    over_network: bool = False
    pictures: tuple[str, ...] = ()  # the endpoints of the first questions; the others are about numbers
    lease: float | None = None  # of ledgers on a server, where it is not left to them
    behaviours: dict[tuple[int, int], Behaviour] = field(default_factory=dict, compare=False, repr=False)

    def __post_init__(self) -> None:
        self.behaviours.update({(question, turn): behaviour for question, turn, behaviour in self.does})

    def smaller(self) -> Iterator[Plan]:
        """The same with one decision less."""
        for name in ("strikes", "jobs", "does"):
            items = getattr(self, name)
            if len(items) > 3:
                for half in (items[: len(items) // 2], items[len(items) // 2 :]):
                    yield self._but(**{name: half})
            for place in range(len(items)):
                yield self._but(**{name: (*items[:place], *items[place + 1 :])})
        for place, job in enumerate(self.jobs):
            for ask in range(len(job.asks)):
                if len(job.asks) > 1:
                    less = (*job.asks[:ask], *job.asks[ask + 1 :])
                    yield self._with_job(place, dataclasses.replace(job, asks=less))
            plain = Job(job.client, job.at, job.kind, job.asks, inbox=job.inbox, older=job.older)
            for name in ("concurrency", "dedupe", "ordered", "inbox", "leave_after", "drain", "recheck", "max_charges"):
                if getattr(job, name) != getattr(plain, name):
                    yield self._with_job(place, dataclasses.replace(job, **{name: getattr(plain, name)}))
            if job.client:
                yield self._with_job(place, dataclasses.replace(job, client=0))
        for place, client in enumerate(self.clients):
            for each in dataclasses.fields(ClientPlan):
                if getattr(client, each.name) != each.default:
                    reset: dict[str, Any] = {each.name: each.default}
                    changed = dataclasses.replace(client, **reset)
                    yield self._but(clients=(*self.clients[:place], changed, *self.clients[place + 1 :]))
        for place, (question, turn, behaviour) in enumerate(self.does):
            for name, default in Behaviour()._asdict().items():
                if name != "kind" and getattr(behaviour, name) != default:
                    changed_too = (question, turn, behaviour._replace(**{name: default}))
                    yield self._but(does=(*self.does[:place], changed_too, *self.does[place + 1 :]))
        if self.most is not None:
            yield self._but(most=None)
        if self.pictures:
            yield self._but(pictures=())

    def _with_job(self, place: int, job: Job) -> Plan:
        return self._but(jobs=(*self.jobs[:place], job, *self.jobs[place + 1 :]))

    def _but(self, **changes: object) -> Plan:
        return dataclasses.replace(self, behaviours={}, **changes)  # type: ignore[arg-type]


# Kinds of answers, and how often one is chosen for another.
_KINDS = (
    *("ok",) * 10,
    *(
        "no",
        "checking",
        "checking",
        "checking",
        "unavailable",
        "later",
        "later",
        "fail",
        "busy",
        "slow-down",
        "refused",
    ),
    *("lost", "lost", "lost-unbilled", "silent", "silent-unbilled", "broken", "broken-unbilled", "unconnected"),
    *("garbage", "garbage-unbilled", "odd", "odd-unbilled", "misfit", "contradiction", "half-written", "another"),
)
_LOSSES = (
    *("lost", "lost-unbilled", "silent", "silent-unbilled", "broken", "broken-unbilled", "garbage", "garbage-unbilled"),
    *("odd", "odd-unbilled", "misfit", "contradiction", "half-written", "another", "checking"),
)
_CALLED_BACK = ("checking", "checking", "ok", "lost", "lost-unbilled", "silent", "broken", "odd")


MANNERS = (
    *("", "", "", "", "in parts", "close", "twice", "twice at once", "interim", "cut", "stuck", "endless"),
    *("not for long", "not for long", "early", "early", "unread"),
)
"""What a server does to a connection beside answering: see `network.Line`."""
_KEPT = ("", "", "", "in parts", "interim", "twice", "not for long")


class _Theme(NamedTuple):
    """What a plan is about: chances of this and that."""

    callbacks: float = 0.4
    limits: float = 0.2
    persons: float = 0.4
    struck: float = 0.7
    losses: float = 0.3
    ledger: float = 0.9
    network: bool = False
    ends: float = 0.0  # closes, and their cancellation
    leaves: float = 0.0  # calls that wait for a callback, and are left, with limits in memory


_THEMES = (
    _Theme(),
    _Theme(ledger=0.0, losses=0.5),
    _Theme(callbacks=1.0, losses=0.1, struck=0.4, ledger=0.9),
    _Theme(callbacks=1.0, losses=0.2, ledger=1.0),
    _Theme(callbacks=0.8, limits=1.0, struck=0.4),
    _Theme(limits=1.0, losses=0.5),
    _Theme(persons=1.0, losses=0.9, callbacks=0.1, struck=0.3, ledger=1.0),
    _Theme(losses=0.8, callbacks=0.2, ledger=1.0),
)

_NETWORK = (
    _Theme(network=True, callbacks=0.1, limits=0.1, persons=0.2, struck=0.8, losses=0.2),
    _Theme(network=True, callbacks=0.0, struck=0.5, losses=0.0, ledger=0.5),
    _Theme(network=True, callbacks=0.0, struck=0.9, losses=0.1, ledger=0.0),
    _Theme(network=True),
)
_ENDS = (
    _Theme(ends=1.0, callbacks=0.2, struck=0.3),
    _Theme(ends=0.8, losses=0.0, callbacks=0.0, struck=0.5),
    _Theme(ends=0.1, leaves=1.0, callbacks=1.0, struck=0.2, losses=0.1, persons=0.1, ledger=0.5),
)


def plan_of(seed: int) -> Plan:
    """The plan that a seed stands for. Every fourth goes over a network, and another one is about ends."""
    rng = random.Random(seed)
    chance, choice, uniform = rng.random, rng.choice, rng.uniform
    theme = choice({0: _NETWORK, 3: _ENDS}.get(seed % 4, _THEMES))
    has_ledger = chance() < theme.ledger
    questions = choice((1, 1, 2, 2, 3))
    likes_callbacks = chance() < theme.callbacks
    limited = chance() < theme.limits
    clients = tuple(
        ClientPlan(
            retry_unknown=choice((0, 0, 0, 0, 1, 2)),
            max_retries=choice((0, 1, 1, 2)),
            reuse_for=uniform(1, 100) if has_ledger and chance() < 0.1 else None,
            deadline=choice((1.0, 5.0, 20.0, 20.0)),
            max_charges=choice((1, 1, 2, 3)) if limited and chance() < 0.5 else None,
            patience=choice((PATIENCE, PATIENCE, 10.0)),
            owns=has_ledger and chance() < 0.3,
            ends_twice=has_ledger and chance() < 0.1,
        )
        for _ in range(choice((1, 2, 2, 2, 3, 4)))
    )
    jobs = [_job(rng, theme, len(clients), questions, has_ledger, likes_callbacks) for _ in range(choice(_JOBS))]
    jobs.sort(key=lambda job: job.at)
    does = tuple(
        (question, turn, _behaviour(rng, theme, likes_callbacks))
        for question in range(questions)
        for turn in range(choice((1, 2, 3, 4)))
    )
    strikes: list[Strike] = []
    while chance() < theme.struck and len(strikes) < 4:
        strikes.append(_strike(rng, len(clients), len(jobs)))
    plan = Plan(
        seed,
        has_ledger,
        choice((1, 1, 2, 3)) if limited and has_ledger and chance() < 0.7 else None,
        chance() < 0.3,
        not has_ledger or chance() < 0.5,
        clients,
        tuple(jobs),
        does,
        tuple(strikes),
    )
    if theme.network:
        return _over_network(plan, rng, questions)
    return _with_ends(plan, rng, theme) if theme.ends else plan


def _with_ends(plan: Plan, rng: random.Random, theme: _Theme) -> Plan:
    chance, choice = rng.random, rng.choice
    strikes, clients = [*plan.strikes], plan.clients
    while chance() < theme.ends * 0.6 and len(strikes) < 6:
        at = int(rng.expovariate(1 / 2))
        kind, target = choice(_CLOSES), rng.randrange(len(clients))
        strikes.append(Strike(at, rng.randrange(9), kind, target, rng.randrange(12), choice(_MOMENTS)))
    if chance() < theme.leaves:
        clients = tuple(dataclasses.replace(each, max_charges=choice((1, 2, 3)), owns=False) for each in clients)
        for place, job in enumerate(plan.jobs):
            if job.kind in ("wait", "batch") and chance() < 0.7:
                moment = choice(("a request is answered", "an answer is there", "the store's answer is there"))
                at = int(rng.expovariate(1 / 2))
                strikes.append(Strike(at, rng.randrange(20), choice(("cancel", "stop")), place, 0.0, moment))
    return dataclasses.replace(plan, clients=clients, strikes=tuple(strikes), behaviours={})


def _over_network(plan: Plan, rng: random.Random, questions: int) -> Plan:
    chance, choice = rng.random, rng.choice

    is_busy = chance() < 0.4  # many answers to pictures, one after the other, on one connection
    jobs, does = plan.jobs, plan.does
    if is_busy:
        jobs = tuple(
            dataclasses.replace(job, asks=job.asks * 3, dedupe=False, concurrency=1) if job.kind == "batch" else job
            for job in jobs
        )
        does = tuple((question, turn + 3 * more, behaviour) for question, turn, behaviour in does for more in range(3))

    def treated(behaviour: Behaviour) -> Behaviour:
        manner = choice(_KEPT if is_busy and chance() < 0.7 else MANNERS)
        slow = rng.uniform(0, 0.1) if manner == "early" or chance() < 0.3 else 0.0
        kind = "ok" if is_busy and chance() < 0.8 else "half-written" if slow and chance() < 0.2 else behaviour.kind
        return behaviour._replace(kind=kind, slow=slow, manner=manner)

    return dataclasses.replace(
        plan,
        over_network=True,
        pictures=tuple(choice(("facecompare", "searchface", *([] if is_busy else ["", ""]))) for _ in range(questions)),
        clients=tuple(
            dataclasses.replace(each, connections=1 if is_busy else choice((1, 2, 3))) for each in plan.clients
        ),
        jobs=jobs,
        does=tuple((question, turn, treated(behaviour)) for question, turn, behaviour in does),
        behaviours={},
    )


_JOBS = (1, 2, 2, 3, 3, 4, 5)


def _job(
    rng: random.Random, theme: _Theme, clients: int, questions: int, has_ledger: bool, likes_callbacks: bool
) -> Job:
    chance, choice = rng.random, rng.choice
    at = choice((0.0, 0.0, 0.0, rng.uniform(0, 1), rng.uniform(0, 5), rng.uniform(0, 60), rng.uniform(0, 200)))
    client = rng.randrange(clients)
    one = rng.randrange(questions)
    if chance() < 0.06:
        return Job(client, at, "close")
    if has_ledger and chance() < theme.persons * 0.5:
        if chance() < 0.3:
            return Job(client, rng.uniform(0, 100), "purge", older=choice((0.0, 1.0, rng.uniform(0, 60))))
        return Job(client, rng.uniform(20, 150), "resolve", (one,), charged=chance() < 0.5)
    kind = choice(("send", "send", "batch", "batch", "batch", *(("wait", "wait") if likes_callbacks else ())))
    if kind != "batch":
        return Job(client, at, kind, (one,))
    return Job(
        client,
        at,
        kind,
        tuple(rng.randrange(questions) for _ in range(choice((1, 2, 2, 3, 3, 4)))),
        concurrency=choice((1, 2, 3)),
        dedupe=chance() < 0.7,
        ordered=chance() < 0.3,
        inbox=likes_callbacks and chance() < 0.7,
        leave_after=rng.randrange(3) if chance() < 0.2 else None,
        drain=choice((0.0, 0.05, 0.05, 1.0)),
        recheck=chance() < 0.2,
        max_charges=choice((1, 2)) if chance() < theme.limits * 0.3 else None,
    )


def _behaviour(rng: random.Random, theme: _Theme, likes_callbacks: bool) -> Behaviour:
    chance, choice, uniform = rng.random, rng.choice, rng.uniform
    callbacks: list[tuple[float, str]] = []
    kind = choice(_LOSSES if chance() < theme.losses else _KINDS)
    if likes_callbacks and chance() < 0.7:
        kind = choice(_CALLED_BACK)  # who is told to come later, or to go, is not called back
        word = choice(("yes", "yes", "no"))
        after = choice((0.0, uniform(-0.1, 0.3), uniform(0, 40), uniform(0, 40), uniform(25, 45), uniform(0, 150)))
        callbacks.append((after, word))
        if chance() < 0.3:  # once more, or something else
            callbacks.append((after + choice((0.0, 0.001, uniform(0, 40))), choice((word, word, "no", "checking"))))
        if chance() < 0.2:
            callbacks = []
    answer = choice((0.0, uniform(0, 0.2), uniform(0, 0.2), uniform(0, 3), uniform(0, 30)))
    return Behaviour(kind, uniform(0, 0.02), uniform(0, 0.05), answer, tuple(callbacks))


_STRIKES = (
    *("cancel",) * 6,
    *("cancel twice", "crash", "crash", "crash", "crash in the store", "crash in the store"),
    *("disk", "disk", "disk", "locked", "stop", "stop", "close", "close", "jump", "unseen", "late"),
)
_CLOSES = ("close", "close the client", "close, cancelled", "close, cancelled")
_MOMENTS = (
    *("a request begins", "a request left", "a request is there", "a request is answered", "an answer is there") * 2,
    *("the store is asked", "the store has answered", "the store's answer is there"),
    *("a callback is made", "a callback is made", "a callback is taken", "an outcome is taken"),
)


def _strike(rng: random.Random, clients: int, jobs: int) -> Strike:
    kind = rng.choice(_STRIKES)
    target = rng.randrange(jobs if kind in ("cancel", "cancel twice", "stop") else clients)
    amount = 0.0
    if kind == "jump":
        amount = rng.choice((-3600.0, -10.0, 10.0, 40.0, 4000.0, 90_000.0))
    elif kind == "crash in the store":
        amount = rng.randrange(30)
    elif kind in ("disk", "locked"):
        amount = rng.choice((1, 1, 2, 5, 50)) + rng.randrange(20) / 100  # how often, after so many statements
    elif kind == "late":
        amount = rng.uniform(0, 0.5)
    moment = "" if rng.random() < 0.4 else rng.choice(_MOMENTS)
    at = int(rng.expovariate(1 / 2 if moment else 1 / 25))
    return Strike(at, rng.choice((0, 0, 1, 2, 3, 5, 8, 13)), kind, target, amount, moment)
