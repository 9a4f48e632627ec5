/* One question that costs money, several who ask it, one ledger: may anything be billed that nobody can account for?

   Spin tries every order of the steps, every crash and every answer of the vendor. A step is one transaction, named as
   the code's function is: `begin`, `end`, `deliver` and `resolve` are those of ledger/book.py, and what they are made of
   is `intents_…`, `attempts_…` and `callbacks_…`, as the modules are called. A step is durable once it is done, or was
   never done: that the disk keeps it so is what tests/crash_replay looks at.

   What the vendor is taken to do: a request is billed, or is refused for nothing. A look-up whose answer comes by
   callback is billed as that is delivered, once; asked again because it is late, both are billed, over a limit if need
   be; and once the question is answered, or asked anew with a callback, an earlier callback costs nothing. Who asks
   without a callback while one is to come, asks anew.

   -DCALLERS=2   a caller less (the first); -DCALLS_BACK=0: the last one asks for no callback; -DCRASHES, -DBUDGET
   -DSHARED=1    many machines: nobody sees who is alive, leases run out, and `begin` is two statements
   A wrong edit, each of which must be found:
     LOOK_FIRST       (shared) the question is looked up before the intent is there
     TAKE_OVER        (shared) an intent whose lease ran out is simply taken over
     SEND_FIRST       the request leaves before the intent is durable
     FREE_LIFTS       a free attempt lifts the hold of an earlier one
     WAIVED           a hold binds its own caller only
     DIED_FREE        what a dead owner had under way is taken for free
     CANCELLED_FREE   a request that was cancelled on its way is taken for not sent
     GIVEN_TWICE      what the attempt reserved is given back though another has done that
     LENT_AWAY        what was borrowed of a late callback, and not used, is not the callback's again
     NOT_SET_ASIDE    no charge is set aside for an answer that comes by callback
     COUNTED_TWICE    a callback is one more charge, though its attempt was unknown and is settled by it
     CALLED_BACK_TWICE  a repeated callback is taken for another answer */

#ifndef SHARED
#define SHARED 0
#endif
/* Which wrong edit is made, is said as the program starts: WRONG in its environment, by number. */
c_decl {
    static char wrong[12];
    static void __attribute__((constructor)) choose(void) {
        char *number = getenv("WRONG");
        if (number) wrong[atoi(number)] = 1;
    }
}
#define LOOK_FIRST (c_expr { wrong[0] })
#define TAKE_OVER (c_expr { wrong[1] })
#define SEND_FIRST (c_expr { wrong[2] })
#define FREE_LIFTS (c_expr { wrong[3] })
#define WAIVED (c_expr { wrong[4] })
#define DIED_FREE (c_expr { wrong[5] })
#define CANCELLED_FREE (c_expr { wrong[6] })
#define GIVEN_TWICE (c_expr { wrong[7] })
#define LENT_AWAY (c_expr { wrong[8] })
#define NOT_SET_ASIDE (c_expr { wrong[9] })
#define COUNTED_TWICE (c_expr { wrong[10] })
#define CALLED_BACK_TWICE (c_expr { wrong[11] })

#ifndef CALLERS
#define CALLERS 3
#endif
#ifndef CALLS_BACK
#define CALLS_BACK 1
#endif
#ifndef CRASHES
#define CRASHES 1
#endif
#ifndef BUDGET
#define BUDGET 2
#endif
#define ATTEMPTS 2                 /* of each caller, at most */
#define RETRY_UNKNOWN 1            /* of the second caller; the others pass no hold */
#define CALLED_BACK 6              /* the first of the rows for what is called back */
#define ROWS 8
#define OWNER(id) ((id) / ATTEMPTS)

mtype = { NONE, INTENDED, CHARGED, FREE, NOT_SENT, UNKNOWN };                  /* store.State */
mtype = { STARTED, STORED, HELD, BUSY, EXPECTED, EXHAUSTED };                  /* store.Verdict */
mtype = { OK, REFUSED, UNSENT, LOST, CHECKING };                               /* what became of a request */
#define HOLDS 1
#define LIFTED 2

