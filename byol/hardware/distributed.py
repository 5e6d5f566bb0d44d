"""Several processes that train one model together, as torchrun starts them, with PyTorch's engine.

Each process takes its share of every batch, and together they compute the step of one process:
BatchNorm sees the whole batch (byol/hardware/global_batchnorm.py), and gradients are averaged.
The process of rank 0 writes. With one process nothing here does anything. Or the others help the
first one, which does all but what it asks of them (`Helpers`).

torchrun tells each process its rank, and how many there are, in environment variables. A store of
keys joins them from the start. The process group exists from `join` on.
"""

from __future__ import annotations

import contextlib
import datetime
import functools
import hashlib
import io
import os
import secrets
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import TypeVar

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

from byol.errors import UserError

T = TypeVar("T")

VARIABLES = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
BUCKET = 2**23  # numbers that are summed at a time: 32 MiB of gradients
LIMIT = datetime.timedelta(hours=1)  # for the others' part of a message: rank 0 may look or save
ARRIVAL = 600  # seconds for all processes to start
PATIENCE = 2.0  # seconds to wait before that is said
GRACE = 5.0  # seconds to end in order after another process has ended
FAILED = "failed"  # a key: a process has ended with an error
LOST = (
    "another process of this run has ended, so this one ends too; give the same command again: a "
    "training goes on with --resume auto"
)


# ---- who is who ----


def count() -> int:
    """Count the processes that train together: 1 without torchrun."""
    return int(os.environ["WORLD_SIZE"]) if all(map(os.environ.get, VARIABLES)) else 1


def rank() -> int:
    """Tell the number of this process: 0 is the first."""
    return int(os.environ["RANK"]) if count() > 1 else 0


def is_first() -> bool:
    """Tell whether this process writes, logs and saves."""
    return rank() == 0


def local_rank() -> int:
    """Tell the number of this process among those of its machine."""
    return int(os.environ.get("LOCAL_RANK", 0)) if count() > 1 else 0


def machine() -> int:
    """Tell the number of this machine."""
    return int(os.environ.get("GROUP_RANK", rank())) if count() > 1 else 0


def machines() -> int:
    """Count the machines."""
    return int(os.environ.get("GROUP_WORLD_SIZE", count())) if count() > 1 else 1


def describe() -> str:
    """Say for a banner how many processes there are; nothing if there is one."""
    if count() == 1:
        return ""
    return f", {count()} processes" + (f" on {machines()} machines" if machines() > 1 else "")


def share(rows: np.ndarray, accumulate: int) -> np.ndarray:
    """Take the part of this process of a batch: (B,) -> (B / count,).

    The batch is `accumulate` micro-batches, one after the other. Each of them is shared out, so a
    micro-batch has the same photos however many processes there are.
    """
    return rows.reshape(accumulate, count(), -1)[:, rank()].reshape(-1)


# ---- before the process group: a store of keys ----


@functools.cache
def _common() -> dist.Store:
    """Open the store of torchrun, which it keeps over its restarts."""
    return next(dist.rendezvous("env://"))[0]


def _name_of_start() -> str:
    """Name this start by the words of all processes. Another start has other words."""
    words = [_common().get(f"word/{number}") for number in range(count())]
    return hashlib.sha256(b" ".join(words)).hexdigest()


@functools.cache
def _part() -> tuple[str, dist.Store]:
    """Give the name of this start, and its part of the store, when all processes are there.

    What an earlier start left in the store would mislead this one. So each process writes a new
    word, and the words of all name the part that they use.
    """
    _common().set(f"word/{rank()}", secrets.token_hex(8))
    deadline = time.monotonic() + ARRIVAL
    while time.monotonic() < deadline:
        if _common().check([f"word/{number}" for number in range(count())]):
            name = _name_of_start()
            _common().set(f"{name}/{rank()}", "")
            if _common().check([f"{name}/{number}" for number in range(count())]):
                return name, dist.PrefixStore(name, _common())
        time.sleep(0.05)
    raise UserError(f"of the {count()} processes some did not start within {ARRIVAL} seconds")


def store() -> dist.Store:
    """Open the store that the processes of this start share.

    Raises `UserError` if a process does not come.
    """
    return _part()[1]


