"""Packed components: their numbers, how networks of both libraries load from them, what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL, ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

from manyview.cli.flags import parameter_bytes
from manyview.errors import InputError
from manyview.weights import component_hash
from manyview.weights.bundle import COMPACT
from manyview.weights.packing import (
    FORMAT,
    PACKED_FILE,
    VERSION,
    is_packed,
    load_component,
    pack_component,
    quantize,
    read_packed,
)

ORDINARY = "diffusion_pytorch_model.safetensors"


class Toy(ModelMixin, ConfigMixin):
    """Every kind of tensor: large, small, one-dimensional, whole numbers, and buffers in and out of files."""

    @register_to_config
    def __init__(self, width: int = 40) -> None:
        super().__init__()
        self.wide = nn.Linear(width, 32)
        self.kernel = nn.Conv2d(16, 8, 3)
        self.table = nn.Embedding(3, width)
        self.norm = nn.LayerNorm(2048)
        self.drop = nn.Dropout(0.5)
        self.register_buffer("counts", torch.arange(2048).reshape(2, 1024))
        self.register_buffer("steps", torch.linspace(0, 1, 5), persistent=False)

    def forward(self, values: Tensor) -> Tensor:
        return self.drop(self.wide(values))


@pytest.fixture
def ordinary(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    Toy(width=48).half().save_pretrained(tmp_path / "ordinary")
    return tmp_path / "ordinary"


@pytest.fixture
def packed(ordinary: Path, tmp_path: Path) -> Path:
    pack_component(ordinary, tmp_path / "packed")
    return tmp_path / "packed"


def vision_config() -> CLIPVisionConfig:
    sizes = {"hidden_size": 32, "intermediate_size": 64, "projection_dim": 16, "num_hidden_layers": 1}
    return CLIPVisionConfig(**sizes, num_attention_heads=2, image_size=16, patch_size=8)


def expanded(numbers: Tensor, scale: Tensor) -> Tensor:
    return numbers.float() * scale.view(-1, *[1] * (numbers.dim() - 1))


def config_of(network: Any) -> dict[str, Any]:
    config = network.config.to_dict() if hasattr(network.config, "to_dict") else dict(network.config)
    return {key: value for key, value in config.items() if key != "_name_or_path"}


def test_multiples_of_a_scale_come_back_exactly() -> None:
    """Channel n holds whole multiples of 2^-n that reach 127 * 2^-n, so its scale is exactly 2^-n."""
    generator = torch.Generator().manual_seed(0)
    whole = torch.randint(-127, 128, (6, 4, 3, 3), generator=generator)
    whole[:, 0, 0, 0] = torch.tensor([127, -127, 127, -127, 127, -127])
    weight = whole.float() * torch.exp2(-torch.arange(6.0)).view(-1, 1, 1, 1)
    for given in (weight, weight.half()):  # 8 bits fit into the 11 of float16
        numbers, scale = quantize(given)
        assert numbers.dtype == torch.int8
        assert scale.dtype == torch.float32
        assert torch.equal(numbers, whole.to(torch.int8))
        assert torch.equal(scale, torch.exp2(-torch.arange(6.0)))
        assert torch.equal(expanded(numbers, scale), weight)


def test_known_numbers() -> None:
    """Scale 254 / 127 = 2: 5.1 / 2 = 2.55 goes to 3 and -4.9 / 2 = -2.45 to -2. A channel of zeros stays."""
    numbers, scale = quantize(torch.tensor([[254.0, 5.1, -4.9], [0, 0, 0]]))
    assert scale.tolist() == [2, 0]
    assert numbers.tolist() == [[127, 3, -2], [0, 0, 0]]
    assert expanded(numbers, scale).tolist() == [[254, 6, -4], [0, 0, 0]]


def test_no_number_moves_by_more_than_half_a_scale() -> None:
    """Whatever the other channels hold: one of them is a million times as large."""
    weight = torch.randn(8, 200, generator=torch.Generator().manual_seed(1))
    weight[3] *= 1e6
    numbers, scale = quantize(weight)
    assert torch.equal(scale, weight.abs().amax(1) / 127)
    error = (expanded(numbers, scale) - weight).abs()
    assert bool((error <= scale[:, None] * 0.5001).all())  # float32 rounds the quotient and the product
    assert float((error / scale[:, None]).max()) > 0.49  # no finer than promised either
    assert int(numbers.min()) == -127 or int(numbers.max()) == 127


def test_what_is_packed_and_what_stays(ordinary: Path, tmp_path: Path) -> None:
    (ordinary / "notes.txt").write_text("by hand")
    pack_component(ordinary, tmp_path / "packed", keep=["kernel.weight"])
    names = sorted(path.name for path in (tmp_path / "packed").iterdir())
    assert names == ["config.json", "notes.txt", PACKED_FILE]
    assert (tmp_path / "packed/config.json").read_bytes() == (ordinary / "config.json").read_bytes()
    before, after = load_file(ordinary / ORDINARY), load_file(tmp_path / "packed" / PACKED_FILE)
    # 32 x 48 = 1536 numbers; the table has 144, the norm one dimension, the counts are whole.
    assert set(after) == (set(before) - {"wide.weight"}) | {"wide.weight.int8", "wide.weight.scale"}
    numbers, scale = quantize(before["wide.weight"])
    assert torch.equal(after["wide.weight.int8"], numbers)
    assert torch.equal(after["wide.weight.scale"], scale)
    for name in set(before) - {"wide.weight"}:
        assert after[name].dtype == before[name].dtype
        assert torch.equal(after[name], before[name])
    # Whoever may read the other files may read this one.
    assert (tmp_path / "packed" / PACKED_FILE).stat().st_mode == (
        tmp_path / "packed" / "config.json"
    ).stat().st_mode
    with safe_open(tmp_path / "packed" / PACKED_FILE, framework="pt") as file:
        assert file.metadata() == {FORMAT: VERSION}
    pack_component(ordinary, tmp_path / "again", keep=["kernel.weight"])
    assert component_hash(tmp_path / "again") == component_hash(tmp_path / "packed")
    assert (is_packed(ordinary), is_packed(tmp_path / "packed")) == (False, True)


@pytest.mark.parametrize("dtype", [None, torch.float32, torch.float16, torch.bfloat16])
def test_loads_as_from_pretrained(ordinary: Path, packed: Path, dtype: torch.dtype | None) -> None:
    reference: Any = Toy.from_pretrained(ordinary, dtype=dtype)
    usual = torch.get_default_dtype()
    made = load_component(Toy, packed, dtype)
    assert torch.get_default_dtype() == usual
    assert made.dtype == reference.dtype == (dtype or torch.float32)
    assert not made.training
    assert not made.drop.training
    assert config_of(made) == config_of(reference)
    assert made.config["width"] == 48
    assert made.config["_name_or_path"] == str(packed)
    own, expected, stored = made.state_dict(), reference.state_dict(), read_packed(packed)
    assert list(own) == list(expected)
    for name, value in own.items():
        assert value.dtype == expected[name].dtype
        assert value.device.type == "cpu"
        assert torch.equal(value, stored[name].to(value.dtype))
        if name not in ("wide.weight", "kernel.weight"):
            assert torch.equal(value, expected[name])
    assert made.steps.dtype == reference.steps.dtype
    assert torch.equal(made.steps, reference.steps)
    assert all(weight.requires_grad for weight in made.parameters())
    values = torch.ones(1, 48, dtype=made.dtype)
    bound = stored["wide.weight"].abs().amax(1) / 127 * 0.5 * 48 + 0.1  # half a scale for each of 48 products
    assert bool(((made(values) - reference(values)).abs() <= bound).all())


def test_an_ordinary_folder_is_from_pretrained(ordinary: Path) -> None:
    for dtype in (None, torch.float16):
        made, reference = load_component(Toy, ordinary, dtype), Toy.from_pretrained(ordinary, dtype=dtype)
        assert made.dtype == reference.dtype
        assert config_of(made) == config_of(reference)
        for name, value in reference.state_dict().items():
            assert torch.equal(made.state_dict()[name], value)


def test_what_was_loaded_is_saved_in_the_ordinary_layout(packed: Path, tmp_path: Path) -> None:
    made = load_component(Toy, packed)
    made.save_pretrained(tmp_path / "saved")
    assert not is_packed(tmp_path / "saved")
    again = Toy.from_pretrained(tmp_path / "saved")
    for name, value in made.state_dict().items():
        assert torch.equal(again.state_dict()[name], value)
    assert again.config["width"] == 48


@pytest.mark.parametrize("dtype", [None, torch.float32, torch.bfloat16])
def test_a_transformers_network(tmp_path: Path, dtype: torch.dtype | None) -> None:
    torch.manual_seed(0)
    CLIPVisionModelWithProjection(vision_config()).half().save_pretrained(tmp_path / "ordinary")
    pack_component(tmp_path / "ordinary", tmp_path / "packed")
    wanted: dict[str, Any] = {} if dtype is None else {"dtype": dtype}
    reference: Any = CLIPVisionModelWithProjection.from_pretrained(tmp_path / "ordinary", **wanted)
    made: Any = load_component(CLIPVisionModelWithProjection, tmp_path / "packed", dtype)
    # Without a dtype it is that of the config, as transformers has it.
    assert made.dtype == reference.dtype == (dtype or torch.float16)
    assert not made.training
    assert config_of(made) == config_of(reference)
    assert made.name_or_path == made.config.name_or_path == str(tmp_path / "packed")
    own, expected, stored = made.state_dict(), reference.state_dict(), read_packed(tmp_path / "packed")
    assert list(own) == list(expected)
    for name, value in own.items():
        assert value.dtype == expected[name].dtype
        assert torch.equal(value, stored[name].to(value.dtype))
    buffers, others = dict(made.named_buffers()), dict(reference.named_buffers())
    assert buffers.keys() == others.keys()
    assert all(torch.equal(buffers[name], others[name]) for name in buffers)
    ids = made.vision_model.embeddings.position_ids
    assert ids.tolist() == [[0, 1, 2, 3, 4]]  # 16 px in patches of 8, and the class
    pictures = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0)).to(made.dtype)
    with torch.no_grad():
        answers = [network(pictures).image_embeds.float() for network in (made, reference)]
    assert float((answers[0] - answers[1]).norm() / answers[1].norm()) < 0.05


def rewrite(folder: Path, metadata: dict[str, str] | None = None, **changes: Tensor | None) -> None:
    """The packed file with tensors replaced, or removed where None is given; `__` stands for a dot."""
    tensors = load_file(folder / PACKED_FILE)
    for name, value in changes.items():
        tensors.pop(name.replace("__", "."), None)
        if value is not None:
            tensors[name.replace("__", ".")] = value
    save_file(tensors, folder / PACKED_FILE, metadata={FORMAT: VERSION} if metadata is None else metadata)


DAMAGE: dict[str, tuple[Any, str]] = {
    "cut": (lambda f: (f / PACKED_FILE).write_bytes((f / PACKED_FILE).read_bytes()[:-9]), "is damaged"),
    "text": (lambda f: (f / PACKED_FILE).write_text("no weights"), "is damaged"),
    "foreign": (lambda f: rewrite(f, {"format": "pt"}), "is not of manyview's packed format"),
    "newer": (lambda f: rewrite(f, {FORMAT: "2"}), "has version 2 of the format, expected 1"),
    "no scale": (lambda f: rewrite(f, wide__weight__scale=None), "wide.weight has no fitting scale"),
    "short scale": (
        lambda f: rewrite(f, wide__weight__scale=torch.ones(31)),
        "wide.weight has no fitting scale",
    ),
    "no numbers": (lambda f: rewrite(f, wide__weight__int8=None), "does not fit Toy: wide.weight is missing"),
    "missing": (lambda f: rewrite(f, norm__bias=None), "does not fit Toy: norm.bias is missing"),
    "unknown": (lambda f: rewrite(f, more=torch.ones(1)), "does not fit Toy: more has no place there"),
    "shape": (
        lambda f: rewrite(f, norm__bias=torch.ones(3)),
        "does not fit Toy: norm.bias has another shape",
    ),
    "two files": (
        lambda f: save_file({"a": torch.ones(1)}, f / ORDINARY),
        f"holds other weights beside {PACKED_FILE}",
    ),
    "no config": (lambda f: (f / "config.json").unlink(), "its config.json is missing or damaged"),
    "damaged config": (
        lambda f: (f / "config.json").write_text("{"),
        "its config.json is missing or damaged",
    ),
}


@pytest.mark.parametrize("damage", sorted(DAMAGE))
def test_damaged_and_foreign_files_are_one_line(packed: Path, damage: str) -> None:
    spoil, said = DAMAGE[damage]
    spoil(packed)
    with pytest.raises(InputError) as caught:
        load_component(Toy, packed, argument="--vae")
    line = str(caught.value)
    assert line.startswith(f"--vae: {packed}: ")
    assert said in line
    assert "\n" not in line


def test_another_transformers_network_is_one_line(tmp_path: Path) -> None:
    CLIPVisionModelWithProjection(vision_config()).save_pretrained(tmp_path / "ordinary")
    pack_component(tmp_path / "ordinary", tmp_path / "packed")
    rewrite(tmp_path / "packed", more=torch.ones(1))
    with pytest.raises(InputError, match=r"^--weights: .*CLIPVisionModelWithProjection: more has no place"):
        load_component(CLIPVisionModelWithProjection, tmp_path / "packed")


def test_what_cannot_be_packed(ordinary: Path, packed: Path, tmp_path: Path) -> None:
    def refusal(source: Path, keep: tuple[str, ...] = ()) -> str:
        with pytest.raises(InputError) as caught:
            pack_component(source, tmp_path / "out", keep)
        assert not (tmp_path / "out").exists()
        return str(caught.value)

    assert "is packed already" in refusal(packed)
    assert "has no such tensor" in refusal(ordinary, ("wide",))
    assert "expected a folder with config.json" in refusal(tmp_path)
    tensors = load_file(ordinary / ORDINARY)
    save_file({**tensors, "a.int8": torch.ones(1)}, ordinary / ORDINARY)
    assert "its tensor a.int8 is named as packed ones are" in refusal(ordinary)
    tensors["wide.weight"][3, 5] = torch.inf
    save_file(tensors, ordinary / ORDINARY)
    assert "wide.weight holds numbers that are not finite" in refusal(ordinary)
    (ordinary / ORDINARY).write_bytes(b"")
    assert "is damaged" in refusal(ordinary)
    save_file(tensors, ordinary / "second.safetensors")
    assert "one safetensors file" in refusal(ordinary)


def test_memory_is_estimated_without_the_scales(ordinary: Path, packed: Path) -> None:
    count = sum(tensor.numel() for tensor in load_file(ordinary / ORDINARY).values())
    assert parameter_bytes([packed], "fp16") == parameter_bytes([ordinary], "fp16") == 2 * count


def test_the_packages_weights_stay_small() -> None:
    sizes = [path.stat().st_size for path in COMPACT.rglob("*.safetensors")]
    assert 0 < sum(sizes) < 36e6
    config = json.loads((COMPACT / "vae/config.json").read_text())
    codec = load_component(AutoencoderKL, COMPACT / "vae")
    assert codec.config["latents_mean"] == config["latents_mean"]
