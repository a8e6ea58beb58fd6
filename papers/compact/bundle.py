"""Put trained components into the package as its compact weights.

    python papers/compact/bundle.py --vae runs/vae/export --image-encoder runs/image_encoder/export \
        --dimvis runs/dimvis/export --one2one runs/one2one/export

Methods left out keep what the package has. `--guidance 3 1 1` records, for DiMViS, the guidance found on
validation objects for 1, 2 and 3 references (papers/dimvis/choose_guidance.py).
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path

from manyview.weights.bundle import BUNDLE_FILE, COMPACT, write_bundle

LICENCE = "Apache-2.0 (trained by the manyview authors on procedural objects and YCB scans, CC BY 4.0)"
SHARED = {"vae": "../vae", "image_encoder": "../image_encoder"}
OWN = ("unet", "conditioner", "scheduler")


def main() -> None:
    """Copy the given components and write every method's manyview.json anew."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name in ("vae", "image-encoder", "dimvis", "one2one"):
        parser.add_argument(f"--{name}", type=Path, help="export folder of its training run")
    parser.add_argument("--guidance", type=float, nargs="*", help="DiMViS guidance for 1, 2, 3 references")
    given = parser.parse_args()
    for name, source in (("vae", given.vae), ("image_encoder", given.image_encoder)):
        if source is not None:
            _replace(source, COMPACT / name)
    for method, source in (("dimvis", given.dimvis), ("one2one", given.one2one)):
        folder = COMPACT / method
        if source is not None:
            for part in OWN:
                _replace(source / part, folder / part)
        if not folder.is_dir():
            continue
        settings = {}
        if (folder / BUNDLE_FILE).is_file():
            settings = json.loads((folder / BUNDLE_FILE).read_text())["settings"]
        if method == "dimvis" and given.guidance is not None:
            settings["guidance_by_references"] = given.guidance
        write_bundle(
            folder,
            name="compact",
            method=method,
            licence=LICENCE,
            components={**SHARED, **{part: part for part in OWN}},
            settings=settings,
        )
    total = sum(path.stat().st_size for path in COMPACT.rglob("*.safetensors"))
    print(f"compact weights: {total / 1e6:.1f} MB")


def _replace(source: Path, target: Path) -> None:
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(source, target)


if __name__ == "__main__":
    main()
