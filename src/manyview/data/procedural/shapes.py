"""Families of random shapes. Each returns parts as (surface, material slot), z up, about unit size."""

from __future__ import annotations

from collections.abc import Callable

import manifold3d
import numpy as np

from manyview.data.procedural.surfaces import (
    Array,
    Surface,
    box_uv,
    from_triangles,
    lathe,
    superellipse,
    sweep,
)

Part = tuple[Surface, int]
Family = Callable[[np.random.Generator], list[Part]]


def smooth_curve(rng: np.random.Generator, num_points: int, knots: int, low: float, high: float) -> Array:
    """[num_points] values through random knots, Catmull-Rom smoothed and kept in range."""
    values = rng.uniform(low, high, knots)
    padded = np.concatenate([[2 * values[0] - values[1]], values, [2 * values[-1] - values[-2]]])
    t = np.linspace(0, knots - 1 - 1e-9, num_points)
    i, f = t.astype(int), t - t.astype(int)
    p0, p1, p2, p3 = (padded[i + k] for k in range(4))
    curve = 0.5 * (
        2 * p1 + (p2 - p0) * f + (2 * p0 - 5 * p1 + 4 * p2 - p3) * f**2 + (3 * p1 - p0 - 3 * p2 + p3) * f**3
    )
    return np.clip(curve, low * 0.7, high)


def rounded_profile(half_height: float, edge: float, rows: int = 6) -> Array:
    """Profile of a straight wall of radius 1 whose rims are rounded with radius `edge`."""
    angle = np.linspace(-np.pi / 2, 0, rows)
    rim = np.stack([1 - edge + edge * np.cos(angle), -half_height + edge * (1 + np.sin(angle))], axis=1)
    return np.concatenate([[[0, -half_height]], rim, rim[::-1] * [1, -1], [[0, half_height]]])


def random_section(rng: np.random.Generator, num_points: int) -> Array:
    """A circle, rounded square, regular polygon or smooth free outline."""
    kind = rng.random()
    if kind < 0.55:
        return superellipse(num_points, 2.0, rng.choice([1.0, rng.uniform(0.35, 1.0)], p=[0.7, 0.3]))
    if kind < 0.8:
        return superellipse(num_points, rng.uniform(3, 12), rng.uniform(0.25, 1.0))
    angle = np.arange(num_points) * 2 * np.pi / num_points
    radius = np.ones(num_points)
    if kind < 0.9:
        lobes = rng.integers(3, 9)
        radius += rng.uniform(0.03, 0.2) * np.cos(lobes * angle)
    else:
        for order in range(2, 6):
            radius += rng.normal(scale=0.35 / order) * np.cos(order * angle + rng.uniform(0, 2 * np.pi))
        radius = np.clip(radius, 0.25, None)
    return np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1) / radius.max()


