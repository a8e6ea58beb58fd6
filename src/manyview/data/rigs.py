"""The cameras of a data set's views."""

from __future__ import annotations

import torch

from manyview.data.datasets import SceneArrays
from manyview.data.packed import PackedViews
from manyview.errors import InputError
from manyview.io.scene import list_scenes, read_scene
from manyview.types import Cameras


def read_rigs(source: PackedViews | SceneArrays, argument: str = "--data") -> tuple[Cameras, ...]:
    """V cameras, in float64, for every object of a data set, or one entry that all objects share.

    Raises `InputError` naming `argument` where it has no cameras.
    """
    if isinstance(source, PackedViews):
        described = source.description
        if not {"world_from_cam", "K", "size"} <= set(described):
            line = "its packed.json has no cameras; render it again, or give the scenes"
            raise InputError(argument, str(source.folder), line)
        rig = Cameras(
            world_from_cam=torch.tensor(described["world_from_cam"], dtype=torch.float64),
            K=torch.tensor(described["K"], dtype=torch.float64),
            sizes=torch.tensor([described["size"]] * len(described["K"])),
        )
        return (rig,)
    rigs = []
    paths = {path.name: path for path in list_scenes(source.folder, argument=argument)}
    for name in source.names:
        found = read_scene(paths[name], size=source.size, argument=argument).cameras
        if found is None:
            raise InputError(argument, str(paths[name]), "has no cameras (transforms.json)")
        rigs.append(found.to(torch.float64))
    return tuple(rigs)
