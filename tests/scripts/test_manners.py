"""What a script says and where: results on stdout, its work on stderr, and help on a screen."""

import re
import shlex
import sys

import pytest
from narrow_encoder import evaluate_fast
from photo_files import cartoon_folder

import byol
import evaluate
import explore
import export
import plot_losses
import predict
import train_byol
import train_classifier
from byol.command_line import Parser, command
from byol.progress import say, silence, silent

SCRIPTS = [train_byol, train_classifier, evaluate, plot_losses, predict, explore, export]
EACH = pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.__name__)
WIDTH, HEIGHT = 100, 40  # of a screen


def shown(capsys, script, flag: str) -> str:
    """What a script shows of itself on stdout before it ends."""
    with pytest.raises(SystemExit) as end:
        script.main([flag])
    assert end.value.code == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    return captured.out


# ---- streams


def test_results_are_on_stdout_and_the_work_is_on_stderr(
    pretrain, classify, narrow_encoder, no_drawing, capsys
):
    assert pretrain() == 0
    told = capsys.readouterr()
    took, *_health, wrote = told.out.splitlines()
    assert took.startswith("took ")
    assert wrote.startswith("wrote byol.pt: now python train_classifier.py --init byol.pt")
    for word in ("data  ", "classes", "model  ", "schedule", "run folder", "6/6 steps"):
        assert word in told.err

    frozen = ["--init", "byol.pt", "--freeze"]
    assert classify(*frozen) == 0
    told = capsys.readouterr()
    assert re.fullmatch(r"test accuracy \d+\.\d\d % on 12 images \(test split\)\n", told.out)
    for word in ("data  ", "classes", "model  ", "run folder", "3/3 epochs"):
        assert word in told.err

    assert plot_losses.main([]) == 0
    told = capsys.readouterr()
    assert told.out.startswith("| test accuracy, % | random weights | BYOL weights |\n")
    assert told.out.splitlines()[-2:] == ["plots/loss2.png", "plots/index.html"]
    assert "no run yet of: " in told.err


def test_quiet_leaves_results_and_warnings(
    in_tmp, tiny, classify, narrow_encoder, no_drawing, monkeypatch, capsys
):
    evaluate_fast(monkeypatch)
    folder = cartoon_folder(in_tmp / "photos", train=32, test=12)
    (folder / "train" / "broken.jpg").write_bytes(b"\xff\xd8no photo")
    data = ["--data", str(folder)]
    assert train_byol.main([*tiny, *data, "--quiet"]) == 0
    told = capsys.readouterr()
    assert [line.split()[0] for line in told.out.splitlines()] == ["took", "wrote"]
    (line,) = told.err.splitlines()
    assert line.startswith("skipped 1 of 45 files: ")
    assert "broken.jpg" in line

    assert classify("--init", "byol.pt", "--freeze", "--quiet") == 0
    told = capsys.readouterr()
    assert told.out.startswith("test accuracy ")
    assert [line.split()[0] for line in told.err.splitlines()] == ["skipped"]

    flags = ["--frozen-only", "--labels", "8", "--seeds", "1", "--device", "cpu", "--amp", "off"]
    assert evaluate.main(["byol.pt", *flags, "--quiet"]) == 0
    told = capsys.readouterr()
    assert told.out.splitlines()[-1] == "evaluation/table.png"
    assert [line.split()[0] for line in told.err.splitlines()] == ["skipped"]

    assert plot_losses.main(["--quiet"]) == 0
    assert capsys.readouterr().err == ""
    assert classify("--init", "none.pt", "--quiet") == 2
    assert capsys.readouterr().err.startswith("error: there is no checkpoint none.pt")


def test_quiet_is_for_one_call(capsys):
    @command
    def main(argv):
        Parser().parse_args(argv)
        say("working")

    for argv, told in ([["--quiet"], ""], [[], "working\n"]):
        assert main(argv) == 0
        assert capsys.readouterr() == ("", told)
        assert not silent()


def test_a_part_of_a_parser_has_neither_so_that_commands_may_share_it():
    shared = Parser(add_help=False)
    shared.add_argument("--init")
    parser = Parser(description="What it does.")
    commands = parser.add_subparsers(dest="command")
    commands.add_parser("map", parents=[shared])
    args = parser.parse_args(["map", "--quiet", "--init", "byol.pt"])
    assert (vars(args), silent()) == ({"command": "map", "init": "byol.pt"}, True)
    silence(False)


# ---- help


@EACH
def test_the_version(script, capsys):
    assert shown(capsys, script, "--version") == f"byol {byol.__version__}\n"
    assert re.fullmatch(r"\d+\.\d+\.\d+", byol.__version__)


@EACH
def test_the_help_fits_on_a_screen_and_has_examples(script, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", str(WIDTH))
    monkeypatch.setattr(sys, "argv", [f"{script.__name__}.py"])
    text = shown(capsys, script, "--help")
    lines = text.splitlines()
    assert len(lines) <= HEIGHT
    assert max(map(len, lines)) <= WIDTH
    assert lines[0].startswith(f"usage: {script.__name__}.py ")
    assert script.__doc__.splitlines()[0] in lines
    assert lines.index("examples:") < lines.index("options:")
    assert len(examples(text, script)) >= 2
    for flag in ("--help", "--quiet", "--version"):
        assert flag in text


@pytest.mark.parametrize("script", [train_byol, train_classifier], ids=lambda s: s.__name__)
def test_the_flags_of_the_examples_are_settings(script, capsys):
    every = shown(capsys, script, "--help-all")
    short = shown(capsys, script, "--help")
    assert len(every.splitlines()) > 2 * len(short.splitlines())
    assert "--help-all" in short
    for command_line in examples(short, script):
        for flag in re.findall(r"--[a-z-]+", command_line):
            assert f"\n  {flag} " in every or f"\n  {flag}," in every, flag


def examples(text: str, script) -> list[str]:
    """The commands of a help text, as a shell would take them."""
    lines = [line for line in text.splitlines() if line.startswith("  python ")]
    commands = [shlex.split(line, comments=True) for line in lines]
    assert all(words[1] == f"{script.__name__}.py" for words in commands)
    return [" ".join(words[2:]) for words in commands]
