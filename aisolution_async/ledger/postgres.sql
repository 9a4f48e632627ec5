-- Version 1 of a shared ledger. The schema's own name stands for "ledger" here.
--
-- Locks are taken in this order: owners (one's own first), intents (sorted), outstanding, attempts, book. Who needs the
-- row of another owner out of turn takes it only where nobody has it.
--
-- Times named _at are the database's; started_at, elapsed, since and ends are microseconds (since 1970, UTC) by the
-- clocks of those who ask. Prices are millionths, keys JSON. An intent that others need not wait for has its id for a
-- place. An identity stands only with attempts that left.

-- One row. `granted`: charges that were, may be or will be made, and those that owners have leave for and have not used;
-- it never grows past `cap` by leave that is given. `cap` is the limit, or what the vendor charged all the same.
CREATE TABLE ledger.book (
  version int NOT NULL,
  hash_key bytea NOT NULL,
  max_charges bigint CHECK (max_charges >= 0),
  cap bigint,
  granted bigint NOT NULL DEFAULT 0,
  granted_cost bigint NOT NULL DEFAULT 0,
  CONSTRAINT not_overspent CHECK (granted <= cap)
);

-- Who uses the ledger: alive until `expires_at`, or longer, until somebody buries it. `granted` is its leave to spend,
-- `used` what it spent of that, `share` its part of a rate. Small and often written: its updates stay on their page.
CREATE TABLE ledger.owners (
  id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  host text NOT NULL,
  pid int NOT NULL,
  expires_at timestamptz NOT NULL,
  ended boolean NOT NULL DEFAULT false,
  granted bigint NOT NULL DEFAULT 0,
  used bigint NOT NULL DEFAULT 0,
  granted_cost bigint NOT NULL DEFAULT 0,
  used_cost bigint NOT NULL DEFAULT 0,
  share float8 NOT NULL DEFAULT 0,
  CONSTRAINT within_its_leave CHECK (used <= granted AND used_cost <= granted_cost)
) WITH (fillfactor = 20);
CREATE INDEX owners_alive ON ledger.owners (id) WHERE NOT ended;

CREATE SEQUENCE ledger.ids;

-- The attempts under way: few rows, each soon gone. `over_at`: when it must be over, whatever became of its owner.
-- `borrows`: its charge is the one that was set aside for a callback, which is late.
CREATE TABLE ledger.intents (
  place uuid PRIMARY KEY,
  id bigint NOT NULL,
  endpoint text NOT NULL,
  key text,
  may_charge boolean NOT NULL,
  price bigint NOT NULL,
  started_at bigint NOT NULL,
  over_at timestamptz NOT NULL,
  owner bigint NOT NULL,
  borrows boolean NOT NULL DEFAULT false
) WITH (fillfactor = 70, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 20000,
        autovacuum_vacuum_cost_delay = 0);
CREATE INDEX intents_owner ON ledger.intents (owner);

CREATE TYPE ledger.state AS ENUM ('charged', 'free', 'not sent', 'unknown');

-- The attempts that are over. `holds`: 1 with one that holds its question; 2 with one that is not settled and holds
-- nothing; else 0. `over_at` stands with one whose owner was taken for dead: until then, it may still be sent.
CREATE TABLE ledger.attempts (
  id bigint PRIMARY KEY,
  identity uuid,
  started_at bigint NOT NULL,
  elapsed bigint NOT NULL,
  price bigint NOT NULL,
  over_at timestamptz,
  http_status int,
  number int NOT NULL,
  state ledger.state NOT NULL,
  holds smallint NOT NULL,
  may_charge boolean NOT NULL,
  answer boolean NOT NULL,
  endpoint text NOT NULL,
  key text,
  status text,
  error text,
  reply text
) WITH (autovacuum_vacuum_insert_scale_factor = 0.02);
CREATE INDEX attempts_identity ON ledger.attempts (identity) WHERE identity IS NOT NULL;
CREATE INDEX attempts_holding ON ledger.attempts (id) WHERE holds <> 0;
CREATE INDEX attempts_time ON ledger.attempts USING brin (started_at);

-- The questions that wait for a callback: see `aisolution_async.ledger.callbacks`.
CREATE TABLE ledger.outstanding (
  callback bytea NOT NULL,
  identity uuid NOT NULL,
  endpoint text NOT NULL,
  key text,
  price bigint NOT NULL,
  since bigint NOT NULL,
  reserved boolean NOT NULL,
  attempt bigint,
  ends bigint NOT NULL,
  answered boolean NOT NULL,
  PRIMARY KEY (callback, identity)
);
CREATE INDEX outstanding_identity ON ledger.outstanding (identity);
CREATE INDEX outstanding_attempt ON ledger.outstanding (attempt);
CREATE INDEX outstanding_answered ON ledger.outstanding (ends) WHERE answered;

-- Counts of `attempts`, by who counted them, so that nobody waits for another's commit. A status '' is none. `answers`
-- and `replies`: how many of them have one that is still there.
CREATE TABLE ledger.rollup (
  owner bigint NOT NULL,
  endpoint text NOT NULL,
  day int NOT NULL,
  state ledger.state NOT NULL,
  status text NOT NULL,
  attempts bigint NOT NULL,
  cost bigint NOT NULL,
  answers bigint NOT NULL,
  replies bigint NOT NULL,
  PRIMARY KEY (owner, endpoint, day, state, status)
) WITH (fillfactor = 50);

-- An answer to one begin: see `aisolution_async.ledger.shared`.
CREATE TYPE ledger.verdict AS (
  kind text, place int, id bigint, ids bigint[], state text, started_at bigint, elapsed bigint, status text,
  http_status int, error text, number int, reply text, holding int
);

-- What was found of the question at a place in the group.
CREATE TYPE ledger.history AS (place int, kind text, attempt bigint, holding int, since bigint);


-- Whether a charge counts, and its price: 0 for what is free.
CREATE FUNCTION ledger.stake(state ledger.state, may_charge boolean) RETURNS int LANGUAGE sql IMMUTABLE
RETURN CASE WHEN state = 'charged' OR (may_charge AND state = 'unknown') THEN 1 ELSE 0 END;


-- Count an attempt in, or with sign -1 out.
CREATE FUNCTION ledger.tell(p_owner bigint, a ledger.attempts, p_sign int) RETURNS void LANGUAGE sql AS $$
  INSERT INTO ledger.rollup AS r VALUES (
    p_owner, a.endpoint, a.started_at / 86400000000, a.state, coalesce(a.status, ''), p_sign,
    p_sign * a.price * ledger.stake(a.state, a.may_charge), p_sign * a.answer::int, p_sign * (a.reply IS NOT NULL)::int
  )
  ON CONFLICT (owner, endpoint, day, state, status)
  DO UPDATE SET attempts = r.attempts + excluded.attempts, cost = r.cost + excluded.cost,
    answers = r.answers + excluded.answers, replies = r.replies + excluded.replies;
$$;


-- What was charged, or given back, by no leave of anybody's: it is a fact, whatever the limit.
CREATE FUNCTION ledger.account(p_charges bigint, p_cost bigint) RETURNS void LANGUAGE sql AS $$
  UPDATE ledger.book SET granted = granted + p_charges, granted_cost = granted_cost + p_cost,
    cap = greatest(max_charges, granted + p_charges + max_charges * 0)
  WHERE p_charges <> 0 OR p_cost <> 0;
$$;


-- Wait no longer for a callback. Returns what is given back.
CREATE FUNCTION ledger.drop_awaited(x ledger.outstanding, OUT charges bigint, OUT cost bigint) LANGUAGE plpgsql AS $$
BEGIN
  DELETE FROM ledger.outstanding o WHERE o.callback = x.callback AND o.identity = x.identity;
  charges := CASE WHEN x.reserved THEN -1 ELSE 0 END;
  cost := charges * x.price;
END $$;


-- See `callbacks.is_late`.
CREATE FUNCTION ledger.is_late(x ledger.outstanding, p_overdue boolean, p_patience bigint, p_now bigint) RETURNS boolean
LANGUAGE sql IMMUTABLE RETURN (x).ends <= p_now OR (p_overdue AND (x).since + p_patience >= (x).ends);


-- What the end of the attempt `t` (see `exchange`) means for the callback of its question.
CREATE FUNCTION ledger.settle(t jsonb, p_now bigint, OUT charges bigint, OUT cost bigint) LANGUAGE plpgsql AS $$
DECLARE
  x ledger.outstanding;
  v_id bigint := (t->>0)::bigint;
  v_state text := t->>9;
BEGIN
  charges := 0; cost := 0;
  SELECT * INTO x FROM ledger.outstanding o WHERE o.identity = (t->>1)::uuid AND NOT o.answered FOR UPDATE;
  IF NOT FOUND THEN RETURN; END IF;
  IF (t->>14)::boolean THEN
    IF NOT x.reserved OR ledger.is_late(x, (t->>19)::boolean, (t->>20)::bigint, p_now) THEN
      SELECT * INTO charges, cost FROM ledger.drop_awaited(x);
    ELSE
      UPDATE ledger.outstanding o SET answered = true WHERE o.callback = x.callback AND o.identity = x.identity;
    END IF;
  ELSIF x.attempt IS NULL AND (t->>21)::boolean AND v_state <> 'unknown' THEN
    IF NOT x.reserved THEN  -- what was lent is given back
      charges := 1; cost := x.price;
      UPDATE ledger.outstanding o SET reserved = true WHERE o.callback = x.callback AND o.identity = x.identity;
    END IF;
  ELSIF x.attempt = v_id AND v_state = 'not sent' THEN
    SELECT * INTO charges, cost FROM ledger.drop_awaited(x);
  ELSIF x.attempt = v_id AND v_state = 'charged' AND (t->>17)::boolean THEN
    NULL;  -- the callback is no other charge
  ELSIF x.attempt = v_id AND v_state <> 'unknown' THEN
    IF NOT x.reserved AND (t->>17)::boolean THEN
      charges := 1; cost := x.price; x.reserved := true;
    END IF;
    UPDATE ledger.outstanding o SET attempt = NULL, reserved = x.reserved
      WHERE o.callback = x.callback AND o.identity = x.identity;
  END IF;
END $$;


-- Record what came of the attempt `t` (see `exchange`) that is not under way any more: it was recorded without a reply,
-- or its owner was taken for dead.
CREATE FUNCTION ledger.amend(p_owner bigint, t jsonb, p_now bigint, OUT charges bigint, OUT cost bigint)
LANGUAGE plpgsql AS $$
DECLARE
  a ledger.attempts;
  z ledger.attempts;
  v_state ledger.state := (t->>9)::ledger.state;
  v_holds smallint := (t->>16)::smallint;
BEGIN
  charges := 0; cost := 0;
  SELECT * INTO a FROM ledger.attempts WHERE id = (t->>0)::bigint FOR UPDATE;
  IF NOT FOUND THEN RAISE EXCEPTION 'lacks attempt %', t->>0 USING ERRCODE = 'AL002'; END IF;
  IF NOT (t->>15)::boolean AND a.state = 'unknown' THEN
    UPDATE ledger.attempts SET holds = 2 WHERE id = a.id;
  END IF;
  IF a.reply IS NOT NULL THEN RETURN; END IF;
  IF (t->>5)::boolean AND NOT a.may_charge THEN  -- a callback has its charge
    v_state := (t->>22)::ledger.state; v_holds := CASE WHEN v_state = 'unknown' THEN 2 ELSE 0 END;
  END IF;
  UPDATE ledger.attempts SET identity = (t->>2)::uuid, started_at = (t->>7)::bigint, elapsed = (t->>8)::bigint,
    state = v_state, status = t->>10, http_status = (t->>11)::int, error = t->>12, number = (t->>13)::int,
    answer = (t->>14)::boolean, reply = t->>18, holds = v_holds, over_at = NULL WHERE id = a.id RETURNING * INTO z;
  PERFORM ledger.tell(p_owner, a, -1), ledger.tell(p_owner, z, 1);
  charges := ledger.stake(z.state, z.may_charge) - ledger.stake(a.state, a.may_charge);
  cost := charges * a.price;
  IF EXISTS (SELECT FROM ledger.outstanding) THEN
    SELECT amend.charges + s.charges, amend.cost + s.cost INTO charges, cost FROM ledger.settle(t, p_now) s;
  END IF;
END $$;


-- More leave for an owner that lacks `p_short` charges, of `p_short_cost`, by the limits `p_max` and `p_max_cost` of its
-- own and by that of the book. What others have leave for and have not used is taken back for it, where it must be.
-- `waits`: there may be more, in hands that are busy now.
CREATE FUNCTION ledger.borrow(
  p_owner bigint, p_short bigint, p_short_cost bigint, p_max bigint, p_max_cost bigint,
  OUT got bigint, OUT got_cost bigint, OUT waits boolean
) LANGUAGE plpgsql AS $$
DECLARE
  endless constant bigint := 4611686018427387904;
  b ledger.book;
  h record;
  room bigint;
  room_cost bigint;
  back bigint := 0;
  back_cost bigint := 0;
  v_take bigint;
  v_take_cost bigint;
  workers bigint;
BEGIN
  SELECT * INTO b FROM ledger.book FOR UPDATE;
  room := least(b.max_charges, p_max, endless) - b.granted;
  room_cost := least(p_max_cost, endless) - b.granted_cost;
  waits := false;
  IF room < p_short OR room_cost < p_short_cost THEN
    FOR h IN SELECT id, granted - used AS idle, granted_cost - used_cost AS idle_cost FROM ledger.owners
      WHERE NOT ended AND id <> p_owner AND (granted > used OR granted_cost > used_cost) FOR NO KEY UPDATE SKIP LOCKED
    LOOP
      v_take := least(h.idle, greatest(p_short - room, 0));
      v_take_cost := least(h.idle_cost, greatest(p_short_cost - room_cost, 0));
      UPDATE ledger.owners SET granted = granted - v_take, granted_cost = granted_cost - v_take_cost WHERE id = h.id;
      back := back + v_take; back_cost := back_cost + v_take_cost;
      room := room + v_take; room_cost := room_cost + v_take_cost;
    END LOOP;
    waits := (room < p_short OR room_cost < p_short_cost) AND EXISTS (
      SELECT FROM ledger.owners WHERE NOT ended AND id <> p_owner
        AND ((room < p_short AND granted > used) OR (room_cost < p_short_cost AND granted_cost > used_cost)));
  END IF;
  SELECT greatest(count(*), 1) INTO workers FROM ledger.owners WHERE NOT ended AND expires_at > clock_timestamp();
  got := greatest(0, least(room, greatest(p_short,
    CASE WHEN b.max_charges IS NULL AND p_max IS NULL THEN 1000 ELSE room / (4 * workers) END)));
  got_cost := greatest(0, least(room_cost, greatest(p_short_cost,
    CASE WHEN p_max_cost IS NULL THEN got * (p_short_cost / greatest(p_short, 1)) ELSE room_cost / (4 * workers) END)));
  UPDATE ledger.book SET granted = granted + got - back, granted_cost = granted_cost + got_cost - back_cost;
END $$;


-- What part of a rate an owner has from now on: an even one, of what the others leave. So the parts are never more than
-- the whole: who comes last has none until the others have looked. One at a time, by the lock of the book.
CREATE FUNCTION ledger.take_share(p_owner bigint, OUT part float8, OUT owners bigint) LANGUAGE plpgsql AS $$
DECLARE w ledger.owners;
BEGIN
  SELECT * INTO w FROM ledger.owners WHERE id = p_owner FOR NO KEY UPDATE;
  PERFORM FROM ledger.book FOR UPDATE;
  SELECT greatest(0, least(1.0 / (1 + count(*)), 1 - coalesce(sum(o.share), 0))), 1 + count(*) INTO part, owners
    FROM ledger.owners o WHERE NOT o.ended AND o.expires_at > clock_timestamp() AND o.id <> p_owner;
  IF w.id IS NULL OR w.ended OR w.expires_at <= clock_timestamp() THEN part := 0; END IF;
  IF part <> w.share THEN
    UPDATE ledger.owners SET share = part WHERE id = p_owner;
  END IF;
END $$;


-- Give back what an owner has leave for and has not used.
CREATE FUNCTION ledger.give_back(p_owner bigint) RETURNS void LANGUAGE plpgsql AS $$
DECLARE w ledger.owners;
BEGIN
  SELECT * INTO w FROM ledger.owners WHERE id = p_owner FOR NO KEY UPDATE;
  IF w.granted > w.used OR w.granted_cost > w.used_cost THEN
    UPDATE ledger.owners SET granted = used, granted_cost = used_cost WHERE id = p_owner;
    PERFORM ledger.account(w.used - w.granted, w.used_cost - w.granted_cost);
  END IF;
END $$;


-- The limit of the ledger; NULL for none. What owners have leave for is taken back: each asks anew.
CREATE FUNCTION ledger.set_limit(p_max bigint) RETURNS void LANGUAGE plpgsql AS $$
DECLARE h record;
BEGIN
  FOR h IN SELECT id FROM ledger.owners WHERE NOT ended ORDER BY id FOR NO KEY UPDATE LOOP
    PERFORM ledger.give_back(h.id);
  END LOOP;
  UPDATE ledger.book SET max_charges = p_max, cap = greatest(p_max, granted + p_max * 0);
END $$;


-- An owner is dead, or leaves: it is fenced off, what it has under way becomes unknown, and what it has not spent goes
-- back. False if it is not so: it has renewed its lease meanwhile, or was buried before.
CREATE FUNCTION ledger.bury(p_owner bigint, p_leaves boolean, p_error text) RETURNS boolean LANGUAGE plpgsql AS $$
DECLARE
  w ledger.owners;
  v_charges bigint;
  v_cost bigint;
BEGIN
  -- Where somebody has the row, this waits, and looks at it anew: it may have been renewed.
  UPDATE ledger.owners SET ended = true
    WHERE id = p_owner AND NOT ended AND (p_leaves OR expires_at < clock_timestamp()) RETURNING * INTO w;
  IF NOT FOUND THEN RETURN false; END IF;
  WITH gone AS (DELETE FROM ledger.intents WHERE owner = p_owner RETURNING *),
  named AS (
    SELECT *, CASE WHEN place = lpad(to_hex(id), 32, '0')::uuid THEN NULL ELSE place END AS identity FROM gone
  ),
  known AS (
    -- Where a callback came first, the question is charged once, and answered.
    SELECT *, CASE WHEN NOT may_charge AND EXISTS (
      SELECT FROM ledger.attempts a WHERE a.identity = named.identity AND a.answer AND a.id > named.id
    ) THEN 'free' ELSE 'unknown' END::ledger.state AS state FROM named
  ),
  added AS (
    INSERT INTO ledger.attempts (id, identity, started_at, elapsed, price, over_at, number, state, holds, may_charge,
      answer, endpoint, key, error)
    SELECT id, identity, started_at, 0, price, CASE WHEN NOT p_leaves AND state = 'unknown' THEN over_at END, 1, state,
      CASE WHEN state = 'free' THEN 0 WHEN identity IS NULL THEN 2 ELSE 1 END, may_charge, false, endpoint, key, p_error
    FROM known ORDER BY id
  ),
  told AS (
    INSERT INTO ledger.rollup AS r
    SELECT p_owner, endpoint, started_at / 86400000000, state, '', count(*),
      sum(price * ledger.stake(state, may_charge)), 0, 0
    FROM known GROUP BY 2, 3, 4
    ON CONFLICT (owner, endpoint, day, state, status)
    DO UPDATE SET attempts = r.attempts + excluded.attempts, cost = r.cost + excluded.cost,
    answers = r.answers + excluded.answers, replies = r.replies + excluded.replies
  )
  SELECT coalesce(count(*) FILTER (WHERE may_charge AND state = 'free'), 0),
    coalesce(sum(price) FILTER (WHERE may_charge AND state = 'free'), 0) INTO v_charges, v_cost FROM known;
  PERFORM ledger.account(w.used - w.granted - v_charges, w.used_cost - w.granted_cost - v_cost);
  RETURN true;
END $$;


-- One group: begins and ends, in one round trip and one commit.
--
-- The intents come first, and the look at what others did second, in a later statement with a snapshot of its own:
-- whoever ended in between is seen. That needs READ COMMITTED. The other order pays twice.
--
-- `p_begins` has for each: identity, endpoint, key, may_charge, price (-1: there is none, and a limit on the cost),
-- reusable, when an answer must have come to be young (or null), retry_unknown (or null), seconds until it is over,
-- callback in hex (or null), overdue, patience. `p_ends`: id, identity (null: its own id), the identity to record,
-- endpoint, key, may_charge, price, started_at, elapsed, state, status, http_status, error, number, answer, holds as
-- given, holds as recorded, expected, reply, overdue, patience, borrows, state where a callback came first.
CREATE FUNCTION ledger.exchange(
  p_owner bigint, p_lease float8, p_now bigint, p_max bigint, p_max_cost bigint, p_borrows boolean,
  p_begins jsonb, p_ends jsonb
) RETURNS SETOF ledger.verdict LANGUAGE plpgsql SET jit = off SET enable_seqscan = off AS $$
DECLARE
  w ledger.owners;
  is_fenced boolean;
  begins int := jsonb_array_length(p_begins);
  ids bigint[] := '{}';          -- by place: the attempt that was recorded, or null
  mays boolean[];
  prices bigint[];
  looked ledger.history[] := '{}';
  refused int[] := '{}';         -- places whose intents go again
  said int[] := '{}';            -- places with a verdict
  gone bigint[] := '{}';
  v_charges bigint := 0;         -- what this owner spends less, or more
  v_cost bigint := 0;
  o_charges bigint := 0;         -- what others do
  o_cost bigint := 0;
  l ledger.history;
  a ledger.attempts;
  z ledger.attempts;
  x ledger.outstanding;
  t jsonb;
  need bigint := 0;
  need_cost bigint := 0;
  lease record;
  why text := 'exhausted';
  v_lent_from bigint;
  n int;
  d record;
  borrows boolean := p_borrows;
  lent bigint[] := '{}';         -- attempts whose charge was set aside for a callback
BEGIN
  IF current_setting('transaction_isolation') <> 'read committed' THEN
    RAISE EXCEPTION 'isolation' USING ERRCODE = 'AL001';
  END IF;
  IF current_setting('synchronous_commit') NOT IN ('on', 'remote_apply') THEN
    PERFORM set_config('synchronous_commit', 'on', true);
  END IF;
  SELECT * INTO w FROM ledger.owners WHERE id = p_owner FOR NO KEY UPDATE;
  is_fenced := NOT FOUND OR w.ended;
  IF is_fenced THEN begins := 0; END IF;

  -- <intents>
  IF begins > 0 THEN
    WITH b AS MATERIALIZED (
      SELECT ord, nextval('ledger.ids') AS id, (e->>0)::uuid AS identity, e->>1 AS endpoint, e->>2 AS key,
        (e->>3)::boolean AS may, (e->>4)::bigint AS price, (e->>5)::boolean AS reusable, (e->>8)::float8 AS within
      FROM jsonb_array_elements(p_begins) WITH ORDINALITY AS q(e, ord)
    ),
    placed AS (
      SELECT *, CASE WHEN reusable THEN identity ELSE lpad(to_hex(id), 32, '0')::uuid END AS place FROM b
    ),
    added AS (
      INSERT INTO ledger.intents (place, id, endpoint, key, may_charge, price, started_at, over_at, owner)
      SELECT place, id, endpoint, key, may, greatest(price, 0), p_now, clock_timestamp() + make_interval(secs => within),
        p_owner FROM placed ORDER BY place
      ON CONFLICT (place) DO NOTHING RETURNING intents.id
    )
    SELECT array_agg(added.id ORDER BY ord), array_agg(may ORDER BY ord), array_agg(price ORDER BY ord)
      INTO ids, mays, prices FROM b LEFT JOIN added ON added.id = b.id;
  END IF;
  -- </intents>

  IF jsonb_array_length(p_ends) > 0 THEN
    IF EXISTS (SELECT FROM ledger.attempts WHERE holds <> 0 AND holds = 1) THEN
      UPDATE ledger.attempts h SET holds = 2
      FROM (SELECT DISTINCT (e->>2)::uuid AS identity FROM jsonb_array_elements(p_ends) AS q(e) WHERE (e->>14)::boolean) q
      WHERE h.identity = q.identity AND h.holds = 1;
    END IF;
    WITH e AS MATERIALIZED (
      SELECT (e->>0)::bigint AS id, coalesce((e->>1)::uuid, lpad(to_hex((e->>0)::bigint), 32, '0')::uuid) AS place,
        (e->>2)::uuid AS identity, e->>3 AS endpoint, e->>4 AS key, (e->>5)::boolean AS may, (e->>6)::bigint AS price,
        (e->>7)::bigint AS started_at, (e->>8)::bigint AS elapsed, (e->>9)::ledger.state AS state, e->>10 AS status,
        (e->>11)::int AS http_status, e->>12 AS error, (e->>13)::int AS number, (e->>14)::boolean AS answer,
        (e->>16)::smallint AS holds, e->>18 AS reply, (e->>22)::ledger.state AS besides
      FROM jsonb_array_elements(p_ends) AS q(e)
    ),
    out AS (DELETE FROM ledger.intents i USING e WHERE i.place = e.place AND i.id = e.id RETURNING i.id, i.may_charge),
    done AS (
      -- Where a callback came first, it took the charge.
      SELECT e.*, out.may_charge, CASE WHEN may AND NOT may_charge THEN besides ELSE state END AS now
      FROM e JOIN out ON out.id = e.id
    ),
    added AS (
      INSERT INTO ledger.attempts
      SELECT id, identity, started_at, elapsed, price, NULL, http_status, number, now,
        CASE WHEN now <> 'unknown' THEN 0 WHEN may AND NOT may_charge THEN 2 ELSE holds END, may_charge, answer,
        endpoint, key, status, error, reply
      FROM done ORDER BY id
    ),
    told AS (
      INSERT INTO ledger.rollup AS r
      SELECT p_owner, endpoint, started_at / 86400000000, now, coalesce(status, ''), count(*),
        sum(price * ledger.stake(now, may_charge)), count(*) FILTER (WHERE answer), count(reply)
      FROM done GROUP BY 2, 3, 4, 5
      ON CONFLICT (owner, endpoint, day, state, status)
      DO UPDATE SET attempts = r.attempts + excluded.attempts, cost = r.cost + excluded.cost,
    answers = r.answers + excluded.answers, replies = r.replies + excluded.replies
    )
    SELECT coalesce(array_agg(id), '{}'), -count(*) FILTER (WHERE may_charge AND ledger.stake(now, true) = 0),
      -coalesce(sum(price) FILTER (WHERE may_charge AND ledger.stake(now, true) = 0), 0)
      INTO gone, v_charges, v_cost FROM done;
    IF cardinality(gone) < jsonb_array_length(p_ends) THEN
      FOR t IN SELECT e FROM jsonb_array_elements(p_ends) AS q(e) WHERE (e->>0)::bigint <> ALL (gone) LOOP
        SELECT * INTO d FROM ledger.amend(p_owner, t, p_now);
        o_charges := o_charges + d.charges; o_cost := o_cost + d.cost;
      END LOOP;
    END IF;
    IF EXISTS (SELECT FROM ledger.outstanding) THEN
      FOR t IN SELECT e FROM jsonb_array_elements(p_ends) AS q(e)
        WHERE (e->>0)::bigint = ANY (gone)
          AND EXISTS (SELECT FROM ledger.outstanding o WHERE o.identity = (e->>1)::uuid AND NOT o.answered)
      LOOP
        SELECT * INTO d FROM ledger.settle(t, p_now);
        v_charges := v_charges + d.charges; v_cost := v_cost + d.cost;
      END LOOP;
    END IF;
    -- See `attempts.doubt_callbacks`: where an answer was recorded late, a callback may have been recorded in between.
    FOR a IN SELECT c.* FROM jsonb_array_elements(p_ends) AS q(e)
      JOIN ledger.attempts mine ON mine.id = (e->>0)::bigint AND mine.state = 'charged' AND mine.answer
      JOIN ledger.attempts c ON c.identity = mine.identity AND c.started_at + c.elapsed > mine.started_at + mine.elapsed
      WHERE (e->>14)::boolean AND p_now > (e->>7)::bigint + (e->>8)::bigint + 250000
        AND c.answer AND c.http_status IS NULL AND c.state = 'charged' FOR UPDATE OF c
    LOOP
      UPDATE ledger.attempts SET state = 'unknown', holds = 2 WHERE id = a.id RETURNING * INTO z;
      PERFORM ledger.tell(p_owner, a, -1), ledger.tell(p_owner, z, 1);
      o_charges := o_charges + ledger.stake(z.state, z.may_charge) - ledger.stake(a.state, a.may_charge);
      o_cost := o_cost + (ledger.stake(z.state, z.may_charge) - ledger.stake(a.state, a.may_charge)) * a.price;
    END LOOP;
    IF is_fenced OR v_charges > 0 OR v_cost > 0 THEN  -- no leave of this owner's is in it
      o_charges := o_charges + v_charges; o_cost := o_cost + v_cost;
      v_charges := 0; v_cost := 0;
    END IF;
  END IF;

  -- <look>
  IF jsonb_array_length(p_begins) > 0 AND NOT is_fenced THEN
    -- What waits for a callback first: an answer that comes between the two is seen by the second.
    IF EXISTS (SELECT FROM ledger.outstanding) THEN
      looked := ARRAY(
        SELECT ROW(ord, 'expected', NULL, NULL, o.since)::ledger.history
        FROM jsonb_array_elements(p_begins) WITH ORDINALITY AS q(e, ord)
        JOIN ledger.outstanding o ON o.identity = (e->>0)::uuid AND NOT o.answered
        WHERE e->>9 IS NOT NULL AND NOT (e->>10)::boolean AND (o.reserved OR o.attempt IS NOT NULL));
    END IF;
    looked := ARRAY(
      SELECT ROW(ord, CASE WHEN young THEN 'stored' WHEN NOT passes THEN 'held' ELSE 'sending' END,
        CASE WHEN young THEN answer_id ELSE held_id END, holding, NULL)::ledger.history
      FROM (
        SELECT ord, h.*, answer_at IS NOT NULL AND (e->>6 IS NULL OR answer_at >= (e->>6)::bigint) AS young,
          e->>7 IS NULL OR holding <= (e->>7)::int AS passes
        FROM jsonb_array_elements(p_begins) WITH ORDINALITY AS q(e, ord)
        CROSS JOIN LATERAL (
          SELECT count(*) FILTER (WHERE f.holds = 1)::int AS holding, max(f.id) FILTER (WHERE f.holds = 1) AS held_id,
            max(f.id) FILTER (WHERE f.answer) AS answer_id,
            (array_agg(f.started_at + f.elapsed ORDER BY f.id DESC) FILTER (WHERE f.answer))[1] AS answer_at,
            coalesce(bool_or(f.over_at > clock_timestamp()) FILTER (WHERE f.state = 'unknown'), false) AS is_sent
          FROM ledger.attempts f WHERE f.identity = (e->>0)::uuid
        ) h WHERE (e->>5)::boolean
      ) found WHERE young OR NOT passes OR is_sent
    ) || looked;
  END IF;
  -- </look>

  FOR l IN SELECT * FROM unnest(looked) AS q
    ORDER BY array_position(ARRAY['stored', 'expected', 'held', 'sending'], q.kind)
  LOOP
    CONTINUE WHEN l.place = ANY (said);
    IF l.kind = 'expected' THEN
      RETURN NEXT ('expected', l.place, NULL, NULL, NULL, l.since, NULL, NULL, NULL, NULL, NULL, NULL, NULL)::ledger.verdict;
    ELSIF l.kind <> 'stored' AND ids[l.place] IS NULL THEN
      CONTINUE;  -- the attempt under way comes first: it may bring the answer
    ELSIF l.kind = 'sending' THEN
      RETURN NEXT ('busy', l.place, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL)::ledger.verdict;
    ELSE
      SELECT * INTO a FROM ledger.attempts WHERE id = l.attempt;
      RETURN NEXT (l.kind, l.place, a.id, NULL, a.state::text, a.started_at, a.elapsed, a.status, a.http_status, a.error,
        a.number, a.reply, l.holding)::ledger.verdict;
    END IF;
    said := said || l.place;
  END LOOP;
  refused := said;

  IF begins > 0 AND array_position(ids, NULL) IS NOT NULL THEN  -- who is in the way
    RETURN QUERY
      SELECT CASE WHEN i.owner = p_owner THEN 'mine' WHEN h.ended OR h.expires_at < clock_timestamp() THEN 'dead'
          ELSE 'busy' END,
        q.ord::int, CASE WHEN i.owner = p_owner THEN i.id ELSE i.owner END, NULL::bigint[], NULL, NULL::bigint,
        NULL::bigint, NULL, NULL::int, NULL, NULL::int, NULL, NULL::int
      FROM jsonb_array_elements(p_begins) WITH ORDINALITY AS q(e, ord)
      JOIN ledger.intents i ON i.place = (q.e->>0)::uuid LEFT JOIN ledger.owners h ON h.id = i.owner
      WHERE ids[q.ord] IS NULL AND q.ord <> ALL (said);
  END IF;

  -- What was set aside for callbacks that could have been charged, and have not come.
  IF EXISTS (SELECT FROM ledger.outstanding WHERE answered AND ends <= p_now) THEN
    FOR x IN SELECT * FROM ledger.outstanding WHERE answered AND ends <= p_now FOR UPDATE SKIP LOCKED LOOP
      SELECT * INTO d FROM ledger.drop_awaited(x);
      PERFORM ledger.account(d.charges, d.cost);
      borrows := true;
    END LOOP;
  END IF;

  SELECT count(*), coalesce(sum(greatest(q.price, 0)), 0) INTO need, need_cost
    FROM unnest(ids, mays, prices) WITH ORDINALITY AS q(id, may, price, ord)
    WHERE q.id IS NOT NULL AND q.may AND q.ord <> ALL (refused);
  v_lent_from := o_cost;
  BEGIN  -- where the budget refuses, what has ended stays
    w.used := w.used + v_charges; w.used_cost := w.used_cost + v_cost;
    IF (w.granted > w.used OR w.granted_cost > w.used_cost) AND EXISTS (
      SELECT FROM ledger.book WHERE granted > least(max_charges, p_max) OR granted_cost > p_max_cost)
    THEN  -- a limit was lowered, or others spend by a higher one: leave that was given is given back
      PERFORM ledger.account(w.used - w.granted, w.used_cost - w.granted_cost);
      w.granted := w.used; w.granted_cost := w.used_cost;
    END IF;
    IF need > 0 AND (w.granted - w.used < need OR w.granted_cost - w.used_cost < need_cost) AND borrows THEN
      SELECT * INTO lease FROM ledger.borrow(
        p_owner, need - w.granted + w.used, need_cost - w.granted_cost + w.used_cost, p_max, p_max_cost);
      w.granted := w.granted + lease.got; w.granted_cost := w.granted_cost + lease.got_cost;
      IF lease.waits THEN why := 'wait'; END IF;
    END IF;
    IF need > 0 THEN
      FOR n IN SELECT q.ord FROM unnest(ids, mays) WITH ORDINALITY AS q(id, may, ord)
        WHERE q.id IS NOT NULL AND q.may AND q.ord <> ALL (said) ORDER BY q.ord
      LOOP
        IF prices[n] >= 0 AND w.used < w.granted AND w.used_cost + prices[n] <= w.granted_cost THEN
          w.used := w.used + 1; w.used_cost := w.used_cost + prices[n];
          CONTINUE;
        END IF;
        -- What was set aside for a callback that is late may be lent to asking again.
        SELECT o.* INTO x FROM ledger.outstanding o, LATERAL (SELECT p_begins->(n - 1)) AS q(e)
          WHERE o.identity = (q.e->>0)::uuid AND NOT o.answered AND o.reserved AND prices[n] >= 0
            AND ledger.is_late(o, (q.e->>10)::boolean, (q.e->>11)::bigint, p_now)
            AND (q.e->>9 IS NULL OR (q.e->>10)::boolean)
            AND (p_max_cost IS NULL OR prices[n] <= o.price) FOR UPDATE OF o;
        IF FOUND THEN
          UPDATE ledger.outstanding o SET reserved = false WHERE o.callback = x.callback AND o.identity = x.identity;
          UPDATE ledger.intents i SET borrows = true WHERE i.place = x.identity AND i.id = ids[n];
          lent := lent || ids[n];
          o_cost := o_cost + prices[n] - x.price;
          CONTINUE;
        END IF;
        RETURN NEXT (CASE WHEN prices[n] < 0 THEN 'unpriced' ELSE why END, n, NULL, NULL, NULL, NULL, NULL, NULL, NULL,
          NULL, NULL, NULL, NULL)::ledger.verdict;
        refused := refused || n;
      END LOOP;
    END IF;
    UPDATE ledger.owners SET granted = w.granted, used = w.used, granted_cost = w.granted_cost, used_cost = w.used_cost,
      expires_at = clock_timestamp() + make_interval(secs => p_lease) WHERE id = p_owner AND NOT ended;
  EXCEPTION WHEN check_violation THEN
    o_cost := v_lent_from;
    lent := '{}';
    UPDATE ledger.owners SET used = used + v_charges, used_cost = used_cost + v_cost,
      expires_at = clock_timestamp() + make_interval(secs => p_lease) WHERE id = p_owner AND NOT ended;
    FOR n IN SELECT q.ord FROM unnest(ids, mays) WITH ORDINALITY AS q(id, may, ord)
      WHERE q.id IS NOT NULL AND q.may AND q.ord <> ALL (said)
    LOOP
      RETURN NEXT ('exhausted', n, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL)::ledger.verdict;
      refused := refused || n;
    END LOOP;
  END;

  IF begins > 0 THEN
    IF cardinality(refused) > 0 THEN
      DELETE FROM ledger.intents i USING jsonb_array_elements(p_begins) WITH ORDINALITY AS q(e, ord)
        WHERE q.ord = ANY (refused) AND i.id = ids[q.ord]
          AND i.place = CASE WHEN (e->>5)::boolean THEN (e->>0)::uuid ELSE lpad(to_hex(ids[q.ord]), 32, '0')::uuid END;
    END IF;
    -- Those that ask for a callback, in the place of one before that is spent, or whose answer is too old.
    FOR n, t IN SELECT q.ord, q.e FROM jsonb_array_elements(p_begins) WITH ORDINALITY AS q(e, ord)
      WHERE q.e->>9 IS NOT NULL AND NOT (q.e->>10)::boolean AND ids[q.ord] IS NOT NULL AND q.ord <> ALL (refused)
    LOOP
      FOR x IN SELECT * FROM ledger.outstanding o
        WHERE o.callback = decode(t->>9, 'hex') AND o.identity = (t->>0)::uuid FOR UPDATE
      LOOP
        SELECT * INTO d FROM ledger.drop_awaited(x);
        o_charges := o_charges + d.charges; o_cost := o_cost + d.cost;
      END LOOP;
      INSERT INTO ledger.outstanding VALUES (decode(t->>9, 'hex'), (t->>0)::uuid, t->>1, t->>2,
        greatest((t->>4)::bigint, 0), p_now, false, ids[n], p_now + (t->>11)::bigint, false);
    END LOOP;
    IF cardinality(lent) > 0 THEN
      RETURN NEXT ('lent', NULL, NULL, lent, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL)::ledger.verdict;
    END IF;
    RETURN NEXT ('ids', NULL, NULL, ids, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL)::ledger.verdict;
  ELSIF is_fenced THEN
    RETURN NEXT ('fenced', NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL)::ledger.verdict;
  END IF;
  PERFORM ledger.account(o_charges, o_cost);
END $$;


-- See `Store.deliver`. `p_said`: the states by what the question was owed (an answer, no charge, nothing; see
-- `charges.Owed`), status, answer, reply, number, and the error of an answer that is a repeat.
CREATE FUNCTION ledger.deliver(p_owner bigint, p_now bigint, p_callbacks bytea[], p_said jsonb) RETURNS boolean
LANGUAGE plpgsql SET jit = off SET enable_seqscan = off AS $$
DECLARE
  v_callbacks bytea[];
  x ledger.outstanding;
  a ledger.attempts;
  z ledger.attempts;
  v_state ledger.state;
  v_took boolean;
  is_paid boolean;  -- its charge was counted
  is_doubtful boolean;
  repeated ledger.outstanding;
  delivered boolean := false;
  v_charges bigint := 0;
  v_cost bigint := 0;
  d record;
BEGIN
  IF current_setting('transaction_isolation') <> 'read committed' THEN
    RAISE EXCEPTION 'isolation' USING ERRCODE = 'AL001';
  END IF;
  IF current_setting('synchronous_commit') NOT IN ('on', 'remote_apply') THEN
    PERFORM set_config('synchronous_commit', 'on', true);
  END IF;
  -- One that is answered and late is none any more: the next group drops it.
  v_callbacks := ARRAY(SELECT DISTINCT o.callback FROM ledger.outstanding o
    WHERE o.callback = p_callbacks[1] AND NOT (o.answered AND o.ends <= p_now));
  IF cardinality(v_callbacks) = 0 THEN
    v_callbacks := ARRAY(SELECT DISTINCT o.callback FROM ledger.outstanding o
      WHERE o.callback = ANY (p_callbacks[2:]) AND NOT (o.answered AND o.ends <= p_now));
  END IF;
  IF cardinality(v_callbacks) <> 1 THEN RETURN false; END IF;
  -- Intents before outstanding: who ends the request has them in this order, too.
  PERFORM FROM ledger.intents i JOIN ledger.outstanding o ON o.identity = i.place
    WHERE o.callback = v_callbacks[1] ORDER BY i.place FOR UPDATE OF i;
  FOR x IN SELECT * FROM ledger.outstanding o
    WHERE o.callback = v_callbacks[1] AND NOT (o.answered AND o.ends <= p_now)
    ORDER BY (o.attempt IS NULL AND NOT o.reserved), o.since FOR UPDATE
  LOOP
    IF x.answered THEN
      IF repeated.callback IS NULL THEN repeated := x; END IF;
      CONTINUE;
    END IF;
    SELECT * INTO d FROM ledger.drop_awaited(x);
    v_charges := v_charges + d.charges; v_cost := v_cost + d.cost;
    UPDATE ledger.attempts SET holds = 2 WHERE identity = x.identity AND holds = 1;
    v_state := (p_said->>delivered::int)::ledger.state;
    is_paid := delivered OR EXISTS (SELECT FROM ledger.attempts b WHERE b.id = x.attempt AND b.state = 'charged');
    -- See `callbacks._is_doubtful`.
    is_doubtful := NOT is_paid AND EXISTS (SELECT FROM ledger.attempts b WHERE b.identity = x.identity AND b.answer
      AND b.started_at + b.elapsed > p_now - (x.ends - x.since) AND b.started_at + b.elapsed <= x.since);
    a := NULL;
    IF x.attempt IS NOT NULL AND NOT is_doubtful THEN
      SELECT * INTO a FROM ledger.attempts WHERE id = x.attempt AND holds <> 0 FOR UPDATE;
    END IF;
    IF a.id IS NOT NULL THEN  -- it had arrived: this is its answer
      IF delivered THEN v_state := a.state; END IF;
      UPDATE ledger.attempts SET identity = x.identity, started_at = x.since, elapsed = p_now - x.since, state = v_state,
        status = p_said->>3, http_status = NULL, error = NULL, answer = (p_said->>4)::boolean, reply = p_said->>5,
        number = (p_said->>6)::int, holds = CASE WHEN v_state = 'unknown' THEN 2 ELSE 0 END, over_at = NULL
        WHERE id = a.id RETURNING * INTO z;
      PERFORM ledger.tell(p_owner, a, -1), ledger.tell(p_owner, z, 1);
      v_charges := v_charges + ledger.stake(v_state, a.may_charge) - ledger.stake(a.state, a.may_charge);
      v_cost := v_cost + (ledger.stake(v_state, a.may_charge) - ledger.stake(a.state, a.may_charge)) * a.price;
    ELSE
      v_took := false;
      v_state := (p_said->>CASE WHEN is_doubtful THEN 2 ELSE is_paid::int END)::ledger.state;
      IF x.attempt IS NOT NULL AND NOT (is_paid OR is_doubtful) THEN  -- where it is still under way, its charge is this one
        UPDATE ledger.intents SET may_charge = false WHERE place = x.identity AND id = x.attempt AND may_charge;
        v_took := FOUND;
      END IF;
      INSERT INTO ledger.attempts (id, identity, started_at, elapsed, price, number, state, holds, may_charge, answer,
        endpoint, key, status, reply)
      VALUES (nextval('ledger.ids'), x.identity, x.since, p_now - x.since, x.price, (p_said->>6)::int, v_state,
        CASE WHEN is_doubtful THEN 2 ELSE 0 END, NOT is_paid, (p_said->>4)::boolean, x.endpoint, x.key, p_said->>3, p_said->>5) RETURNING * INTO z;
      PERFORM ledger.tell(p_owner, z, 1);
      v_charges := v_charges + ledger.stake(v_state, NOT is_paid) - v_took::int;
      v_cost := v_cost + (ledger.stake(v_state, NOT is_paid) - v_took::int) * x.price;
    END IF;
    delivered := true;
  END LOOP;
  IF NOT delivered AND repeated.callback IS NOT NULL THEN
    -- The question was answered otherwise before.
    SELECT * INTO d FROM ledger.drop_awaited(repeated);
    INSERT INTO ledger.attempts (id, identity, started_at, elapsed, price, number, state, holds, may_charge, answer,
      endpoint, key, status, error)
    VALUES (nextval('ledger.ids'), repeated.identity, repeated.since, p_now - repeated.since, repeated.price,
      (p_said->>6)::int, (p_said->>2)::ledger.state, 2, true, false, repeated.endpoint, repeated.key, p_said->>3,
      p_said->>7)
      RETURNING * INTO z;
    PERFORM ledger.tell(p_owner, z, 1);
    v_charges := v_charges + d.charges + 1; v_cost := v_cost + d.cost + repeated.price;
  END IF;
  PERFORM ledger.account(v_charges, v_cost);
  RETURN delivered;
END $$;


-- See `Store.resolve`. Nothing is settled as free that may still be sent: then an error says until when.
CREATE FUNCTION ledger.resolve(
  p_owner bigint, p_now bigint, p_attempt bigint, p_identity uuid, p_keys text[], p_state ledger.state, p_error text
) RETURNS int LANGUAGE plpgsql SET jit = off AS $$
DECLARE
  a ledger.attempts;
  z ledger.attempts;
  x ledger.outstanding;
  v_until timestamptz;
  found_ int := 0;
  v_charges bigint := 0;
  v_cost bigint := 0;
  n bigint;
  d record;
BEGIN
  IF current_setting('transaction_isolation') <> 'read committed' THEN
    RAISE EXCEPTION 'isolation' USING ERRCODE = 'AL001';
  END IF;
  IF current_setting('synchronous_commit') NOT IN ('on', 'remote_apply') THEN
    PERFORM set_config('synchronous_commit', 'on', true);
  END IF;
  FOR x IN SELECT * FROM ledger.outstanding o WHERE o.reserved AND (o.identity = p_identity OR o.key = ANY (p_keys))
    ORDER BY o.callback, o.identity FOR UPDATE
  LOOP
    SELECT * INTO d FROM ledger.drop_awaited(x);
    v_charges := v_charges + d.charges; v_cost := v_cost + d.cost;
    IF p_state = 'charged' THEN
      INSERT INTO ledger.attempts (id, identity, started_at, elapsed, price, number, state, holds, may_charge, answer,
        endpoint, key, error)
      VALUES (nextval('ledger.ids'), x.identity, x.since, 0, x.price, 1, 'charged', CASE WHEN x.answered THEN 0 ELSE 1 END, true, false,
        x.endpoint, x.key, p_error) RETURNING * INTO z;
      PERFORM ledger.tell(p_owner, z, 1);
      v_charges := v_charges + 1; v_cost := v_cost + x.price;
    END IF;
    found_ := found_ + 1;
  END LOOP;
  FOR a IN SELECT * FROM ledger.attempts WHERE holds <> 0 AND state = 'unknown'
    AND (id = p_attempt OR identity = p_identity OR key = ANY (p_keys)) ORDER BY id FOR UPDATE
  LOOP
    IF p_state = 'free' AND a.over_at > clock_timestamp() THEN
      v_until := greatest(v_until, a.over_at);
    END IF;
    UPDATE ledger.attempts SET state = p_state, holds = CASE WHEN a.holds = 1 AND p_state = 'charged' THEN 1 ELSE 0 END,
      error = coalesce(a.error || '; ', '') || p_error WHERE id = a.id RETURNING * INTO z;
    PERFORM ledger.tell(p_owner, a, -1), ledger.tell(p_owner, z, 1);
    n := ledger.stake(p_state, a.may_charge) - ledger.stake(a.state, a.may_charge);
    v_charges := v_charges + n; v_cost := v_cost + n * a.price;
    IF p_state = 'free' THEN
      FOR x IN SELECT * FROM ledger.outstanding o WHERE o.attempt = a.id FOR UPDATE LOOP
        SELECT * INTO d FROM ledger.drop_awaited(x);
        v_charges := v_charges + d.charges; v_cost := v_cost + d.cost;
      END LOOP;
    END IF;
    found_ := found_ + 1;
  END LOOP;
  IF v_until IS NOT NULL THEN
    RAISE EXCEPTION '%', to_char(v_until AT TIME ZONE 'UTC', 'HH24:MI:SS') USING ERRCODE = 'AL003';
  END IF;
  PERFORM ledger.account(v_charges, v_cost);
  RETURN found_;
END $$;


-- The newest answer to each of these questions.
CREATE FUNCTION ledger.find(p_identities uuid[]) RETURNS TABLE (
  place bigint, state text, started_at bigint, elapsed bigint, status text, http_status int, number int, reply text
) LANGUAGE plpgsql STABLE SET jit = off SET enable_seqscan = off AS $$
#variable_conflict use_column
BEGIN
  RETURN QUERY
    SELECT q.ord, a.state::text, a.started_at, a.elapsed, a.status, a.http_status, a.number, a.reply
    FROM unnest(p_identities) WITH ORDINALITY AS q(identity, ord)
    CROSS JOIN LATERAL (
      -- By "+ 0", so that no plan goes through all attempts by their ids.
      SELECT * FROM ledger.attempts b WHERE b.identity = q.identity AND b.answer ORDER BY b.id + 0 DESC LIMIT 1
    ) a;
END $$;


-- Version 2: shards, the lists of a folder, of which each worker takes one after the other.

-- A shard that somebody has or had: `owner` has it, nobody if that is null or ended. `since` is when the pass over the
-- folder began that it was taken in, and `done_at` when it was done, null as long as it is not. A row is locked after
-- all others. It decides about no money: the calls of a shard that two ask are claimed one by one, as all calls are.
CREATE TABLE ledger.shards (
  folder uuid NOT NULL,
  name text NOT NULL,
  owner bigint,
  since timestamptz NOT NULL,
  done_at timestamptz,
  PRIMARY KEY (folder, name)
) WITH (fillfactor = 50);


-- Take a shard for an owner: 'taken', 'busy' (a living one has it), 'done' in this pass, or 'fenced': the owner that asks
-- was taken for dead. Who had it and does not renew its lease is buried first, so that it finds out.
CREATE FUNCTION ledger.take_shard(
  p_owner bigint, p_folder uuid, p_name text, p_since timestamptz, p_error text
) RETURNS text LANGUAGE plpgsql AS $$
DECLARE v_holder bigint;
BEGIN
  IF current_setting('transaction_isolation') <> 'read committed' THEN
    RAISE EXCEPTION 'isolation' USING ERRCODE = 'AL001';
  END IF;
  IF NOT EXISTS (SELECT FROM ledger.owners WHERE id = p_owner AND NOT ended) THEN RETURN 'fenced'; END IF;
  SELECT owner INTO v_holder FROM ledger.shards WHERE folder = p_folder AND name = p_name;
  IF v_holder <> p_owner THEN
    PERFORM ledger.bury(v_holder, false, p_error);
  END IF;
  -- Who finishes it has the row: nobody waits for that.
  PERFORM FROM ledger.shards WHERE folder = p_folder AND name = p_name FOR UPDATE SKIP LOCKED;
  IF NOT FOUND AND v_holder IS NOT NULL THEN RETURN 'busy'; END IF;
  INSERT INTO ledger.shards AS s VALUES (p_folder, p_name, p_owner, p_since)
    ON CONFLICT (folder, name) DO UPDATE SET owner = p_owner, since = p_since, done_at = NULL
    WHERE (s.done_at IS NULL OR s.done_at < p_since) AND (s.owner IS NULL OR s.owner = p_owner
      OR EXISTS (SELECT FROM ledger.owners o WHERE o.id = s.owner AND o.ended));
  IF FOUND THEN RETURN 'taken'; END IF;
  RETURN (SELECT CASE WHEN done_at IS NULL THEN 'busy' ELSE 'done' END FROM ledger.shards
    WHERE folder = p_folder AND name = p_name);
END $$;


-- Version 3: nobody waits for a lock for longer than this. Who does that looks whether somebody stands still with it
-- (`aisolution_async.ledger.server.end_still`), and asks again.
ALTER FUNCTION ledger.exchange SET lock_timeout = '5s';
ALTER FUNCTION ledger.bury SET lock_timeout = '5s';
ALTER FUNCTION ledger.take_share SET lock_timeout = '5s';
ALTER FUNCTION ledger.take_shard SET lock_timeout = '5s';
ALTER FUNCTION ledger.set_limit SET lock_timeout = '5s';
ALTER FUNCTION ledger.deliver SET lock_timeout = '5s';
ALTER FUNCTION ledger.resolve SET lock_timeout = '5s';
