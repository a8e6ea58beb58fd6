"""Hi3D's ablation with true views: does a mesh gain by views that splats show between the given ones?

    python papers/lift/interpolation.py --data SCENES --work runs

For each scene (protocol orbit32) splats are fitted once to the 16 given views; then for every M a signed
distance field is fitted to those and M views of the splats between them, and its mesh is compared with the
true one. Writes <results>/lift_interpolation.json and .md. What is done already is kept.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from manyview.bench.lift_scores import score_mesh
from manyview.cli.progress import TerminalProgress
from manyview.errors import InputError
from manyview.io.atomic import write_text_atomic
from manyview.io.glb import read_glb
from manyview.io.manifest import read_json, write_json
from manyview.io.scene import list_scenes, read_scene
from manyview.lift.reconstruction import ReconstructOptions, Stages, reconstruct
from manyview.metrics.bootstrap import bootstrap_mean

ROOT = Path(__file__).resolve().parents[2]
PAPER = {0: 0.0186, 16: 0.0172, 32: 0.0174, 48: 0.0175}
"""Chamfer distances of Hi3D's table 4, on its objects, from generated views."""


def main(words: Sequence[str] | None = None) -> int:
    """Fit, compare, write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="scenes of the protocol orbit32")
    parser.add_argument("--work", type=Path, required=True, help="folder of what is kept")
    parser.add_argument("--counts", type=int, nargs="+", default=[0, 16, 32, 48], help="values of M")
    parser.add_argument("--limit", type=int, help="only the first scenes, this many")
    parser.add_argument("--every", type=int, default=1, help="every so many scenes")
    parser.add_argument("--results", type=Path, default=ROOT / "docs" / "results")
    given = parser.parse_args(words)
    try:
        scenes = list_scenes(given.data)[:: given.every][: given.limit]
        rows = {count: [score(scene, count, given.work) for scene in scenes] for count in given.counts}
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    names = [scene.name for scene in scenes]
    report = {"scenes": names, "weight": ReconstructOptions(to="mesh").interpolated_weight, "rows": {}}
    lines = [
        "# Views between views\n",
        f"`python papers/lift/interpolation.py`: {len(scenes)} objects, 16 true views and M of the splats"
        f" fitted to them (weight {report['weight']}), then the signed distance field. 95% intervals from"
        " resampling objects.\n",
        "| M | Chamfer | Chamfer, visible | IoU | paper's Chamfer (other objects, generated views) |",
        "|---|---|---|---|---|",
    ]
    for count, found in rows.items():
        cells = []
        kept: dict[str, Any] = {}
        for name, digits in (("chamfer_mean", 4), ("chamfer_visible_mean", 4), ("volume_iou_64", 3)):
            value = bootstrap_mean([record[name]["mean"] for record in found], names)
            low, high = value.ci95 if value.ci95 is not None else (value.mean, value.mean)
            cells.append(f"{value.mean:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]")
            kept[name] = value
        report["rows"][str(count)] = kept
        lines.append(f"| {count} | {' | '.join(cells)} | {PAPER.get(count, '')} |")
    text = "\n".join(lines) + "\n"
    write_json(given.results / "lift_interpolation.json", report)
    write_text_atomic(given.results / "lift_interpolation.md", text)
    print(text)
    return 0


def score(scene: Path, count: int, work: Path) -> dict[str, Any]:
    """Scores of the mesh with `count` views more."""
    kept = work / "interpolation" / scene.name / f"{count}.json"
    if kept.is_file():
        return read_json(kept)
    views = read_scene(scene, split=16)
    given = views[views.observed.nonzero()[:, 0]]
    # The splats are the same for every M; the surface is not.
    stages = Stages(kept.parent)
    kept.parent.mkdir(parents=True, exist_ok=True)
    options = ReconstructOptions(to="mesh", interpolate=count)
    made = reconstruct(given, options, TerminalProgress(), stages=replace(stages, surfaces=False))
    assert made.mesh is not None, "a mesh was asked for"
    record = score_mesh(made.mesh, read_glb(scene / "mesh.glb"))
    write_json(kept, record)
    return record


if __name__ == "__main__":
    sys.exit(main())
