"""Which recipe is best: the searches and their lists. Run one as `python -m experiments.NAME`."""
