"""Exit codes, one-line errors, one JSON object on stdout; in this process, since a new one costs seconds."""

from __future__ import annotations

import json
import sys
import types

import pytest

from manyview.cli import COMMANDS, flags, main, shell
from manyview.cli.shell import Answer
from manyview.errors import InputError, Stopped


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch):
    """Register a command whose work is a given function; its flags are those of `doctor`."""

    def register(work):
        from manyview.cli import doctor

        module = types.ModuleType("manyview.cli.sample")
        module.Options, module.SUMMARY, module.run = doctor.Options, "A sample.", work  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, "manyview.cli.sample", module)
        monkeypatch.setitem(COMMANDS, "sample", "a sample")

    return register


def test_overview_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    shown = capsys.readouterr().out
    assert all(f"  {name} " in shown for name in COMMANDS)
    assert main([]) == 0
    assert main(["--version"]) == 0


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_help_of_each_command(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([name, "--help"]) == 0
    assert f"usage: manyview {name}" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (["nope"], ["nope", "render"]),
        (["render"], ["--out"]),
        (["render", "x", "--out", "y", "--sise", "3"], ["--sise", "--size"]),
        (["render", "x", "--out", "y", "--size", "big"], ["--size", "big"]),
        (["render", "x", "--out", "y", "--engine", "fat"], ["fat", "cycles"]),
        (["render", "x", "--out"], ["--out"]),
        (["render", "/no/such/mesh.glb", "--out", "y"], ["/no/such/mesh.glb", "expected a mesh file"]),
        (["render", "--out", "y"], ["meshes"]),
        (["render", __file__, "--out", "y", "--size", "2"], ["--size", "2", "8"]),
        (["train", "nope", "--out", "y"], ["nope", "vae"]),
        (["synth", "/no/such.png", "--out", "y"], ["/no/such.png", "does not exist"]),
        (["synth", __file__, "--method", "nope", "--out", "y"], ["nope", "dimvis"]),
        (["eval", "nope", "--data", "/no/such", "--out", "y"], ["nope"]),
    ],
)
def test_bad_input_is_one_line_and_code_2(
    words: list[str], parts: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.startswith("manyview: error: ")
    assert shown.err.count("\n") == 1, shown.err
    assert all(part in shown.err for part in parts), shown.err


def test_bad_input_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    for words in (["nope", "--json"], ["render", "x", "--out", "y", "--engine", "fat", "--json"]):
        assert main(words) == 2
        shown = capsys.readouterr()
        assert json.loads(shown.out)["error"]["code"] == 2
        assert shown.err == ""


def test_json_keeps_stdout_to_one_object(command, capfd: pytest.CaptureFixture[str]) -> None:
    def work(options, progress) -> Answer:
        import subprocess

        print("from python")
        subprocess.run(["echo", "from a child"], check=True)
        progress.start(2, "things")
        progress.advance(2)
        return Answer(data={"value": 3}, text="not this")

    command(work)
    assert main(["sample", "--json"]) == 0
    shown = capfd.readouterr()
    assert json.loads(shown.out) == {"value": 3}
    assert shown.out.count("\n") == 1
    for part in ("from python", "from a child", "things: 2/2"):
        assert part in shown.err


def test_text_goes_to_stdout_without_json(command, capsys: pytest.CaptureFixture[str]) -> None:
    command(lambda options, progress: Answer(data={"value": 3}, text="three", code=2))
    assert main(["sample"]) == 2
    assert capsys.readouterr().out == "three\n"


@pytest.mark.parametrize(
    ("error", "code"),
    [(InputError("a", 1, "expected 2"), 2), (KeyboardInterrupt(), 130), (Stopped("at step 3"), 130)],
)
def test_expected_exceptions_end_quietly(
    error: BaseException, code: int, command, capsys: pytest.CaptureFixture[str]
) -> None:
    def work(options, progress) -> Answer:
        raise error

    command(work)
    assert main(["sample"]) == code
    shown = capsys.readouterr().err
    assert shown.count("\n") == 1
    assert str(error) in shown


def test_a_bug_keeps_its_traceback(command) -> None:
    def work(options, progress) -> Answer:
        raise ZeroDivisionError("a bug")

    command(work)
    with pytest.raises(ZeroDivisionError):
        main(["sample"])


def test_messages_are_not_wrapped() -> None:
    # The parser boxes its messages to the terminal's width; a long path must survive on one line.
    path = "/" + "long-name/" * 40
    with pytest.raises(InputError) as caught:
        shell.parse("render", ["x", "--out", "y", "--engine", path])
    assert path in str(caught.value)


@pytest.mark.parametrize(
    ("text", "count"), [("8GB", 8 * 10**9), ("500 MiB", 500 * 2**20), ("1.5kb", 1500), ("12", 12)]
)
def test_sizes(text: str, count: int) -> None:
    assert flags.parse_bytes(text) == count


@pytest.mark.parametrize("text", ["", "GB", "-1GB", "8 bananas", "0"])
def test_wrong_sizes(text: str) -> None:
    with pytest.raises(InputError, match="--max-memory"):
        flags.parse_bytes(text)


def test_memory_limit() -> None:
    flags.check_memory(10**9, None)
    flags.check_memory(10**9, "1GB")
    with pytest.raises(InputError, match="1000 MB"):
        flags.check_memory(10**9, "0.9GB")


def test_outputs_are_not_replaced(tmp_path) -> None:
    empty, full, file = tmp_path / "empty", tmp_path / "full", tmp_path / "file"
    empty.mkdir()
    full.mkdir()
    (full / "x").touch()
    file.touch()
    flags.check_output(tmp_path / "new" / "deep", allowed=False)
    flags.check_output(empty, allowed=False)
    flags.check_output(full, allowed=True)
    for path in (full, file, file / "below"):
        with pytest.raises(InputError, match="--out"):
            flags.check_output(path, allowed=False)
