"""What bad input gets from every script."""


def fails(capsys, code, *words):
    """The script ended with exit code 2, one sentence on stderr, no traceback."""
    captured = capsys.readouterr()
    errors = [line for line in captured.err.splitlines() if line.startswith("error:")]
    assert code == 2
    assert len(errors) == 1
    assert "Traceback" not in captured.err
    for word in words:
        assert word in errors[0]
