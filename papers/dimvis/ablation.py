"""What the paper leaves open, decided by training: noise or velocity, slot marks and times, what slots see.

    python papers/dimvis/ablation.py --data PROCEDURAL YCB --validation YCB_VAL --scenes SCENES --work runs

Trains every variant for the same steps from the same seed on the same latents (`manyview train dimvis`; two
at a time with --jobs 2), and scores single samples of each on validation scenes under orbit4 at guidance 1.
DATA and VALIDATION are packed data sets or data sets of scenes, SCENES renders of the validation objects by
`manyview render --protocol orbit16`. Objects of the tables have no place here. Writes
<results>/dimvis_ablation.json and .md. A stopped run goes on where it was.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from manyview.bench.run import evaluate
from manyview.cli.progress import TerminalProgress, silence_loading
from manyview.errors import InputError
from manyview.io.atomic import write_text_atomic
from manyview.io.manifest import write_json
from manyview.methods import load
from manyview.weights.bundle import COMPACT, write_bundle

ROOT = Path(__file__).resolve().parents[2]
_MARKS = ["--slot-embedding", "--slot-time"]
VARIANTS = {
    "as printed": ["--prediction", "epsilon"],
    "velocity": [],
    "velocity, slot embedding": ["--slot-embedding"],
    "velocity, slot time": ["--slot-time"],
    "velocity, slot embedding, slot time": _MARKS,
    "the same, aligned": [*_MARKS, "--aligned"],
    "the same, aligned, sweep": [*_MARKS, "--aligned", "--sweep-depths", "12"],
    "the same, aligned, blend": [*_MARKS, "--aligned", "--blend"],
    "the same, aligned, sweep, blend": [*_MARKS, "--aligned", "--sweep-depths", "12", "--blend"],
    "all of it, AdamW": [*_MARKS, "--aligned", "--sweep-depths", "12", "--blend", "--optimizer", "adamw"],
}


def main(words: Sequence[str] | None = None) -> int:
    """Train, score, and write the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, nargs="+", required=True, help="training data sets")
    parser.add_argument("--validation", type=Path, required=True, help="held-out data set for the loss")
    parser.add_argument("--scenes", type=Path, required=True, help="rendered validation scenes to score")
    parser.add_argument("--work", type=Path, required=True, help="folder of the runs")
    parser.add_argument("--vae", type=Path, default=COMPACT / "vae")
    parser.add_argument("--image-encoder", type=Path, default=COMPACT / "image_encoder")
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--lr", type=float, default=8e-4)
    parser.add_argument("--sampling-steps", type=int, default=10, help="steps of DPM-Solver++ when scoring")
    parser.add_argument("--limit", type=int, help="score only the first scenes, this many")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=1, help="variants trained at once, one thread each")
    parser.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"))
    parser.add_argument("--results", type=Path, default=ROOT / "docs" / "results")
    given = parser.parse_args(words)
    silence_loading()
    try:
        with ThreadPoolExecutor(given.jobs) as pool:
            list(pool.map(lambda name: train(name, given), VARIANTS))
        rows = {name: score(name, given) for name in VARIANTS}
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    report = {"steps": given.steps, "batch": given.batch, "lr": given.lr, "seed": given.seed, "rows": rows}
    text = write_table(report, given)
    write_json(given.results / "dimvis_ablation.json", report)
    write_text_atomic(given.results / "dimvis_ablation.md", text)
    print(text)
    return 0


def train(name: str, given: argparse.Namespace) -> None:
    """One variant by the public command; nothing where it is done already."""
    out = run_folder(name, given)
    if (out / "train.json").is_file():
        return
    command = [
        *(str(Path(sys.executable).with_name("manyview")), "train", "dimvis", *VARIANTS[name]),
        *("--data", *map(str, given.data), "--validation", str(given.validation)),
        *("--vae", str(given.vae), "--image-encoder", str(given.image_encoder)),
        *("--steps", str(given.steps), "--batch-size", str(given.batch), "--lr", str(given.lr)),
        *("--validate-every", str(given.steps), "--ema-decay", "0.995", "--seed", str(given.seed)),
        *("--device", given.device, "--num-threads", "1", "--out", str(out), "--resume"),
    ]
    done = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    if done.returncode != 0:
        raise InputError(name, f"exit code {done.returncode}", done.stderr.strip().splitlines()[-1])


def score(name: str, given: argparse.Namespace) -> dict[str, Any]:
    """Validation losses of the trained variant, and its PSNR by number of references."""
    out = run_folder(name, given)
    folder = out / "bundle"
    for component in ("unet", "conditioner", "scheduler"):
        shutil.copytree(out / "export" / component, folder / component, dirs_exist_ok=True)
    shutil.copytree(given.vae, folder / "vae", dirs_exist_ok=True)
    shutil.copytree(given.image_encoder, folder / "image_encoder", dirs_exist_ok=True)
    components = ("unet", "conditioner", "scheduler", "vae", "image_encoder")
    write_bundle(
        folder, name="ablation", method="dimvis", licence="Apache-2.0", components={c: c for c in components}
    )
    report = evaluate(
        load("dimvis", folder),
        given.scenes,
        candidates=(1.0,),
        num_steps=given.sampling_steps,
        solver="dpm",
        limit=given.limit,
        seed=given.seed,
        baselines=False,
        perceptual=False,
        progress=TerminalProgress(),
    )
    psnr = {count: part["psnr"] for count, part in report["by_references"].items()}
    losses = json.loads((out / "train.json").read_text())["validation"]
    return {"psnr": psnr, "losses": losses, "scenes": report["scenes"], "pairs": report["pairs"]}


def run_folder(name: str, given: argparse.Namespace) -> Path:
    """Where a variant trains."""
    return given.work / "dimvis_ablation" / name.replace(", ", "-").replace(" ", "_")


def write_table(report: dict[str, Any], given: argparse.Namespace) -> str:
    """One row a variant: PSNR with its interval for 1, 2, 3 references, and the validation losses."""
    first = next(iter(report["rows"].values()))
    lines = [
        "# DiMViS: what to settle by training\n",
        f"`python papers/dimvis/ablation.py`: {given.steps} steps of {given.batch} rigs each, learning rate"
        f" {given.lr:g}, seed {given.seed}; single samples at guidance 1 ({given.sampling_steps} steps of"
        f" DPM-Solver++) on {first['scenes']} validation objects, {first['pairs']} image pairs, PSNR in dB"
        " with 95% intervals from resampling whole objects. Losses are of the velocity, or of the noise where"
        " that is what the network learns, so only the former compare.\n",
        "| variant | 1 reference | 2 | 3 | loss, 1 | 2 | 3 |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, row in report["rows"].items():
        scores = [
            f"{row['psnr'][c]['mean']:.2f} [{row['psnr'][c]['ci95'][0]:.2f}, {row['psnr'][c]['ci95'][1]:.2f}]"
            for c in ("1", "2", "3")
        ]
        losses = [f"{row['losses'][f'loss_val_{c}']:.4f}" for c in (1, 2, 3)]
        lines.append(f"| {' | '.join([name, *scores, *losses])} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main())
