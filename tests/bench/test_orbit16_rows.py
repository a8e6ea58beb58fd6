"""Who answers under orbit16: Hi3D's rows, the one-to-one model, meshes; resuming, and the command."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from bench_scenes import StopAfter, grey_views
from orbit16_weights import SIZE, Enlarging, enlarge, tiny_pipeline, tiny_refining, write_bundle_of

from manyview.bench.orbit16 import Question, answer_seed, deal_inputs, read_orbit16
from manyview.bench.orbit16_measure import Orbit16Job, bring_to
from manyview.bench.orbit16_mesh import mesh_rows, posed_orbit
from manyview.bench.orbit16_options import Orbit16Options
from manyview.bench.orbit16_rows import OrbitRow, one2one_row
from manyview.bench.orbit16_run import evaluate_orbit16
from manyview.bench.orbit16_source import OrbitSource, find_refiner
from manyview.bench.orbit16_summary import summarise_row
from manyview.bench.partial import Partial
from manyview.cli.shell import run_command
from manyview.data.render.jobs import render_procedural
from manyview.errors import InputError
from manyview.io.scene import write_scene
from manyview.lift.mesh.options import MeshOptions
from manyview.lift.reconstruction import ReconstructOptions
from manyview.lift.sdf.options import SdfOptions
from manyview.lift.splats.options import SplatOptions
from manyview.methods.hi3d.pipeline import Hi3dPipeline
from manyview.methods.hi3d.upscaler import build_upscaler
from manyview.methods.one2one.pipeline import One2OnePipeline
from manyview.metrics.image import psnr
from manyview.progress import silent
from manyview.types import Views

QUICK = ReconstructOptions(
    to="mesh",
    splats=SplatOptions(num_steps=5, num_points=100),
    sdf=SdfOptions(resolution=24, steps=10, rays=128, anneal_steps=5),
    mesh=MeshOptions(resolution=24, num_faces=200, texture_size=32),
)


@pytest.fixture(scope="module")
def noisy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two noisy scenes of 32 px, `cup` and `shoe`."""
    root = tmp_path_factory.mktemp("noisy") / "set"
    for number, name in enumerate(("cup", "shoe")):
        write_scene(grey_views([0.1 + 0.03 * k for k in range(16)], number), root / name)
    return root


@pytest.fixture(scope="module")
def pipeline() -> Hi3dPipeline:
    return tiny_pipeline()


def run(pipeline: Any, data: Path, out: Path | None = None, **changes: Any) -> dict[str, Any]:
    options = {"only": ["hi3d", "coarse_bicubic", "no_depth"], **changes.pop("options", {})}
    named = {"perceptual": False, "refiner": enlarge, "one2one": "nowhere", **changes}
    return evaluate_orbit16(pipeline, data, out, Orbit16Options(**options), **named)


