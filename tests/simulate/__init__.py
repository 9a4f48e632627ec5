"""Simulated schedules of the real code, counted by the bill of a pretended vendor.

`python -m tests.simulate --seed N` runs one and prints its history; `--seeds A..B` runs many, and prints the seeds that
break a law, each with the smallest plan that still breaks it. `--plant NAME` runs them on the code with a planted bug.
`--store postgresql` has the ledgers on a real server, whose clock and whose connections are simulated (`server_shelf`).

A seed is a plan (`plan`): clients, each with a `Ledger` of its own on one store, what they ask and when, what the
vendor does with each request, and what strikes: cancellations, crashes, full disks, clocks that jump. `world` carries
it out on a loop whose time is virtual (`loop`), with a store in memory (`shelf`) and a vendor (`vendor`) whose bill is
the truth. `laws` are what has to hold while it runs, and when it is over. `planted` has wrong edits of the code, each
of which breaks a law within 10,000 seeds; `planted_shared` has those of a ledger on a server, each with the test that
fails under it.
"""