def wait_for(keys: list[str], whom: str) -> None:
    """Wait until all keys are in the store, for days if need be. Says so, if it takes long.

    Raises `UserError` if a process ends meanwhile, or has been started again.
    """
    told, began = local_rank() > 1, time.monotonic()  # one of those that wait says it
    while not _are_there(keys):
        if _are_there([FAILED]) or _name_of_start() != _part()[0]:
            raise UserError(LOST)
        if not told and time.monotonic() - began > PATIENCE:
            told = True
            text = f"waiting     until {whom} has packed the photos"
            print(text, file=sys.__stderr__, flush=True)
        time.sleep(0.2)


def _are_there(keys: list[str]) -> bool:
    with ending_with_others():  # the store ends with torchrun
        return store().check(keys)


def one_after_another(act: Callable[[], T]) -> T:
    """Do `act` in the first process of each machine, and then in the others, which find it done."""
    if count() == 1:
        return act()
    store()  # all have to start soon; the act may take hours
    if local_rank() > 0:
        wait_for([f"done/{machine()}"], "the first process of this machine")
    result = act()
    if local_rank() == 0:
        store().set(f"done/{machine()}", "")
    return result


# ---- the process group ----


def join(device: torch.device, facts: dict) -> None:
    """Make the process group: NCCL between GPUs, gloo between CPUs and for what the hosts agree on.

    It waits until all processes are here, for days if need be. Raises `UserError` for a device that
    has neither, and if the `facts` of the processes differ.
    """
    if count() == 1:
        return
    backends = {"cpu": "gloo", "cuda": "cpu:gloo,cuda:nccl"}
    if device.type not in backends:
        raise UserError(f"--device {device.type} takes one process: start it without torchrun")
    store().set(f"here/{rank()}", "")
    wait_for([f"here/{number}" for number in range(count())], "every machine")
    with ending_with_others():
        dist.init_process_group(
            backends[device.type], store=store(), rank=rank(), world_size=count(), timeout=LIMIT
        )
        Watch.begin()
    check_same(facts)


@contextlib.contextmanager
def ending_with_others() -> Iterator[None]:
    """Make a `UserError` of a message that fails: another process is gone."""
    try:
        yield
    except RuntimeError as error:
        if isinstance(error, torch.OutOfMemoryError):
            raise
        raise UserError(LOST) from error


def sum_(tensor: Tensor) -> Tensor:
    """Add up a tensor over all processes, in place. Raises `UserError` if one of them is gone."""
    if count() > 1:
        with ending_with_others():
            dist.all_reduce(tensor)
    return tensor


@torch.no_grad()
def average_gradients(model: nn.Module, others: list[Tensor]) -> None:
    """Average the gradients, and other tensors, over all processes, in place.

    They go in few large messages. The gradients are there in each process, or in none.
    """
    if count() == 1:
        return
    bucket, size = [], 0
    for tensor in [*(p.grad for p in model.parameters() if p.grad is not None), *others]:
        if bucket and size + tensor.numel() > BUCKET:
            _average_bucket(bucket)
            bucket, size = [], 0
        bucket.append(tensor)
        size += tensor.numel()
    _average_bucket(bucket)


def _average_bucket(bucket: list[Tensor]) -> None:
    lines = [_line(tensor) for tensor in bucket]
    parts = sum_(torch.cat(lines)).div_(count()).split([len(line) for line in lines])
    torch._foreach_copy_(lines, parts)


def _line(tensor: Tensor) -> Tensor:
    """View a tensor as a line of its numbers, as they lie in memory: another order takes longer."""
    order = sorted(range(tensor.dim()), key=tensor.stride, reverse=True)
    return tensor.permute(order).view(-1)


def highest(*numbers: int) -> list[int]:
    """Give the highest of each number over all processes: what one of them wants, all do.

    The hosts do this among themselves, so no GPU waits. A process with helpers decides alone.
    """
    if count() == 1 or Helpers.current:
        return list(numbers)
    highest = torch.tensor(numbers, dtype=torch.int64)
    with ending_with_others():
        dist.all_reduce(highest, dist.ReduceOp.MAX)
    return highest.tolist()


def meet() -> None:
    """Wait until all processes are here."""
    highest(0)


def check_same(facts: dict) -> None:
    """Raise `UserError`, in all processes, if their facts differ. It names these facts."""
    of_all = [None] * count()
    with ending_with_others():
        dist.all_gather_object(of_all, (machine(), facts))
    for number, others in of_all:
        if differ := [key for key in facts if others[key] != of_all[0][1][key]]:
            raise UserError(
                f"machine {number} has other {', '.join(differ)} than machine 0: give all machines "
                "the same command and the same photos"
            )


