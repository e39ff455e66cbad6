"""
Numbers about the structure of the package, one column for each checkout.

::

    python benchmarks/structure.py                    # this checkout
    python benchmarks/structure.py ../older .         # two checkouts, side by side

Two modules are in an import circle if each imports the other, directly or through further modules. Imports under
``TYPE_CHECKING`` and inside functions count.
"""

from __future__ import annotations

import argparse
import ast
import statistics
from collections.abc import Iterator
from pathlib import Path

Function = ast.FunctionDef | ast.AsyncFunctionDef


def module_name(path: Path, root: Path) -> str:
    """:param path: A file. :param root: Folder of the package. :return: Name of the module."""
    parts = path.relative_to(root.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def functions_of(tree: ast.AST) -> Iterator[Function]:
    """:return: All functions and methods, nested ones too."""
    return (node for node in ast.walk(tree) if isinstance(node, Function))


def length(node: ast.AST) -> int:
    """:return: Number of lines of a definition, without its docstring."""
    body = getattr(node, "body", [])
    documented = ast.get_docstring(node, clean=False) is not None  # type: ignore[arg-type]
    docstring = body[0].end_lineno - body[0].lineno + 1 if documented else 0
    return int(node.end_lineno - node.lineno + 1 - docstring)  # type: ignore[attr-defined]


def imports(tree: ast.AST, modules: set[str]) -> Iterator[str]:
    """:return: Modules of the package that a file imports."""
    for node in ast.walk(tree):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom):
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        for name in names:
            while name and name not in modules:
                name = name.rpartition(".")[0]
            if name:
                yield name


def n_circles(graph: dict[str, set[str]]) -> int:
    """:return: Number of groups of modules that import each other. A package may be imported by its own modules."""
    reach: dict[str, set[str]] = {}
    for start in graph:
        seen: set[str] = set()
        waiting = [start]
        while waiting:
            found = {target for target in graph[waiting.pop()] if not start.startswith(f"{target}.")} - seen
            seen |= found
            waiting += found
        reach[start] = seen
    return len({frozenset({a, *(b for b in reach[a] if a in reach[b])}) for a in graph if a in reach[a]})


def nested_imports(tree: ast.AST) -> int:
    """:return: Number of import statements inside functions."""
    nodes = {
        id(node) for f in functions_of(tree) for node in ast.walk(f) if isinstance(node, ast.Import | ast.ImportFrom)
    }
    return len(nodes)


def public_documented(tree: ast.Module) -> tuple[int, int]:
    """:return: Number of public functions, classes and methods with a docstring, and of all public ones."""
    nodes: list[ast.AST] = []
    for node in tree.body:
        if isinstance(node, Function | ast.ClassDef) and not node.name.startswith("_"):
            nodes.append(node)
            if isinstance(node, ast.ClassDef):
                nodes += [n for n in node.body if isinstance(n, Function) and not n.name.startswith("_")]
    return sum(ast.get_docstring(node) is not None for node in nodes), len(nodes)  # type: ignore[arg-type]


def measure(checkout: Path) -> dict[str, str]:
    """
    :param checkout: Folder of a checkout.
    :return: The numbers, by name.
    """
    root = checkout.resolve() / "sb3_pwm"
    trees = {module_name(path, root): ast.parse(path.read_text()) for path in sorted(root.rglob("*.py"))}
    graph = {name: set(imports(tree, set(trees))) - {name} for name, tree in trees.items()}
    lengths = sorted(length(function) for tree in trees.values() for function in functions_of(tree))
    documented = [public_documented(tree) for tree in trees.values()]
    pwm = next(node for node in trees["sb3_pwm.pwm.pwm"].body if isinstance(node, ast.ClassDef) and node.name == "PWM")
    methods = [node for node in pwm.body if isinstance(node, Function)]
    constructor = next(node for node in methods if node.name == "__init__")
    file_lines = len((root / "pwm" / "pwm.py").read_text().splitlines())
    longest = max(len(path.read_text().splitlines()) for path in root.rglob("*.py"))
    return {
        "lines of pwm/pwm.py": str(file_lines),
        "lines of class PWM without its docstring": str(length(pwm)),
        "methods of PWM": str(len(methods)),
        "arguments of PWM": str(len(constructor.args.args) - 1),
        "modules": str(len(trees)),
        "longest module, lines": str(longest),
        "functions": str(len(lengths)),
        "median length of a function, lines": f"{statistics.median(lengths):.0f}",
        "90th percentile": f"{statistics.quantiles(lengths, n=10)[-1]:.0f}",
        "import circles": str(n_circles(graph)),
        "imports inside functions": str(sum(nested_imports(tree) for tree in trees.values())),
        "public names with a docstring": f"{sum(a for a, _ in documented) / sum(b for _, b in documented):.1%}",
    }


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    here = Path(__file__).resolve().parents[1]
    parser.add_argument(
        "checkouts", nargs="*", type=Path, default=[here], help="folders of checkouts (default: this one)"
    )
    checkouts = parser.parse_args().checkouts
    for checkout in checkouts:
        if not (checkout / "sb3_pwm" / "pwm" / "pwm.py").is_file():
            parser.error(f"{checkout} is not a checkout of sb3-pwm: it has no sb3_pwm/pwm/pwm.py")
    columns = [measure(checkout) for checkout in checkouts]
    for name in columns[0]:
        print(f"{name:42}" + "".join(f"{column[name]:>10}" for column in columns))


if __name__ == "__main__":
    main()
