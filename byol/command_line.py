"""From flags and a TOML file to a checked config; from errors to exit codes.

Settings come in three layers: the defaults of byol/config.py, then the TOML file of `--config`,
then the flags. Keys at the top of a file are read by every script that has them; `[pretrain]` and
`[classifier]` hold what belongs to one script.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import functools
import os
import sys
import tomllib
import typing
from collections.abc import Callable
from pathlib import Path

import torch

from byol import __version__
from byol.config import (
    BELONGING,
    COMMON,
    GONE,
    GROUPS,
    RENAMED,
    ClassifierConfig,
    PretrainConfig,
    Shared,
    check,
    check_flags,
    convert,
)
from byol.errors import NO_ROOM, UserError, gpu_is_full, nearest, printable
from byol.hardware import distributed
from byol.progress import silence
from byol.run.about import running
from byol.run.events import check_tensorboard

HELP_ALL = "--help-all"
CONFIGS = Path(__file__).resolve().parent.parent / "configs"


def parse(config_class, argv: list[str] | None, description: str | None = None):
    """Read defaults, then the TOML file of `--config`, then the flags of `argv`: a checked config.

    Returns the config and the names of the fields that a flag set. A layer that sets what others
    depend on (see `BELONGING` in byol/config.py) resets what the layers below say of those.
    description: as of `Parser`.

    Raises `UserError` for an unknown key or flag, a wrong type or an impossible value; the
    sentence names the key and the nearest valid one.
    """
    hints = typing.get_type_hints(config_class)
    argv = sys.argv[1:] if argv is None else argv
    parser = build_parser(config_class, hints, description, every=HELP_ALL in argv)
    flags = vars(parser.parse_args(argv))
    path = flags.pop("config")
    words = {f.name: f.metadata["none"] for f in dataclasses.fields(config_class)}
    config = config_class()
    if path:
        values = {
            key: convert(value, hints[key], f"{key} in {path}", from_text=False, none=words[key])
            for key, value in _read_toml(Path(path), config_class).items()
        }
        config = _add_layer(config, values)
    given = {
        key: convert(text, hints[key], _flag(key), from_text=True, none=words[key])
        for key, text in flags.items()
    }
    config = _add_layer(config, given)
    check(config)
    check_flags(config, set(flags))
    if config.tensorboard:
        check_tensorboard()
    return config, set(flags)


def _add_layer(config, values: dict):
    """Put `values` over the config, after a reset of what belongs to a choice that they change.

    A field that cannot be None, such as a classifier's rate, is reset to its own default.
    """
    hints = typing.get_type_hints(type(config))
    resets = {}
    for choice, belonging in BELONGING.items():
        if choice in values and values[choice] != getattr(config, choice):
            for key in belonging.keys() & hints.keys():
                value = belonging[key]
                resets[key] = value(values[choice]) if callable(value) else value
    for key, value in resets.items():
        if value is None and type(None) not in typing.get_args(hints[key]):
            resets[key] = getattr(type(config), key)
    return dataclasses.replace(config, **resets | values)


def build_parser(config_class, hints: dict, description: str | None, every: bool) -> Parser:
    """Build the parser: a flag for each field.

    every: its help has all of them, in the groups of `GROUPS`. Without it the help has those of
    `COMMON`, so that it fits on a screen.
    """
    parser = Parser(description=description, usage="%(prog)s [--config FILE] [options]")
    parser.add_argument(
        "--config", metavar="FILE", help="TOML file of differences, such as those in configs/"
    )
    for group, about in GROUPS.items():
        section = parser.add_argument_group(group, about) if every else parser
        for f in dataclasses.fields(config_class):
            if f.metadata["group"] != group:
                continue
            shown = every or f.name in COMMON
            options = {"default": argparse.SUPPRESS}
            options["help"] = _help(f) if shown else argparse.SUPPRESS
            if hints[f.name] is bool:
                options["action"] = argparse.BooleanOptionalAction
                if f.name == "resume":
                    options["action"] = _Resume
            elif typing.get_origin(hints[f.name]) is list:
                options |= {"nargs": "+", "metavar": "X"}
            else:
                options["metavar"] = "X"
            section.add_argument(_flag(f.name), **options)
    parser.add_argument(HELP_ALL, action="help", help="show every setting, in groups")
    return parser


def _flag(key: str) -> str:
    return "--" + key.replace("_", "-")


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors are a `UserError`, with `--quiet` and `--version`.

    description: the docstring of a script. Its help shows the first line, and the indented lines
    as examples.
    """

    def __init__(self, *, description: str | None = None, **options):
        first, *others = (description or "").splitlines() or [""]
        examples = [line[2:] for line in others if line.startswith("    ")]
        about = "\n".join([first, *(["", "examples:", *examples] if examples else [])])
        layout = functools.partial(argparse.RawDescriptionHelpFormatter, max_help_position=28)
        defaults = {"allow_abbrev": False, "formatter_class": layout}
        super().__init__(description=about, **defaults | options)
        if not self.add_help:  # part of another parser, which has them
            return
        self.add_argument(
            "--quiet", action=_Quiet, help="say nothing of the work, only results and warnings"
        )
        self.add_argument("--version", action="version", version=f"byol {__version__}")

    def error(self, message: str):
        if message.startswith("unrecognized arguments:"):
            given = message.split(":", 1)[1].split()[0].split("=")[0]
            flags = [s for a in self._actions for s in a.option_strings if s.startswith("--")]
            hint = _of_earlier(given.removeprefix("--").replace("-", "_"), _flag)
            raise UserError(f"there is no option {given}{hint or nearest(given, flags)}")
        raise UserError(message)


