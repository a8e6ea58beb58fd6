"""Imports go down only. Read from the source, so that an import inside a function counts as well."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

SRC = Path(__file__).parents[1] / "src"
PACKAGE = SRC / "manyview"

# A module may import what stands on a line above its own, and its own package; never a neighbour on its line.
LINES = [
    {"types", "errors", "progress"},
    {"io", "geometry"},
    {"nets", "sampling", "metrics", "data", "weights"},
    {"training", "lift"},
    {"methods"},
    {"bench", "viewer"},
    {"cli"},
]
LINE_OF = {name: line for line, names in enumerate(LINES) for name in names}
TORCH_FREE = ("torch", "diffusers", "transformers", "accelerate")


def module_name(path: Path) -> str:
    parts = path.relative_to(SRC).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path): path for path in sorted(PACKAGE.rglob("*.py"))}


def is_type_checking(node: ast.stmt) -> bool:
    return isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)


def imports(source: str, module: str, is_package: bool, *, top_level_only: bool = False) -> set[str]:
    """Dotted names a source imports; of `from a import b` both `a` and `a.b`, since b may be a module."""
    found: set[str] = set()

    def visit(node: ast.AST) -> None:
        if isinstance(node, ast.stmt) and is_type_checking(node):
            assert isinstance(node, ast.If)
            for other in node.orelse:
                visit(other)
            return
        if top_level_only and isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            return
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        if isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parts = module.split(".")
                kept = parts[: len(parts) - node.level + (1 if is_package else 0)]
                base = ".".join([*kept, *([node.module] if node.module else [])])
            found.update({base, *(f"{base}.{alias.name}" for alias in node.names)})
        for child in ast.iter_child_nodes(node):
            visit(child)

    visit(ast.parse(source))
    return found


def imports_of(module: str, *, top_level_only: bool = False) -> set[str]:
    path = MODULES[module]
    source = path.read_text(encoding="utf-8")
    return imports(source, module, path.name == "__init__.py", top_level_only=top_level_only)


def edges(module: str, *, top_level_only: bool = False) -> set[str]:
    """The package's own modules that `module` imports."""
    names = imports_of(module, top_level_only=top_level_only)
    inner = {name for name in names if name in MODULES and name != module}
    # `from a import b` with b a submodule names a.b; a itself then is only the way to it.
    return {name for name in inner if not any(other.startswith(name + ".") for other in inner & names)}


def faults(module: str, targets: set[str]) -> list[str]:
    """Which of the imports break the rule, in words."""
    own = module.split(".")[1] if "." in module else ""
    found = []
    for target in sorted(targets):
        parts = target.split(".")
        if len(parts) == 1:
            found.append(f"{module} imports the package itself; name the module that defines it")
            continue
        other = parts[1]
        if own and other == own:
            methods = (module.split(".")[2:3], parts[2:3])
            if own == "methods" and all(methods) and methods[0] != methods[1] and len(parts) > 2:
                found.append(f"{module} imports {target}: methods never import each other")
            continue
        if own and LINE_OF[own] == LINE_OF[other] == 0:
            continue
        if not own or LINE_OF[other] >= LINE_OF[own]:
            found.append(f"{module} imports {target}: not below it")
    return found


def test_every_package_has_a_line() -> None:
    assert {name.split(".")[1] for name in MODULES if "." in name} <= set(LINE_OF)


@pytest.mark.parametrize("module", sorted(MODULES))
def test_imports_go_down(module: str) -> None:
    targets = edges(module)
    names = imports_of(module)
    # The version is the one name the package itself defines without loading anything.
    if {name for name in names if name.startswith("manyview.") and name.count(".") == 1} & {
        "manyview.__version__"
    }:
        targets.discard("manyview")
    assert faults(module, targets) == []


def test_no_cycles() -> None:
    graph = {module: edges(module) for module in MODULES}
    done: set[str] = set()

    def walk(module: str, path: tuple[str, ...]) -> None:
        assert module not in path, "cycle: " + " -> ".join([*path[path.index(module) :], module])
        if module in done:
            return
        for target in sorted(graph[module]):
            walk(target, (*path, module))
        done.add(module)

    for module in sorted(graph):
        walk(module, ())


def light_modules() -> list[str]:
    """Modules that must load without torch: the faces of the command line, registries and specs."""
    methods = ["manyview.methods"] if "manyview.methods" in MODULES else []
    specs = [name for name in MODULES if name.startswith("manyview.methods.") and name.endswith(".spec")]
    faces = [name for name in MODULES if name.startswith("manyview.cli")]
    return ["manyview", "manyview.errors", "manyview.progress", *methods, *specs, *faces]


@pytest.mark.parametrize("module", light_modules())
def test_light_modules_reach_no_torch(module: str) -> None:
    # Follow imports made while loading, with the packages on the way, since Python runs those too.
    seen: set[str] = set()
    waiting = [module]
    while waiting:
        name = waiting.pop()
        if name in seen:
            continue
        seen.add(name)
        parents = [name.rsplit(".", i)[0] for i in range(1, name.count(".") + 1)]
        waiting += [*edges(name, top_level_only=True), *parents]
        heavy = {found.split(".")[0] for found in imports_of(name, top_level_only=True)} & set(TORCH_FREE)
        assert not heavy, f"{module} loads {name}, which imports {', '.join(sorted(heavy))}"


def test_the_rule_itself_finds_faults() -> None:
    # Known answers: each source breaks or keeps the rule in one way.
    def judge(source: str, module: str) -> int:
        names = imports(source, module, is_package=False)
        return len(faults(module, {name for name in names if name.count(".") == 1}))

    assert judge("import manyview.training", "manyview.io.images") == 1  # upward
    assert judge("import manyview.geometry", "manyview.io.images") == 1  # neighbour
    assert judge("def f():\n    import manyview.cli", "manyview.io.images") == 1  # inside a function
    assert judge("from ..geometry import rays", "manyview.io.images") == 1  # relative
    assert judge("if TYPE_CHECKING:\n    import manyview.cli", "manyview.io.images") == 0
    assert judge("import manyview.io\nimport manyview.types", "manyview.metrics.image") == 0
    targets = {"manyview.methods.tunet.model"}
    assert len(faults("manyview.methods.dimvis.model", targets)) == 1
    assert len(faults("manyview.methods.tunet.pipeline", targets)) == 0
