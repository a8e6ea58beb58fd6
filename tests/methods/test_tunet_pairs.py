"""The paper's pairs of frames of ordered captures."""

from __future__ import annotations

import torch

from manyview.methods.tunet.pairs import allowed_targets, draw_pairs, draw_targets


def shuffle_of(seed: int):
    generator = torch.Generator().manual_seed(seed)

    def shuffle(items, what):
        return [items[place] for place in torch.randperm(len(items), generator=generator).tolist()]

    return shuffle


def test_long_captures_pair_1_to_10_with_15_to_25() -> None:
    for length in (25, 30, 100):
        pairs = draw_pairs(length, shuffle_of(0))
        references, targets = zip(*pairs, strict=True)
        assert sorted(references) == list(range(10))  # frames 1 to 10, each once
        assert len(set(targets)) == 10
        assert set(targets) <= set(range(14, 25))  # frames 15 to 25
    assert draw_pairs(30, shuffle_of(1)) != pairs  # drawn anew every time


def test_shorter_captures_pair_their_halves() -> None:
    for length in range(10, 25):
        pairs = draw_pairs(length, shuffle_of(length))
        assert len(pairs) == 10
        half = length // 2
        assert {reference for reference, _ in pairs} <= set(range(half))
        assert all(target >= half and target - reference >= 5 for reference, target in pairs)
        assert all(target < length for _, target in pairs)
    assert allowed_targets(10)[4] == (9,)  # one place left
    assert allowed_targets(24)[0] == tuple(range(12, 24))


def test_the_shortest_are_left_out() -> None:
    assert draw_pairs(9, shuffle_of(0)) == []
    assert draw_pairs(10, shuffle_of(0)) != []


def test_more_targets_of_a_reference() -> None:
    reference, targets = draw_targets(30, (3, 20), 4, shuffle_of(2))
    assert (reference, targets[0], len(set(targets))) == (3, 20, 4)
    assert set(targets) <= set(range(14, 25))
    assert draw_targets(10, (4, 9), 3, shuffle_of(2)) == (4, (9, 9, 9))
