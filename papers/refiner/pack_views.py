"""Single views of procedural animals: what the refiner's generator learns from, and what its table measures
on.

    python papers/refiner/pack_views.py --out data/animals --count 6000
    python papers/refiner/pack_views.py --out data/animals_held_out --count 1500 --held-out

Every animal is seen once, from a yaw of its own. Held-out animals have seeds of their own. The same words go
on with a stopped run. Exit codes: 0 done, 2 bad input, 130 stopped.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from manyview.cli.flags import check_range, torch_device
from manyview.cli.progress import TerminalProgress
from manyview.errors import InputError
from manyview.methods.refiner.single_views import ELEVATION_DEG, MAX_YAW_DEG, pack_single_views

FIRST_SEED, FIRST_HELD_OUT = 0, 10_000_000


def main(words: Sequence[str] | None = None) -> int:
    """Render and pack."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="folder of the packed views")
    parser.add_argument("--count", type=int, default=6000, help="animals")
    parser.add_argument("--held-out", action="store_true", help="animals that no training sees")
    parser.add_argument("--size", type=int, default=64, help="pixels a side")
    parser.add_argument("--max-yaw", type=float, default=MAX_YAW_DEG, help="degrees to either side")
    parser.add_argument("--elevation", type=float, default=ELEVATION_DEG, help="degrees")
    parser.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"))
    given = parser.parse_args(words)
    progress = TerminalProgress()
    try:
        check_range("--count", given.count, 1, FIRST_HELD_OUT)
        check_range("--size", given.size, 8, 4096)
        check_range("--max-yaw", given.max_yaw, 0, 180)
        check_range("--elevation", given.elevation, -89, 89)
        progress.start(given.count, "animals")
        pack_single_views(
            given.out,
            FIRST_HELD_OUT if given.held_out else FIRST_SEED,
            given.count,
            size=given.size,
            max_yaw_deg=given.max_yaw,
            elevation_deg=given.elevation,
            device=torch_device(given.device).type,
            progress=progress.advance,
        )
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped: interrupted; the same command goes on", file=sys.stderr)
        return 130
    finally:
        progress.finish()
    return 0


if __name__ == "__main__":
    sys.exit(main())
