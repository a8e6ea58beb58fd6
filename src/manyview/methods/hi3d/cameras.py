"""Where the views of an orbit stand: round the input's own camera where that is on an orbit."""

from __future__ import annotations

from manyview.geometry.orbits import DISTANCE, is_on_orbit
from manyview.geometry.trajectories import orbit, spherical_angles
from manyview.types import Cameras, Views


def orbit_cameras(views: Views, elevation_deg: float, count: int, size: int) -> Cameras:
    """`count` cameras counter-clockwise from the first observed view's, at one elevation, for images of
    `size` pixels a side.

    The input's azimuth and distance are its camera's if that `is_on_orbit`, else 0 and 1.5: then the world is
    one in which the object has longest side about 1, upright, the input at azimuth 0.
    """
    azimuth, distance = 0.0, DISTANCE
    camera = first_camera(views)
    if camera is not None and is_on_orbit(camera):
        found = spherical_angles(camera.centers[0].double())
        azimuth, distance = float(found[0]), float(found[2])
    return orbit(count, elevation_deg, distance, start_azimuth_deg=azimuth, size=size)


def first_camera(views: Views) -> Cameras | None:
    """The camera of the first observed view, if it has one."""
    return None if views.cameras is None else views.cameras[int(views.observed.nonzero()[0, 0])]
