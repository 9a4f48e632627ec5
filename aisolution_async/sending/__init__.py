"""One call, from the client's door to the socket and back.

The frames between a method and the socket are five, whatever the call:

```
AsyncClient.face_compare            client.py              the question as a value
  AsyncClient.send                  client.py              step after step, until the call is over; a place for each
    Sending.step                    sending/call.py        one attempt: from state to state, see states.py
      exchange                      wire/exchange.py       one request → Response, or Lost(did a byte leave?)
        PoolTransport               wire/transport.py      a connection; the bytes are written here
```

A batch takes the first two frames' place with its worker, and calls `Sending.step` too. Before and after the exchange,
`step` asks, and each has one subject:

```
prepare.py     read, check, identify, encode                        New      → Prepared
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
