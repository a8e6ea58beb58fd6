"""The `manyview` command. The first word picks a module, so help for one loads nothing of the others."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from manyview import __version__

# Command -> its line in the overview. The module of the same name holds its flags and its work.
COMMANDS = {
    "synth": "some views of an object into the missing ones",
    "reconstruct": "posed views into splats, a neural field, or a textured mesh",
    "render": "meshes into a data set of posed views",
    "train": "train one part of a method on a data set",
    "convert": "a published checkpoint into weights of this package",
    "eval": "score a method or a folder of results under a paper's protocol",
    "view": "look at a scene or result in the browser, or export it as one html file",
    "doctor": "check this installation and say how to mend it",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code: 0 done, 2 bad input, 130 stopped, 1 a bug.

    `argv` are the words after the program's name; those of the process when not given.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    if not words or words[0] in ("-h", "--help"):
        print(overview())
        return 0
    if words[0] == "--version":
        print(f"manyview {__version__}")
        return 0
    # Late, because the parser takes a tenth of a second to load.
    from manyview.cli.shell import refuse, run_command

    if words[0] not in COMMANDS:
        return refuse(
            "command", words[0], f"expected one of {', '.join(COMMANDS)}", as_json="--json" in words
        )
    return run_command(words[0], words[1:])


def overview() -> str:
    """The text of `manyview --help`."""
    width = max(map(len, COMMANDS))
    lines = [f"  {name:<{width}}  {line}" for name, line in COMMANDS.items()]
    return "\n".join(
        [
            "usage: manyview COMMAND [OPTIONS]",
            "",
            "One or a few images into many consistent views, and those into 3D.",
            "",
            *lines,
            "",
            "manyview COMMAND --help lists its options. Exit codes: 0 done, 2 bad input, 130 stopped.",
        ]
    )
