"""Functions in several processes of this machine, as torchrun would start them."""

import multiprocessing
import os
import pickle
import queue
import socket
import time
import traceback

import torch
import torch.nn.functional as F

from byol.encoder import Encoder


def free_port() -> int:
    with socket.socket() as server:
        server.bind(("localhost", 0))
        return server.getsockname()[1]


def in_processes(count: int, function, *arguments) -> list:
    """Call a function in `count` forked processes: what each returned, by its rank.

    Fails if one of them raises, ends by itself, or does not end within two minutes.
    """
    context = multiprocessing.get_context("fork")
    answers, port = context.Queue(), free_port()

    def work(rank: int) -> None:
        os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(count), "LOCAL_RANK": str(rank)}
        os.environ |= {"GROUP_RANK": "0", "GROUP_WORLD_SIZE": "1"}
        os.environ |= {"MASTER_ADDR": "localhost", "MASTER_PORT": str(port)}
        try:
            answer = function(*arguments), None
        except BaseException:
            answer = None, traceback.format_exc()
        answers.put(pickle.dumps((rank, *answer)))  # tensors go whole, not by shared memory

    processes = [context.Process(target=work, args=(rank,)) for rank in range(count)]
    os.environ["TORCHELASTIC_USE_AGENT_STORE"] = "True"
    for process in processes:
        process.start()
    del os.environ["TORCHELASTIC_USE_AGENT_STORE"]
    # the store of torchrun outlives the processes; its thread must not be amid something at a fork
    store = torch.distributed.TCPStore("localhost", port, is_master=True, wait_for_workers=False)
    got, deadline = [], time.monotonic() + 120
    try:
        while len(got) < count:
            assert time.monotonic() < deadline, "the processes hang"
            try:
                got.append(pickle.loads(answers.get(timeout=0.2)))
                assert got[-1][2] is None, got[-1][2]  # a traceback
            except queue.Empty:
                codes = [process.exitcode for process in processes]
                assert None in codes or answers.qsize(), f"the processes ended with {codes}"
        for process in processes:
            process.join(timeout=30)
    finally:
        for process in processes:
            process.kill()
        del store
    return [answer for _, answer, _ in sorted(got, key=lambda each: each[0])]


def exact(patch) -> None:
    """Let everything be computed in float64, from the views on. patch: a `MonkeyPatch`.

    In float32 a step is chaotic: a last digit decides on which side of 0 a unit is, and another
    sign of one unit moves the gradient by a hundredth. Ten steps later two runs have their
    statistics in common and no digits, be they both of one process.
    """
    outputs = Encoder.outputs

    def loss(prediction, projection):
        return 2 - 2 * F.cosine_similarity(prediction, projection, dim=1)

    torch.set_default_dtype(torch.float64)
    patch.setattr(Encoder, "outputs", lambda self, x, *rest: outputs(self, x.double(), *rest))
    for module in ("byol.method", "byol.hardware.one_pass"):
        patch.setattr(f"{module}.regression_loss", loss)
