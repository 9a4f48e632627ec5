"""`python -m aisolution_async.cli`."""

from aisolution_async.cli import main

main()