def take_over(step: int, parts: dict) -> int:
    """Give all processes the state of the first one. Returns its step.

    parts: what has `state_dict` and `load_state_dict`, on this process's device.
    """
    if count() == 1 or Helpers.current:
        return step
    buffer = io.BytesIO()
    if is_first():
        torch.save({"step": step} | {k: part.state_dict() for k, part in parts.items()}, buffer)
    content = [buffer.getvalue()]
    with ending_with_others():
        dist.broadcast_object_list(content, src=0, device=torch.device("cpu"))
    if not is_first():
        state = torch.load(io.BytesIO(content[0]), map_location="cpu", weights_only=True)
        step = state["step"]
        for name, part in parts.items():
            part.load_state_dict(state[name])
    return step


class Helpers:
    """The processes beside the first one, if they help it: each does its part of a job.

    They wait for its jobs until it leaves, for days if need be. It does all else alone.
    """

    current: Helpers | None = None

    def __init__(self):
        self.group = dist.new_group(backend="gloo", timeout=datetime.timedelta(days=365))

    @classmethod
    def begin(cls) -> None:
        """Let all processes but the first be helpers from now on."""
        if count() > 1:
            cls.current = cls()

    @classmethod
    def dismiss(cls) -> None:
        """Let no process be a helper any more."""
        if cls.current and is_first():
            cls.current.send(None)
        cls.current = None

    def send(self, job: object) -> None:
        """Give all helpers a job, which is pickled. The first process does this."""
        with ending_with_others():
            dist.broadcast_object_list([job], src=0, group=self.group)

    def jobs(self) -> Iterator:
        """Yield the jobs of the first process to a helper, until it is dismissed."""
        while True:
            job = [None]
            with ending_with_others():
                dist.broadcast_object_list(job, src=0, group=self.group)
            if job[0] is None:
                return
            yield job[0]

    def give(self, result: Tensor) -> None:
        """Give the first process the result of a job, which lies in the host's memory."""
        with ending_with_others():
            dist.send(result, dst=0, group=self.group)

    def take(self, result: Tensor, helper: int) -> None:
        """Put the result of the helper of this rank into `result`. The first process does this."""
        with ending_with_others():
            dist.recv(result, src=helper, group=self.group)


class Watch:
    """A thread that ends this process some seconds after another one has ended.

    It waits for a message of the next process, which comes at the end of the run. If that process
    dies before, the system closes the connection, and the waiting fails. The training itself fails
    as well, mostly at once; but a GPU would wait for its part of a message for a long time.
    """

    current: Watch | None = None

    def __init__(self):
        self.group = dist.new_group(backend="gloo", timeout=datetime.timedelta(days=365))
        self.word = torch.zeros(1)
        next_one = (rank() + 1) % count()
        self.message = dist.irecv(self.word, src=next_one, group=self.group)
        self.over = False
        threading.Thread(target=self.wait, daemon=True).start()

    @classmethod
    def begin(cls) -> None:
        cls.current = cls()

    def wait(self) -> None:
        try:
            self.message.wait()
        except RuntimeError:
            time.sleep(GRACE)
            if not self.over:
                if is_first_to_tell():
                    print(f"error: {LOST}", file=sys.__stderr__, flush=True)
                os._exit(2)

    def end(self) -> None:
        """Tell the process before this one that all is well."""
        self.over = True
        with contextlib.suppress(RuntimeError):
            dist.send(self.word, dst=(rank() - 1) % count(), group=self.group)


# ---- the end ----


def is_first_to_tell() -> bool:
    """Tell whether no process of this machine has told of an error yet: one sentence is enough.

    The others learn that one has ended.
    """
    if count() == 1:
        return True
    try:
        is_first_one = store().add(f"told/{machine()}", 1) == 1
        store().set(FAILED, "")
        return is_first_one
    except (RuntimeError, UserError):  # the store is gone, or was never there
        return True


def refuse_several(why: str) -> None:
    """Raise `UserError` if there are several processes. The first one tells why."""
    if count() == 1:
        return
    while not (is_first() or _are_there([FAILED])):
        time.sleep(0.05)
    raise UserError(f"{why}: start it by python, not by torchrun")


def leave() -> None:
    """Leave the process group, when all is done in all processes."""
    if count() > 1 and dist.is_initialized():
        Helpers.dismiss()
        meet()
        Watch.current.end()
        dist.destroy_process_group()


def end(code: int) -> None:
    """End one of several processes that has not done all: the library would wait for the others."""
    if count() > 1 and code:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