/* The tables. `attempts` and `intents` have their ids in common. */
mtype state[ROWS] = NONE;
bool may_charge[ROWS], answer[ROWS];
byte holds[ROWS];
byte place;                        /* the one place of the question among the intents: an id and 1, or 0 */
bool waits, reserved, answered, late;   /* its row in `outstanding` */
byte asker;                        /* whose charge the callback's is: an id and 1, or 0 */
byte at_stake;                     /* totals.at_stake */

/* What is so, whatever the tables say. */
bool dead[3], is_out[3];    /* is_out: its lease ran out */
byte billed, requests_billed, allowed, crashes, called_back;
byte unforeseen;                   /* callbacks that came though, for all that anybody knew, none was owed */
bool is_anew;                      /* nobody knows any more whether one is owed: it was asked for again, or settled */
byte owes;                         /* the request that the vendor will call back for: an id and 1 */
bool was_billed[ROWS], flies[ROWS];

/* What one step needs, and the next does not. */
byte i, n, ho, staked, charged;
bool any, mc;
mtype outcome;
inline forget() { i = 0; n = 0; ho = 0; staked = 0; charged = 0; any = false; mc = false; outcome = NONE }

/* ------------------------------------------------------------------------------------------------------- the steps */

#define STAKED(st, mc) ((st) == CHARGED || ((mc) && ((st) == INTENDED || (st) == UNKNOWN)))

inline totals_count_more(st, mc) { if :: STAKED(st, mc) -> at_stake++ :: else fi }
inline totals_count_less(st, mc) { if :: STAKED(st, mc) -> at_stake-- :: else fi }

inline attempts_add(id, st, mc, ho, an) {
    state[id] = st; may_charge[id] = mc; holds[id] = ho; answer[id] = an;
    totals_count_more(st, mc)
}
inline attempts_amend(id, st, ho, an) {
    totals_count_less(state[id], may_charge[id]);
    state[id] = st; holds[id] = ho; answer[id] = an;
    totals_count_more(st, may_charge[id])
}
inline attempts_lift() { for (i : 0 .. ROWS - 1) { if :: holds[i] == HOLDS -> holds[i] = LIFTED :: else fi } }

inline intents_add(id) {
    place = id + 1; state[id] = INTENDED; may_charge[id] = true; holds[id] = 0; answer[id] = false;
    totals_count_more(INTENDED, true)
}
inline intents_remove(id, mc) { place = 0; totals_count_less(INTENDED, mc); state[id] = NONE }
inline intents_abandon(id) {
    /* The callback may have come first, with the charge and the answer. */
    any = false;
    for (i : id + 1 .. ROWS - 1) { any = any || answer[i] }
    mc = may_charge[id];
    intents_remove(id, mc);
    if
    :: !mc && any -> attempts_add(id, FREE, mc, 0, false)
    :: else ->
        if
        :: DIED_FREE -> attempts_add(id, FREE, mc, 0, false)
        :: TAKE_OVER -> skip
        :: else -> attempts_add(id, UNKNOWN, mc, HOLDS, false)
        fi
    fi
}

inline callbacks_reserve() { if :: !reserved -> reserved = true; at_stake++ :: else fi }
inline callbacks_give_back() { if :: reserved -> reserved = false; at_stake-- :: else fi }
inline callbacks_drop() { callbacks_give_back(); waits = false; asker = 0; answered = false; late = false }
inline callbacks_drop_late() { if :: waits && answered && late -> callbacks_drop() :: else fi }
inline callbacks_expect(id) { is_anew = owes != 0; callbacks_drop(); waits = true; asker = id + 1 }
inline callbacks_lend() { callbacks_give_back(); is_anew = true }
/* `lender`: it borrowed the charge of a late callback, which is charged besides it. */
inline callbacks_settle(id, what, overdue) {
    if
    :: what == OK && (!reserved || overdue || late) -> callbacks_drop()
    :: what == OK && reserved && !overdue && !late -> answered = true
    :: asker == 0 && lender && what != OK && what != LOST ->        /* what was lent is given back */
        is_anew = false;
        if :: !LENT_AWAY -> callbacks_reserve() :: else fi
    :: what == UNSENT && asker == id + 1 -> callbacks_drop()
    :: (what == REFUSED || what == CHECKING) && asker == id + 1 ->
        asker = 0;
        if :: what == CHECKING && !NOT_SET_ASIDE -> callbacks_reserve() :: else fi
    :: else
    fi
}

