"""Batches divided among threads: what is done, what is reported, what is left behind."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
import torch

from manyview.errors import InputError
from manyview.sampling.workers import OnStep, count_workers, even_batches, map_batches


@pytest.fixture(autouse=True)
def four_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    yield
    torch.set_num_threads(before)


def threads_of_a_new_thread() -> int:
    seen: list[int] = []
    thread = threading.Thread(target=lambda: seen.append(torch.get_num_threads()))
    thread.start()
    thread.join()
    return seen[0]


def test_batches_are_even_and_within_the_limit() -> None:
    for count in range(25):
        for batch_size in range(1, 10):
            for workers in range(1, batch_size + 1):
                parts = even_batches(count, batch_size, workers)
                assert [index for part in parts for index in range(count)[part]] == list(range(count))
                sizes = [part.stop - part.start for part in parts]
                assert all(0 < size <= batch_size // workers for size in sizes)
                assert sizes == sorted(sizes, reverse=True)
                assert not sizes or max(sizes) - min(sizes) <= 1
                assert len(parts) % workers == 0 or len(parts) == count  # single items cannot be divided
    assert even_batches(10, 8, 2) == [slice(0, 3), slice(3, 6), slice(6, 8), slice(8, 10)]


def test_answers_are_in_order_and_parts_run_at_once() -> None:
    both = threading.Barrier(2)  # broken, so an error, unless two parts are at work at once

    def work(part: slice, _: OnStep) -> tuple[int, int]:
        both.wait(timeout=20)
        return part.start, part.stop

    assert map_batches(work, 8, 4, 2) == [(0, 2), (2, 4), (4, 6), (6, 8)]
    assert map_batches(lambda part, _: part.start, 0, 4, 2) == []


def test_one_worker_is_the_calling_thread() -> None:
    seen = map_batches(lambda part, _: (threading.get_ident(), torch.get_num_threads()), 3, 1)
    assert seen == [(threading.get_ident(), 4)] * 3
    single = map_batches(lambda part, _: (threading.get_ident(), torch.get_num_threads()), 1, 8, 2)
    assert single == [(threading.get_ident(), 4)]  # a single item: all threads inside the operations


@pytest.mark.parametrize(("workers", "share"), [(4, 1), (3, 1), (2, 2)])
def test_torch_threads_are_divided_and_restored(workers: int, share: int) -> None:
    """Also for a thread of somebody else that starts meanwhile."""
    together = threading.Barrier(workers)

    def work(part: slice, _: OnStep) -> tuple[int, int, int]:
        together.wait(timeout=20)
        torch.ones(100, 100).matmul(torch.ones(100, 100))  # an operation does not bring the number back
        return torch.get_num_threads(), threads_of_a_new_thread(), torch.get_num_threads()

    assert map_batches(work, workers, workers, workers) == [(share, 4, share)] * workers
    assert torch.get_num_threads() == 4
    assert threads_of_a_new_thread() == 4


def test_steps_are_reported_in_the_calling_thread() -> None:
    reports: list[tuple[int, int]] = []

    def work(part: slice, on_step: OnStep) -> None:
        for _ in range(3):
            on_step(part.stop - part.start)

    map_batches(work, 7, 4, 2, lambda number: reports.append((threading.get_ident(), number)))
    assert sorted(reports) == [(threading.get_ident(), 1)] * 3 + [(threading.get_ident(), 2)] * 9


def test_the_first_error_is_raised_and_the_others_stop() -> None:
    stopped: list[int] = []

    def work(part: slice, on_step: OnStep) -> None:
        if part.start == 1:
            on_step(1)
            raise ZeroDivisionError("part 1")
        try:
            while True:  # ends only by being stopped
                on_step(1)
                threading.Event().wait(0.001)
        finally:
            stopped.append(part.start)

    with pytest.raises(ZeroDivisionError, match="part 1"):
        map_batches(work, 6, 3, 3)
    # Part 0 comes before part 1 and was told to stop, but its own error is not the one to show; those that
    # had not begun never do.
    assert sorted(stopped) in ([0, 2], [0])
    assert torch.get_num_threads() == 4
    assert threads_of_a_new_thread() == 4


def test_an_error_while_reporting_stops_the_workers() -> None:
    def work(part: slice, on_step: OnStep) -> None:
        while True:
            on_step(1)
            threading.Event().wait(0.001)

    def refuse(number: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        map_batches(work, 4, 2, 2, refuse)
    assert torch.get_num_threads() == 4
    assert threads_of_a_new_thread() == 4
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("batch")]


def test_a_thread_that_cannot_start_leaves_nobody_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    real, begun = threading.Thread.start, [0]

    def start(thread: threading.Thread) -> None:
        begun[0] += 1
        if begun[0] == 2:
            raise RuntimeError("can't start new thread")
        real(thread)

    monkeypatch.setattr(threading.Thread, "start", start)
    with pytest.raises(RuntimeError, match="can't start"):
        map_batches(lambda part, _: part.start, 3, 3, 3)
    assert torch.get_num_threads() == 4
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("batch")]


def test_workers_that_begin_late_are_not_waited_for_in_vain() -> None:
    """The end of a run, by an error or not, may meet workers that have not yet left their start."""

    def refuse(number: int) -> None:
        raise KeyboardInterrupt

    def run_many() -> None:
        for number in range(2, 5):
            for _ in range(60):
                assert map_batches(lambda part, _: part.start, number, number, number) == [*range(number)]
                with pytest.raises(KeyboardInterrupt):
                    map_batches(lambda part, on_step: on_step(1), number, number, number, refuse)
        finished.set()

    finished = threading.Event()
    threading.Thread(target=run_many, daemon=True).start()
    assert finished.wait(timeout=60), "hangs, or an answer is wrong"


def test_number_of_workers() -> None:
    on_cpu, elsewhere = torch.nn.Linear(2, 2), torch.nn.Linear(2, 2, device="meta")
    assert count_workers(10, 8, [on_cpu]) == 4
    assert count_workers(3, 8, [on_cpu]) == 3
    assert count_workers(10, 2, [on_cpu]) == 2  # no more items at work than asked for
    assert count_workers(1, 8, [on_cpu]) == 1
    assert count_workers(0, 8, [on_cpu]) == 1
    assert count_workers(10, 8, [on_cpu, elsewhere]) == 1
    with torch.autocast("cpu", torch.bfloat16):
        assert count_workers(10, 8, [on_cpu]) == 1
    torch.set_num_threads(1)
    assert count_workers(10, 8, [on_cpu]) == 1
    with pytest.raises(InputError, match="batch_size: 0"):
        count_workers(10, 0, [on_cpu])
    hooks = pytest.importorskip("accelerate.hooks")
    torch.set_num_threads(4)
    hooks.add_hook_to_module(on_cpu, hooks.ModelHook())
    assert count_workers(10, 8, [on_cpu]) == 1
