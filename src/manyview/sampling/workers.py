"""Batches of one piece of work, on a CPU divided among threads.

Small networks leave the threads inside an operator waiting for one another; as many batches at once, each
with its share of the threads, keep every core busy.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from queue import SimpleQueue
from typing import TypeVar

import torch
from torch import nn

from manyview.errors import InputError

Answer = TypeVar("Answer")
OnStep = Callable[[int], None]


class _StoppedError(Exception):
    """Raised in a worker whose answer nobody waits for any more."""


def count_workers(count: int, batch_size: int, modules: Iterable[nn.Module]) -> int:
    """Batches to have at work at once for `count` items: one for each torch thread if `modules` run on the
    CPU, at most `batch_size` (which bounds the items at work, so the memory), else 1.

    Also 1 for modules with accelerate's hooks, which move weights while a module runs, and inside
    `torch.autocast`, which does not reach other threads.
    Raises `InputError` for a batch size below 1.
    """
    if batch_size < 1:
        raise InputError("batch_size", batch_size, "expected at least 1")
    if torch.is_autocast_enabled("cpu"):
        return 1
    for module in modules:
        if hasattr(module, "_hf_hook") or any(p.device.type != "cpu" for p in module.parameters()):
            return 1
    return max(1, min(torch.get_num_threads(), count, batch_size))


def even_batches(count: int, batch_size: int, num_workers: int = 1) -> list[slice]:
    """Consecutive parts of `count` items, sizes at most one apart and falling, of which `num_workers` at once
    hold at most `batch_size` items; where it can be, as many parts for one worker as for another."""
    largest = max(1, batch_size // num_workers)
    rounds = -(-count // (largest * num_workers))
    number = min(count, rounds * num_workers)
    size, rest = divmod(count, max(1, number))
    edges = itertools.accumulate((size + (index < rest) for index in range(number)), initial=0)
    return [slice(start, stop) for start, stop in itertools.pairwise(edges)]


def map_batches(
    work: Callable[[slice, OnStep], Answer],
    count: int,
    batch_size: int,
    num_workers: int = 1,
    on_step: OnStep | None = None,
) -> list[Answer]:
    """`work(part, on_step)` for the `even_batches` of `count` items, `num_workers` of them at once.

    `work` calls the `on_step` it is given with a number after each of its steps; every such number reaches
    the `on_step` of this function in the calling thread. Which parts there are depends on the arguments
    alone, so a run repeated gives the same bytes whichever worker takes a part. The first error of a part
    (or of `on_step`) is raised here after the other workers have stopped, which they do at their next step.
    The caller's number of torch threads is what it was, however this ends. Modes of a thread (inference
    mode, autocast) do not reach the workers: `work` sets them itself.
    """
    batches = even_batches(count, batch_size, num_workers)
    num_workers = min(num_workers, len(batches))
    report: OnStep = on_step or (lambda _: None)
    if num_workers <= 1:
        return [work(part, report) for part in batches]
    threads = torch.get_num_threads()
    stopped = threading.Event()
    begun, released = threading.Semaphore(0), threading.Event()
    messages: SimpleQueue[int | None] = SimpleQueue()  # steps done; None: a part has ended

    # What `torch.set_num_threads` reaches (seen with torch 2.13 and OpenMP): the calling thread's own number,
    # and one number of the process, which every thread takes over once, when it first asks how many threads
    # it has (in `torch.get_num_threads` or an operation). So a worker does not change the caller's number,
    # but somebody else's thread that begins while the process's number is 1 would keep 1. Hence all workers
    # first set theirs and ask once, so that nothing overwrites it later; then the caller puts the process's
    # number back. The work waits for that. Nothing in `begin` may raise: a pool whose initializer fails
    # empties its queue, the sign to end included, and its other threads would wait for ever.
    def begin() -> None:
        torch.set_num_threads(max(1, threads // num_workers))
        torch.get_num_threads()
        begun.release()
        released.wait()

    def step(number: int) -> None:
        if stopped.is_set():
            raise _StoppedError
        messages.put(number)

    def run(part: slice) -> Answer:
        try:
            if stopped.is_set():
                raise _StoppedError
            return work(part, step)
        except BaseException:
            stopped.set()
            raise
        finally:
            messages.put(None)

    pool = ThreadPoolExecutor(num_workers, "batch", initializer=begin)
    try:
        jobs = [pool.submit(run, part) for part in batches]
        for _ in range(num_workers):
            begun.acquire()
        torch.set_num_threads(threads)
        released.set()
        for _ in jobs:
            while (number := messages.get()) is not None:
                report(number)
    finally:
        stopped.set()
        released.set()  # also where another worker could not be started
        pool.shutdown()
        torch.set_num_threads(threads)
    errors = [error for job in jobs if (error := job.exception()) is not None]
    for error in errors:
        if not isinstance(error, _StoppedError):
            raise error
    return [job.result() for job in jobs]