inline answers_look(me, retry) {
    n = 0; any = false;
    for (i : 0 .. ROWS - 1) {
        any = any || answer[i];
        if :: holds[i] == HOLDS && !(WAIVED && i < CALLED_BACK && OWNER(i) != me) -> n++ :: else fi
    }
    verdict = STARTED;
    if :: any -> verdict = STORED :: !any && n > retry -> verdict = HELD :: else fi
}

/* Everything in `begin` but the look and the intent. */
inline begin_judge(calls_back, overdue) {
    lender = false;
    if
    :: verdict != STORED && waits && !answered && calls_back && !overdue && (asker != 0 || reserved) ->
        verdict = EXPECTED
    :: verdict == STARTED && at_stake >= BUDGET ->
        if
        :: waits && !answered && reserved && (overdue || late) && at_stake - 1 < BUDGET -> lender = true
        :: else -> verdict = EXHAUSTED
        fi
    :: else
    fi
}
inline begin_start(id, calls_back, overdue) {
    if
    :: calls_back && !overdue -> callbacks_expect(id)
    :: lender -> callbacks_lend()
    :: else
    fi
}
#define IS_ALIVE(owner) (SHARED -> !is_out[owner] : !dead[owner])

/* Busy is found out where the intent cannot be added: a living owner's attempt may still bring the answer. */
inline begin_under_way() {
    if
    :: place != 0 && IS_ALIVE(OWNER(place - 1)) -> verdict = BUSY
    :: place != 0 && !IS_ALIVE(OWNER(place - 1)) -> n = place - 1; intents_abandon(n); verdict = NONE    /* again */
    :: else
    fi
}

inline begin(me, id, retry, calls_back, overdue) {
    do
    :: !SHARED ->
        d_step {
            callbacks_drop_late();
            answers_look(me, retry);
            begin_judge(calls_back, overdue);
            if
            :: verdict == STARTED && place == 0 -> intents_add(id); begin_start(id, calls_back, overdue)
            :: verdict != STORED && verdict != EXPECTED && place != 0 -> begin_under_way()
            :: else
            fi;
            check()
        };
        if :: verdict != NONE -> break :: else fi
    :: SHARED && !LOOK_FIRST ->
        d_step {
            /* The intent is inserted, and not committed: nobody else can, and nobody sees it. */
            verdict = STARTED;
            if
            :: place == 0 -> place = id + 1
            :: place != 0 && state[place - 1] == NONE -> verdict = BUSY
            :: else -> begin_under_way()
            fi;
            check()
        };
        if
        :: verdict == NONE
        :: verdict == BUSY ->
            d_step { answers_look(me, retry); begin_judge(calls_back, overdue);
                     if :: verdict != STORED && verdict != EXPECTED -> verdict = BUSY :: else fi;
                     forget() };
            break
        :: verdict == STARTED ->
            d_step {
                callbacks_drop_late();
                answers_look(me, retry);
                begin_judge(calls_back, overdue);
                place = 0;
                if :: verdict == STARTED -> intents_add(id); begin_start(id, calls_back, overdue) :: else fi;
                check()
            };
            break
        fi
    :: SHARED && LOOK_FIRST ->
        d_step { callbacks_drop_late(); answers_look(me, retry); begin_judge(calls_back, overdue); forget() };
        if
        :: verdict == STARTED ->
            d_step {
                if
                :: place == 0 -> intents_add(id); begin_start(id, calls_back, overdue)
                :: else -> begin_under_way()
                fi;
                forget()
            }
        :: else
        fi;
        if :: verdict != NONE -> break :: else fi
    od
}

