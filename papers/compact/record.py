"""A training run as a page of docs/training: command, data, options, figures and the curve.

    python papers/compact/record.py --component vae --run runs/vae_48 runs/vae \
        --command "python papers/compact/train_all.py --work runs --meshes YCB" --data "3000 objects"

Reads train.json and log.jsonl of each run folder, in the order in which the parts were trained, and writes
<out>/<component>.md. Nothing in it names a place on the machine: of paths only the last name is kept.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from manyview.errors import InputError
from manyview.io.atomic import write_text_atomic

ROOT = Path(__file__).resolve().parents[2]
NUM_ROWS = 12
BAR = 30
_OPTIONS = (
    "batch_size",
    "accumulate",
    "lr",
    "optimizer",
    "warmup_steps",
    "weight_decay",
    "ema_decay",
    "dtype",
    "seed",
)


def main(words: Sequence[str] | None = None) -> int:
    """Write the page of one component."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--component", required=True, help="name of the page, such as vae")
    parser.add_argument("--run", type=Path, nargs="+", required=True, help="run folders, first part first")
    parser.add_argument("--command", required=True, help="what was typed, without places of one machine")
    parser.add_argument("--data", required=True, help="what it was trained on, in words")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "training", help="folder of the pages")
    given = parser.parse_args(words)
    try:
        if Path(given.component).name != given.component:
            raise InputError("--component", given.component, "expected a plain name")
        for flag, text in (("--command", given.command), ("--data", given.data)):
            for word in text.split():
                if Path(word.strip("'\"")).is_absolute():
                    raise InputError(flag, word, "is a place on this machine; name it in words")
        parts = [(folder.name, *read_run(folder)) for folder in given.run]
        path = given.out / f"{given.component}.md"
        write_text_atomic(path, draw_page(given.component, given.command, given.data, parts))
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"wrote {path}")
    return 0


def read_run(folder: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """train.json of a finished run and the rows of its log. Raises `InputError` where they are not there."""
    try:
        record = json.loads((folder / "train.json").read_text())
        rows = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    except OSError:
        raise InputError("--run", str(folder), "expected a finished run: train.json and log.jsonl") from None
    except ValueError:
        raise InputError("--run", str(folder), "train.json or log.jsonl is damaged") from None
    if not any("loss" in row for row in rows):
        raise InputError("--run", str(folder), "log.jsonl holds no training row")
    return record, rows


def draw_page(
    component: str, command: str, data: str, parts: Sequence[tuple[str, dict[str, Any], list[dict[str, Any]]]]
) -> str:
    """The page as Markdown; `parts` are (name of the run, train.json, rows of log.jsonl)."""
    steps = sum(record["steps"] for _, record, _ in parts)
    seconds = sum(record["seconds"] for _, record, _ in parts)
    lines = [
        f"# Training of {component}",
        "",
        "Written by `papers/compact/record.py` from the run's own files.",
        "",
        "```bash",
        command,
        "```",
        "",
        f"- Data: {data}",
        f"- Steps: {steps}, items seen: {sum(record['items'] for _, record, _ in parts)}",
        f"- Wall time: {seconds / 60:.1f} minutes ({_machines(parts)}); this alone depends on the machine",
    ]
    for name, record, rows in parts:
        config = record["config"]
        options = {key: config[key] for key in _OPTIONS if key in config}
        lines += [
            "",
            f"## {name}",
            "",
            f"{record['steps']} steps. Options: {_listed(options)}.",
            f"Of the task: {_listed(record['settings'])}.",
            "",
            *draw_curve(rows),
        ]
        if record["validation"]:
            lines += ["", f"Last validation: {_listed(record['validation'])}."]
    return "\n".join(lines) + "\n"


def draw_curve(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """A table of at most `NUM_ROWS` evenly spaced training rows, the last among them: the figures, the newest
    validation at that step, and the loss as a bar (logarithmic, the lowest loss shown being the shortest)."""
    training = [row for row in rows if "loss" in row]
    count = min(NUM_ROWS, len(training))
    shown = [training[(number + 1) * len(training) // count - 1] for number in range(count)]
    figures = [name for name in shown[-1] if name not in ("step", "lr", "grad_norm")]
    checks = [row for row in rows if "validation" in row]
    held_out = list(checks[-1]["validation"]) if checks else []
    lowest, highest = min(row["loss"] for row in shown), max(row["loss"] for row in shown)
    names = ["step", *figures, *held_out, ""]
    lines = ["| " + " | ".join(names) + " |", "|" + "---|" * len(names)]
    for row in shown:
        past = [check["validation"] for check in checks if check["step"] <= row["step"]]
        newest = past[-1] if past else {}
        cells = [str(row["step"]), *(f"{row[name]:.4g}" for name in figures)]
        cells += [f"{newest[name]:.4g}" if name in newest else "" for name in held_out]
        lines.append("| " + " | ".join([*cells, _bar(row["loss"], lowest, highest)]) + " |")
    return lines


def _bar(loss: float, lowest: float, highest: float) -> str:
    if not 0 < lowest < highest:
        return ""
    return "#" * (1 + round((BAR - 1) * math.log(loss / lowest) / math.log(highest / lowest)))


def _machines(parts: Sequence[tuple[str, dict[str, Any], list[dict[str, Any]]]]) -> str:
    found = dict.fromkeys(
        f"{record['processes']} process{'es' * (record['processes'] > 1)} on {record['device']}"
        f"{_threads(record['config'])}, torch {record['torch']}"
        for _, record, _ in parts
    )
    return "; ".join(found)


def _threads(config: Mapping[str, Any]) -> str:
    count = config.get("num_threads")
    return "" if count is None else f" with {count} thread{'s' * (count > 1)}"


def _listed(options: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {_told(value)}" for name, value in options.items() if value not in ("", None))


def _told(value: Any) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, list):
        return "(" + ", ".join(_told(item) for item in value) + ")"
    if isinstance(value, str) and "/" in value:
        # Where something lay says nothing; what the folder above an export is called may.
        places = [Path(place) for place in value.split(",")]
        return ", ".join(place.parent.name if place.name == "export" else place.name for place in places)
    return str(value)


if __name__ == "__main__":
    sys.exit(main())
