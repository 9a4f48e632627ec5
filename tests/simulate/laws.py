"""What has to hold, by the vendor's bill: while the plan is carried out, and when all is over."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import TYPE_CHECKING, Any

from aisolution_async import Attempt, Charge, FaceMatches
from aisolution_async.echo import Seen
from aisolution_async.outcome import Outcome

from .vendor import ANSWERED, CHECKING, FLYING, UNKNOWN, Request

if TYPE_CHECKING:
    from .world import Process, World

CHARGED, FREE = Charge.CHARGED, Charge.FREE


class BrokenError(AssertionError):
    """A law does not hold."""


class Laws:
    """Sees all that a user can see, and holds it against the bill."""

    def __init__(self, world: World) -> None:
        self.broken: list[str] = []
        self._world = world
        self._attempts: dict[tuple[int, str], list[tuple[int, Attempt]]] = {}  # by process and key: question, attempt
        self._outcomes: dict[tuple[int, str], Outcome] = {}
        self._purged: list[float] = []  # when

    def hold(self, condition: object, text: str) -> None:
        """`text` says what is broken, if `condition` does not hold."""
        if not condition:
            self.broken.append(text)
            self._world.note(f"BROKEN: {text}")

    # ------------------------------------------------------------------------------------------ what is seen

    def attempt(self, process: Process, question: int, key: str, attempt: Attempt) -> None:
        """An attempt was counted."""
        if process.is_dead:
            return
        self._attempts.setdefault((process.number, key), []).append((question, attempt))
        how = "by callback" if attempt.http_status is None and attempt.status else attempt.error or attempt.status
        self._world.note(f"{process.name} counts {key}: {attempt.charge} ({how})")
        task = asyncio.current_task()
        is_cut_off = task is not None and task.cancelling() > 0
        self.hold(
            attempt.recorded is not False or process.has_failed or is_cut_off,
            f"{key}: an attempt is not recorded, and the ledger of {process.name} never failed",
        )
        most = process.plan.most
        if most is not None:
            tally = process.client.tally
            within = tally.charged <= most + self.late(process)
            self.hold(within, f"{process.name} spent over its limit in memory: {tally}")

    def closed(self, process: Process) -> None:
        """Its client and its ledger are closed: nothing of it is under way any more."""
        book = None if process.ledger is None else process.ledger.book
        if book is not None and not (process.has_failed or process.is_dead):
            left = self._world.shelf.rows("SELECT key FROM intents WHERE owner = ?", book.owner)
            self.hold(not left, f"{process.name} is closed, and has under way: {left}")

    def callbacks_counted(self, question: int, process: Process) -> int:
        """How many attempts at a question were counted for a callback that came to a process."""
        mine = (found for (number, _), found in self._attempts.items() if number == process.number)
        return sum(q == question and _is_by_callback(a) for found in mine for q, a in found)

    def outcome(self, process: Process, question: int, outcome: Outcome) -> None:
        """A call has its outcome."""
        if process.is_dead:
            return
        place = (process.number, str(outcome.key))
        self._world.note(
            f"{process.name} has {outcome.key}: {outcome.charge} {type(outcome.error or outcome.reply).__name__}"
            f" {'from the ledger' if outcome.from_ledger else ''}"
        )
        self.hold(place not in self._outcomes, f"{outcome.key} has two outcomes")
        self._outcomes[place] = outcome
        if outcome.reply is not None:
            self._is_own(question, outcome.reply)
            self._is_recorded(outcome)

    def batch(self, process: Process, place: int, asks: tuple[int, ...]) -> None:
        """A batch in which the same is asked once is over."""
        most = 1 + process.plan.retry_unknown
        for question in {*asks}:
            found = [
                attempt
                for (number, key), attempts in self._attempts.items()
                if number == process.number and key.startswith(f"q{question}.{place}.")
                for _, attempt in attempts
                if attempt.charge is not FREE and not _is_by_callback(attempt)
            ]
            self.hold(len(found) <= most, f"job {place} asked q{question}, which it may ask {most} times: {found}")

    def purged(self) -> None:
        """A person purges what is older: whoever asks for it then pays again."""
        self._purged.append(self._world.loop.time())
        requests = self._world.vendor.requests
        for question in {each.question for each in requests}:
            self._lift(self._world.vendor.of(question))
        for each in requests:
            each.is_lifted = each.is_lifted or each.view == ANSWERED

    def _is_own(self, question: int, reply: Any) -> None:
        told = _token(reply)
        if told is None:
            return
        found = [each for each in self._world.vendor.requests if each.token == told]
        self.hold(found and found[0].question == question, f"an answer to another question was given to q{question}")

    def _is_recorded(self, outcome: Outcome) -> None:
        """What an attempt says that is recorded, is: the last that is charged, whose answer this is."""
        told = _token(outcome.reply)
        says = [each for each in outcome.attempts if each.charge is CHARGED][-1:]
        says = [each for each in says if each.recorded]
        if told and says and not self._purged and self._world.plan.has_ledger:
            self.hold(told in self._replies(), f"{outcome.key} says that it is recorded, and it is not")

    # ---------------------------------------------------------------------------------- a request is leaving

    def departure(self, request: Request) -> None:
        """May it? By what is true of the requests before it, whatever the ledger says."""
        world = self._world
        process = request.process
        if not world.plan.has_ledger:
            return
        claims = "SELECT 1 FROM intents"
        if process.is_unseen:  # others took it for dead, and hold what it had under way
            claims += " UNION ALL SELECT 1 FROM attempts WHERE state = 'unknown'"
        if world.shelf.rows(f"{claims} LIMIT 1") == []:
            self.hold(False, f"{request} leaves without an intent in the ledger")
        earlier = [each for each in world.vendor.of(request.question) if each is not request]
        self._lift(earlier)
        flying = [each for each in earlier if each.view == FLYING and not each.process.is_unseen]
        self.hold(not flying, f"{request} leaves while the same is under way: {flying}")
        allowed = process.plan.retry_unknown
        holding = [
            each
            for each in earlier
            if (each.view in (UNKNOWN, ANSWERED, FLYING))
            and not (each.is_lifted or each.is_resolved_free or _is_shown_wrong(each))
        ]
        if request.callback is not None and not self._purged and not world.has_jumped:
            soon = min(client.patience for client in world.plan.clients) - 1
            due = [
                each
                for each in earlier
                if each.callback
                and each.view == CHECKING
                and not each.is_lifted
                and not each.is_counted_as_callback
                and world.loop.time() - each.left_at < soon
            ]
            self.hold(not due, f"{request} asks for a callback, and {due} is outstanding")
        if not world.has_jumped:
            self.hold(len(holding) <= allowed, f"{request} leaves past {holding}, and may pass {allowed}")
        # What is called back while the request is on its way, or waits for a connection, comes too late for it.
        fresh = request.begun_at - 1.0
        answered = [each for each in earlier if self._stands(each, process) and each.called_back_at < fresh]
        self.hold(not answered, f"{request} leaves, and {answered} is in the ledger")

    def _lift(self, earlier: list[Request]) -> None:
        """What an answer that is in the ledger lifts."""
        told = self._replies()
        for each in earlier:
            if each.token in told:
                for before in earlier:
                    if before.number <= each.number or each.view != ANSWERED:
                        before.is_lifted = True

    def _replies(self) -> str:
        return self._world.shelf.replies()

    def _stands(self, request: Request, process: Process) -> bool:
        """Whether its answer is in the ledger, and young enough."""
        if request.token not in self._replies():
            return False
        reuse_for = process.plan.reuse_for
        if reuse_for is None:
            return True
        age = self._world.today() - request.answered_at
        return not self._world.has_jumped and request.view == ANSWERED and age < reuse_for - 5

    # --------------------------------------------------------------------------------------- all is over

    def end(self) -> None:
        """The last look at all of it."""
        world = self._world
        for problem in world.loop.problems:
            self.hold("LedgerError: dead" in problem, problem)
        for text in world.errors:
            self.hold("unforeseen" not in text and "in the client" not in text, text)
        for process in world.processes:
            self._of_process(process)
        for question in sorted({each.question for each in world.vendor.requests}):
            self._of_tallies(question)
            if world.plan.has_ledger:
                self._of_ledger(question)
        if world.plan.has_ledger:
            self.hold(world.shelf.is_sound(), "the ledger's counts are not what its rows say")
            self.hold(not world.shelf.rows("SELECT 1 FROM intents"), "something is under way, and nobody is there")
            self._of_limit()
        self._of_answers()

    def _of_process(self, process: Process) -> None:
        if process.is_dead:
            return
        tally = process.client.tally
        attempts = [
            attempt for (number, _), found in self._attempts.items() if number == process.number for _, attempt in found
        ]
        counted = Counter(attempt.charge for attempt in attempts)
        same = (counted[CHARGED], counted[FREE], counted[Charge.UNKNOWN]) == (tally.charged, tally.free, tally.unknown)
        self.hold(same, f"{process.name} told of {counted}, and has {tally}")
        most = process.plan.most
        if most is not None:
            mine = [each for each in self._world.vendor.requests if each.process is process]
            # What another process was told, and this one never, counts there, and in the ledger.
            told = [each for each in mine if process in each.takers or not (each.is_billed_by_callback and each.takers)]
            billed = sum(each.is_billed and not self._is_excused(each) for each in told)
            self.hold(billed <= most, f"{process.name} is billed {billed}, over its limit of {most} in memory")
            (budget,) = process.client.options.budgets
            spent = budget._charges
            # A lost attempt and the callback that answers it are one charge.
            one = min(tally.unknown, sum(map(_is_by_callback, attempts)))
            least, sum_ = tally.charged + tally.unknown - one, tally.charged + tally.unknown
            sum_ += self._told_besides(process)
            sum_ += sum(each.is_counted_elsewhere for each in mine)
            self.hold(least <= spent <= sum_, f"{process.name} keeps {spent} of its limit for {tally}")
            known = [each for each in mine if not each.is_billed_by_callback or each.called_back is process]
            due = sum(each.is_billed and not self._is_excused(each) for each in known)
            self.hold(due <= spent, f"{process.name} has spent {spent} of its limit in memory, and is billed {due}")
            within = spent <= most + self.late(process)
            self.hold(within, f"{process.name} has spent {spent} of its limit of {most} in memory")
        for (number, key), outcome in self._outcomes.items():
            if number == process.number:
                self._of_outcome(process, key, outcome)

    def _told_besides(self, process: Process) -> int:
        """How many callbacks a process may have paid for that no call of it counts.

        Where two requests for a number named a callback, a repeat of the one cannot be told from the other's.
        """
        told = [each for each in self._world.vendor.requests if process in each.takers]
        sum_ = 0
        for question in {each.question for each in told}:
            of_it = [each for each in told if each.question == question]
            counted = sum(each.is_counted_as_callback for each in of_it)
            calls = sum(each.takers.count(process) for each in of_it) - counted
            asked = [
                each
                for each in self._world.vendor.of(question)
                if each.process is process and each.callback and not each.is_counted_as_callback
            ]
            sum_ += max(len(of_it) - counted, min(calls, len(asked)))
        return sum_

    def _of_outcome(self, process: Process, key: str, outcome: Outcome) -> None:
        attempts = [each for each in outcome.attempts if not _is_by_callback(each)]
        lost = [each for each in attempts[:-1] if each.charge is Charge.UNKNOWN]
        allowed = process.plan.retry_unknown
        self.hold(len(lost) <= allowed, f"{key} went on after {len(lost)} unknown attempts, and may {allowed}")
        charged = [each for each in attempts[:-1] if each.charge is CHARGED]
        self.hold(not charged, f"{key} went on after it was charged")

    def _of_tallies(self, question: int) -> None:
        world = self._world
        requests = world.vendor.of(question)
        charged, unknown = self._count(question)
        billed = sum(each.is_billed for each in requests)
        # Two processes may each count what the vendor told both: the ledger counts it once.
        twice = sum(each.is_counted_elsewhere for each in requests)
        twice += self._mistaken(question)
        self.hold(charged - twice <= billed, f"q{question}: {charged} charged by the tallies, {billed} on the bill")
        seen = sum(each.is_billed and self._is_seen(each) for each in requests)
        self.hold(seen <= charged + unknown, f"q{question}: {seen} on the bill, {charged} + {unknown} by the tallies")

    def _is_seen(self, request: Request) -> bool:
        """Whether a tally has to have it: its process did not crash, and a call waited for its callback, if it had."""
        if request.is_billed_by_callback:
            # One that is late is taken for a newer request's, whose own charge may go uncounted then, as in the ledger.
            return request.is_counted_as_callback and not self._is_late(request)
        return not request.process.is_dead

    def _mistaken(self, question: int) -> int:
        """How many callbacks to a request that was answered, or called back before, came late, and after its number was
        asked for anew.

        A callback names its number, and no request: nobody can tell it from the one to the newer request.
        """
        requests = self._world.vendor.of(question)
        return sum(
            ((each.view == ANSWERED and not each.is_billed_by_callback) or each.callbacks_made > 1)
            and self._is_late(each)
            and any(each.left_at < other.left_at < each.called_back_at for other in requests if other.callback)
            for each in requests
        )

    def _count(self, question: int) -> tuple[int, int]:
        found = Counter(a.charge for each in self._attempts.values() for q, a in each if q == question)
        return found[CHARGED], found[Charge.UNKNOWN]

    def _of_ledger(self, question: int) -> None:
        world = self._world
        rows = dict(
            world.shelf.rows("SELECT state, count(*) FROM attempts WHERE key LIKE ? GROUP BY state", f'"q{question}.%')
        )
        ((set_aside,),) = world.shelf.rows(
            "SELECT count(*) FROM outstanding WHERE reserved AND key LIKE ?", f'"q{question}.%'
        )
        charged, unknown = rows.get("charged", 0), rows.get("unknown", 0)
        requests = world.vendor.of(question)
        billed = sum(each.is_billed for each in requests)
        known = charged - self._mistaken(question)
        self.hold(known <= billed, f"q{question}: {charged} charged in the ledger, {billed} on the bill")
        due = sum(each.is_billed and not self._is_excused(each) for each in requests)
        most = charged + unknown + set_aside
        self.hold(due <= most, f"q{question}: {due} on the bill, {charged} + {unknown} + {set_aside} in the ledger")
        if not world.errors and not any(process.is_dead for process in world.processes):
            began = [each for each in world.vendor.requests if each.question == question]
            most = len(began) + sum(each.called_back is not None for each in began)
            self.hold(unknown <= most, f"q{question}: {unknown} unknown in the ledger, and {len(began)} were begun")
        if not self._purged and not any(client.reuse_for for client in world.plan.clients):
            allowed = 1 + max(client.retry_unknown for client in world.plan.clients)
            allowed += sum(map(_is_shown_wrong, requests))
            asked_again = sum(each.is_billed_by_callback for each in requests)
            self.hold(
                billed - asked_again <= allowed, f"q{question} is billed {billed} times, and {allowed} is allowed"
            )

    def _is_excused(self, request: Request) -> bool:
        """A callback so late that nobody waits for it any more."""
        return request.is_billed_by_callback and self._is_late(request)

    def late(self, process: Process) -> int:
        """How many charges its limit could not keep it from.

        Callbacks that came to it so late that what was set aside for them was lent to asking again, and those that came
        to it and that another asked for, or may be of an earlier request.
        """
        requests = self._world.vendor.requests
        others = sum(process in each.takers and each.process is not process for each in requests)
        doubtful = sum(
            attempt.charge is Charge.UNKNOWN and _is_by_callback(attempt)
            for (number, _), found in self._attempts.items()
            if number == process.number
            for _, attempt in found
        )
        return others + doubtful + sum(self._is_late(each) for each in requests if each.process is process)

    def _is_late(self, request: Request) -> bool:
        waited = request.called_back_at - request.left_at
        late = request.process.plan.patience - 1
        is_purged = any(request.left_at <= at <= request.called_back_at + 1.0 for at in self._purged)
        return waited >= late or bool(request.called_back_at and (is_purged or self._world.has_jumped))

    def _of_limit(self) -> None:
        world = self._world
        most = world.plan.most
        if most is None:
            return
        stake = world.shelf.stake()
        # What was set aside for a callback that is late was lent to asking again: one that comes then is counted too.
        late = sum(map(self._is_late, world.vendor.requests))
        self.hold(stake <= most + late, f"{stake} charges are at stake in the ledger, and its limit is {most}")
        billed = sum(each.is_billed and not self._is_excused(each) for each in world.vendor.requests)
        self.hold(billed <= most, f"{billed} on the bill, over the ledger's limit of {most}")

    def _of_answers(self) -> None:
        """What was billed and arrived is in the ledger, or was handed out as not recorded."""
        world = self._world
        told = self._replies() if world.plan.has_ledger else ""
        handed: dict[str | None, list[Outcome]] = {}  # also to calls that asked the same
        for outcome in self._outcomes.values():
            handed.setdefault(_token(outcome.reply), []).append(outcome)
        for request in world.vendor.requests:
            if not (request.is_billed and request.view == ANSWERED) or request.process.is_dead:
                continue
            if request.token in told or (world.plan.has_ledger and self._purged):
                continue
            found = handed.get(request.token, [])
            self.hold(found or self._is_answered_otherwise(request), f"the answer to {request} is lost")
            if found and world.plan.has_ledger and not any(outcome.from_ledger for outcome in found):
                flags = {str(outcome.key): {attempt.recorded for attempt in outcome.attempts} for outcome in found}
                self.hold(
                    any(False in each for each in flags.values()) or self._is_answered_otherwise(request),
                    f"the answer to {request} is not in the ledger, and who has it says {flags}",
                )

    def _is_answered_otherwise(self, request: Request) -> bool:
        """A callback answered the question first, or the answer was given to a call that asks the same."""
        return any(
            each.question == request.question and each.is_counted_as_callback for each in self._world.vendor.requests
        )


def _token(reply: Any) -> str | None:
    """What only one of the vendor's answers says."""
    if isinstance(reply, FaceMatches):
        return reply.matches[0].person_id
    return getattr(reply, "signature", None)


def _is_shown_wrong(request: Request) -> bool:
    """Whether nothing is held for it, as it showed that this server answers for other numbers: see `Echo`."""
    return request.view == UNKNOWN and request.process.client._shared.echo.state is Seen.CONVENTION


def _is_by_callback(attempt: Attempt) -> bool:
    return attempt.http_status is None and attempt.status is not None
