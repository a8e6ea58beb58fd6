"""Endless textured objects with exact cameras, depth, masks and meshes."""

from manyview.data.procedural.objects import TexturedMesh as TexturedMesh
from manyview.data.procedural.objects import make_object as make_object
from manyview.data.procedural.objects import to_trimesh as to_trimesh
from manyview.data.procedural.source import render_object as render_object
from manyview.data.procedural.source import render_seed as render_seed