class _Quiet(argparse.Action):
    """Silences what the script tells of its work (byol/progress.py)."""

    def __init__(self, option_strings, dest, help):
        super().__init__(option_strings, argparse.SUPPRESS, nargs=0, help=help)

    def __call__(self, *_):
        silence()


class _Resume(argparse.BooleanOptionalAction):
    """`--resume`, also written `--resume auto`."""

    def __init__(self, **options):
        super().__init__(**options)
        self.nargs, self.metavar = "?", "auto"

    def __call__(self, parser, namespace, value, option_string=None):
        if value not in (None, "auto"):
            raise UserError(f"{option_string} stands alone or with auto, not with {value}")
        super().__call__(parser, namespace, None, option_string)


def _of_earlier(key: str, spell: Callable[[str], str] = str) -> str:
    """Say what became of a setting of an earlier version; nothing for any other word."""
    if key in RENAMED:
        return f"; it is now {spell(RENAMED[key])}"
    return "; it is gone: leave it out" if key in GONE else ""


def _help(f: dataclasses.Field) -> str:
    """Write the help line of a field, with its choices and its default."""
    text = f.metadata["help"]
    if f.metadata["choices"]:
        text += " (" + ", ".join(f.metadata["choices"]) + ")"
    default = f.default_factory() if f.default is dataclasses.MISSING else f.default
    if isinstance(default, list):
        default = " ".join(map(str, default))
    if default is not None and default is not False:
        text += f" [{default}]"
    return text.replace("%", "%%")


