"""From errors to exit codes: one sentence for what a user can mend, a traceback for the rest."""

import pytest
import torch
from refusals import fails

from byol.command_line import command
from byol.errors import Stopped, UserError


def ends_with(error: BaseException) -> int:
    @command
    def main(argv):
        raise error

    return main([])


def test_a_script_that_ends_well_gives_0():
    assert command(lambda argv: None)([]) == 0


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (UserError("the nose is blue; paint it"), ["error: the nose is blue; paint it"]),
        (
            torch.OutOfMemoryError("CUDA out of memory."),
            ["the GPU has too little memory", "--image-size"],
        ),
        (
            RuntimeError("CUDNN_STATUS_ALLOC_FAILED"),
            ["the GPU has too little memory", "--image-size"],
        ),
        (MemoryError(), ["this machine has too little memory", "--image-size"]),
        (
            RuntimeError("[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't "
                         "allocate memory: you tried to allocate 9 bytes. Error code 12"),
            ["this machine has too little memory", "--image-size"],
        ),
        (OSError(28, "No space left on device", "last.pt"), ["no room to write last.pt"]),
        (OSError(122, "Disk quota exceeded", "last.pt"), ["no room to write last.pt"]),
    ],
)  # fmt: skip
def test_what_the_user_can_mend_is_one_sentence(capsys, error, words):
    fails(capsys, ends_with(error), *words)


@pytest.mark.parametrize(
    "error", [RuntimeError("a fault of ours"), OSError(5, "I/O error"), KeyError(1)]
)
def test_another_fault_keeps_its_traceback(error):
    with pytest.raises(type(error)):
        ends_with(error)


@pytest.mark.parametrize(
    ("interrupt", "code", "told"),
    [
        (KeyboardInterrupt(), 130, "nothing was saved; run the command again"),
        (Stopped("saved at step 3", 143), 143, "saved at step 3"),
    ],
)
def test_a_signal_says_what_is_saved(capsys, interrupt, code, told):
    assert ends_with(interrupt) == code
    assert capsys.readouterr().err == f"interrupted: {told}\n"


def test_no_control_character_of_a_name_gets_to_the_terminal(capsys):
    assert ends_with(UserError("there is no file a\x1b[2J\nb")) == 2
    assert capsys.readouterr().err == "error: there is no file a\\x1b[2J\\nb\n"


def test_an_operation_that_is_never_deterministic_is_one_sentence(capsys):
    error = RuntimeError(
        "some_backward_cuda does not have a deterministic implementation, but you set "
        "'torch.use_deterministic_algorithms(True)'. You can turn off determinism just for "
        "this operation, or you can use the 'warn_only=True' option.\nMore."
    )
    torch.use_deterministic_algorithms(True)
    try:
        words = "--deterministic: some_backward_cuda has no deterministic version here; leave"
        fails(capsys, ends_with(error), words)
    finally:
        torch.use_deterministic_algorithms(False)
    with pytest.raises(RuntimeError, match="some_backward_cuda"):  # not asked for: a fault of ours
        ends_with(error)
