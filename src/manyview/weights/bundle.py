"""Bundles of weights: a folder per method in diffusers' layout, hashed, with a stated licence.

A bundle folder holds `manyview.json`:
    {"format": 1, "name": ..., "method": ..., "licence": ..., "settings": {...},
     "components": {"unet": {"path": "unet", "sha256": "..."}, ...}}
Paths are relative to the folder and may point beside it, so that methods share a codec. A folder or hub
repository without that file is read by its `model_index.json`; its licence is then unknown. Weights are
safetensors only: a folder that holds a pickle is refused, whatever else is in it. Loads no torch.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from manyview.errors import InputError

COMPACT = Path(__file__).parent / "compact"
BUNDLE_FILE = "manyview.json"
_PICKLES = {".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".npy", ".npz"}
_ALLOWED = ["*.json", "*.safetensors", "*.txt", "*.md"]


@dataclass(frozen=True, kw_only=True)
class Bundle:
    """Located and checked weights of one method."""

    name: str
    """`compact`, or the folder or hub id they came from."""
    method: str
    licence: str
    components: Mapping[str, Path]
    """Component name -> folder with its config and safetensors."""
    hashes: Mapping[str, str]
    """Component name -> sha256 of its files."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """Choices that go with these weights, such as the guidance found on validation data."""

    @property
    def sha256(self) -> str:
        """One hash over all components, for manifests and tables."""
        text = "".join(f"{name}:{value}\n" for name, value in sorted(self.hashes.items()))
        return hashlib.sha256(text.encode()).hexdigest()

    def folders(self, *names: str) -> dict[str, str]:
        """The folders of the named components; raises `InputError` if these weights have not got one."""
        for name in names:
            if name not in self.components:
                raise InputError("--weights", self.name, f"component {name} is missing")
        return {name: str(self.components[name]) for name in names}

    def manifest_entries(self) -> list[dict[str, str]]:
        """Name, hash and licence of every component, as manifests list weights."""
        return [
            {"name": f"{self.name}/{name}", "sha256": value, "licence": self.licence}
            for name, value in sorted(self.hashes.items())
        ]


def component_hash(folder: Path) -> str:
    """sha256 over the names and contents of a component's files, in the order of their names."""
    digest = hashlib.sha256()
    for path in sorted(folder.iterdir()):
        if path.suffix in (".json", ".safetensors"):
            digest.update(f"{path.name}\0{path.stat().st_size}\0".encode())
            digest.update(path.read_bytes())
    return digest.hexdigest()


def open_bundle(weights: str | os.PathLike[str], method: str, argument: str = "--weights") -> Bundle:
    """Find a method's weights and check them, without loading any.

    `weights`: `compact` (in the package), a folder, or a hub id `owner/name` (downloaded, or taken from the
    local cache; HF_HUB_OFFLINE=1 keeps to the cache). Raises `InputError`: not found, of another method,
    a hash that does not match, a missing component, pickled weights.
    """
    name = os.fspath(weights)
    if name == "compact":
        folder = COMPACT / method
        if not (folder / BUNDLE_FILE).is_file():
            raise InputError(argument, name, f"the package holds no compact weights of {method}")
    elif Path(name).is_dir():
        folder = Path(name)
    elif Path(name).exists():
        raise InputError(argument, name, "is a file; expected compact, a folder, or a hub id owner/name")
    elif name.count("/") == 1 and not name.startswith((".", "/")):
        folder = _download(name, argument)
    else:
        raise InputError(argument, name, "no such folder; expected compact, a folder, or a hub id owner/name")
    if (folder / BUNDLE_FILE).is_file():
        return _read_bundle(folder, name, method, argument)
    if (folder / "model_index.json").is_file():
        return _read_model_index(folder, name, method, argument)
    raise InputError(argument, name, f"holds neither {BUNDLE_FILE} nor model_index.json")


def write_bundle(
    folder: Path,
    *,
    name: str,
    method: str,
    licence: str,
    components: Mapping[str, str],
    settings: Mapping[str, Any] | None = None,
) -> None:
    """Write `manyview.json` for component folders given by their paths relative to `folder`."""
    record = {
        "format": 1,
        "name": name,
        "method": method,
        "licence": licence,
        "settings": dict(settings or {}),
        "components": {
            key: {"path": path, "sha256": component_hash(folder / path)} for key, path in components.items()
        },
    }
    temporary = folder / f".{BUNDLE_FILE}.{os.getpid()}"
    temporary.write_text(json.dumps(record, indent=1) + "\n")
    temporary.replace(folder / BUNDLE_FILE)


def _read_bundle(folder: Path, name: str, method: str, argument: str) -> Bundle:
    try:
        record = json.loads((folder / BUNDLE_FILE).read_text())
        owner = str(record["method"])
        listed = {
            str(key): (str(entry["path"]), str(entry["sha256"]))
            for key, entry in record["components"].items()
        }
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(argument, name, f"{BUNDLE_FILE} is damaged ({type(error).__name__})") from error
    if owner != method:
        raise InputError(argument, name, f"holds weights of {owner}, expected {method}")
    components, hashes = {}, {}
    for key, (place, expected) in listed.items():
        path = (folder / place).resolve()
        _check_component(path, name, key, argument)
        found = component_hash(path)
        if found != expected:
            raise InputError(argument, name, f"{key} has sha256 {found[:12]}..., expected {expected[:12]}...")
        components[key], hashes[key] = path, found
    return Bundle(
        name=name,
        method=method,
        licence=record.get("licence", "unknown"),
        components=components,
        hashes=hashes,
        settings=record.get("settings", {}),
    )


def _read_model_index(folder: Path, name: str, method: str, argument: str) -> Bundle:
    try:
        index = json.loads((folder / "model_index.json").read_text())
        owner = str(index.get("_class_name", ""))
    except (ValueError, AttributeError) as error:
        raise InputError(argument, name, "model_index.json is damaged") from error
    if owner.lower() != f"{method}pipeline":
        raise InputError(argument, name, f"holds weights of {owner or 'an unnamed class'}, expected {method}")
    components, settings = {}, {}
    for key, value in index.items():
        if key.startswith("_"):
            continue
        if isinstance(value, list) and len(value) == 2 and all(isinstance(part, str) for part in value):
            _check_component(folder / key, name, key, argument)
            components[key] = folder / key
        elif value != [None, None]:  # an option of the pipeline, such as a guidance scale
            settings[key] = value
    hashes = {key: component_hash(path) for key, path in components.items()}
    return Bundle(
        name=name,
        method=method,
        licence="unknown",
        components=components,
        hashes=hashes,
        settings=settings,
    )


def _check_component(path: Path, name: str, key: str, argument: str) -> None:
    if not path.is_dir():
        raise InputError(argument, name, f"component {key} is missing")
    for file in path.iterdir():
        if file.suffix.lower() in _PICKLES:
            raise InputError(argument, name, f"{key}/{file.name} is not safetensors; convert it first")


def _download(name: str, argument: str) -> Path:
    # Imported here: the hub client is needed for hub ids only.
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name, allow_patterns=_ALLOWED))
    except Exception as error:  # the client raises many kinds, from its own and from its transport
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(
            argument, name, f"no such folder, and the hub did not give it ({reason[:120]})"
        ) from error