def load_toml(path: Path, flag: str = "", hint: str = "") -> dict:
    """Read a TOML file. Raises `UserError`; if there is no file, `hint` ends its sentence."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        raise UserError(f"{flag}there is no file {path}{hint}") from None
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{flag}{path} cannot be read as TOML: {error}") from None


def _read_toml(path: Path, config_class) -> dict:
    """Read the file's top keys, as far as this script has them, and this script's section."""
    known = ", ".join(sorted(p.stem for p in CONFIGS.glob("*.toml")))
    table = load_toml(path, "--config: ", f" (configs/ has {known})")
    classes = {c.section: c for c in (PretrainConfig, ClassifierConfig)}
    shared = {f.name for f in dataclasses.fields(Shared)}
    result = {}
    for key, value in table.items():
        if key in classes and isinstance(value, dict):
            known_keys = {f.name for f in dataclasses.fields(classes[key])}
            for inner in value:
                if inner not in known_keys:
                    hint = _of_earlier(inner) or nearest(inner, known_keys)
                    raise UserError(f"{path}: [{key}] has no key {inner!r}{hint}")
            if key == config_class.section:
                result.update(value)
        elif key in shared:
            result[key] = value
        else:
            hint = _of_earlier(key) or nearest(key, shared | set(classes))
            raise UserError(f"{path}: there is no key {key!r} at the top{hint}")
    return result


def command(
    main: Callable[[list[str] | None], None], several: bool = False
) -> Callable[[list[str] | None], int]:
    """Turn a script's `main` into one that returns an exit code and never a traceback.

    0 done; 2 with one sentence on stderr, for a `UserError`, a full disk, too little memory, or an
    operation that --deterministic cannot have; 130 interrupted, 143 terminated. No control
    character of a name gets to the terminal. Output that nobody reads any more stops nothing. Nor
    do results that find no room, but the exit code is 2 then.

    several: it may run as several processes. Then the first one speaks for all, but for errors.
    """

    @functools.wraps(main)
    def run(argv: list[str] | None = None) -> int:
        results, others, errors = Output(sys.stdout), Output(sys.stderr), Output(sys.stderr)
        if not distributed.is_first():
            results = others = Output(open(os.devnull, "w"))  # noqa: SIM115  (to the end)
        with contextlib.redirect_stdout(results), contextlib.redirect_stderr(others):
            try:
                code = finish(argv, errors)
                results.flush()
                if code == 0 and results.full:
                    print(f"error: {_sentence(results.full)}", file=sys.stderr)
                    return 2
                distributed.end(code)
                return code
            finally:
                silence(False)  # --quiet was for this call

    def finish(argv: list[str] | None, errors: Output) -> int:
        try:
            if not several:
                script = Path(main.__code__.co_filename).name
                distributed.refuse_several(f"{script} takes one process")
            with running(main.__code__.co_filename, argv):
                main(argv)
            distributed.leave()
        except KeyboardInterrupt as interrupt:
            what = str(interrupt) or "nothing was saved; run the command again"
            print(f"interrupted: {printable(what)}", file=sys.stderr)
            return getattr(interrupt, "code", 130)
        except Exception as error:
            sentence = _sentence(error)
            if sentence is None:
                raise
            if distributed.is_first_to_tell():
                whose = "" if distributed.is_first() else f"process {distributed.rank()}: "
                print(f"error: {whose}{printable(sentence)}", file=errors)
            return 2
        return 0

    return run


command_for_several = functools.partial(command, several=True)


class Output:
    """A text stream that may lose its reader, as at the end of a pipe or of a closed terminal.

    What can no longer be written is dropped, so that a run goes on. A character that the terminal's
    encoding lacks is written as an escape.

    full: the error of a disk that had no room for the text
    """

    def __init__(self, stream):
        self._stream, self._lost = stream, stream is None
        self.full: OSError | None = None
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")

    def write(self, text: str) -> int:
        self._try(lambda: self._stream.write(text))
        return len(text)

    def flush(self) -> None:
        self._try(lambda: self._stream.flush())

    def _try(self, act: Callable) -> None:
        if self._lost:
            return
        try:
            act()
        except OSError as error:
            self._lost = True
            self.full = error if error.errno in NO_ROOM else None
            with contextlib.suppress(OSError, ValueError):  # what is buffered goes nowhere, too
                nowhere = os.open(os.devnull, os.O_WRONLY)
                os.dup2(nowhere, self._stream.fileno())
                os.close(nowhere)

    def __getattr__(self, name: str):
        return getattr(self._stream, name)


def _sentence(error: Exception) -> str | None:
    """Say what the user can do; None for a fault that is not theirs: that deserves a traceback."""
    text = str(error)
    if isinstance(error, UserError):
        return text
    if gpu_is_full(error):
        return (
            "the GPU has too little memory; end what else uses it, or lower --batch-size or "
            "--image-size, or give --device cpu; train_byol.py takes less with --no-cuda-graph, "
            "--photos-in host or --accumulate 2, and goes on with --resume if a run was saved"
        )
    if isinstance(error, MemoryError) or "can't allocate memory" in text:
        return (
            "this machine has too little memory; free some, lower --batch-size or --image-size, or "
            "give train_byol.py a higher --accumulate"
        )
    name, refused, _ = text.partition(" does not have a deterministic implementation")
    if refused and torch.are_deterministic_algorithms_enabled():
        return (
            f"--deterministic: {name} has no deterministic version here; leave --deterministic "
            "out, or take --device cpu"
        )
    if isinstance(error, NotImplementedError) and "MPS device" in text:
        return (
            "--device mps: this PyTorch lacks an operation there; set the environment variable "
            "PYTORCH_ENABLE_MPS_FALLBACK=1, or give --device cpu"
        )
    if isinstance(error, OSError) and error.errno in NO_ROOM:
        return (
            f"no room to write {error.filename or 'the output'} ({error.strerror}); free some "
            "space and run the command again, with --resume if a run was saved"
        )
    return None