inline end(id, what, calls_back, overdue) {
    d_step {
        callbacks_drop_late();
        mc = !(calls_back && !may_charge[id]);                   /* intents.has_charge */
        any = waits && !answered;
        outcome = (what == OK -> CHARGED : (what == LOST -> UNKNOWN : (what == UNSENT -> NOT_SENT : FREE)));
        if :: CANCELLED_FREE && what == LOST -> outcome = NOT_SENT :: else fi;
        if
        :: !mc && outcome != NOT_SENT -> outcome = FREE
        :: else
        fi;
        if :: what == OK || (FREE_LIFTS && outcome == FREE) -> attempts_lift() :: else fi;
        ho = (outcome == UNKNOWN -> HOLDS : 0);
        if
        :: place == id + 1 -> intents_remove(id, mc); attempts_add(id, outcome, mc, ho, what == OK)
        :: place != id + 1 && !answer[id] ->                     /* Book._end_again: taken for dead by another */
            if :: GIVEN_TWICE -> totals_count_less(INTENDED, mc) :: else fi;
            if
            :: TAKE_OVER -> attempts_add(id, outcome, mc, ho, what == OK)
            :: else -> attempts_amend(id, outcome, ho, what == OK)
            fi
        :: else -> any = false                                   /* a callback has answered this attempt */
        fi;
        if :: any -> callbacks_settle(id, what, overdue) :: else fi;
        check()
    }
}

inline deliver() {
    d_step {
        callbacks_drop_late();
        if
        :: waits && (!answered || CALLED_BACK_TWICE) ->
            n = asker;
            callbacks_drop();
            attempts_lift();
            if
            :: n != 0 && place != n && holds[n - 1] != 0 ->      /* it had arrived, and this is its answer */
                attempts_amend(n - 1, CHARGED, 0, true);
                if :: COUNTED_TWICE -> attempts_add(CALLED_BACK + called_back, CHARGED, true, 0, true) :: else fi
            :: else ->
                if
                :: n != 0 && place == n && may_charge[n - 1] ->  /* intents.give_up_charge */
                    may_charge[n - 1] = false; at_stake--
                :: else
                fi;
                attempts_add(CALLED_BACK + called_back, CHARGED, true, 0, true)
            fi
        :: else
        fi;
        called_back++;
        check()
    }
}

/* Somebody looks at the invoice, and settles what is over: neither under way nor to be called back. */
inline resolve(id) {
    d_step {
        if
        :: state[id] == UNKNOWN && holds[id] != 0 && !flies[id] && (owes != id + 1 || called_back != 0) ->
            outcome = (was_billed[id] -> CHARGED : FREE);
            ho = (outcome == CHARGED && holds[id] == HOLDS -> HOLDS : 0);
            attempts_amend(id, outcome, ho, false);
            if :: outcome == FREE && asker == id + 1 -> callbacks_drop()       /* callbacks.drop_of_attempt */ :: else fi
        :: else
        fi;
        check()
    }
}

/* -------------------------------------------------------------------------------------------------- what is promised */

inline check() {
    staked = reserved; charged = 0;
    for (i : 0 .. ROWS - 1) {
        if :: STAKED(state[i], may_charge[i]) -> staked++ :: else fi;
        if :: state[i] == CHARGED -> charged++ :: else fi
    }
    assert(at_stake == staked);                /* the counts are those of the rows */
    assert(at_stake <= BUDGET + unforeseen);
    assert(charged <= billed && billed <= at_stake);    /* charged <= billed <= charged + unknown + under way */
    forget()
}

