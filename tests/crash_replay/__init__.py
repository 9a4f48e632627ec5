"""Take the power away in the middle of a run, at every moment and in every way, and look at what the disk then has.

`python -m tests.crash_replay [--states N] [--seed N] [--plan PLAN]` watches programs with strace: every file that
they write, sync, rename and remove, and every request that leaves. Then it makes the disk anew for each moment at which
something becomes durable (`disk.py` says what a disk may have lost until then) and holds it against what the
programs did that nobody can take back (`promises.py`). Disks at other moments are among those: what is written
between two syncs may be lost as a whole, and what was sent until the second is more than until the first.

batch    batches with a ledger: a new one, one that is killed, one that goes on, a purge, and one after that
bulk     `bulk` to CSV with a file of problems: killed, run again, its problems run, and another list in their place
book     the same to a workbook
control  a batch whose ledger does not sync; promises are broken here, and must be

What is promised: no number that was billed is without a claim in the ledger, so that the next run does not pay for it
again; an answer that the program told of is in the ledger; the ledger opens, is whole, and its counts are those of its
rows; a file under its last name is what it was to be, whole; the next `bulk` goes on (of some disks: the whole run).

It needs strace and Linux.
"""
