"""One call, from the client's door to the socket and back.

Four frames lead from a method to the connection that writes, whatever is asked:

```
AsyncClient.face_compare            client.py              the question as a value
  AsyncClient.send                  client.py              step after step, until the call is over; a place for each
    Sending.step                    sending/call.py        one attempt: from state to state, see states.py
      PoolTransport._exchange       wire/transport.py      a connection, whose `write` hands the bytes to the socket
```

`wire/exchange.py` says which transport does it, and what became of a request that was lost: did a byte of it leave?

What is left of a body that the socket does not take at once goes out from `PoolTransport` too, by a frame more. A
batch, and a look-up that waits for its callback, take the first two frames' place with a worker, and call
`Sending.step` too. Before and after the exchange, `step` asks these, and each has one subject:

```
prepare.py     read, check, identify, encode                        New      → Prepared
threads.py     where it reads, off the event loop
admission.py   one charge set aside, and whose it is                Prepared → Admitted
journal.py     leave from the ledger; what is recorded in it        Admitted → Started,  and after Found
finding.py     what came back: its charge, its reply or error       Started  → Found
../retry.py    may it be repeated, and after how long (`Course`)    Found    → Over or Again
callback.py    an answer that may come beside the response          Found    → Awaiting
shared.py      what all calls on one pool share
options.py     what may differ from call to call on it
hooks.py       what the user's hooks are told
```

Callback, reservation and journal exist only where they are configured: a plain call does not pay for them.
"""
