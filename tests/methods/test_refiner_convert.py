"""Official StyleGAN2 pickles: converted name by name, and harmless whatever they hold."""

from __future__ import annotations

import builtins
import json
import os
import pickle
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch
from official_pickle import official_modules, official_tensors, storage_bytes, write_official
from torch._utils import _rebuild_tensor_v2
from torch.testing import assert_close

from manyview.cli import main
from manyview.errors import InputError
from manyview.methods.refiner.convert import (
    convert_checkpoints,
    read_network,
    survey_checkpoints,
    tensors_of,
)
from manyview.methods.refiner.stylegan_names import generator_sizes, published_names
from manyview.nets.stylegan2.generator import PUBLISHED_RESOLUTIONS, StyleGAN2Generator, build_generator
from manyview.weights import open_bundle
from manyview.weights.allowlist import read_pickle, torch_makers


@pytest.fixture
def generator() -> StyleGAN2Generator:
    torch.manual_seed(0)
    net = StyleGAN2Generator(
        16, 10, 12, mapping_layers=3, mapping_lr=0.02, channel_base=128, channel_max=12, conv_clamp=256.0
    )
    with torch.no_grad():
        for value in net.state_dict().values():
            value.add_(0.1 * torch.randn(value.shape))
    return net.eval()


@pytest.fixture
def official(generator: StyleGAN2Generator, tmp_path: Path) -> Path:
    write_official(tmp_path / "network.pkl", generator)
    return tmp_path / "network.pkl"


