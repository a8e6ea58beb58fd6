"""`manyview synth --method refiner` from the command line, at toy size."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

sys.path.append(str(Path(__file__).parents[1] / "methods"))
from tiny_refiner import NUMBERS, ROWS, SIZE, tiny_generator, write_tiny_bundle

from manyview.cli import main
from manyview.cli.sweep_flags import parse_yaws
from manyview.errors import InputError
from manyview.io.images import write_png
from manyview.io.result import Result
from manyview.methods.refiner.attributes import Boundary

YAWS = ("--targets", "yaw:-2:2:3", "--device", "cpu")


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_bundle(tmp_path_factory.mktemp("weights"))


def synth(given: str | Path, out: Path, *more: str) -> int:
    return main(["synth", str(given), "--method", "refiner", "--out", str(out), *YAWS, *more])


def test_a_code_becomes_a_result_folder(
    weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert synth(f"gan:{weights}", out, "--seed", "7", "--no-points") == 0
    shown = capsys.readouterr().out
    assert "yaw reached: " in shown
    assert "wrote 3 views" in shown
    result = Result.load(out)
    assert result.views.observed.tolist() == [False, True, False]
    assert result.views.size == (SIZE, SIZE)
    assert (out / "video.mp4").is_file()
    assert (out / "sheet.png").is_file()
    assert result.manifest["input"] == f"gan:{weights}"
    assert result.manifest["seed"] == 7
    assert {entry["name"].split("/")[-1] for entry in result.manifest["weights"]} >= {"generator", "refiner"}
    codes = load_file(out / "codes.safetensors")
    assert codes["codes"].shape == (3, ROWS, NUMBERS)
    assert torch.equal(codes["codes"][1], codes["source"][0])
    # The same again is refused, and with --force the same to the last bit.
    assert synth(f"gan:{weights}", out, "--seed", "7", "--no-points") == 2
    assert synth(f"gan:{weights}", out, "--seed", "7", "--no-points", "--force") == 0
    again = load_file(out / "codes.safetensors")
    assert all(torch.equal(codes[name], again[name]) for name in codes)


def test_points_and_json(weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code = synth(f"gan:{weights}", tmp_path / "out", "--json", "--truncation", "0.5", "--no-facing")
    told = json.loads(capsys.readouterr().out)
    assert told["views"] == 3
    assert len(told["yaw_deg"]) == 3
    # Networks that have learnt nothing may agree on no point: then the exit code says so, and views are
    # there.
    assert code == (2 if told["warnings"] else 0)
    assert (told["points"] > 0) == (tmp_path / "out" / "points.ply").is_file()
    assert (tmp_path / "out" / "transforms.json").is_file()
    assert told["manifest"]["options"]["truncation"] == 0.5
    assert told["manifest"]["options"]["facing"] is False


def test_a_photo_is_framed_and_inverted(
    weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    picture = torch.ones(3, 80, 100)
    picture[:, 20:60, 30:70] = torch.tensor([0.7, 0.4, 0.2])[:, None, None]
    write_png(tmp_path / "photo.png", picture)
    words = ("--weights", str(weights), "--invert-steps", "3", "--no-points", "--no-refine")
    assert synth(tmp_path / "photo.png", tmp_path / "out", *words) == 0
    assert "photo found again at" in capsys.readouterr().out
    result = Result.load(tmp_path / "out")
    assert not bool(result.views.observed.any())
    assert "fill" in result.manifest["framing"]
    assert result.manifest["options"]["refined"] is False
    assert result.manifest["options"]["inversion"]["psnr_db"] > 0
    assert not list(tmp_path.glob(".out.stages"))


def test_an_attribute(weights: Path, tmp_path: Path) -> None:
    normal = torch.nn.functional.one_hot(torch.tensor(6), NUMBERS).float()
    Boundary(normal, 0.0, 1.0).save(tmp_path / "boundary.safetensors")
    words = ("--attribute", str(tmp_path / "boundary.safetensors"), "--attribute-amount", "-3", "--no-points")
    assert synth(f"gan:{weights}", tmp_path / "plain", "--no-points") == 0
    assert synth(f"gan:{weights}", tmp_path / "moved", *words) == 0
    plain, moved = (load_file(tmp_path / n / "codes.safetensors")["codes"] for n in ("plain", "moved"))
    torch.testing.assert_close(moved - plain, -3 * normal.expand(3, ROWS, -1), atol=1e-5, rtol=0)


def test_weights_without_a_refiner_still_turn(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bare = write_tiny_bundle(tmp_path / "bare", leave_out=("refiner", "yaw"))
    assert synth(f"gan:{bare}", tmp_path / "out", "--no-points") == 0
    assert "turned, not refined" in capsys.readouterr().out
    assert synth(f"gan:{bare}", tmp_path / "other", "--no-points", "--steps", "2") == 2
    assert "error: --steps: 2: is for refining" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--targets", "orbit:8"), "--targets"),
        (("--targets", "yaw:1:2"), "--targets"),
        (("--targets", "yaw:-200:0:3"), "--targets"),
        (("--samples", "2"), "--samples"),
        (("--solver", "ddim"), "--solver"),
        (("--guidance", "2"), "--guidance"),
        (("--slots", "0"), "--slots"),
        (("--to", "splats"), "--to"),
        (("--mask", "x.png"), "--mask"),
        (("--masks", "white"), "--masks"),
        (("--elevation", "20"), "--elevation"),
        (("--mode", "eft"), "--mode"),
        (("--truncation", "2"), "--truncation"),
        (("--invert-steps", "0"), "--invert-steps"),
        (("--attribute", "no.safetensors"), "--attribute"),
        (("--weights", "elsewhere"), "--weights"),
        (("--max-memory", "1"), "--max-memory"),
    ],
)
def test_bad_flags_are_refused_before_anything_loads(
    weights: Path,
    tmp_path: Path,
    words: tuple[str, ...],
    said: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("manyview.methods.load", None)
    given = ["synth", f"gan:{weights}", "--method", "refiner", "--out", str(tmp_path / "out")]
    assert main([*given, "--device", "cpu", *words]) == 2
    shown = capsys.readouterr().err
    assert f"error: {said}: " in shown
    assert not (tmp_path / "out").exists()


def test_other_inputs_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lone = tmp_path / "lone"
    tiny_generator().save_pretrained(str(lone / "generator"))
    for given, said in (("gan:", "INPUT"), (tmp_path / "no.png", "INPUT"), (f"gan:{lone}", "--weights")):
        assert synth(given, tmp_path / "out") == 2
        assert f"error: {said}: " in capsys.readouterr().err
    assert main(["synth", "--method", "refiner", "--out", str(tmp_path / "out")]) == 2
    assert "error: INPUT: not given" in capsys.readouterr().err
    # And its flags are refused elsewhere.
    write_png(tmp_path / "photo.png", torch.rand(3, 8, 8))
    words = ["synth", str(tmp_path / "photo.png"), "--out", str(tmp_path / "out"), "--truncation", "0.5"]
    assert main(words) == 2
    assert "error: --truncation: given: dimvis has no such choice" in capsys.readouterr().err


def test_yaws() -> None:
    assert parse_yaws("yaw:-40:40:9") == [-40, -30, -20, -10, 0, 10, 20, 30, 40]
    assert parse_yaws("yaw:5:9:1") == [5]
    assert parse_yaws("yaw:-0.3:0.3:3") == [-0.3, 0.0, 0.3]
    for text in ("yaw:0:1:0", "yaw:a:1:2", "yaw:0:nan:2", "-40:40:9"):
        with pytest.raises(InputError, match="--targets"):
            parse_yaws(text)
