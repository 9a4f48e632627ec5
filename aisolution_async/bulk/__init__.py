"""Files in, files out: a list of rows through one endpoint or several, one row out for each row in."""

from aisolution_async.bulk.forecast import Forecast, forecast_bulk
from aisolution_async.bulk.options import BulkOptions
from aisolution_async.bulk.run import BulkRun, run_bulk, sample_bulk
from aisolution_async.bulk.sample import Estimate, ListSample
from aisolution_async.bulk.shards import FolderRun, FolderSummary, run_folder
from aisolution_async.bulk.summary import BulkError, Summary

__all__ = [
    "BulkError",
    "BulkOptions",
    "BulkRun",
    "Estimate",
    "FolderRun",
    "FolderSummary",
    "Forecast",
    "ListSample",
    "Summary",
    "forecast_bulk",
    "run_bulk",
    "run_folder",
    "sample_bulk",
]
