"""Which frames of an ordered capture make a pair, one told from the other.

As the paper pairs them (section "Implementation details"): frames 1 to 10 as references with frames 15 to 25
as targets, ten pairs a scene. What happens to shorter captures is read off the authors' script: of 10 to 24
frames the first half gives references and the second half targets, 5 frames apart; shorter ones are left out.
Frames are counted from 0 here. Where the words leave it open: a reference stands in one pair at most as long
as there are others, and 5 is the least distance.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

PAIRS_A_SCENE = 10
_WHOLE = 25
_SHORTEST = 10
_REFERENCES, _TARGETS = range(10), range(14, 25)
_OFFSET = 5

Shuffle = Callable[[Sequence[int], str], list[int]]
"""An order of some numbers, for a purpose that is named."""


def allowed_targets(num_frames: int) -> dict[int, tuple[int, ...]]:
    """For every frame that may be a reference those that may be its targets; empty for too short captures."""
    if num_frames < _SHORTEST:
        return {}
    if num_frames >= _WHOLE:
        return {reference: tuple(_TARGETS) for reference in _REFERENCES}
    half = num_frames // 2
    return {reference: tuple(range(max(half, reference + _OFFSET), num_frames)) for reference in range(half)}


def draw_pairs(num_frames: int, shuffle: Shuffle, count: int = PAIRS_A_SCENE) -> list[tuple[int, int]]:
    """`count` pairs (reference, target) of a capture, none for one that is too short.

    References take turns in an order drawn anew; so do targets where all references have the same ones, so
    that within ten pairs no frame stands twice.
    """
    allowed = allowed_targets(num_frames)
    if not allowed:
        return []
    references = shuffle(list(allowed), "references")
    shared = len(set(allowed.values())) == 1
    targets = shuffle(allowed[references[0]], "targets") if shared else []
    pairs = []
    for number in range(count):
        reference = references[number % len(references)]
        if shared:
            target = targets[number % len(targets)]
        else:
            target = shuffle(allowed[reference], f"target {number}")[0]
        pairs.append((reference, target))
    return pairs


def draw_targets(
    num_frames: int, pair: tuple[int, int], count: int, shuffle: Shuffle
) -> tuple[int, tuple[int, ...]]:
    """A pair grown to `count` targets of its reference: its own first, then others in a drawn order, again
    from the beginning where there are too few."""
    reference, first = pair
    others = [target for target in allowed_targets(num_frames)[reference] if target != first]
    order = [first, *shuffle(others, "more targets")]
    return reference, tuple(order[number % len(order)] for number in range(count))
