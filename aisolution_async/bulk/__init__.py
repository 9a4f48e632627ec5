"""Files in, files out: a list of rows through one endpoint or several, one row out for each row in."""

from aisolution_async.bulk.forecast import Forecast, forecast_bulk
from aisolution_async.bulk.runner import BulkError, BulkRun, Summary, run_bulk

__all__ = ["BulkError", "BulkRun", "Forecast", "Summary", "forecast_bulk", "run_bulk"]