def test_rows_of_the_method(noisy: Path, pipeline: Hi3dPipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    """A refinement that enlarges bicubically is as good as enlarging bicubically, to the last digit; what it
    makes without depth, white, is told apart. All rows share one coarse orbit, the pipeline's own."""
    drawn: list[int] = []
    orbit = Hi3dPipeline.orbit

    def counting(self: Hi3dPipeline, views: Views, **named: Any) -> Any:
        drawn.append(named["seed"])
        return orbit(self, views, **named)

    monkeypatch.setattr(Hi3dPipeline, "orbit", counting)
    report = run(pipeline, noisy, options={"num_inputs": 2})
    json.dumps(report, allow_nan=False)
    questions = [Question(name, place) for name in ("cup", "shoe") for place in deal_inputs(name, 2)]
    assert drawn == [answer_seed(question, 0) for question in questions]
    assert (report["method"], report["resolution"]) == ("hi3d", 2 * SIZE)
    assert len(report["weights"]["sha256"]) == 64
    rows = report["rows"]
    assert list(rows) == ["coarse_bicubic", "no_depth"]
    assert rows["coarse_bicubic"]["metrics"] == report["metrics"]
    assert rows["coarse_bicubic"]["difference"]["psnr"]["mean"] == 0
    assert rows["no_depth"]["metrics"]["psnr"]["mean"] != report["metrics"]["psnr"]["mean"]
    assert report["options"]["hi3d"]["refine"] == {"power": 1}
    assert report["options"]["coarse_bicubic"] == {
        "num_steps": 2,
        "guidance": [1.0, 2.5],
        "guidance_shape": "linear",
        "augmentation": 0.02,
        "condition": "latents",
        "sigma_max": None,
    }
    # By hand: the pipeline's orbit of the input, enlarged, against the truth in the order of the answer.
    scores = []
    for question in questions:
        true = read_orbit16(noisy / question.scene, 2 * SIZE, 2 * SIZE)
        made = orbit(pipeline, true.ask(question)[0], seed=answer_seed(question, 0))[0].images
        scores.append(psnr(bring_to(made, 2 * SIZE)[1:], true.truth[question.order][1:]))
    assert report["metrics"]["psnr"]["mean"] == pytest.approx(float(torch.cat(scores).mean()), abs=1e-4)
    # Every row's time is that of all it needs, whoever needed it first.
    assert (
        rows["no_depth"]["seconds_an_answer"]["mean"]
        > 0.5 * rows["coarse_bicubic"]["seconds_an_answer"]["mean"]
    )
    # At another size of the comparison the same orbits, averaged.
    small = run(pipeline, noisy, size=SIZE)
    assert small["resolution"] == SIZE
    assert small["metrics"]["psnr"]["mean"] != report["metrics"]["psnr"]["mean"]


def test_the_coarse_orbit_enlarged_by_a_network(noisy: Path, pipeline: Hi3dPipeline, tmp_path: Path) -> None:
    """A fresh network adds nothing to bicubic enlargement, so the row has that row's numbers; one that adds
    grey is worse. Without a network the row is skipped with a word."""
    torch.manual_seed(0)
    network = build_upscaler()
    network.save_pretrained(tmp_path / "fresh")
    only = ["coarse_bicubic", "coarse_swin2sr"]
    report = run(pipeline, noisy, options={"only": only, "upscaler": str(tmp_path / "fresh")})
    row = report["rows"]["coarse_swin2sr"]
    assert row["metrics"]["psnr"]["mean"] == pytest.approx(report["metrics"]["psnr"]["mean"], abs=1e-4)
    assert row["difference"]["psnr"]["mean"] == pytest.approx(0, abs=1e-4)
    assert set(report["options"]["coarse_swin2sr"]) > {"upscaler", "num_steps"}
    torch.nn.init.constant_(network.upsample.conv.bias, 0.3)
    network.save_pretrained(tmp_path / "grey")
    grey = run(pipeline, noisy, options={"only": only, "upscaler": str(tmp_path / "grey")})
    assert grey["rows"]["coarse_swin2sr"]["difference"]["psnr"]["mean"] > 1
    assert grey["options"]["coarse_swin2sr"] != report["options"]["coarse_swin2sr"]
    without = run(pipeline, noisy, options={"only": only})
    assert without["rows"]["coarse_swin2sr"] == {"skipped": "no --upscaler was given"}


def test_several_samples(noisy: Path, pipeline: Hi3dPipeline) -> None:
    """The first sample is the one that is drawn alone; the mean of two that differ is nearer to the truth
    (the squared error of a mean is at most the mean of the errors, by half the samples' variance here)."""
    one = run(pipeline, noisy)
    two = run(pipeline, noisy, options={"num_samples": 2})
    assert two["metrics"]["psnr"]["mean"] == pytest.approx(one["metrics"]["psnr"]["mean"], abs=1e-3)
    assert two["metrics"]["pixel_std"]["mean"] > 1e-3
    assert two["mean_of_2"]["psnr"]["mean"] > two["metrics"]["psnr"]["mean"]
    for part in two["by_distance"].values():
        assert part["pixel_std"]["mean"] > 1e-3
        assert part["mean_of_2"]["psnr"]["mean"] > 0
    assert "mean_of_2" in two["rows"]["coarse_bicubic"]
    assert "mean_of_2" not in two["rows"]["no_depth"]
    assert "mean_of_2" not in one


def test_the_pipelines_own_refinement(noisy: Path) -> None:
    """The rows are what the pipeline gives when called, with depth and without."""
    pipeline = tiny_refining()
    report = run(pipeline, noisy, limit=1, refiner=find_refiner)
    assert report["resolution"] == 2 * SIZE
    assert report["options"]["hi3d"]["refine"] == {
        "num_steps": 1,
        "guidance": [1.0, 2.0],
        "blend": True,
        "guidance_shape": "linear",
        "depth_normalize": "clip",
        "refine_sigma_max": None,
    }
    question = Question("cup", deal_inputs("cup")[0])
    true = read_orbit16(noisy / "cup", 2 * SIZE, 2 * SIZE)
    given, _ = true.ask(question)
    levels = []
    for depth in (True, False):
        made = pipeline(given, seed=answer_seed(question, 0), depth=depth).views.images
        levels.append(float(psnr(made[1:], true.truth[question.order][1:]).mean()))
    rows = [report, report["rows"]["no_depth"]]
    assert [row["metrics"]["psnr"]["mean"] for row in rows] == pytest.approx(levels, abs=1e-3)
    assert levels[0] != pytest.approx(levels[1], abs=1e-2)
    report = run(tiny_refining(0), noisy, limit=1, refiner=find_refiner, options={"refine_steps": 2})
    assert report["rows"]["no_depth"] == {"skipped": "its refiner reads no depth"}
    assert report["options"]["hi3d"]["refine"]["num_steps"] == 2


def test_weights_without_a_refiner(noisy: Path, pipeline: Hi3dPipeline) -> None:
    report = run(pipeline, noisy, refiner=lambda pipeline, options: None)
    assert (report["method"], report["resolution"]) == ("coarse_bicubic", SIZE)
    skipped = {"skipped": "its weights have no refiner"}
    assert report["rows"] == {"hi3d": skipped, "no_depth": skipped}
    with pytest.raises(InputError, match="--only: hi3d: hi3d skipped: its weights have no refiner"):
        run(pipeline, noisy, refiner=lambda pipeline, options: None, options={"only": ["hi3d"]})


def test_the_one_to_one_model(noisy: Path, one2one: One2OnePipeline) -> None:
    """The row is the pipeline's answer to the 15 cameras; where there are no weights it is skipped."""
    row = one2one_row(one2one, Orbit16Options(one2one_steps=2))
    true = read_orbit16(noisy / "cup", 32, 32)
    given, targets = true.ask(Question("cup", 5))
    assert row.answer is not None
    made = row.answer(given, targets, 7)
    wanted = one2one(given, targets, seed=7, num_steps=2).views.images[1:]
    assert torch.equal(made, wanted)
    options = {"only": ["one2one", "copy_input"], "one2one_steps": 1}
    report = run("hi3d", noisy, one2one=one2one, options=options, size=16)
    assert report["method"] == "one2one"
    assert report["options"]["one2one"] == {"num_steps": 1, "guidance": 1.0}
    report = run("hi3d", noisy, options=options, size=16)
    assert "no weights" in report["rows"]["one2one"]["skipped"]
    assert report["method"] == "copy_input"


def comparable(report: dict[str, Any]) -> Any:
    """Without what differs from run to run."""

    def strip(value: Any) -> Any:
        if isinstance(value, dict):
            return {k: strip(v) for k, v in value.items() if "seconds" not in k and "memory" not in k}
        return value

    return json.loads(json.dumps(strip(report)))


def test_a_stopped_run_goes_on(noisy: Path, pipeline: Hi3dPipeline, tmp_path: Path) -> None:
    """Four answers of six, then the rest and no more; a row that joins later takes the others as they
    are."""
    asked = Enlarging()
    shared = {"refiner": lambda pipeline, options: asked}
    whole = run(pipeline, noisy, **shared)
    assert [depth for _, depth in asked.asked] == [True, False] * 2
    out, partial = tmp_path / "new" / "m.json", tmp_path / "new" / "m.json.partial.jsonl"
    with pytest.raises(KeyboardInterrupt):
        run(pipeline, noisy, out, progress=StopAfter(4), **shared)
    assert not out.exists()
    place = {name: deal_inputs(name)[0] for name in ("cup", "shoe")}
    done = [json.loads(line)["scene"] for line in partial.read_text().splitlines()]
    assert done == [
        *(f"cup/{place['cup']}/{row}" for row in ("hi3d", "coarse_bicubic", "no_depth")),
        f"shoe/{place['shoe']}/hi3d",
    ]
    asked.asked.clear()
    resumed = run(pipeline, noisy, out, keep=True, **shared)
    assert asked.asked == [(0, False)]
    assert comparable(resumed) == comparable(whole)
    with pytest.raises(InputError, match="already exists"):
        run(pipeline, noisy, out, **shared)
    asked.asked.clear()
    more = {"only": ["hi3d", "coarse_bicubic", "no_depth", "copy_input"]}
    added = run(pipeline, noisy, out, options=more, force=True, **shared)
    assert asked.asked == []
    assert added["metrics"] == whole["metrics"]
    assert not partial.exists()
    # Another guidance is another answer.
    run(pipeline, noisy, out, limit=1, options={"guidance": 4.0}, force=True, **shared)
    assert len(asked.asked) == 2


class KnownSource(OrbitSource):
    """Makes views that are known, so that the mesh is too."""

    def __init__(self, pipeline: Hi3dPipeline, images: torch.Tensor) -> None:
        super().__init__(pipeline, Orbit16Options(), None)
        self.images = images

    def final(self, given: Views, seed: int) -> torch.Tensor:
        return self.images


def test_meshes_stand_in_the_world_of_the_data(
    pipeline: Hi3dPipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From true views, the input at any place, the mesh is where the true one is, with and without views
    between; white views have none, which is said."""
    for module in ("orbit16_measure", "orbit16_summary"):  # the others take seconds
        monkeypatch.setattr(f"manyview.bench.{module}.PER_MESH", ("volume_iou_64",))
    render_procedural(4, 1, tmp_path / "set", protocol="orbit16", size=24, samples=1)
    folder = next((tmp_path / "set").glob("*/transforms.json")).parent
    true = read_orbit16(folder, 24, 24)
    question = Question(folder.name, 5)
    given, targets = true.ask(question)
    source = KnownSource(pipeline, true.truth[question.order])
    views = posed_orbit(source.images, given, targets)
    assert views.masks is not None
    assert true.views.masks is not None
    wanted = true.views.masks[question.order]
    assert torch.equal(views.masks[0], wanted[0])
    assert float((views.masks[1:] - wanted[1:]).abs().mean()) < 0.05

    def measure(source: OrbitSource, *meshes: int) -> tuple[list[OrbitRow], list[dict[str, Any]]]:
        rows = mesh_rows(source, Orbit16Options(meshes=meshes, reconstruct=QUICK))
        job = Orbit16Job(rows, None, {}, 24, 24, 0)
        return rows, job.measure([folder], {folder.name: [question]}, Partial(None, {}, True), silent)

    rows, records = measure(source, 0, 16)
    part = [summarise_row(row, "hi3d", records, {}) for row in rows]
    iou = [one["metrics"]["volume_iou_64"]["mean"] for one in part]
    assert min(iou) > 0.5
    assert part[0]["difference"]["volume_iou_64"]["mean"] == pytest.approx(iou[1] - iou[0])
    assert "difference" not in part[1]
    assert (part[0]["meshes"], part[0]["failed"]) == (1, [])
    rows, records = measure(KnownSource(pipeline, torch.ones_like(source.images)), 0)
    empty = summarise_row(rows[0], "hi3d", records, {})
    assert empty["metrics"] == {}
    assert empty["failed"][0]["scene"] == folder.name


def test_parts_are_made_once_for_a_question(noisy: Path, pipeline: Hi3dPipeline) -> None:
    """What was made for an earlier row counts in a later one's time, each part once."""
    true = read_orbit16(noisy / "cup", SIZE, SIZE)
    given, _ = true.ask(Question("cup", 0))
    source, made = KnownSource(pipeline, true.truth), []

    def make() -> int:
        made.append(0)
        time.sleep(0.01)
        return len(made)

    assert [source.keep(given, 0, "splats", make) for _ in range(3)] == [1, 1, 1]
    assert source.saved_seconds == 0  # spent in this answer
    source.begin_answer()
    assert [source.keep(given, 0, "splats", make) for _ in range(3)] == [1, 1, 1]
    assert 0.01 <= source.saved_seconds < 0.5
    assert source.keep(given, 0, "mesh", make) == 2
    assert source.keep(given, 1, "mesh", make) == 3  # another question
    assert source.keep(given, 0, "splats", make) == 4  # the first one is forgotten


def test_meshes_are_made_where_they_can_be_compared(noisy: Path, pipeline: Hi3dPipeline) -> None:
    """Scenes without mesh.glb: none is fitted."""
    options = {"only": ["coarse_bicubic"], "meshes": (0, 16), "reconstruct": QUICK}
    report = run(pipeline, noisy, options=options, limit=1)
    assert report["method"] == "coarse_bicubic"
    assert list(report["rows"]) == ["mesh_0", "mesh_16"]
    for row in report["rows"].values():
        assert row["metrics"] == {}
        assert "by_distance" not in row
    assert report["options"]["mesh_16"]["reconstruct"]["interpolate"] == 16
    with pytest.raises(InputError, match=r"--meshes: .* are made of orbits of hi3d"):
        run(lambda given, targets, seed: given.images, noisy, options={"meshes": (0,)})


def test_wrong_options() -> None:
    for changes, line in [
        ({"num_inputs": 17}, "from 1 to 16"),
        ({"only": ["plate"]}, "expected some of hi3d, coarse_bicubic"),
        ({"only": []}, "expected some rows"),
        ({"meshes": (16, 0)}, "ascending"),
        ({"num_samples": 0}, "1 to 1000"),
        ({"num_steps": 0}, "1 to 1000"),
    ]:
        with pytest.raises(InputError, match=line):
            Orbit16Options(**changes).check()
    pipeline = tiny_pipeline()
    pipeline.unet.register_to_config(num_frames=8)
    with pytest.raises(InputError, match="orbits of 8 views, orbit16 needs 16"):
        OrbitSource(pipeline, Orbit16Options(), None)


def test_the_command(
    noisy: Path, pipeline: Hi3dPipeline, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    weights = write_bundle_of(pipeline, tmp_path / "weights")
    out = tmp_path / "metrics.json"
    words = ["hi3d", "--protocol", "orbit16", "--data", str(noisy), "--out", str(out)]
    words += ["--weights", str(weights), "--only", "coarse_bicubic", "copy_input", "--no-perceptual"]
    words += ["--samples", "2", "--inputs", "2", "--limit", "1", "--device", "cpu"]
    assert run_command("eval", words) == 0
    shown = capsys.readouterr().out
    assert "coarse_bicubic: psnr" in shown
    assert "copy_input: psnr" in shown
    report = json.loads(out.read_text())
    assert (report["protocol"], report["scenes"], report["pairs"]) == ("orbit16", 1, 30)
    # The choices recorded with the weights.
    recorded = {"num_steps": 3, "guidance": [1.0, 1.5], "guidance_shape": "triangular"}
    assert recorded.items() <= report["options"]["coarse_bicubic"].items()
    assert run_command("eval", words) == 2  # already there
    for changes, line in [
        (["--force", "--protocol", "orbit4"], "hi3d is scored under orbit16"),
        (["--force", "--solver", "ddim"], "is for --protocol orbit4 or fewview"),
        (["--force", "--inputs", "2", "3"], "orbit16 takes one number"),
        (["--force", "--only", "plate"], "expected some of hi3d, coarse_bicubic"),
        (["--force", "--rows", "32"], "is for --protocol fewview"),
    ]:
        assert run_command("eval", [*words, *changes]) == 2
        assert line in capsys.readouterr().err
