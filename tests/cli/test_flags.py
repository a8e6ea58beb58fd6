"""The flags of every command are a promise: changing one shows in a diff of flags.txt.

Run as a script, this file prints the new snapshot.
"""

from __future__ import annotations

import dataclasses
import typing
from pathlib import Path

from manyview.cli import COMMANDS
from manyview.cli.shell import command_module

SNAPSHOT = Path(__file__).parent / "flags.txt"


def rows(options: type, command: str, prefix: str = "") -> list[str]:
    """One line a flag: command, flag, type, default."""
    hints = typing.get_type_hints(options, include_extras=True)
    found = []
    for field in dataclasses.fields(options):
        hint = hints[field.name]
        plain = typing.get_args(hint)[0] if typing.get_origin(hint) is typing.Annotated else hint
        if dataclasses.is_dataclass(plain) and isinstance(plain, type):
            # Shared flags are annotated to have no prefix; options of a part of the work have its name.
            shared = typing.get_origin(hint) is typing.Annotated
            found += rows(plain, command, prefix if shared else f"{prefix}{field.name}.")
            continue
        positional = "Positional" in repr(hint)
        name = field.name.upper() if positional else "--" + (prefix + field.name).replace("_", "-")
        default = "required" if field.default is dataclasses.MISSING else repr(field.default)
        kind = plain.__name__ if isinstance(plain, type) and not typing.get_args(plain) else str(plain)
        found.append(f"{command} {name} {kind.replace('typing.', '').replace('pathlib.', '')} {default}")
    return found


def snapshot() -> str:
    lines = [row for command in COMMANDS for row in rows(command_module(command).Options, command)]
    return "\n".join(lines) + "\n"


def test_flags_are_frozen() -> None:
    assert snapshot() == SNAPSHOT.read_text(encoding="utf-8")


def test_every_flag_has_help() -> None:
    # The parser shows a field's docstring; a field without one would appear bare in --help.
    import ast
    import inspect

    from manyview.cli import flags

    modules = [flags, *(command_module(command) for command in COMMANDS)]
    for module in modules:
        for node in ast.walk(ast.parse(inspect.getsource(module))):
            if not (
                isinstance(node, ast.ClassDef) and (node.name == "Options" or node.name.endswith("Flags"))
            ):
                continue
            for field, after in zip(node.body, [*node.body[1:], None], strict=True):
                if isinstance(field, ast.AnnAssign) and "arg(name=''" not in ast.unparse(field.annotation):
                    assert isinstance(after, ast.Expr), f"{module.__name__}: {ast.unparse(field.target)}"


if __name__ == "__main__":
    print(snapshot(), end="")