def test_it_converts_name_by_name_to_the_same_images(
    generator: StyleGAN2Generator, official: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    words = [
        "convert",
        str(official),
        "--method",
        "refiner",
        "--licence",
        "unknown",
        "--out",
        str(out),
        "--json",
    ]
    assert main(words) == 0
    assert json.loads(capsys.readouterr().out)["parts"] == ["generator"]
    bundle = open_bundle(out, "refiner")
    assert bundle.settings == {"resolution": 16, "source": "G_ema"}
    again = StyleGAN2Generator.from_pretrained(bundle.components["generator"])
    for name, value in generator.state_dict().items():
        assert torch.equal(again.state_dict()[name], value), name
    assert {k: again.config[k] for k in ("mapping_lr", "conv_clamp")} == {
        "mapping_lr": 0.02,
        "conv_clamp": 256,
    }
    z = torch.randn(2, 10)
    assert torch.equal(again(z, truncation=0.7), generator(z, truncation=0.7))


def test_a_dry_run_counts_and_says_what_does_not_fit(
    generator: StyleGAN2Generator, official: Path, tmp_path: Path
) -> None:
    part = survey_checkpoints([official]).parts["generator"]
    assert part.fits
    assert part.matched == len(generator.state_dict())
    assert all(name.endswith("resample_filter") for name in part.passed_over)
    tensors = official_tensors(generator)
    del tensors["synthesis.b8.conv0.bias"]
    tensors["synthesis.b8.odd"] = torch.zeros(2)
    write_official(tmp_path / "odd.pkl", generator, tensors=tensors)
    part = survey_checkpoints([tmp_path / "odd.pkl"]).parts["generator"]
    assert part.missing == ("synthesis.b8.conv0.bias",)
    assert part.unknown == ("synthesis.b8.odd",)
    with pytest.raises(InputError, match=r"synthesis\.b8\.odd"):
        convert_checkpoints([tmp_path / "odd.pkl"], tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("resolution", PUBLISHED_RESOLUTIONS)
def test_every_name_of_the_published_sizes_has_its_place(resolution: int) -> None:
    with torch.device("meta"):
        generator = build_generator("paper", resolution)
    names = published_names(generator)
    assert len(set(names.values())) == len(generator.state_dict())
    state = {theirs: generator.state_dict()[own] for own, theirs in names.items()}
    sizes = generator_sizes(state)
    with torch.device("meta"):
        again = StyleGAN2Generator(**sizes)
    assert {k: v.shape for k, v in again.state_dict().items()} == {
        k: v.shape for k, v in generator.state_dict().items()
    }
    last = f"synthesis.b{resolution}"
    assert {f"{last}.conv0.affine.weight", f"{last}.torgb.bias", "mapping.fc7.weight"} <= set(state)


def test_other_kinds_of_generators_are_refused(generator: StyleGAN2Generator, tmp_path: Path) -> None:
    tensors = official_tensors(generator)
    cases = {
        "without classes": {**tensors, "mapping.embed.weight": torch.zeros(4, 4)},
        r"filter \[1, 3, 3, 1\]": {**tensors, "synthesis.b8.resample_filter": torch.ones(2, 2) / 4},
        "constant over the resolution": {**tensors, "synthesis.b8.torgb.weight": torch.zeros(3, 7, 1, 1)},
    }
    for line, changed in cases.items():
        write_official(tmp_path / "other.pkl", generator, tensors=changed)
        with pytest.raises(InputError, match=line):
            survey_checkpoints([tmp_path / "other.pkl"])
    (tmp_path / "nothing.pkl").write_bytes(pickle.dumps({"x": 1}))
    with pytest.raises(InputError, match="holds no network G_ema"):
        read_network(tmp_path / "nothing.pkl")
    with pytest.raises(InputError, match="expected one file"):
        survey_checkpoints([tmp_path / "nothing.pkl"] * 2)
    with pytest.raises(InputError, match="has no image codec"):
        convert_checkpoints([tmp_path / "other.pkl"], tmp_path / "out", codec=tmp_path)


class Calls:
    """Pickles as a call of `function` with `arguments`."""

    def __init__(self, function: Any, *arguments: object) -> None:
        self.function, self.arguments = function, arguments

    def __reduce__(self) -> tuple:
        return self.function, self.arguments


def harmful(marker: Path) -> dict[str, object]:
    code = f"open({str(marker)!r}, 'w').close()"
    return {
        "posix.system": Calls(os.system, f"touch {marker}"),
        "builtins.eval": Calls(builtins.eval, code),
        "builtins.exec": Calls(builtins.exec, code),
        "builtins.getattr": Calls(builtins.getattr, OrderedDict, "fromkeys"),
        "io.open": Calls(open, str(marker), "w"),
        "_pickle.loads": Calls(pickle.loads, pickle.dumps(Calls(os.system, f"touch {marker}"))),
        "torch.serialization.load": Calls(torch.load, str(marker)),
    }


@pytest.mark.parametrize("name", sorted(harmful(Path("x"))))
def test_a_harmful_pickle_is_refused_in_one_line_and_runs_nothing(
    name: str, generator: StyleGAN2Generator, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    marker = tmp_path / "marker"
    bad = tmp_path / "bad.pkl"
    write_official(bad, generator, extra={"training_set_kwargs": harmful(marker)[name]})
    words = ["convert", str(bad), "--method", "refiner", "--out", str(tmp_path / "out")]
    assert main(words) == 2
    told = capsys.readouterr().err.strip().splitlines()
    lines = [line for line in told if not line.startswith("conversion: 0/1")]
    assert len(lines) == 1
    assert f"asks for {name}, which no file of weights needs; nothing was run" in lines[0]
    assert not marker.exists()
    assert not (tmp_path / "out").exists()


def test_the_marker_would_appear_if_it_ran(tmp_path: Path) -> None:
    # The pickles above do harm where nothing guards: else the tests on them would prove nothing.
    for name in ("posix.system", "builtins.exec"):
        marker = tmp_path / name
        pickle.loads(pickle.dumps(harmful(marker)[name]))
        assert marker.exists()


def test_source_code_in_a_network_is_never_run(generator: StyleGAN2Generator, tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    source = f"open({str(marker)!r}, 'w').close()"
    write_official(tmp_path / "network.pkl", generator, source=source)
    record = read_network(tmp_path / "network.pkl")
    assert source not in str(record.state.keys())
    convert_checkpoints([tmp_path / "network.pkl"], tmp_path / "out")
    assert not marker.exists()
    assert_close(tensors_of(record)["mapping.w_avg"], generator.w_mean)


def test_harm_inside_the_bytes_of_a_storage_is_refused(tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    inner = storage_bytes(Calls(os.system, f"touch {marker}"))
    load = torch.storage._load_from_bytes
    (tmp_path / "bad.pkl").write_bytes(pickle.dumps({"G_ema": Calls(load, inner)}))
    with pytest.raises(InputError, match="cannot be read as a pickle of weights"):
        read_network(tmp_path / "bad.pkl")
    assert not marker.exists()


def test_harm_in_the_state_of_a_network_is_refused(tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    with official_modules() as (table, rebuild):
        meta = table(module_src="", class_name="G", state={"x": Calls(os.system, f"touch {marker}")})
        (tmp_path / "bad.pkl").write_bytes(pickle.dumps({"G_ema": Calls(rebuild, meta)}))
    with pytest.raises(InputError, match=r"asks for posix\.system"):
        read_network(tmp_path / "bad.pkl")
    assert not marker.exists()


def test_a_pickle_cannot_change_what_the_next_one_is_read_with(tmp_path: Path) -> None:
    # BUILD with a pair of states sets attributes of whatever stands before it: here of the stand-ins.
    poison = b"\x80\x04ctorch._utils\n_rebuild_tensor_v2\n(N}X\x01\x00\x00\x00xK\x01stb."
    (tmp_path / "poison.pkl").write_bytes(poison)
    makers = torch_makers()
    found = read_pickle(tmp_path / "poison.pkl", makers)
    assert found.x == 1
    assert not hasattr(makers["torch._utils", "_rebuild_tensor_v2"], "x")
    device = b"\x80\x04ctorch\ndevice\n(N}X\x01\x00\x00\x00xK\x01stb."
    (tmp_path / "poison.pkl").write_bytes(device)
    with pytest.raises(InputError, match="cannot be read as a pickle of weights"):
        read_pickle(tmp_path / "poison.pkl", makers)
    assert not hasattr(makers["torch", "device"], "x")


def test_damage_is_told_in_one_line(official: Path, tmp_path: Path) -> None:
    whole = official.read_bytes()
    for number, data in enumerate((whole[: len(whole) // 2], b"", b"not a pickle", b"\x80\x04K\x01")):
        path = tmp_path / f"{number}.pkl"
        path.write_bytes(data)
        with pytest.raises(InputError) as caught:
            read_network(path)
        assert "\n" not in str(caught.value)
    with pytest.raises(InputError, match="no such file"):
        read_network(tmp_path / "absent.pkl")
    view = _rebuild_tensor_v2
    storage = torch.zeros(3).storage()
    outside = Calls(view, storage, 0, (100,), (1,), False, OrderedDict())
    backwards = Calls(view, storage, 2, (3,), (-1,), False, OrderedDict())
    for number, wrong in enumerate((outside, backwards)):
        (tmp_path / f"view{number}.pkl").write_bytes(pickle.dumps(wrong))
        with pytest.raises(InputError, match="cannot be read as a pickle of weights"):
            read_pickle(tmp_path / f"view{number}.pkl", torch_makers())
