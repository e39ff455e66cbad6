"""The layout of the package: which part may import which, no import circle, no import inside a function."""

import ast
import io
import tokenize
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parent.parent / "sb3_pwm"

# A part is a folder or a module of the package. It may import the parts on the right, and no other part.
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

# Packages that an installation may lack, or whose import must wait. These alone may be imported inside a function, with
# a comment that says why.
OPTIONAL = {
    "minari",
    "h5py",
    "metaworld",
    "myosuite",
    "onnx",
    "onnxscript",
    "ray",
    "rliable",
    "rl_zoo3",
    "dm_control",
    "mujoco",
}
# Modules of this package that import one of them.
WAITING = ("sb3_pwm.envs.custom", "sb3_pwm.envs.muscle_humanoid", "sb3_pwm.zoo")
# Every start of Python executes the text of this file, which may import nothing until rl-zoo3 is imported.
EXEMPT = {"sb3_pwm/zoo/startup.py"}


class Import(NamedTuple):
    """An imported name."""

    name: str
    """Name of a module, or of something in a module"""
    line: int
    nested: bool
    """Whether the import is inside a function"""
    explained: bool
    """Whether there is a comment on the line, or above the block of imports"""


def imports_of(source: str) -> Iterator[Import]:
    """:return: All imports of a file, also those under TYPE_CHECKING."""
    lines = source.splitlines()
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    comments = {token.start[0]: token.string for token in tokens if token.type == tokenize.COMMENT}
    # Comments for tools explain nothing.
    explained_lines = {line for line, text in comments.items() if not text.startswith(("# noqa", "# type: "))}

    def visit(node: ast.AST, nested: bool) -> Iterator[Import]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.Import | ast.ImportFrom):
                assert not (isinstance(child, ast.ImportFrom) and child.level), f"relative import, line {child.lineno}"
                names = [alias.name for alias in child.names]
                if isinstance(child, ast.ImportFrom):
                    names = [f"{child.module}.{name}" for name in names]
                first = child.lineno  # of the block of imports
                while first > 1 and (not (above := lines[first - 2].strip()) or above.startswith(("import ", "from "))):
                    first -= 1
                explained = not explained_lines.isdisjoint(range(first - 1, child.lineno + 1))
                for name in names:
                    yield Import(name, child.lineno, nested, explained)
            inside = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
            yield from visit(child, nested or inside)

    return visit(ast.parse(source), False)


def module_name(path: Path, root: Path) -> str:
    """:return: Name of the module in a file."""
    parts = path.relative_to(root.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def sources(root: Path) -> dict[str, Path]:
    """:return: Files of a package, by the name of the module."""
    return {module_name(path, root): path for path in sorted(root.rglob("*.py"))}


def part_of(module: str) -> str:
    """:return: Part that a module belongs to, see LAYERS."""
    words = module.split(".")
    return words[1] if len(words) > 1 else "__init__"


def module_of(name: str, modules: dict[str, Path]) -> str:
    """:return: Module of the package that an imported name is, or is in."""
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
            package = imported.name.partition(".")[0]
            if package == root.name:
                target = module_of(imported.name, modules)
                graph[module].add(target)
                if part_of(target) not in {*LAYERS[part_of(module)], part_of(module)}:
                    found.append(f"{where}:{imported.line} imports {target}, which {part_of(module)} must not import.")
            if imported.nested and where not in EXEMPT:
                optional = package in OPTIONAL or imported.name.startswith(WAITING)
                if not optional or not imported.explained:
                    found.append(f"{where}:{imported.line} imports {imported.name} inside a function.")
    return found + [f"{' and '.join(sorted(circle))} import each other." for circle in circles(graph)]


def circles(graph: dict[str, set[str]]) -> list[set[str]]:
    """:return: Sets of modules that import each other, directly or through others."""
    reach: dict[str, set[str]] = {}
    for start in graph:
        reach[start], waiting = set(), [start]
        while waiting:
            new = graph.get(waiting.pop(), set()) - reach[start]
            reach[start] |= new
            waiting += new
    groups = {frozenset(b for b in reach[a] if a in reach[b]) for a in graph}
    return [set(group) for group in groups if group]


def test_layout():
    assert violations(ROOT) == []


def test_every_part_has_its_rule():
    parts = {part_of(module) for module in sources(ROOT)}
    assert parts == set(LAYERS)


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"data/a.py": "from sb3_pwm.envs import b", "envs/b.py": ""}, "imports sb3_pwm.envs.b, which data must not"),
        (
            {"common/a.py": "import sb3_pwm.tasks", "tasks.py": ""},
            "imports sb3_pwm.tasks, which common must not",
        ),
        ({"data/a.py": "from sb3_pwm.data import b", "data/b.py": "import sb3_pwm.data.a"}, "import each other"),
        ({"data/__init__.py": "import sb3_pwm.data.a", "data/a.py": "from sb3_pwm.data import A"}, "import each other"),
        (
            {"pwm/a.py": "if TYPE_CHECKING:\n    from sb3_pwm.pwm.b import B", "pwm/b.py": "import sb3_pwm.pwm.a"},
            "import each other",
        ),
        ({"data/a.py": "def f():\n    import json  # quick"}, "imports json inside a function"),
        ({"data/a.py": "class A:\n    def f(self):\n        import minari"}, "imports minari inside a function"),
        ({"data/a.py": "def f():\n    import minari  # noqa: F401"}, "imports minari inside a function"),
        ({"data/a.py": "def f():\n    import minari; '#'"}, "imports minari inside a function"),
        ({"data/a.py": "def f():\n    # Minari is an extra\n    import minari\n\n    import h5py"}, None),
        ({"data/a.py": "import json\nclass A:\n    import io"}, None),
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


def test_relative_imports_are_refused(tmp_path):
    (tmp_path / "sb3_pwm").mkdir()
    (tmp_path / "sb3_pwm" / "tasks.py").write_text("from .data import b")
    with pytest.raises(AssertionError, match="relative import, line 1"):
        violations(tmp_path / "sb3_pwm")
