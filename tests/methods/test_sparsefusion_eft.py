"""The epipolar transformer: against a slow reference, and what must change nothing."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from tiny_sparsefusion import SIZE, scene_cameras, scene_images, tiny_eft
from torch.testing import assert_close

from manyview.errors import InputError
from manyview.geometry.normalization import Similarity
from manyview.geometry.trajectories import orbit
from manyview.methods.sparsefusion.eft import EpipolarTransformer, build_eft, choose_context
from manyview.methods.sparsefusion.epipolar import (
    depth_range,
    ray_pixels,
    read_maps,
    relative_transforms,
    sample_rays,
)
from manyview.methods.sparsefusion.pictures import epipolar_picture

RANGE = torch.tensor([[0.6, 2.4]], dtype=torch.float64)
TIGHT = {"atol": 1e-9, "rtol": 0}


def ask(net, images, cameras, query, *, rows=2, columns=3, ranges=RANGE, present=None, **options):
    with torch.no_grad():
        context = net.encode(images, cameras, ranges, present)
        return net(context, query, rows, columns, **options)


# A reference that goes ray by ray, depth by depth and view by view, in world coordinates.


def bilinear(picture, u, v, published):
    """[C] value at pixel coordinates; `picture` [C, h, w] covers an image of SIZE x SIZE."""
    height, width = picture.shape[1:]
    if published:
        x, y = u / SIZE * (width - 1), v / SIZE * (height - 1)
    else:
        x, y = u / SIZE * width - 0.5, v / SIZE * height - 0.5
    x, y = min(max(x, 0.0), width - 1.0), min(max(y, 0.0), height - 1.0)
    left, top = min(int(x), width - 2), min(int(y), height - 2)
    a, b = x - left, y - top
    upper = picture[:, top, left] * (1 - a) + picture[:, top, left + 1] * a
    lower = picture[:, top + 1, left] * (1 - a) + picture[:, top + 1, left + 1] * a
    return upper * (1 - b) + lower * b


def together(colors):
    """[8] of the colours of the views that see a point."""
    if not colors:
        return torch.tensor([0.0] * 3 + [1e-3] * 3 + [1.0, 0.0], dtype=torch.float64)
    stack = torch.stack(colors)
    spread = (stack.var(dim=0, unbiased=False) + 1e-6).sqrt()
    darkness = min(float(1 - color.min()) for color in colors)
    rest = torch.tensor([darkness, len(colors) / 8], dtype=torch.float64)
    return torch.cat([stack.mean(dim=0), spread, rest])


def waves(values, octaves):
    out = [math.sin(2**k * x) for x in values for k in range(octaves)]
    out += [math.cos(2**k * x) for x in values for k in range(octaves)]
    return torch.tensor([*out, *values], dtype=torch.float64)


def bend(x, y, k):
    r2 = x * x + y * y
    radial = 1 + k[0] * r2 + k[1] * r2**2 + k[2] * r2**3 + k[3] * r2**4
    return (
        x * radial + 2 * k[4] * x * y + k[5] * (r2 + 2 * x * x),
        y * radial + 2 * k[5] * x * y + k[4] * (r2 + 2 * y * y),
    )


def unbend(x, y, k):
    u, v = x, y
    for _ in range(200):  # fixed-point iteration, where the package uses Newton's method
        s, t = bend(u, v, k)
        u, v = u + (x - s), v + (y - t)
    return u, v


def mix(transformer, tokens, heads):
    """Post-norm encoder layers over tokens [L, inputs], from the weights."""
    x = F.gelu(F.linear(tokens, transformer.enter.weight, transformer.enter.bias))
    size = x.shape[1] // heads
    for layer in transformer.layers:
        both = F.linear(x, layer.self_attn.in_proj_weight, layer.self_attn.in_proj_bias)
        query, key, value = both.chunk(3, dim=1)
        seen = []
        for head in range(heads):
            part = slice(head * size, (head + 1) * size)
            share = (query[:, part] @ key[:, part].T / math.sqrt(size)).softmax(dim=1)
            seen.append(share @ value[:, part])
        x = layer.norm1(x + layer.self_attn.out_proj(torch.cat(seen, dim=1)))
        x = layer.norm2(x + layer.linear2(F.relu(layer.linear1(x))))
    return x


def slow_ray(net, images, cameras, query, u, v):
    """Feature, colour and depth attention of one ray through pixel (u, v)."""
    octaves, heads, number = (net.config[k] for k in ("num_octaves", "num_heads", "num_depths"))
    published = net.sampling == "published"
    K, move = query.K[0], query.world_from_cam[0]
    x, y = (u - K[0, 2]) / K[0, 0], (v - K[1, 2]) / K[1, 1]
    if query.distortion is not None:
        x, y = unbend(float(x), float(y), query.distortion[0].tolist())
    ahead = torch.tensor([float(x), float(y), 1.0], dtype=torch.float64)
    near, far = RANGE[0].tolist()

    def in_query_frame(vector):  # axes: left, up, forward
        x, y, z = (move[:3, :3].T @ vector).tolist()
        return torch.tensor([-x, -y, z], dtype=torch.float64)

    line = in_query_frame(move[:3, :3] @ ahead)
    line = line / line.norm()
    own = waves([*line.tolist(), 0.0, 0.0, 0.0], octaves)
    maps = net.encoder(images, net.sampling)
    others, depth_waves, shown = [], [], []
    for place in range(number):
        depth = near + (far - near) * place / (number - 1)
        point = move[:3, :3] @ (ahead * depth) + move[:3, 3]
        depth_waves.append(waves([depth], octaves))
        others.append([])
        shown.append([])
        seeing = []
        for view in range(len(images)):
            placed = cameras.world_from_cam[view]
            toward = in_query_frame(point - placed[:3, 3])
            toward = toward / toward.norm()
            center = in_query_frame(placed[:3, 3] - move[:3, 3])
            moment = torch.linalg.cross(center, toward)
            others[place].append(waves([*toward.tolist(), *moment.tolist()], octaves))
            x, y, z = (placed[:3, :3].T @ (point - placed[:3, 3])).tolist()
            x, y = x / z, y / z
            if cameras.distortion is not None:
                x, y = bend(x, y, cameras.distortion[view].tolist())
            L = cameras.K[view]
            s, t = float(L[0, 0] * x + L[0, 2]), float(L[1, 1] * y + L[1, 2])
            read = [bilinear(maps[view], s, t, published), bilinear(images[view], s, t, published)]
            inside = z > 0 and 0 <= s <= SIZE and 0 <= t <= SIZE
            if net.config["mark_visible"]:
                read.append(torch.tensor([float(inside)], dtype=torch.float64))
            shown[place].append(torch.cat(read))
            if inside:
                seeing.append(read[1])
        if net.config["compare"]:
            shown[place] = [torch.cat([read, together(seeing)]) for read in shown[place]]
    views = range(len(images))
    at_points = [
        mix(
            net.view_mixer,
            torch.stack([torch.cat([others[d][n], depth_waves[d], shown[d][n]]) for n in views]),
            heads,
        )
        for d in range(number)
    ]
    pooled, shares, copied = [], [], []
    for n in views:
        tokens = [torch.cat([own, others[d][n], depth_waves[d], at_points[d][n]]) for d in range(number)]
        mixed = mix(net.depth_mixer, torch.stack(tokens), heads)
        shares.append(net.depth_score(mixed)[:, 0].softmax(dim=0))
        pooled.append(shares[-1] @ mixed)
        # The picture's own colours stand in what was read right after the features.
        first = maps.shape[1]
        seen = torch.stack([shown[d][n][first : first + 3] for d in range(number)])
        copied.append(shares[-1] @ seen)
    tokens = [torch.cat([own, others[number // 2][n], pooled[n]]) for n in views]
    mixed = mix(net.ray_mixer, torch.stack(tokens), heads)
    over_views = net.view_score(mixed)[:, 0].softmax(dim=0)
    feature = over_views @ mixed
    color = net.color(feature).sigmoid()
    if net.config["blend"]:
        color = (1 - color[3]) * color[:3] + color[3] * (over_views @ torch.stack(copied))
    return feature, color, torch.stack(shares)


@pytest.mark.parametrize(
    ("changes", "distorted"),
    [
        ({}, True),
        ({"blend": True}, True),
        ({"compare": True}, True),
        ({"sampling": "published", "normalization": "batch", "mark_visible": False, "num_heads": 1}, False),
    ],
)
@torch.no_grad()
def test_agrees_with_the_slow_reference(changes, distorted):
    net = tiny_eft(**changes)
    cameras, images = scene_cameras(4, distorted=distorted), scene_images(3)
    query = cameras[3]
    answer = ask(net, images[None], cameras[:3], query, attention=True)
    # Centres of a 2 x 3 grid of cells; or from the first to the last pixel's centre.
    exact = net.sampling == "exact"
    columns = [(i + 0.5) * SIZE / 3 for i in range(3)] if exact else [0.5, 8.0, 15.5]
    rows = [(i + 0.5) * SIZE / 2 for i in range(2)] if exact else [0.5, 15.5]
    some_outside = False
    for i, v in enumerate(rows):
        for j, u in enumerate(columns):
            feature, color, shares = slow_ray(net, images, cameras[:3], query, u, v)
            assert_close(answer.features[0, 0, :, i, j], feature, **TIGHT)
            assert_close(answer.colors[0, 0, :, i, j], color, **TIGHT)
            assert_close(answer.attention.over_depths[0, 0, :, i, j], shares, **TIGHT)
            seen = answer.attention.pixels[0, 0, :, i, j]
            some_outside |= bool(((seen < 0) | (seen > SIZE)).any())
    assert some_outside  # so that borders were looked at


def test_moving_the_world_changes_nothing():
    net, cameras, images = tiny_eft(), scene_cameras(5), scene_images(3)[None]
    turn = torch.linalg.qr(torch.randn(3, 3, dtype=torch.float64))[0]
    turn = turn * torch.linalg.det(turn)
    away = Similarity(1.0, turn, torch.tensor([300.0, -70.0, 20.0], dtype=torch.float64))
    moved = away.apply_to_cameras(cameras)
    first = ask(net, images, cameras[:3], cameras[3:], ranges=net.depth_range(cameras)[None])
    again = ask(net, images, moved[:3], moved[3:], ranges=net.depth_range(moved)[None])
    assert_close(again.features, first.features, **TIGHT)
    assert_close(again.colors, first.colors, **TIGHT)


def test_single_precision_survives_a_far_away_world():
    # 300 units from the origin float32 positions are 3e-5 apart; the relative transforms round no further.
    net, cameras, images = (
        tiny_eft().float(),
        scene_cameras(4).to(torch.float32),
        scene_images(3)[None].float(),
    )
    away = Similarity(1.0, torch.eye(3), torch.tensor([300.0, -70.0, 20.0]))
    moved = away.apply_to_cameras(cameras)
    first = ask(net, images, cameras[:3], cameras[3], ranges=RANGE.float())
    again = ask(net, images, moved[:3], moved[3], ranges=RANGE.float())
    assert_close(again.colors, first.colors, atol=2e-3, rtol=0)


def test_the_order_of_the_inputs_changes_nothing():
    net, cameras, images = tiny_eft(), scene_cameras(5), scene_images(4)
    order = [2, 0, 3, 1]
    first = ask(net, images[None], cameras[:4], cameras[4], attention=True)
    again = ask(net, images[order][None], cameras[order], cameras[4], attention=True)
    assert_close(again.features, first.features, **TIGHT)
    assert_close(again.attention.depth_map, first.attention.depth_map, **TIGHT)
    assert_close(again.attention.over_views, first.attention.over_views[:, :, order], **TIGHT)


def test_an_input_matters():
    net, cameras, images = tiny_eft(), scene_cameras(4), scene_images(3)
    first = ask(net, images[None], cameras[:3], cameras[3])
    again = ask(net, images[[0, 0, 2]][None], cameras[:3], cameras[3])
    assert float((again.features - first.features).abs().max()) > 1e-3


def test_batches_splits_and_absent_views_change_nothing():
    net, cameras, images = tiny_eft(), scene_cameras(8), scene_images(5)
    # Scene 0 has views 0 and 1 (and a third that is absent); scene 1 has views 2 to 4. Two queries each.
    both = torch.stack([images[[0, 1, 4]], images[2:]])
    present = torch.tensor([[True, True, False], [True, True, True]])
    contexts = cameras[[0, 1, 7, 2, 3, 4]]
    ranges = torch.cat([RANGE, RANGE + 0.1])
    answer = ask(net, both, contexts, cameras[[5, 6, 6, 7]], ranges=ranges, present=present, rays_at_once=4)
    for scene, (views, queries) in enumerate([([0, 1], [5, 6]), ([2, 3, 4], [6, 7])]):
        for place, query in enumerate(queries):
            chosen = ranges[[scene]]
            alone = ask(net, images[views][None], cameras[views], cameras[query], ranges=chosen)
            assert_close(answer.features[scene, place], alone.features[0, 0], **TIGHT)
            assert_close(answer.colors[scene, place], alone.colors[0, 0], **TIGHT)


@pytest.mark.parametrize("count", [1, 8])
def test_one_to_eight_inputs(count):
    net, cameras = tiny_eft(), scene_cameras(count + 1)
    answer = ask(net, scene_images(count)[None], cameras[:count], cameras[count], attention=True)
    assert answer.features.shape == (1, 1, 8, 2, 3)
    assert bool(((answer.colors > 0) & (answer.colors < 1)).all())
    ones = torch.ones(1, 1, 2, 3, dtype=torch.float64)
    assert_close(answer.attention.over_views.sum(dim=2), ones)
    assert_close(answer.attention.over_depths.sum(dim=-1), ones[:, :, None].expand(-1, -1, count, -1, -1))


@torch.no_grad()
def test_blended_colours_of_one_colour():
    # All contexts show one colour: whatever the attention, the copied part is that colour; with the share's
    # bias far up nothing else is left, and far down the colour is that of the network without blending.
    net, cameras = tiny_eft(blend=True), scene_cameras(4, distorted=False)
    shade = torch.tensor([0.2, 0.5, 0.9], dtype=torch.float64)
    images = shade[:, None, None].expand(1, 3, 3, SIZE, SIZE)
    net.color.bias[3] = 60.0
    copied = ask(net, images, cameras[:3], cameras[3])
    assert_close(copied.colors, shade.reshape(1, 1, 3, 1, 1).expand_as(copied.colors), **TIGHT)
    net.color.bias[3] = -60.0
    told = ask(net, images, cameras[:3], cameras[3])
    plain = tiny_eft()
    state = dict(net.state_dict())
    state |= {name: state[name][:3] for name in ("color.weight", "color.bias")}
    plain.load_state_dict(state)
    assert_close(told.colors, ask(plain, images, cameras[:3], cameras[3]).colors, **TIGHT)


@torch.no_grad()
def test_blended_latents_follow_the_colours():
    # Latents that are the images: where the network only copies they come out as its colours do, and asking
    # for them changes nothing else.
    net, cameras = tiny_eft(blend=True), scene_cameras(4)
    net.color.bias[3] = 60.0
    ranges = net.depth_range(cameras[:3])[None]
    context = net.encode(scene_images(3)[None], cameras[:3], ranges)
    plain = net(context, cameras[3], 2, 3)
    told = net(replace(context, latents=context.images), cameras[3], 2, 3, rays_at_once=4)
    assert plain.latents is None
    assert_close(told.latents, told.colors, **TIGHT)
    assert_close(told.features, plain.features, **TIGHT)
    assert_close(plain.condition, plain.features)
    assert_close(told.condition, torch.cat([told.features, told.colors], dim=2), **TIGHT)


def test_a_query_is_never_its_own_context():
    net, cameras, images = tiny_eft(), scene_cameras(3), scene_images(3)
    with pytest.raises(InputError, match=r"query\[0, 0\]: is context view 1"):
        ask(net, images[None], cameras, cameras[1])
    hidden = ask(net, images[None], cameras, cameras[1], own="hide")
    without = ask(net, images[[0, 2]][None], cameras[[0, 2]], cameras[1])
    assert_close(hidden.features, without.features, **TIGHT)
    shown = ask(net, images[None], cameras, cameras[1], own="show")
    assert float((shown.features - without.features).abs().max()) > 1e-3
    with pytest.raises(InputError, match="no context view but itself"):
        ask(net, images[[1]][None], cameras[1], cameras[1], own="hide")
    # The same camera turned by a tenth of a degree about its centre is another one.
    turned = cameras.world_from_cam.clone()
    angle = math.radians(0.1)
    turn = torch.tensor([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    turned[:, :3, :2] = turned[:, :3, :2] @ turn.double()
    ask(net, images[None], cameras, replace(cameras, world_from_cam=turned)[1])


def test_contexts_are_drawn_beside_the_query():
    draw = torch.Generator().manual_seed(0)
    drawn = [choose_context(5, 2, 3, draw) for _ in range(60)]
    assert all(len(set(views)) == 3 and 2 not in views for views in drawn)
    assert {view for views in drawn for view in views} == {0, 1, 3, 4}
    with pytest.raises(InputError, match="num_context: 5"):
        choose_context(5, 2, 5)
    with pytest.raises(InputError, match="query: 5"):
        choose_context(5, 5, 2)


def test_even_attention_gives_the_mean_depth():
    net, cameras = tiny_eft(), scene_cameras(3)
    torch.nn.init.zeros_(net.depth_score.weight)
    answer = ask(net, scene_images(2)[None], cameras[:2], cameras[2], attention=True)
    # Five depths from 0.6 to 2.4: mean 1.5, spacing 0.45, standard deviation 0.45 sqrt(2).
    depth = answer.attention.depth_map
    assert_close(depth, torch.full_like(depth, 1.5))
    assert_close(answer.attention.depth_spread, torch.full_like(depth, 0.45 * math.sqrt(2)))
    assert ask(net, scene_images(2)[None], cameras[:2], cameras[2]).attention is None


def test_epipolar_picture():
    net, cameras, images = tiny_eft(num_depths=9), orbit(8, 20.0, 1.5, size=SIZE), scene_images(2).float()
    answer = ask(net.float(), images[None], cameras[[0, 2]], cameras[1], ranges=RANGE.float(), attention=True)
    attention = answer.attention
    drawn = epipolar_picture(images, attention, (1, 2), radius=1.0)
    assert drawn.shape == images.shape
    v, u = torch.meshgrid(torch.arange(SIZE) + 0.5, torch.arange(SIZE) + 0.5, indexing="ij")
    for view in range(2):
        points = attention.pixels[0, 0, view, 1, 2]
        distance = ((u[..., None] - points[:, 0]) ** 2 + (v[..., None] - points[:, 1]) ** 2).sqrt()
        nearest = distance.amin(dim=-1)
        changed = (drawn[view] - images[view]).abs().amax(dim=0) > 0
        assert not bool(changed[nearest > 1.5].any())
        assert bool(changed.any())
        assert bool(changed[nearest < 1.0].all())
    with pytest.raises(InputError, match="2 x 3 grid"):
        epipolar_picture(images, attention, (2, 0))


def test_depth_range():
    cameras = orbit(8, 30.0, 1.5, size=SIZE)
    # All 1.5 from the origin, which is what they look at.
    assert_close(depth_range(cameras, 0.9), torch.tensor([0.6, 2.4]), atol=1e-5, rtol=0)
    assert_close(depth_range(cameras, 5.0, min_near=0.2), torch.tensor([0.2, 6.5]), atol=1e-5, rtol=0)
    single = depth_range(cameras[0], 0.5, center=cameras.centers[0] + torch.tensor([0.0, 0.0, 2.0]))
    assert_close(single, torch.tensor([1.5, 2.5]), atol=1e-5, rtol=0)
    with pytest.raises(InputError, match="min_near: 9"):
        depth_range(cameras, 0.9, min_near=9.0)


def test_ray_grids():
    # 2 x 2 cells of a 4 x 8 image: centres at a quarter and three quarters of each side.
    expected = torch.tensor([[2.0, 1.0], [6.0, 1.0], [2.0, 3.0], [6.0, 3.0]])
    assert_close(ray_pixels(2, 2, 4, 8), expected)
    corners = torch.tensor([[0.5, 0.5], [7.5, 0.5], [0.5, 3.5], [7.5, 3.5]])
    assert_close(ray_pixels(2, 2, 4, 8, "published"), corners)


def test_pixels_keep_their_digits_under_autocast():
    cameras = scene_cameras(3).to(torch.float32)
    relative = relative_transforms(cameras[2], cameras[:2], 1)
    pixels, depths = ray_pixels(2, 2, SIZE, SIZE), torch.linspace(0.6, 2.4, 5)[None]
    maps = torch.rand(1, 2, 3, SIZE, SIZE)
    plain = sample_rays(pixels, cameras[2], cameras[:2], depths, relative)
    with torch.autocast("cpu", torch.bfloat16):
        mixed = sample_rays(pixels, cameras[2], cameras[:2], depths, relative)
        read = read_maps(maps, mixed.pixels, SIZE, SIZE)
    assert_close(mixed.pixels, plain.pixels)
    assert_close(mixed.context_rays, plain.context_rays)
    assert_close(read, read_maps(maps, plain.pixels, SIZE, SIZE))


def test_gradients_reach_everything():
    net, cameras = tiny_eft().train(), scene_cameras(3)
    context = net.encode(scene_images(2)[None], cameras[:2], RANGE)
    answer = net(context, cameras[2], 2, 2)
    (answer.features.square().sum() + answer.colors.sum()).backward()
    missing = [name for name, value in net.named_parameters() if value.grad is None]
    assert missing == []


def test_saved_and_loaded(tmp_path):
    net, cameras, images = tiny_eft(), scene_cameras(3), scene_images(2)[None]
    net.save_pretrained(tmp_path)
    again = EpipolarTransformer.from_pretrained(tmp_path, torch_dtype=torch.float64).eval()
    first, second = (ask(n, images, cameras[:2], cameras[2]) for n in (net, again))
    assert_close(second.features, first.features, **TIGHT)


def test_presets():
    with torch.device("meta"):
        compact, paper = build_eft("compact"), build_eft("paper")
    assert sum(p.numel() for p in compact.parameters()) < 1.5e6
    # SYSTEMS: inputs 606 = 78 + 13 + 512 + 3, 425 = 78 + 78 + 13 + 256, 412 = 78 + 78 + 256.
    inputs = [m.enter.in_features for m in (paper.view_mixer, paper.depth_mixer, paper.ray_mixer)]
    assert inputs == [606, 425, 412]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"images": scene_images(2)}, r"images: \(2, 3, 16, 16\): expected \[B, N"),
        ({"images": scene_images(9)[None]}, "images: 9 views: expected 1 to 8"),
        ({"cameras": scene_cameras(3)}, "cameras: 3: expected 2"),
        ({"cameras": scene_cameras(2).resized(8, 8)}, "cameras.sizes"),
        ({"ranges": torch.tensor([[-1.0, 2.0]])}, "depth_ranges"),
        ({"present": torch.tensor([[False, False]])}, "one or more views"),
        ({"query": scene_cameras(3)[0:0]}, "query: 0"),
        ({"query": scene_cameras(3)[[2]].resized(8, 8)}, "query.sizes"),
    ],
)
def test_errors(change, message):
    net, cameras = tiny_eft(), scene_cameras(3)
    given = {"images": scene_images(2)[None], "cameras": cameras[:2], "query": cameras[2], **change}
    with pytest.raises(InputError, match=message):
        ask(net, **given)
