"""Which items each forward pass sees, and their data, fetched ahead on a GPU."""

from __future__ import annotations

from collections import deque
from collections.abc import Generator
from concurrent.futures import Future, ThreadPoolExecutor

import torch
from torch import Tensor

from manyview.training.config import TrainConfig
from manyview.training.task import Task

_AHEAD = 3


def pass_items(config: TrainConfig, step: int, micro: int, rank: int, world: int) -> Tensor:
    """int64 [batch_size] item numbers of one forward pass: optimiser step, pass within it, process.

    Item ((step * accumulate + micro) * world + rank) * batch_size + i: the items of a step are a run of
    consecutive numbers, the same ones however the batch is split over passes and processes.
    """
    first = ((step * config.accumulate + micro) * world + rank) * config.batch_size
    return torch.arange(first, first + config.batch_size)


def feed(
    task: Task, config: TrainConfig, first_step: int, rank: int, world: int, device: torch.device
) -> Generator[tuple[Tensor, dict[str, Tensor]]]:
    """(items, data on `device`) of every forward pass from `first_step` on, without end.

    On a GPU a thread prepares the next batches meanwhile; on a CPU it would only take the step's cores.
    """

    def fetch(number: int) -> tuple[Tensor, dict[str, Tensor]]:
        step, micro = divmod(number, config.accumulate)
        items = pass_items(config, step, micro, rank, world)
        data = task.batch(items)
        if device.type == "cuda":
            data = {name: value.pin_memory() for name, value in data.items()}
        return items, data

    def moved(items: Tensor, data: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        return items, {name: value.to(device, non_blocking=True) for name, value in data.items()}

    number = first_step * config.accumulate
    if device.type == "cpu":
        while True:
            yield moved(*fetch(number))
            number += 1
    with ThreadPoolExecutor(1) as pool:
        waiting: deque[Future[tuple[Tensor, dict[str, Tensor]]]] = deque()
        try:
            while True:
                while len(waiting) < _AHEAD:
                    waiting.append(pool.submit(fetch, number))
                    number += 1
                yield moved(*waiting.popleft().result())
        finally:
            for future in waiting:
                future.cancel()
