"""Files in, files out: a list of rows through one endpoint, one row out for each row in."""

from aisolution_async.bulk.runner import BulkError, BulkRun, Summary, run_bulk

__all__ = ["BulkError", "BulkRun", "Summary", "run_bulk"]
