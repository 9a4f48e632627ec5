"""Spark: a DataFrame in, the same rows with their answers out, asked by the executors' Python workers.

```python
df = spark.read.parquet("s3://bucket/applicants")
answered = calls(df, WhatsAppDetail, columns={"number": "phone"}, key="id", ledger="postgresql://host/db?schema=may")
answered.write.parquet("s3://bucket/answered")
```

The columns that are added, and what happens to rows that fail, are in `aisolution_async.integrations.arrow`.

- **Spark does rows again.** It repeats a task that failed, and, with `spark.speculation`, one that is slow. A DataFrame
  is lazy: `df.count()` and then `df.write` run it twice. What was answered comes from the ledger then, free. What was
  under way in a Python worker that was killed is held.
- **The token** is taken from AISOLUTION_TOKEN on each executor: put it into the environment of the nodes.
  `spark.executorEnv.AISOLUTION_TOKEN` works too, and is then in Spark's configuration.
- **Partitions.** The rows are dealt out to `workers` partitions, so that all of them have work. No more than so many
  Python workers ask at once, and no more than the executors have cores. Each is forked, and used for several tasks: it
  has one client from its first task on.
- **Photos as bytes** want fewer rows in each Arrow batch:
  `spark.conf.set("spark.sql.execution.arrow.maxRecordsPerBatch", 50)`.
- `show()` and `take(5)` ask more than they show. Use `df.limit(5)` before `calls`.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, Unpack

try:
    import pyarrow as pa
    from pyspark.sql.pandas.types import from_arrow_schema, to_arrow_schema
    from pyspark.sql.types import StructType
except ModuleNotFoundError as exc:
    if (exc.name or "").partition(".")[0] not in ("pyspark", "py4j", "pyarrow", "pandas", "numpy"):
        raise
    raise ImportError("Spark is missing: pip install 'aisolution-async[spark]'") from None

from aisolution_async.api import Call
from aisolution_async.checks import whole
from aisolution_async.integrations.arrow import CONCURRENCY, ClientOptions, Work
from aisolution_async.limits import Adaptive

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

__all__ = ["calls"]


def calls(
    df: DataFrame,
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
    **options: Unpack[ClientOptions],
) -> DataFrame:
    """The rows of `df`, each with what `call` was answered for it. Lazy: nothing is asked before somebody reads.

    - `columns`, `values`, `key`, `prefix`, `ledger`, `without_shared_ledger` and `options` are those of `Work.of`.
    - `workers`: into how many partitions the rows are dealt. `concurrency`: how many attempts a Python worker makes at
      once, or an `Adaptive`. `rate`: how many attempts a second they make together; each has its share.

    Raises ConfigurationError for what cannot work.
    """
    whole("workers", workers, 1)
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
    added = from_arrow_schema(work.added(to_arrow_schema(df.schema)))

    def ask(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        return work.stream(batches)

    return df.repartition(workers).mapInArrow(ask, StructType([*df.schema.fields, *added.fields]))
