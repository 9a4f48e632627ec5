"""Wrong edits of the shared ledger, each with the test that has to fail under it.

`python -m tests.simulate.planted_shared` makes a copy of the package with each of them, and runs its test on that, its
child processes too. A part of it is in the suite, and all of it in the long tests.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from tests.support import LAST_RESORT

from . import planted
from .planted import PACKAGE, ROOT


class Plant(NamedTuple):
    """A wrong edit of `file`, and the test that fails under it."""

    file: str
    edit: Callable[[str], str]
    test: str


def _replaced(source: str, edits: tuple[tuple[str, str], ...]) -> str:
    for old, new in edits:
        if source.count(old) != 1:
            raise ValueError(f"there is {source.count(old)} times: {old}")
        source = source.replace(old, new)
    return source


def _py(file: str, test: str, *edits: tuple[str, str]) -> Plant:
    return Plant(f"{file}.py", lambda source: _replaced(source, edits), test)


def _sql(part: str, test: str, *edits: tuple[str, str]) -> Plant:
    """Edits within one function or table."""

    def edit(source: str) -> str:
        start = min(source.find(f"CREATE {kind} ledger.{part}") % (len(source) + 1) for kind in ("FUNCTION", "TABLE"))
        end = source.find("\nCREATE ", start + 1) % (len(source) + 1)
        return source[:start] + _replaced(source[start:end], edits) + source[end:]

    return Plant("ledger/postgres.sql", edit, test)


def _looking_first(source: str) -> str:
    """What is between the marks <look> before what is between the marks <intents>."""
    intents, look = (
        source[source.index(f"  -- <{name}>\n") : source.index(f"  -- </{name}>\n")] for name in ("intents", "look")
    )
    return source.replace(look, "").replace(intents, look + intents)


_SHARED, _LIMIT, _LEASES = "test_ledger_shared.py::test_", "test_ledger_limit.py::test_", "test_ledger_leases.py::test_"
_HOLDS, _CALLBACKS, _ATTEMPTS = (f"test_ledger_{name}.py::test_" for name in ("holds", "callbacks", "attempts"))
_CHECKED = ("current_setting('transaction_isolation') <> 'read committed'", "false")
_SYNCED = ("PERFORM set_config('synchronous_commit', 'on', true);", "NULL;")
_KINDS = _LEASES + "no_operation_works_in_a_transaction_of_another_kind"
_DEAD = _LIMIT + "what_is_left_by_the_dead_is_given_back"
_LATE = _SHARED + "a_late_answer_replaces_unknown_once"
_REFUSED = _LIMIT + "the_database_itself_refuses_an_overspend_and_keeps_what_ended"
_OVER = _SHARED + "what_must_be_over_may_be_sent_again"
_WIRE = _LEASES + "a_lease_that_ends_on_the_way_to_the_wire"
_ROOM = _LEASES + "who_wants_leave_waits_for_who_changes_what_there_is"

PLANTS: dict[str, Plant] = {
    # Two ask at once.
    "the look comes before the intent": Plant(
        "ledger/postgres.sql", _looking_first, _SHARED + "four_processes_over_one_list_pay_once"
    ),
    "a group works in any kind of transaction": _sql(
        "exchange", _SHARED + "a_role_whose_transactions_are_of_another_kind", _CHECKED
    ),
    "a callback works in any kind of transaction": _sql("deliver", _KINDS, _CHECKED),
    "who settles works in any kind of transaction": _sql("resolve", _KINDS, _CHECKED),
    "the transactions of a role are left as they are": _py(
        "ledger/server",
        _SHARED + "a_role_whose_transactions_are_of_another_kind",
        ('if isolation != "read committed":', "if False:"),
    ),
    "a group is synced as the role says": _sql(
        "exchange", _SHARED + "a_role_whose_transactions_are_of_another_kind", _SYNCED
    ),
    "a callback is synced as the role says": _sql("deliver", _KINDS, _SYNCED),
    "what is settled is synced as the role says": _sql("resolve", _KINDS, _SYNCED),
    "one unknown attempt too many is passed": _sql(
        "exchange",
        _HOLDS + "a_question_is_held_by_each_of_its_attempts",
        ("holding <= (e->>7)::int AS", "holding <= (e->>7)::int + 1 AS"),
    ),
    "a free attempt lifts the hold": _sql(
        "exchange",
        _HOLDS + "a_question_is_held_by_each_of_its_attempts",
        ("AS q(e) WHERE (e->>14)::boolean) q", "AS q(e)) q"),
    ),
    "a purge takes the hold, too": _py(
        "ledger/shared", _LEASES + "a_purge_leaves_what_is_held", ("AND holds <> 1 AS is_old", "AS is_old")
    ),
    # Who is alive.
    "who is alive is buried": _sql(
        "bury",
        _SHARED + "who_renews_is_not_buried",
        (" AND (p_leaves OR expires_at < clock_timestamp())", ""),
    ),
    "the expiry is looked at before the row is locked": _sql(
        "bury",
        _LEASES + "who_renews_while_it_is_being_buried_lives",
        (
            "BEGIN\n",
            "BEGIN\n  PERFORM FROM ledger.owners WHERE id = p_owner AND (p_leaves OR expires_at < "
            "clock_timestamp());\n  IF NOT FOUND THEN RETURN false; END IF;\n",
        ),
        (" AND (p_leaves OR expires_at < clock_timestamp()) RETURNING", " RETURNING"),
    ),
    "the dead are found by nobody who asks": _sql(
        "exchange", _LATE, ("h.ended OR h.expires_at < clock_timestamp()", "h.ended")
    ),
    "the dead are not buried by who opens": _py("ledger/shared", _DEAD, ("            self._do(self._tidy)\n", "")),
    "what the dead had under way was not sent": _sql(
        "bury", _DEAD, ("ELSE 'unknown' END::ledger.state AS", "ELSE 'not sent' END::ledger.state AS")
    ),
    "what the dead had under way holds nothing": _sql(
        "bury", _DEAD, ("WHEN identity IS NULL THEN 2 ELSE 1 END", "ELSE 2 END")
    ),
    "what the dead had under way is over at once": _sql(
        "bury", _OVER, ("CASE WHEN NOT p_leaves AND state = 'unknown' THEN over_at END", "NULL")
    ),
    "a deadline is no reason to wait with retry_unknown": _sql(
        "exchange", _OVER, ("OR NOT passes OR is_sent", "OR NOT passes")
    ),
    "what may still be sent is settled as free": _sql(
        "resolve",
        _SHARED + "a_process_that_was_stopped_finds_out_and_goes_on",
        ("IF p_state = 'free' AND a.over_at > clock_timestamp() THEN", "IF false THEN"),
    ),
    "a group renews no lease": _sql(
        "exchange",
        _SHARED + "who_renews_is_not_buried",
        (
            "used_cost = w.used_cost,\n      expires_at = clock_timestamp() + make_interval(secs => p_lease)",
            "used_cost = w.used_cost",
        ),
    ),
    "a group that is refused renews no lease": _sql(
        "exchange",
        _LEASES + "a_group_that_is_refused_by_the_database_renews_too",
        (
            "used_cost = used_cost + v_cost,\n      expires_at = clock_timestamp() + make_interval(secs => p_lease)",
            "used_cost = used_cost + v_cost",
        ),
    ),
    "the timer renews no lease": _py(
        "ledger/postgres",
        _SHARED + "the_lease_is_renewed_while_nothing_is_asked",
        ("            book.renew()\n", "            pass\n"),
    ),
    "who is asked all the time renews no lease": _py(
        "ledger/postgres",
        _LEASES + "the_lease_is_renewed_while_it_is_asked_all_the_time",
        ("if clock.continuous() >= book.renews_at:", "if False:"),
    ),
    "who waits for the dead waits for ever": _py(
        "ledger/shared",
        _LEASES + "who_waits_for_somebody_who_dies_is_told",
        (" AND NOT h.ended AND h.expires_at >= clock_timestamp()", ""),
    ),
    "a lease counts from the answer": _py(
        "ledger/shared",
        _LEASES + "a_lease_counts_from_before_the_group_was_sent",
        ("self.lease.until = sent + terms.lease", "self.lease.until = clock.continuous() + terms.lease"),
    ),
    "the lease of a new owner counts from the answer": _py(
        "ledger/shared",
        _LEASES + "a_lease_counts_from_before_the_group_was_sent",
        ("self.lease.until = sent + self._terms.lease", "self.lease.until = clock.continuous() + self._terms.lease"),
    ),
    "the leave of the owner before goes on": _py(
        "ledger/shared",
        _LEASES + "a_new_owner_has_nothing_of_the_one_before",
        ("        self.lease = Lease()\n        sent =", "        sent ="),
        ("        self.lease.until = 0.0\n        self._terms.share.part,", "        self._terms.share.part,"),
    ),
    "who is fenced off begins": _sql(
        "exchange",
        _LEASES + "a_new_owner_has_nothing_of_the_one_before",
        ("IF is_fenced THEN begins := 0; END IF;", ""),
        (" AND NOT is_fenced THEN", " THEN"),
    ),
    "the first byte leaves without a look at the lease": _py(
        "sending/call",
        _SHARED + "who_was_taken_for_dead_sends_nothing_that_it_had_leave_for",
        ("None if lease is None else lease.is_good", "None"),
    ),
    "the pool does not look at the lease": _py(
        "wire/transport", _WIRE, ("if self.may_leave is not None and not self.may_leave():", "if False:")
    ),
    "httpx's own transport does not look at the lease": _py(
        "wire/exchange",
        _WIRE,
        ("            if flight.may_leave is not None and not flight.may_leave():", "            if False:"),
    ),
    "an attempt may go on for ever": _py(
        "ledger/postgres",
        _SHARED + "an_attempt_needs_a_deadline",
        ("if ask.within is None:", "if False:"),
    ),
    # What came of it.
    "a late answer does not replace unknown": _sql(
        "amend", _LATE, ("IF a.reply IS NOT NULL THEN RETURN", "IF true THEN RETURN")
    ),
    "a late answer replaces an answer": _sql(
        "amend", _LEASES + "the_first_answer_counts", ("IF a.reply IS NOT NULL THEN RETURN", "IF false THEN RETURN")
    ),
    "a late answer is counted beside what was unknown": _sql("amend", _LATE, ("ledger.tell(p_owner, a, -1), ", "")),
    "what a late answer costs is not given back": _sql(
        "amend", _LATE, ("- ledger.stake(a.state, a.may_charge);", "- ledger.stake(z.state, z.may_charge);")
    ),
    "a callback leaves the request its charge": _sql(
        "deliver",
        _CALLBACKS + "the_callback_came_first_and_the_request_ends_somehow",
        ("UPDATE ledger.intents SET may_charge = false WHERE", "UPDATE ledger.intents SET may_charge = true WHERE"),
    ),
    "a callback leaves the hold": _sql(
        "deliver",
        _LEASES + "an_answer_by_callback_lifts_every_hold",
        ("SET holds = 2 WHERE identity = x.identity", "SET holds = 1 WHERE identity = x.identity"),
    ),
    "nothing is set aside for a callback": _sql(
        "settle",
        _CALLBACKS + "a_charge_that_was_lent_and_not_used_is_the_callbacks_again",
        ("NOT x.reserved AND (t->>17)::boolean THEN", "NOT x.reserved AND false THEN"),
    ),
    # What may be spent.
    "the database refuses no overspend": _sql("book", _REFUSED, ("CHECK (granted <= cap)", "CHECK (true)")),
    "the database refuses no use beyond the leave": _sql(
        "owners",
        _LEASES + "the_database_itself_refuses_what_is_beyond_the_leave",
        ("CHECK (used <= granted AND used_cost <= granted_cost)", "CHECK (true)"),
    ),
    "what the database refuses takes the ends with it": _sql(
        "exchange", _REFUSED, ("EXCEPTION WHEN check_violation", "EXCEPTION WHEN division_by_zero")
    ),
    "leave is handed out without a lock": _sql("borrow", _ROOM, ("FROM ledger.book FOR UPDATE;", "FROM ledger.book;")),
    "one charge more than there is": _sql(
        "borrow", _REFUSED.replace(_REFUSED, _LIMIT + "budget_equal_to_the_need"), ("- b.granted;", "- b.granted + 1;")
    ),
    "leave that is not used stays where it is": _sql(
        "borrow",
        _LIMIT + "leave_is_handed_out_in_blocks_and_taken_back_where_it_is_needed",
        ("v_take := least(h.idle, greatest(p_short - room, 0));", "v_take := 0;"),
    ),
    "the budget is used up while others have leave": _sql(
        "borrow",
        _LIMIT + "the_budget_is_used_up_only_when_nobody_has_leave_that_is_not_used",
        ("waits := (room", "waits := false AND (room"),
    ),
    "the dead keep what they have not spent": _sql("bury", _DEAD, ("w.used - w.granted - v_charges", "-v_charges")),
    "that the budget is used up is remembered for good": _py(
        "ledger/shared",
        _LEASES + "that_the_budget_is_used_up_is_remembered_for_a_second",
        ("_REMEMBER = 1.0", "_REMEMBER = 1e9"),
    ),
    # A server that goes away.
    "begins that nobody was told of stay under way": _py(
        "ledger/shared",
        _SHARED + "what_was_lent_to_a_begin_that_nobody_was_told_of_is_given_back",
        ("(db)\n            self._end_strays(db)\n", "(db)\n"),
    ),
    "begins that are under way are ended with those that nobody was told of": _py(
        "ledger/shared",
        _LEASES + "what_is_under_way_stays_so_where_the_connection_is_lost",
        (
            'owner = %s AND id <> ALL (%s::bigint[])"""\n        rows',
            'owner = %s AND %s::bigint[] IS NOT NULL"""\n        rows',
        ),
    ),
    "what was lent to a begin that nobody was told of is gone": _py(
        "ledger/shared",
        _SHARED + "what_was_lent_to_a_begin_that_nobody_was_told_of_is_given_back",
        ("False, 0, borrows),", "False, 0, False),"),
    ),
    "an end that did not reach the server is not recorded with the next": _py(
        "ledger/postgres",
        _LEASES + "an_end_that_did_not_reach_the_server_is_recorded_with_the_next",
        ("self._unrecorded[end[0].id] = end", "pass"),
    ),
    "a server that is away is waited for by nobody": _py(
        "ledger/shared",
        _LEASES + "a_server_that_is_away_for_a_moment_is_waited_for",
        ("if clock.continuous() >= self._lost_at + self._terms.patience:", "if True:"),
    ),
    "a server that forgot is taken for the same": _py(
        "ledger/shared", _SHARED + "a_server_that_lost_its_memory_is_refused", (" or not wanted <= {0, *row[1]}", "")
    ),
    "a server that forgot no more than an end is taken for the same": _py(
        "ledger/shared",
        _SHARED + "a_server_that_lost_its_memory_is_refused",
        ("                self._last_ended = started.id\n", ""),
    ),
    "what a server records after its connection was lost is in the way for good": _py(
        "ledger/shared",
        _SHARED + "a_server_that_goes_on_after_its_connection_was_lost",
        ("if not mine <= self._known.keys():", "if False:"),
    ),
    "what a server records too late for who asked is in the way of others": _py(
        "ledger/shared",
        _SHARED + "what_a_server_records_too_late_for_who_asked",
        ("            if is_stray:\n                self._end_strays(db)\n", "            if is_stray:\n"),
    ),
    "who leaves holds what a server recorded too late": _py(
        "ledger/shared",
        _SHARED + "what_a_server_records_too_late_for_who_asked",
        ("  # nothing more is sent\n        self._do(self._end_strays)\n", "  # nothing more is sent\n"),
    ),
}

