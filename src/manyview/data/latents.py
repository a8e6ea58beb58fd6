"""Latents computed once and kept: shards of float16 in a folder named by what they came from.

A cache folder `<root>/<hash>/` holds
    key.json                                 data set, encoder and options, in full
    latents_<first>_<count>.safetensors      the tensor "latents" [count, C, h, w], float16
    index.json                               the shards in order; there only once all are
The hash covers all of key.json, so other data, other weights or other options are another folder: what does
not fit is computed anew and never taken for the same. A shard appears whole or not at all, so a stopped run
goes on.
"""

from __future__ import annotations

import bisect
import hashlib
import itertools
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from manyview.errors import InputError
from manyview.io.atomic import write_text_atomic, writing_file
from manyview.progress import Progress, silent

_FORMAT = 1


@dataclass(frozen=True, kw_only=True)
class LatentKey:
    """What latents depend on. Two keys that differ in anything have caches of their own."""

    data: str
    """Identity of the images, for example `ObjectViews.identity`."""
    encoder: str
    """Identity of the encoder, for example `weights_identity`."""
    options: Mapping[str, str | int | float | bool] = field(default_factory=dict)
    """Anything else that changes the latents: scaling, crop, mode or sample."""

    def to_json(self) -> str:
        """The same text for equal keys."""
        content = {
            "format": _FORMAT,
            "data": self.data,
            "encoder": self.encoder,
            "options": dict(self.options),
        }
        return json.dumps(content, sort_keys=True, indent=1)

    @property
    def hash(self) -> str:
        """24 hexadecimal digits over the whole key."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()[:24]


def weights_identity(module: nn.Module) -> str:
    """A hash of a module's class and of all its parameters and buffers, by name, type, shape and value.

    What a module's config says beside (a codec's latent statistics) belongs into the key's options.
    """
    digest = hashlib.sha256(type(module).__qualname__.encode())
    for name, value in sorted(module.state_dict().items()):
        flat = value.detach().cpu().contiguous()
        digest.update(f"\n{name} {flat.dtype} {tuple(flat.shape)}\n".encode())
        digest.update(flat.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


class LatentCache:
    """Read access to finished latents: `latents[i]` is [C, h, w] float16, read from disk when asked for."""

    def __init__(self, folder: Path | str) -> None:
        """Raises `InputError` where the folder holds no finished cache."""
        self.folder = Path(folder)
        index = _read_json(self.folder / "index.json")
        if index is None:
            raise InputError("latents", str(self.folder), "expected a finished latent cache (index.json)")
        self.item_shape: tuple[int, ...] = tuple(index["item_shape"])
        self._names: list[str] = [shard["file"] for shard in index["shards"]]
        self._starts: list[int] = [shard["first"] for shard in index["shards"]]
        self._length: int = index["length"]
        self._open: dict[int, Any] = {}

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int | slice | list[int] | Tensor) -> Tensor:
        """[C, h, w] for an int, [N, C, h, w] for a slice, a list or a tensor of indices."""
        if isinstance(index, int):
            if not -len(self) <= index < len(self):
                raise IndexError(f"latent {index} of {len(self)}")
            return self._one(index % len(self))
        chosen = torch.arange(len(self))[index].tolist()
        if not chosen:
            return torch.empty(0, *self.item_shape, dtype=torch.float16)
        return torch.stack([self._one(number) for number in chosen])

    def load(self, out: Tensor | None = None) -> Tensor:
        """[N, C, h, w] float16, all in memory: in `out`, of this shape, or in a new tensor."""
        out = torch.empty(len(self), *self.item_shape, dtype=torch.float16) if out is None else out
        for number, first in enumerate(self._starts):
            part = self._shard(number).get_tensor("latents")
            out[first : first + len(part)] = part
        return out

    def _one(self, number: int) -> Tensor:
        shard = bisect.bisect_right(self._starts, number) - 1
        return self._shard(shard).get_slice("latents")[number - self._starts[shard]]

    def _shard(self, number: int) -> Any:
        if number not in self._open:
            file: Any = safe_open(str(self.folder / self._names[number]), framework="pt")
            self._open[number] = file.__enter__()
        return self._open[number]


def cache_latents(
    batches: Iterable[Tensor],
    encode: Callable[[Tensor], Tensor],
    root: Path | str,
    key: LatentKey,
    *,
    progress: Progress = silent,
    num_batches: int | None = None,
) -> LatentCache:
    """The latents of all `batches` ([B, ...] images, in order), encoded where they are not on disk yet.

    `encode` gives [B, C, h, w] (or [B, D]: embeddings are kept alike) and must treat every image by itself.
    One batch is one shard. A finished cache is opened without touching `batches`; a begun one is gone on
    with, keeping shards that start at the same image and hold as many. `num_batches` is for the progress
    alone. Raises `InputError` for a result of the wrong length, of another shape than before, or that
    float16 cannot hold.
    """
    folder = Path(root) / key.hash
    if _read_json(folder / "index.json") is not None and _text(folder / "key.json") == key.to_json():
        return LatentCache(folder)
    (folder / "index.json").unlink(missing_ok=True)
    if _text(folder / "key.json") != key.to_json():
        # Of unknown origin: nothing here may be kept.
        for old in folder.glob("latents_*.safetensors"):
            old.unlink()
        write_text_atomic(folder / "key.json", key.to_json(), argument="--cache")
    shards, first = [], 0
    item_shape: tuple[int, ...] | None = None
    waiting = iter(batches)
    # Drawn before the start, since reading the data for the first time has a progress of its own.
    begun = list(itertools.islice(waiting, 1))
    progress.start(num_batches or 0, "batches to encode")
    try:
        for batch in itertools.chain(begun, waiting):
            name = f"latents_{first:09d}_{len(batch):05d}.safetensors"
            shape = _shard_shape(folder / name, key)
            if shape is None:
                latents = _encoded(encode, batch)
                with writing_file(folder / name, argument="--cache") as temporary:
                    save_file({"latents": latents}, temporary, metadata={"key": key.hash})
                shape = tuple(latents.shape)
            if shape[0] != len(batch) or shape[1:] != (item_shape or shape[1:]):
                raise InputError("encode", shape, f"expected {[len(batch), *(item_shape or shape[1:])]}")
            item_shape = shape[1:]
            shards.append({"file": name, "first": first, "count": len(batch)})
            first += len(batch)
            progress.advance()
    finally:
        progress.finish()
    if item_shape is None:
        raise InputError("batches", "none", "expected at least one batch of images")
    index = {"length": first, "item_shape": list(item_shape), "shards": shards}
    write_text_atomic(folder / "index.json", json.dumps(index, indent=1), argument="--cache")
    for left_over in set(folder.glob("latents_*.safetensors")) - {folder / shard["file"] for shard in shards}:
        left_over.unlink()
    return LatentCache(folder)


def _encoded(encode: Callable[[Tensor], Tensor], batch: Tensor) -> Tensor:
    with torch.inference_mode():
        latents = encode(batch).detach().to("cpu", torch.float16).contiguous()
    if not bool(torch.isfinite(latents).all()):
        raise InputError("encode", "NaN, or above 65504", "expected finite latents that float16 can hold")
    return latents


def _shard_shape(path: Path, key: LatentKey) -> tuple[int, ...] | None:
    """The shape of a shard that is there, whole and of this key, else None."""
    if not path.is_file():
        return None
    try:
        with safe_open(str(path), framework="pt") as file:
            ours = (file.metadata() or {}).get("key") == key.hash
            return tuple(file.get_slice("latents").get_shape()) if ours else None
    except SafetensorError:
        return None


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError):
        return None


def _text(path: Path) -> str | None:
    try:
        return path.read_text()
    except OSError:
        return None
