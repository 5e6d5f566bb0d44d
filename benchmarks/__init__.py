"""How fast it is and what memory it takes. Run one as `python -m benchmarks.NAME`."""