SIMULATED = (
    "a deadline is no reason to wait with retry_unknown",
    "what the dead had under way is over at once",
    "the first byte leaves without a look at the lease",
    "one unknown attempt too many is passed",
    "a free attempt lifts the hold",
    "the dead are not buried by who opens",
    "what the dead had under way was not sent",
    "what the dead had under way holds nothing",
    "the dead keep what they have not spent",
    "who is fenced off begins",
)
"""Those that simulations find, too: where one transaction is wrong. What two do at once has its own tests."""


def check(plant: Plant) -> str:
    """The source with the wrong edit. Raises ValueError where it can no longer be made."""
    source = (ROOT / plant.file).read_text(encoding="utf-8")
    edited = plant.edit(source)
    if edited == source:
        raise ValueError(f"{plant.file} is as it was")
    return edited


def plant(name: str) -> None:
    """From now on, the package has the wrong edit: for simulations over a server (`tests.simulate --store`)."""
    found = PLANTS[name]
    if found.file.endswith(".sql"):
        text = check(found)
        from aisolution_async.ledger import server

        server.definition = lambda: text
    else:
        planted.plant_source(found.file, check(found))


def is_found(name: str) -> tuple[bool, str]:
    """Whether the test fails on a copy with the wrong edit, and what it says."""
    plant = PLANTS[name]
    with tempfile.TemporaryDirectory(prefix="aisolution-planted-") as folder:
        copy = Path(folder)
        for each in (PACKAGE, "tests"):
            shutil.copytree(ROOT.parent / each, copy / each, ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copy(ROOT.parent / "pyproject.toml", copy)
        (copy / PACKAGE / plant.file).write_text(check(plant), encoding="utf-8")
        try:
            run = subprocess.run(
                [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", f"tests/{plant.test}"],
                cwd=copy,
                env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
                capture_output=True,
                text=True,
                check=False,
                timeout=LAST_RESORT,
            )
        except subprocess.TimeoutExpired:
            return True, "it does not come to an end"
    if run.returncode and "1 failed" not in run.stdout:
        raise RuntimeError(run.stdout + run.stderr)
    said = [line for line in run.stdout.splitlines() if line.startswith(("E ", "FAILED"))]
    return run.returncode == 1, said[0].removeprefix("E").strip() if said else ""


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.simulate.planted_shared", description=__doc__)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--simulate", type=int, metavar="SEEDS", help="run so many simulations, and not its test")
    parser.add_argument("names", nargs="*")
    options = parser.parse_args()
    names = options.names or [*PLANTS]
    missed, start = 0, time.time()

    def find(name: str) -> tuple[bool, str]:
        if options.simulate is None:
            return is_found(name)
        seeds, said = planted.seeds_until_found(name, options.simulate, "postgresql")
        return seeds is not None, f"{seeds}: {said}" if seeds else ""

    with ThreadPoolExecutor(options.jobs) as pool:
        for name, (found, said) in zip(names, pool.map(find, names), strict=True):
            missed += not found
            print(f"{'found' if found else 'MISSED'}  {name}  ({said[:90]})", flush=True)
    print(f"{len(names) - missed} of {len(names)} found, {time.time() - start:.0f} s")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
