"""Codes of data sets that are trained on together stand for the same depths."""

from __future__ import annotations

from manyview.data.depth_codes import DepthCodes
from manyview.geometry.trajectories import orbit


def test_codes_agree_at_all_elevations_and_not_at_other_distances() -> None:
    codes = [DepthCodes.around_objects(orbit(16, degrees)) for degrees in (-10.0, 0.0, 30.0, 40.0)]
    assert all(one.agrees(codes[0]) for one in codes)
    assert not DepthCodes.around_objects(orbit(16, 30.0, 1.51)).agrees(codes[0])
