"""Manifests hold plain json, with what is needed to make the output again."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch

from manyview.errors import InputError
from manyview.io.manifest import (
    build_manifest,
    peak_memory,
    read_json,
    sha256_of_file,
    to_plain,
    write_json,
    write_manifest,
)


@dataclass
class Options:
    method: str
    out: Path
    angles: tuple[float, ...]


def test_round_trip(tmp_path: Path) -> None:
    weights = [{"name": "compact", "sha256": "ab", "licence": "Apache-2.0"}]
    options = Options("dimvis", Path("some/where"), (0.0, 22.5))
    manifest = build_manifest("synth dimvis", options=options, seed=3, weights=weights, seconds=1.5)
    write_manifest(tmp_path, manifest)
    read = read_json(tmp_path / "manifest.json")
    assert read == manifest
    assert read["options"] == {"method": "dimvis", "out": "some/where", "angles": [0.0, 22.5]}
    assert read["seed"] == 3
    assert read["versions"]["torch"] == torch.__version__
    assert read["versions"]["python"].startswith("3.")
    assert {"manyview", "diffusers"} <= set(read["versions"])


def test_peak_memory_counts_what_was_held() -> None:
    before = peak_memory()["peak_memory_mb"]
    block = np.ones(50_000_000, dtype=np.uint8)
    after = peak_memory()["peak_memory_mb"]
    assert block[-1] == 1
    # In 10^6 bytes: an interpreter with torch holds tens of them, not tens of thousands.
    assert 20 < before <= after < 100_000


def test_plain_values() -> None:
    assert to_plain({1: (torch.tensor(2.5), np.float32(0.5), None, Path("a"))}) == {
        "1": [2.5, 0.5, None, "a"]
    }
    with pytest.raises(InputError, match="object"):
        to_plain({"x": object()})


def test_weights_need_their_licence() -> None:
    with pytest.raises(InputError, match="licence"):
        build_manifest("x", weights=[{"name": "a", "sha256": "b"}])


def test_infinity_is_refused_and_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="NaN or infinity"):
        write_json(tmp_path / "metrics.json", {"psnr": float("inf")})
    assert list(tmp_path.iterdir()) == []


def test_broken_json(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text("{")
    with pytest.raises(InputError, match="not json"):
        read_json(tmp_path / "a.json")
    (tmp_path / "a.json").write_text(json.dumps([1]))
    with pytest.raises(InputError, match="expected a json object"):
        read_json(tmp_path / "a.json")


def test_hash_of_a_file(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"abc")
    assert sha256_of_file(tmp_path / "a") == hashlib.sha256(b"abc").hexdigest()
