"""Doors for other people's frameworks. Each module needs its own extra, and none is imported by anything else here."""
