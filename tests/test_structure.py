"""The layout of the package, held: which part may import which, no circle, no import inside a function."""

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parent.parent / "sb3_pwm"

# A part is a folder or a module of the package. What stands to the right is all that it may import of the package.
LAYERS: dict[str, set[str]] = {
    "common": set(),
    "tasks": {"common"},
    "export": {"common"},
    "data": {"common", "tasks"},
    "world_model": {"common", "tasks", "data"},
    "pwm": {"common", "tasks", "data", "world_model", "export"},
    "pretrain": {"common", "tasks", "data", "world_model"},
    "describe": {"common", "data"},
    "envs": {"common", "tasks"},
    "zoo": {"common", "tasks", "pwm", "envs"},
    "collect": {"common", "tasks", "data", "pwm", "envs", "zoo"},
    "extract": {"common", "tasks", "data", "world_model", "pwm", "envs", "zoo"},
    "cli": {"common", "collect", "describe", "pretrain", "extract"},
    "__init__": {"common", "data", "world_model", "pwm", "envs", "export"},
}

# Packages that an installation may lack, or that are slow to import and needed by few: these alone may be imported
# inside a function, with a comment that says which package it waits for.
OPTIONAL = {"minari", "h5py", "metaworld", "onnx", "onnxscript", "rl_zoo3", "dm_control", "mujoco"}
# Modules of the package that need one of them.
WAIT_FOR = {"sb3_pwm.envs.custom": "dm_control", "sb3_pwm.envs.muscle_humanoid": "dm_control", "sb3_pwm.zoo": "rl_zoo3"}
# Python runs this file's text at every start: it must import nothing until rl-zoo3 is imported.
EXEMPT = {"sb3_pwm/zoo/startup.py"}


class Import(NamedTuple):
    """An import statement."""

    module: str
    """Module that is imported, or module and name"""
    line: int
    nested: bool
    """Whether it stands inside a function"""
    explained: bool
    """Whether a comment stands on its line, or before its block of imports"""


def imports_of(source: str) -> Iterator[Import]:
    """:return: All imports of a file, those under TYPE_CHECKING too."""
    lines = source.splitlines()

    def visit(node: ast.AST, nested: bool) -> Iterator[Import]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.Import | ast.ImportFrom):
                assert not (isinstance(child, ast.ImportFrom) and child.level), "relative import"
                names = [alias.name for alias in child.names]
                if isinstance(child, ast.ImportFrom):
                    names = [f"{child.module}.{name}" for name in names]
                first = child.lineno - 1  # of a block of imports
                while first > 0 and lines[first - 1].strip().startswith(("import ", "from ")):
                    first -= 1
                explained = any("#" in line for line in lines[max(first - 1, 0) : child.lineno])
                for name in names:
                    yield Import(name, child.lineno, nested, explained)
            inside = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
            yield from visit(child, nested or inside)

    return visit(ast.parse(source), False)


def module_name(path: Path, root: Path) -> str:
    parts = path.relative_to(root.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def sources(root: Path) -> dict[str, Path]:
    return {module_name(path, root): path for path in sorted(root.rglob("*.py"))}


def part_of(module: str) -> str:
    words = module.split(".")
    return words[1] if len(words) > 1 else "__init__"


def target_of(name: str, modules: dict[str, Path]) -> str:
    """:return: The module that an imported name is, or is in."""
    while name not in modules:
        name = name.rpartition(".")[0]
    return name


def violations(root: Path) -> list[str]:
    """:return: A sentence for every import that breaks a rule."""
    modules, found, graph = sources(root), [], {}
    for module, path in modules.items():
        graph[module] = set()
        where = path.relative_to(root.parent).as_posix()
        for imported in imports_of(path.read_text(encoding="utf-8")):
            package = imported.module.partition(".")[0]
            ours = package == root.name
            if ours:
                target = target_of(imported.module, modules)
                graph[module].add(target)
                if part_of(target) not in {*LAYERS[part_of(module)], part_of(module)}:
                    found.append(f"{where}:{imported.line} imports {target}, which {part_of(module)} must not know.")
            if imported.nested and where not in EXEMPT:
                waits = next((WAIT_FOR[name] for name in WAIT_FOR if imported.module.startswith(name)), package)
                if waits not in OPTIONAL or not imported.explained:
                    found.append(f"{where}:{imported.line} imports {imported.module} inside a function.")
    return found + [f"{' and '.join(sorted(circle))} import each other." for circle in circles(graph)]


def circles(graph: dict[str, set[str]]) -> list[set[str]]:
    """:return: The sets of modules that reach each other. A package's __init__ may name its own modules."""
    reach: dict[str, set[str]] = {}
    for start in graph:
        seen, waiting = set(), [start]
        while waiting:
            for target in graph.get(waiting.pop(), ()):
                if target not in seen and not start.startswith(f"{target}."):
                    seen.add(target)
                    waiting.append(target)
        reach[start] = seen
    groups = {frozenset({a, *(b for b in reach[a] if a in reach[b])}) for a in graph}
    return [set(group) for group in groups if len(group) > 1]


def test_layout():
    assert violations(ROOT) == []


def test_every_part_has_its_rule():
    parts = {part_of(module) for module in sources(ROOT)}
    assert parts == set(LAYERS)


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"data/a.py": "from sb3_pwm.envs import b", "envs/b.py": ""}, "imports sb3_pwm.envs.b, which data must not"),
        ({"common/a.py": "import sb3_pwm.tasks", "tasks.py": ""}, "imports sb3_pwm.tasks, which common must not know"),
        ({"data/a.py": "from sb3_pwm.data import b", "data/b.py": "import sb3_pwm.data.a"}, "import each other"),
        (
            {"pwm/a.py": "if TYPE_CHECKING:\n    from sb3_pwm.pwm.b import B", "pwm/b.py": "import sb3_pwm.pwm.a"},
            "import each other",
        ),
        ({"data/a.py": "def f():\n    import json"}, "imports json inside a function"),
        ({"data/a.py": "def f():\n    import minari"}, "imports minari inside a function"),  # without a comment
        ({"data/a.py": "def f():\n    # Minari is an extra\n    import minari"}, None),
        ({"pwm/a.py": "from sb3_pwm.world_model.b import c", "world_model/b.py": "c = 1"}, None),
    ],
)
def test_a_planted_violation_is_found(tmp_path, files, message):
    for name, text in files.items():
        path = tmp_path / "sb3_pwm" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        (path.parent / "__init__.py").touch()
        path.write_text(text)
    found = violations(tmp_path / "sb3_pwm")
    assert (found == []) if message is None else (len(found) == 1 and message in found[0]), found
