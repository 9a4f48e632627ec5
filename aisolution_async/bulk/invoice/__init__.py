"""Invoices as vendors send them, read into charges by day and service, and compared with what ledgers counted.

`tables` finds the tables of a file, `reading` understands one of them, `words` knows what stands in cells, and
`compare` puts the invoice beside the ledgers. How the invoice was read is said in `Invoice.about`; what can be read in
two ways, or in none, is refused with its line and what to do about it.
"""

from aisolution_async.bulk.invoice.compare import Comparison, Difference, compare
from aisolution_async.bulk.invoice.reading import Hints, Invoice, understand
from aisolution_async.bulk.invoice.tables import read
from aisolution_async.bulk.invoice.words import Days

__all__ = ["Comparison", "Days", "Difference", "Hints", "Invoice", "compare", "read", "understand"]
