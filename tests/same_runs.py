"""Whether two runs of a classifier have the same result."""

import json
from pathlib import Path

import torch

from byol.run.metrics import read_jsonl


def same_result(one, other):
    """Weights to the bit, and every number of the summary but times, and what says how it went."""
    a, b = (torch.load(f"{name}/classifier.pt", weights_only=True) for name in (one, other))
    for part in ("encoder", "head"):
        assert a[part].keys() == b[part].keys()
        assert all(torch.equal(value, b[part][key]) for key, value in a[part].items())
    a, b = (json.loads(Path(f"{name}/summary.json").read_text()) for name in (one, other))
    assert {**a, "seconds": 0, "about": 0} == {**b, "seconds": 0, "about": 0}
    assert read_jsonl(f"{one}/metrics.jsonl") == read_jsonl(f"{other}/metrics.jsonl") == a["curve"]
    for name in (one, other):
        assert not list(Path(name).glob("*.pt*"))[1:]  # the classifier alone is left
