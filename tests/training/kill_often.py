"""Script: one small training again and again, killed at random moments until there were enough kills.

torch loads once here; every attempt is a fork of this process. Prints one JSON object.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import sys
import time
from pathlib import Path

import torch
import torch._dynamo  # the optimiser loads it at its first step; here it is loaded once for all attempts
from tiny_task import TinyTask, tiny_config
from torch import Tensor

from manyview.training.checkpoint import newest_checkpoint
from manyview.training.loop import fit


class Reporting(TinyTask):
    """Writes a byte into a pipe when its first data are asked for."""

    def __init__(self, pipe: int) -> None:
        super().__init__()
        self.pipe = pipe

    def batch(self, items: Tensor) -> dict[str, Tensor]:
        if self.pipe >= 0:
            os.write(self.pipe, b".")
            self.pipe = -1
        return super().batch(items)


def attempt(out: Path, after_fork: float | None, after_begin: float | None) -> tuple[bool, float]:
    """Resume the run in a child, killed some seconds after the fork or after its first step began, or never.

    Returns whether it came to its end, and the seconds from its first step to its end.
    """
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        code = 1
        try:
            # A row every third step and a checkpoint after every step: many kills fall inside a write.
            config = tiny_config(steps=30, log_every=3, checkpoint_minutes=0)
            fit(Reporting(writer), config, out, resume=True)
            code = 0
        finally:
            os._exit(code)
    os.close(writer)
    if after_fork is not None:
        time.sleep(after_fork)
        os.kill(child, signal.SIGKILL)
    os.read(reader, 1)  # empty when the child ends without a step
    began = time.monotonic()
    if after_begin is not None:
        time.sleep(after_begin)
        os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    os.close(reader)
    if not os.WIFSIGNALED(status) and os.waitstatus_to_exitcode(status) != 0:
        raise SystemExit("a resumed run failed")
    return not os.WIFSIGNALED(status), time.monotonic() - began


def main(folder: Path, wanted: int) -> None:
    torch.set_num_threads(1)
    moments = random.Random(0)
    _, length = attempt(folder / "whole", None, None)
    out = folder / "killed"
    kills, resumed, runs, equal = 0, 0, 0, 0
    while kills < wanted or runs == 0:
        resumed += newest_checkpoint(out / "checkpoints") is not None
        if kills >= wanted:
            finished, _ = attempt(out, None, None)
        else:
            early = moments.random() < 0.2
            moment = moments.uniform(0, length / 2)
            finished, _ = attempt(out, moment if early else None, None if early else moment)
            kills += not finished
        if finished:
            runs += 1
            names = ("log.jsonl", "export/weights.safetensors")
            equal += all(
                (out / name).read_bytes() == (folder / "whole" / name).read_bytes() for name in names
            )
            shutil.rmtree(out)
    print(json.dumps({"kills": kills, "resumed": resumed, "runs": runs, "equal": equal}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
