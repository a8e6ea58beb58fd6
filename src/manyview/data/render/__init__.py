"""Real meshes into posed views: mesh files, two engines, camera protocols, and data sets of scenes.

meshes      load_mesh: glb, obj, ply, ... into the unit box, world up +Z
fast        render_fast: ray casting, about 0.03 s a view, for training data
cycles      render_cycles: Blender's path tracer, for evaluation
protocols   protocol_cameras: orbit16, random
jobs        render_dataset: many meshes into a data set, resumable
"""