/* The vendor bills a request, unless it was billed by callback. */
inline bill(id, retry) {
    if
    :: !was_billed[id] ->
        if :: retry > allowed -> allowed = retry :: else fi;
        assert(requests_billed <= allowed);    /* nothing is billed twice unless somebody's retry_unknown says so */
        billed++; requests_billed++; was_billed[id] = true
    :: else
    fi
}

/* --------------------------------------------------------------------------------------------- who asks, and is asked */

#define MAY_CRASH  if :: crashes < CRASHES -> d_step { crashes++; dead[me] = true }; goto over :: skip fi

proctype caller(byte me; byte retry; bool calls_back) {
    byte id, number;
    bool lender, overdue;
    mtype verdict, what;
    do
    :: number == ATTEMPTS -> break
    :: else ->
        id = me * ATTEMPTS + number;
        flies[id] = true;
        if
        :: SEND_FIRST && place == 0 && !waits ->
            atomic { if :: bill(id, retry) :: skip fi };
            MAY_CRASH
        :: else
        fi;
        begin(me, id, retry, calls_back, overdue);
        if
        :: verdict == STORED || verdict == HELD || verdict == EXHAUSTED -> break
        :: verdict == BUSY ->
            place == 0 || !IS_ALIVE(OWNER(place - 1))
        :: verdict == EXPECTED ->
            if
            :: !waits || answered
            :: late -> overdue = true
            :: called_back >= 2 -> break           /* nothing comes any more, and it is not late yet */
            fi
        :: verdict == STARTED ->
            MAY_CRASH;
            /* The exchange: what the vendor does, and what of that arrives. */
            atomic {
                if
                :: what = UNSENT
                :: what = LOST                                       /* it never arrived */
                :: what = REFUSED
                :: calls_back && !overdue && owes == 0 -> what = CHECKING; owes = id + 1
                :: calls_back && !overdue && owes == 0 -> what = LOST; owes = id + 1
                :: true ->
                    bill(id, retry);
                    if :: what = OK :: what = LOST fi
                fi
            };
            MAY_CRASH;
            atomic { flies[id] = false; end(id, what, calls_back, overdue); number++; lender = false };
            if :: what == OK -> break :: else fi
        fi
    od;
over:
    atomic { flies[id] = false; verdict = NONE; what = NONE; lender = false; number = 0 }
}

/* The vendor calls back, and may repeat that; whoever is alive records it. */
proctype inbox() {
    do
    :: called_back < 2 && owes != 0 ->
        atomic {
            if
            :: waits && !answered && asker != 0 && !was_billed[asker - 1] -> billed++; was_billed[asker - 1] = true
            :: waits && !answered && asker == 0 -> billed++; if :: !reserved && is_anew -> unforeseen++ :: else fi
            :: !waits && called_back == 0 && !is_anew && !(answer[0] || answer[1] || answer[2] || answer[3] || answer[4] || answer[5]) ->
                billed++                                          /* and nobody records it */
            :: else
            fi;
            deliver()
        }
    :: timeout -> break
    :: called_back >= 2 -> break
    od
}

/* Time passes: callbacks are late, and leases run out, also of those who are alive. */
proctype time() {
    do
    :: waits && !late -> late = true                   /* only a callback is waited for */
    :: SHARED && !is_out[0] -> is_out[0] = true
    :: SHARED && !is_out[1] -> is_out[1] = true
    :: SHARED && !is_out[2] -> is_out[2] = true
    :: timeout -> break
    od
}

proctype somebody() {
    if
    :: atomic { state[0] == UNKNOWN; resolve(0) }
    :: atomic { state[2] == UNKNOWN; resolve(2) }
    :: atomic { state[4] == UNKNOWN; resolve(4) }
    :: timeout
    fi
}

init {
    atomic {
        if :: CALLERS == 3 -> run caller(0, 0, false) :: else fi;
        run caller(1, RETRY_UNKNOWN, false);
        run caller(2, 0, CALLS_BACK);
        run inbox();
        run time();
        run somebody()
    }
}
