"""Drawing views of several data sets by their shares."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from manyview.data.packed import describe, write_shard
from manyview.errors import InputError
from manyview.training.sources import ViewSources, sum_to_one


def packed(folder: Path, objects: int, views: int) -> Path:
    describe(folder, {"source": "test"})
    write_shard(folder, 0, np.zeros((objects, views, 8, 8, 3), np.uint8))
    return folder


def test_shares_sum_to_one() -> None:
    np.testing.assert_allclose(sum_to_one([1, 3], 2), [0.25, 0.75])
    np.testing.assert_allclose(sum_to_one([], 4), 0.25)
    for wrong in ([1.0], [1.0, 0.0], [1.0, -1.0], [1.0, 1.0, 1.0]):
        with pytest.raises(InputError, match=r"--shares: .* expected 2 positive numbers"):
            sum_to_one(wrong, 2)


def test_sets_are_drawn_by_share_and_views_alike(tmp_path: Path) -> None:
    """Of 4000 draws at a share of 0.8, 3200 are expected with a deviation of sqrt(4000 0.8 0.2) = 25; each of
    the six views of that set is expected 3200 / 6 = 533 times, deviation 21."""
    sources = ViewSources([packed(tmp_path / "a", 3, 2), packed(tmp_path / "b", 1, 4)], [4, 1])
    rng = np.random.default_rng(0)
    counts: dict[tuple[str, int, int], int] = {}
    for _ in range(4000):
        source, index, view = sources.draw(rng)
        key = source.folder.name, index, view
        counts[key] = counts.get(key, 0) + 1
    first = [count for (name, _, _), count in counts.items() if name == "a"]
    assert len(counts) == 10
    assert abs(sum(first) - 3200) < 125
    assert max(abs(count - 3200 / 6) for count in first) < 110
    assert [source.folder.name for source in sources.all] == ["a", "b"]
    held = ViewSources([tmp_path / "a"], validation=tmp_path / "b")
    assert [source.folder.name for source in held.all] == ["a", "b"]
    with pytest.raises(InputError, match="--data: "):
        ViewSources([])
