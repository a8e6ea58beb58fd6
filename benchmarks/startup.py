"""What importing the package and asking for help cost beyond starting Python.

    python benchmarks/startup.py --repeats 11

Every measurement is a new process, the three kinds in turns; medians of wall time.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time
from pathlib import Path

from manyview.io.manifest import versions, write_json

COMMANDS = {
    "python": ["-c", "pass"],
    "import manyview": ["-c", "import manyview"],
    "manyview --help": ["-m", "manyview.cli", "--help"],
}
LIMITS = {"import manyview": 0.3, "manyview --help": 1.0}


def main() -> None:
    """Measure and print; `--out` writes the same as json."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--repeats", type=int, default=11, help="processes of each kind that count")
    parser.add_argument("--out", type=Path, help="file for the numbers (json)")
    given = parser.parse_args()
    seconds: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for turn in range(given.repeats + 1):
        for name, words in COMMANDS.items():
            started = time.perf_counter()
            subprocess.run([sys.executable, *words], check=True, stdout=subprocess.DEVNULL)
            if turn > 0:  # the first reads the files from disk
                seconds[name].append(time.perf_counter() - started)
    medians = {name: statistics.median(times) for name, times in seconds.items()}
    rows = {}
    for name, median in medians.items():
        rows[name] = {"seconds": median, "beyond_python": median - medians["python"]}
        limit = f", at most {LIMITS[name]} s asked" if name in LIMITS else ""
        print(f"{name:18s} {median:.3f} s, beyond Python {rows[name]['beyond_python']:.3f} s{limit}")
    if given.out is not None:
        write_json(given.out, {"repeats": given.repeats, "rows": rows, "versions": versions()})


if __name__ == "__main__":
    main()