def revolved(rng: np.random.Generator) -> list[Part]:
    """Bottles, vases, cans, bowls, cups, plates: solid or hollow, sometimes with a lid or handle."""
    kind = rng.choice(["can", "bottle", "bowl", "vase", "plate", "free"], p=[0.2, 0.2, 0.2, 0.15, 0.08, 0.17])
    section = superellipse(40, 2.0) if rng.random() < 0.75 else random_section(rng, 40)
    rows = 20
    height = 1.0
    s = np.linspace(0, 1, rows)
    if kind == "can":
        radius, height = np.full(rows, 1.0), rng.uniform(0.5, 3.0)
        radius[[0, -1]] = rng.uniform(0.85, 1.0)
        if rng.random() < 0.4:
            radius = radius * (1 + rng.uniform(-0.35, 0.35) * s)
    elif kind == "bottle":
        height, shoulder = rng.uniform(2.0, 5.0), rng.uniform(0.45, 0.85)
        neck, softness = rng.uniform(0.2, 0.55), rng.uniform(0.02, 0.15)
        radius = neck + (1 - neck) / (1 + np.exp((s - shoulder) / softness))
        radius *= 1 + 0.06 * smooth_curve(rng, rows, 5, -1, 1)
    elif kind == "bowl":
        height = rng.uniform(0.35, 1.6)
        radius = rng.uniform(0.3, 0.9) + (1 - rng.uniform(0.3, 0.7)) * s ** rng.uniform(0.4, 1.6)
    elif kind == "plate":
        height, radius = rng.uniform(0.08, 0.3), 0.6 + 0.4 * s ** rng.uniform(0.3, 1.5)
    elif kind == "vase":
        height, radius = rng.uniform(1.0, 3.5), smooth_curve(rng, rows, int(rng.integers(3, 6)), 0.3, 1.0)
    else:
        height = rng.uniform(0.6, 4.0)
        radius = smooth_curve(rng, rows, int(rng.integers(3, 8)), 0.15, 1.0)
    outside = np.stack([radius, s * height], axis=1)
    hollow = rng.random() < {"bowl": 0.97, "plate": 0.9, "vase": 0.6, "can": 0.25}.get(kind, 0.15)
    if hollow:
        wall = rng.uniform(0.03, 0.12)
        floor = rng.uniform(0.02, 0.3) * height
        inner = outside[::-1].copy()
        inner[:, 0] = np.maximum(inner[:, 0] - wall, 0.02)
        inner[:, 1] = np.maximum(inner[:, 1], floor)
        profile = np.concatenate([[[0, 0]], outside, inner[:-1], [[0, floor]]])
    else:
        profile = np.concatenate([[[0, 0]], outside, [[0, height]]])
    parts: list[Part] = [(lathe(profile, section, (float(rng.integers(1, 3)), 1.0)), 0)]
    if not hollow and rng.random() < 0.5:  # lid or cap in another material
        cap_radius = radius[-1] * rng.uniform(0.8, 1.08)
        cap = rounded_profile(0.5, 0.1) * [cap_radius, rng.uniform(0.08, 0.35)]
        parts.append((lathe(cap, superellipse(24, 2.0)).moved(offset=(0, 0, height)), 1))
    if rng.random() < (0.35 if hollow else 0.12):
        parts.append((_handle(rng, float(radius[rows // 2]), height), int(rng.integers(0, 2))))
    return parts


def _handle(rng: np.random.Generator, radius: float, height: float) -> Surface:
    angle = np.linspace(-np.pi / 2, np.pi / 2, 14)
    reach, half = rng.uniform(0.3, 0.7), height * rng.uniform(0.22, 0.4)
    path = np.stack(
        [radius * 0.93 + reach * np.cos(angle), np.zeros(14), height * 0.5 + half * np.sin(angle)], axis=1
    )
    thickness = np.full(14, rng.uniform(0.05, 0.14))
    handle = sweep(path, thickness, superellipse(10, rng.uniform(2, 4), rng.uniform(0.6, 1.8)))
    turn = rng.uniform(0, 2 * np.pi)
    return handle.moved(rotation_z(turn))


def boxy(rng: np.random.Generator) -> list[Part]:
    """Packages: rounded boxes of any proportion, stacks of them, a box with a lid or a window."""
    size = np.exp(rng.uniform(-1.4, 0.0, 3))
    if rng.random() < 0.3:
        size[rng.integers(3)] *= rng.uniform(0.1, 0.4)
    parts: list[Part] = [(_box(rng, size), 0)]
    kind = rng.random()
    if kind < 0.2:
        lid = size * [1.03, 1.03, rng.uniform(0.1, 0.4)]
        parts.append((_box(rng, lid).moved(offset=(0, 0, size[2] * 0.8)), 1))
    elif kind < 0.4:
        for index in range(int(rng.integers(1, 4))):
            small = size * rng.uniform(0.3, 0.9, 3)
            shift = (size - small) * rng.uniform(-0.5, 0.5, 3)
            shift[2] = size[2] / 2 + small[2] / 2
            parts.append((_box(rng, small).moved(offset=shift), 1 + index % 3))
    return parts


def _box(rng: np.random.Generator, size: Array) -> Surface:
    edge = rng.choice([0.01, 0.05, rng.uniform(0.05, 0.5)], p=[0.45, 0.3, 0.25])
    surface = lathe(rounded_profile(1.0, edge), superellipse(40, 2 / max(edge, 0.06)))
    surface = surface.moved(np.diag(size / np.ptp(surface.vertices, axis=0)))
    if rng.random() < 0.75:
        scale = 1 / float(size.max())
        surface.corner_uv = box_uv(surface.vertices, surface.faces, scale * rng.choice([1.0, 1.0, 2.0]))
    return surface


def boolean(rng: np.random.Generator) -> list[Part]:
    """Solids added to and cut from each other: racks, frames, blocks with holes, hollowed forms."""
    body = _solid(rng, np.exp(rng.uniform(-1.0, 0.0, 3)))
    for _ in range(int(rng.integers(1, 5))):
        other = _solid(rng, np.exp(rng.uniform(-2.2, -0.1, 3)))
        other = other.rotate((0, 0, float(rng.choice([0, 90, rng.uniform(0, 180)]))))
        other = other.translate(tuple(rng.uniform(-0.4, 0.4, 3)))
        changed = body - other if rng.random() < 0.6 else body + other
        if changed.volume() > 0.15 * body.volume():
            body = changed
    mesh = body.to_mesh()
    vertices = np.asarray(mesh.vert_properties[:, :3], dtype=np.float64)
    faces = np.asarray(mesh.tri_verts, dtype=np.int64)
    return [(from_triangles(vertices, faces, float(rng.uniform(0.7, 2.0))), 0)]


def _solid(rng: np.random.Generator, size: Array) -> manifold3d.Manifold:
    kind = rng.random()
    if kind < 0.45:
        solid = manifold3d.Manifold.cube((1, 1, 1), True)
    elif kind < 0.85:
        solid = manifold3d.Manifold.cylinder(1.0, 0.5, float(rng.choice([0.5, 0.35])), 40, True)
        if rng.random() < 0.4:
            solid = solid.rotate((90, 0, 0))
    else:
        solid = manifold3d.Manifold.sphere(0.5, 40)
    x, y, z = (float(v) for v in size)
    return solid.scale((x, y, z))


def figure(rng: np.random.Generator) -> list[Part]:
    """Animals and figures, mirrored left and right: trunk, head, limbs, ears, tail, base plate."""
    upright = rng.random() < 0.4
    length, width, height = rng.uniform(0.5, 1.0), rng.uniform(0.16, 0.45), rng.uniform(0.2, 0.5)
    leg = rng.uniform(0.1, 0.6) * (1.2 if upright else 1.0)
    trunk_size = np.array([length, width, height])
    if upright:
        trunk_size = np.array([height * 0.8, width * 1.1, length * 0.8])
    centre = np.array([0, 0, leg + trunk_size[2] / 2])
    parts: list[Part] = [(blob(rng, trunk_size).moved(offset=centre), 0)]
    head_size = rng.uniform(0.16, 0.45) * np.array([rng.uniform(0.8, 1.6), rng.uniform(0.7, 1.1), 1.0])
    head = centre + (
        np.array([rng.uniform(-0.05, 0.12), 0, trunk_size[2] * rng.uniform(0.55, 0.8)])
        if upright
        else np.array([length * rng.uniform(0.45, 0.65), 0, height * rng.uniform(0.1, 0.9)])
    )
    parts.append((blob(rng, head_size).moved(offset=head), int(rng.integers(0, 2))))
    neck = np.linspace(centre + [0.3 * trunk_size[0] * (not upright), 0, 0], head, 5)
    parts.append((sweep(neck, np.linspace(0.4, 0.28, 5) * head_size[1] * 1.2, superellipse(12, 2)), 0))
    thick = rng.uniform(0.03, 0.12)
    ends = [1.0] if upright else [1.0, -1.0]
    for end in ends:
        hip = centre + [0 if upright else end * length * 0.34, width * 0.3, -trunk_size[2] * 0.25]
        foot = np.array([hip[0] + rng.uniform(-0.1, 0.1), hip[1] * rng.uniform(0.9, 1.3), 0])
        parts += mirrored(limb(rng, hip, foot, thick), int(rng.integers(0, 3) == 0))
    if upright or rng.random() < 0.15:
        shoulder = centre + [0, width * 0.5, trunk_size[2] * 0.3]
        hand = shoulder + [rng.uniform(-0.1, 0.35), rng.uniform(0.05, 0.4), rng.uniform(-0.45, 0.3)]
        parts += mirrored(limb(rng, shoulder, hand, thick * 0.8), int(rng.integers(0, 2)))
    if rng.random() < 0.6:
        ear = head + [0, head_size[1] * 0.35, head_size[2] * 0.4]
        tip = ear + [rng.uniform(-0.1, 0.1), rng.uniform(0, 0.12), rng.uniform(0.03, 0.3)]
        parts += mirrored(limb(rng, ear, tip, thick * 0.6), int(rng.integers(0, 3)))
    if rng.random() < 0.6:
        root = centre - [trunk_size[0] * 0.45, 0, 0]
        tip = root - [rng.uniform(0.05, 0.5), 0, rng.uniform(-0.3, 0.3)]
        parts.append((limb(rng, root, tip, thick * 0.7), 0))
    if rng.random() < 0.3:
        wing = centre + [0, width * 0.3, trunk_size[2] * 0.3]
        flat = blob(rng, np.array([rng.uniform(0.15, 0.4), rng.uniform(0.3, 0.7), 0.05]))
        parts += mirrored(flat.moved(offset=wing + [0, 0.25, 0.05]), 1)
    if rng.random() < 0.15:
        parts.append((_box(rng, np.array([length, width * 1.6, 0.05])), 2))
    return parts


def vehicle(rng: np.random.Generator) -> list[Part]:
    """A body with a cabin and wheels; without wheels it reads as a shoe, an iron or a machine."""
    length, width, height = 1.0, rng.uniform(0.3, 0.6), rng.uniform(0.15, 0.4)
    parts: list[Part] = [(_box(rng, np.array([length, width, height])).moved(offset=(0, 0, height / 2)), 0)]
    cabin = np.array([rng.uniform(0.2, 0.7), width * rng.uniform(0.6, 0.95), rng.uniform(0.1, 0.4)])
    shift = (rng.uniform(-0.25, 0.25), 0, height + cabin[2] / 2 - 0.02)
    body = _box(rng, cabin) if rng.random() < 0.6 else blob(rng, cabin * 1.2)
    parts.append((body.moved(offset=shift), int(rng.integers(0, 2))))
    if rng.random() < 0.75:
        radius, thickness = rng.uniform(0.08, 0.2), rng.uniform(0.03, 0.1)
        wheel = lathe(rounded_profile(1.0, 0.2) * [radius, thickness], superellipse(24, 2))
        wheel = wheel.moved(np.array([[1.0, 0, 0], [0, 0, -1], [0, 1, 0]]))
        for x in np.linspace(-0.36, 0.36, int(rng.integers(2, 4))):
            parts += mirrored(wheel.moved(offset=(x, width / 2, radius * 0.2)), 2)
    return parts


def furniture(rng: np.random.Generator) -> list[Part]:
    """Tables, stools, shelves, racks: flat boards on legs, open below."""
    width, depth, height = rng.uniform(0.5, 1), rng.uniform(0.4, 1), rng.uniform(0.3, 1.1)
    thick = rng.uniform(0.03, 0.12)
    parts: list[Part] = []
    for level in np.linspace(height, 0.15 * height, int(rng.integers(1, 4))):
        board = _box(rng, np.array([width, depth, thick]))
        parts.append((board.moved(offset=(0, 0, level)), 0))
    for x in (-1, 1):
        for y in (-1, 1):
            foot = np.array([x * width * 0.45, y * depth * 0.45, 0])
            top = foot * rng.choice([1.0, 0.8]) + [0, 0, height]
            parts.append((sweep(np.linspace(foot, top, 3), np.full(3, thick / 2), superellipse(10, 4)), 1))
    if rng.random() < 0.4:
        back = _box(rng, np.array([width, thick, height * rng.uniform(0.4, 1)]))
        parts.append((back.moved(offset=(0, depth / 2, height * 1.3)), 0))
    return parts


def tool(rng: np.random.Generator) -> list[Part]:
    """Long things lying down or standing: handles, pens, brushes, spoons, bent tubes."""
    rows = 24
    t = np.linspace(0, 1, rows)
    bend = rng.uniform(-0.5, 0.5) * (rng.random() < 0.5)
    path = np.stack([t - 0.5, bend * (t - 0.5) ** 2 * 2, 0.1 * bend * np.sin(3 * t)], axis=1)
    thick = rng.uniform(0.03, 0.16)
    radius = thick * smooth_curve(rng, rows, int(rng.integers(3, 8)), 0.3, 1.0)
    radius[[0, -1]] = 1e-3
    cut = int(rng.integers(6, 18))
    aspect = rng.choice([1.0, rng.uniform(0.3, 1.0)])
    section = superellipse(16, rng.choice([2.0, 4.0]), aspect)
    parts: list[Part] = [
        (sweep(path[: cut + 1], radius[: cut + 1], section), 0),
        (sweep(path[cut:], radius[cut:] * rng.uniform(0.4, 1.0), section), 1),
    ]
    if rng.random() < 0.5:
        head = np.array([rng.uniform(0.05, 0.3), rng.uniform(0.05, 0.45), rng.uniform(0.03, 0.2)])
        parts.append((_box(rng, head).moved(offset=path[-1]), 1))
    if rng.random() < 0.3:
        stand = np.array([[0.0, 0, 1], [0, 1, 0], [-1, 0, 0]])
        parts = [(surface.moved(stand), slot) for surface, slot in parts]
    return parts


def lump(rng: np.random.Generator) -> list[Part]:
    """Soft or natural single forms (fruit, stones, plush, cushions), sometimes two or three joined."""
    parts: list[Part] = []
    for slot in range(int(rng.choice([1, 1, 2, 3]))):
        form = blob(rng, np.exp(rng.uniform(-1.0, 0.0, 3)), rough=rng.uniform(0.0, 0.3))
        offset = rng.uniform(-0.35, 0.35, 3) * (slot > 0)
        parts.append((form.moved(offset=offset), slot))
    return parts


def extrusion(rng: np.random.Generator) -> list[Part]:
    """A free outline with thickness, standing or lying: soles, letters, cut-outs, soap bars."""
    section = random_section(rng, 48)
    if rng.random() < 0.5:
        angle = np.arange(48) * 2 * np.pi / 48
        radius = 1 + 0.35 * np.cos(2 * angle) + rng.normal(scale=0.12) * np.cos(3 * angle + rng.uniform(0, 6))
        section = np.stack([radius * np.cos(angle), radius * np.sin(angle) * rng.uniform(0.4, 1)], axis=1)
    half = rng.uniform(0.05, 0.5)
    profile = rounded_profile(half, min(half, rng.uniform(0.02, 0.3)))
    top = 1 + rng.uniform(-0.4, 0.2)
    rows = np.linspace(1, top, len(profile))
    profile[:, 0] *= rows
    surface = lathe(profile, section)
    if rng.random() < 0.5:
        surface.corner_uv = box_uv(surface.vertices, surface.faces, 0.5)
    parts: list[Part] = [(surface, 0)]
    if rng.random() < 0.4:  # a second layer on top: the upper of a shoe, icing, a lid
        upper = lathe(profile * [rng.uniform(0.5, 0.97), rng.uniform(0.5, 2.5)], section)
        lift = half + np.ptp(upper.vertices[:, 2]) / 2
        parts.append((upper.moved(offset=(rng.uniform(-0.2, 0.2), 0, lift * 0.95)), 1))
    if rng.random() < 0.35:
        stand = np.array([[1.0, 0, 0], [0, 0, -1], [0, 1, 0]])
        parts = [(part.moved(stand), slot) for part, slot in parts]
    return parts


def blob(rng: np.random.Generator, size: Array, rough: float | None = None) -> Surface:
    """An ellipsoid-like form with low-frequency bumps, mirrored in y."""
    rows = 18
    exponent = rng.uniform(0.7, 1.2)
    angle = np.linspace(-np.pi / 2, np.pi / 2, rows)
    profile = np.stack([np.cos(angle) ** exponent, np.sin(angle)], axis=1)
    profile[[0, -1], 0] = 0
    surface = lathe(profile, superellipse(28, rng.uniform(1.8, 3.0)))
    amount = rng.uniform(0.0, 0.15) if rough is None else rough
    x, y, z = surface.vertices.T
    bump = np.zeros(len(x))
    for _ in range(4):
        k = rng.normal(scale=2.5, size=3)
        bump += np.cos(k[0] * x + k[1] * np.abs(y) + k[2] * z + rng.uniform(0, 6.3))
    surface.vertices = surface.vertices * (1 + amount * 0.35 * bump)[:, None]
    return surface.moved(np.diag(size / np.ptp(surface.vertices, axis=0)))


def limb(rng: np.random.Generator, start: Array, end: Array, thickness: float) -> Surface:
    """A slightly bent tube between two points that thins to its end."""
    t = np.linspace(0, 1, 9)[:, None]
    bow = rng.normal(scale=0.05, size=3) * np.sin(np.pi * t)
    radii = thickness * (1 - rng.uniform(0.0, 0.6) * t[:, 0])
    radii[-1] *= 0.4
    return sweep(start + (end - start) * t + bow, radii, superellipse(10, 2))


def mirrored(surface: Surface, slot: int) -> list[Part]:
    """The surface and its mirror image in y."""
    return [(surface, slot), (surface.moved(np.diag([1.0, -1.0, 1.0])), slot)]


def rotation_z(angle: float) -> Array:
    """[3, 3] turn by `angle` radians about +Z, counter-clockwise seen from above."""
    c, s = np.cos(angle), np.sin(angle)
    return np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]])


FAMILIES: tuple[tuple[Family, float], ...] = (
    (revolved, 0.22),
    (boxy, 0.16),
    (boolean, 0.08),
    (figure, 0.22),
    (vehicle, 0.06),
    (furniture, 0.05),
    (tool, 0.07),
    (lump, 0.06),
    (extrusion, 0.08),
)
