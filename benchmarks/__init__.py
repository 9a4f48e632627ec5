"""What a call costs, measured beside what users would otherwise write: `python -m benchmarks`. See README.md."""
