"""Ray Data: a dataset in, the same rows with their answers out, asked by as many actors as you say.

```python
ds = ray.data.read_parquet("s3://bucket/applicants")
answered = calls(ds, WhatsAppDetail, columns={"number": "phone"}, key="id", ledger="postgresql://host/db?schema=may")
answered.write_parquet("s3://bucket/answered")
```

The columns that are added, and what happens to rows that fail, are in `aisolution_async.integrations.arrow`.

- **Ray does rows again.** When an actor dies, Ray starts another one and gives it the same rows. A dataset is lazy:
  `count()` and then `write_parquet()` run it twice. What was answered comes from the ledger then, free. What was under
  way in an actor that was killed is held.
- **The token** is taken from AISOLUTION_TOKEN on each node: put it into the environment that `ray start` has. What is
  in `runtime_env` stands on Ray's dashboard.
- **Blocks.** The rows are cut into blocks of `rows_per_block`, so that all actors have work, also where Ray reads many
  files as one block. An actor works at several blocks at once. Photos as bytes want fewer rows: 20.
- `take(5)` asks more than five rows: the blocks that were begun are answered, and in the ledger. Use
  `ds.limit(5)` before `calls`.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Unpack

try:
    import pyarrow as pa
    from ray.data import ActorPoolStrategy
except ModuleNotFoundError as exc:
    if (exc.name or "").partition(".")[0] not in ("ray", "pyarrow", "pandas", "numpy", "fsspec"):
        raise
    raise ImportError("Ray Data is missing: pip install 'aisolution-async[ray]'") from None

from aisolution_async.api import Call
from aisolution_async.checks import whole
from aisolution_async.integrations.arrow import CONCURRENCY, ClientOptions, Work
from aisolution_async.limits import Adaptive

if TYPE_CHECKING:
    from ray.data import Dataset

__all__ = ["calls"]

ROWS_PER_BLOCK = 200
# Blocks that an actor works at together, and those that are on their way to it.
_BLOCKS, _BLOCKS_AHEAD = 8, 12


class Actor:
    """What Ray makes in each of its actors."""

    def __init__(self, work: Work) -> None:
        self._work = work

    def __call__(self, table: pa.Table) -> pa.Table:
        """One block, with its answers. Called from several threads."""
        return self._work.table(table)

    def __del__(self) -> None:
        """The dataset is done: Ray gives its actors up, and ends their processes without more ado."""
        self._work.close()


def calls(
    ds: Dataset,
    call: type[Call[Any]],
    *,
    columns: Mapping[str, str] | None = None,
    values: Mapping[str, Any] | None = None,
    key: str | None = None,
    prefix: str = "",
    ledger: str | os.PathLike[str] | None = None,
    without_shared_ledger: bool = False,
    workers: int = 8,
    concurrency: int | Adaptive = CONCURRENCY,
    rate: float | None = None,
    rows_per_block: int = ROWS_PER_BLOCK,
    num_cpus: float = 0,
    **options: Unpack[ClientOptions],
) -> Dataset:
    """The rows of `ds`, each with what `call` was answered for it. Lazy: nothing is asked before somebody reads.

    - `columns`, `values`, `key`, `prefix`, `ledger`, `without_shared_ledger` and `options` are those of `Work.of`.
    - `workers`: how many actors ask. `concurrency`: how many attempts each of them makes at once, or an `Adaptive`.
      `rate`: how many attempts a second they make together; each has its share.
    - `rows_per_block`: how many rows an actor is given at once.
    - `num_cpus`: how much of a core each actor takes away from Ray's tasks. An actor waits most of the time, and actors
      that took all cores would wait for ever for the tasks that read.

    Raises ConfigurationError for what cannot work. Columns that Ray does not know yet are checked by the actors, before
    they send anything.
    """
    whole("workers", workers, 1)
    whole("rows_per_block", rows_per_block, 1)
    work = Work.of(
        call,
        columns=columns,
        values=values,
        key=key,
        prefix=prefix,
        ledger=ledger,
        without_shared_ledger=without_shared_ledger,
        concurrency=concurrency,
        rate=rate,
        workers=workers,
        **options,
    )
    # To find out what is not known, Ray would run the plan: other paid calls too.
    known = ds.schema(fetch_if_missing=False)
    if known is not None and isinstance(known.base_schema, pa.Schema):
        work.added(known.base_schema)
    return ds.repartition(target_num_rows_per_block=rows_per_block).map_batches(
        Actor,
        fn_constructor_args=(work,),
        batch_size=None,
        batch_format="pyarrow",
        compute=ActorPoolStrategy(
            size=workers,
            max_concurrent_calls_per_actor=_BLOCKS,
            enable_true_multi_threading=True,
            max_tasks_in_flight_per_actor=_BLOCKS_AHEAD,
        ),
        num_cpus=num_cpus,
        udf_modifying_row_count=False,
    )
