"""Counts of the house: how many rooms, layers, long modules, tangled functions and lazy imports this tree has.

    python benchmarks/house.py [FOLDER]        default: the tree that this file is in

Reads source only. Counts are of `vace_batch/`; complexity is radon's: 1, and 1 more for each branch, loop, handler,
assert, boolean operator, conditional expression, comprehension and its conditions, and lambda. ruff's C901, which
`make check` holds at 10, counts statements alone and so is lower.
"""

from __future__ import annotations

import argparse
import ast
import re
import sys
import tomllib
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path

import grimp

PACKAGE = "vace_batch"
LONG_LINES, TANGLED, MANY_PARAMETERS = 400, 10, 6
RIDDLE = re.compile(r"\bwhat(?:ever)?\b", re.IGNORECASE)

Function = ast.FunctionDef | ast.AsyncFunctionDef
NEW_SCOPES = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)


def main() -> None:
    """Print the counts, one a line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, nargs="?", default=Path(__file__).resolve().parents[1])
    folder = parser.parse_args().folder
    for name, count in counts(folder):
        print(f"{name:60s} {count}")


def counts(folder: Path) -> Iterator[tuple[str, str]]:
    """Yield each count of the tree in `folder` by its name."""
    package = folder / PACKAGE
    sources = {path: path.read_text(encoding="utf-8") for path in sorted(package.rglob("*.py"))}
    trees = {path: ast.parse(source) for path, source in sources.items()}
    functions = [node for tree in trees.values() for node in ast.walk(tree) if isinstance(node, Function)]
    tangled = sum(complexity(function) > TANGLED for function in functions)
    many = sum(len(parameters(function)) > MANY_PARAMETERS for function in functions)
    open_types = sum(is_any(parameter.annotation) for function in functions for parameter in parameters(function))
    long_modules = sum(source.count("\n") > LONG_LINES for source in sources.values())
    documented, leaning = docstrings(trees)

    yield f"entries at the top of {PACKAGE}", str(len(top_entries(package)))
    yield "modules", str(len(sources))
    yield "import layers", str(layers(folder / "pyproject.toml"))
    yield "modules in an import circle, lazy imports counted", str(in_circles(folder))
    yield f"modules over {LONG_LINES} lines", str(long_modules)
    yield "functions", str(len(functions))
    yield f"functions with complexity over {TANGLED}", f"{tangled} ({tangled / len(functions):.1%})"
    yield f"functions with more than {MANY_PARAMETERS} parameters, self counted", str(many)
    yield "uses of Any in parameters", str(open_types)
    yield "module constants defined twice under one name", ", ".join(twice_defined(trees)) or "0"
    yield "imports inside functions", str(sum(map(inner_imports, trees.values())))
    yield "docstrings", str(documented)
    yield 'docstrings whose first line leans on "what"', str(leaning)


def top_entries(package: Path) -> list[str]:
    """List the modules and folders of a package, dunder files and data folders apart."""
    modules = [path.name for path in package.glob("*.py") if not path.name.startswith("__")]
    return modules + [path.parent.name for path in package.glob("*/__init__.py")]


def layers(pyproject: Path) -> int:
    """Count the lines of the first contract of kind `layers`."""
    contracts = tomllib.loads(pyproject.read_text(encoding="utf-8"))["tool"]["importlinter"]["contracts"]
    return len(next(contract["layers"] for contract in contracts if contract["type"] == "layers"))


def in_circles(folder: Path) -> int:
    """Count the modules that import themselves by way of others, imports inside functions included."""
    sys.path.insert(0, str(folder))
    graph = grimp.build_graph(PACKAGE, cache_dir=None)
    imports = {module: graph.find_modules_directly_imported_by(module) for module in graph.modules}
    return sum(
        any(graph.chain_exists(importer=other, imported=module) for other in others)
        for module, others in imports.items()
    )


def parameters(function: Function) -> list[ast.arg]:
    """List a function's named parameters, `self` and `cls` too."""
    return [*function.args.posonlyargs, *function.args.args, *function.args.kwonlyargs]


def is_any(annotation: ast.expr | None) -> bool:
    """Tell whether an annotation mentions `Any`."""
    return annotation is not None and any(
        isinstance(node, ast.Name) and node.id == "Any" for node in ast.walk(annotation)
    )


def complexity(function: Function) -> int:
    """Count a function's decisions, plus 1; functions and classes inside are counted on their own."""
    total, waiting = 1, list(ast.iter_child_nodes(function))
    while waiting:
        node = waiting.pop()
        if isinstance(node, NEW_SCOPES):
            continue
        total += decisions(node)
        waiting.extend(ast.iter_child_nodes(node))
    return total


def decisions(node: ast.AST) -> int:
    """Count the decisions that one node of a syntax tree makes itself."""
    if isinstance(node, ast.BoolOp):
        return len(node.values) - 1
    if isinstance(node, ast.comprehension):
        return 1 + len(node.ifs)
    if isinstance(node, ast.Try):
        return len(node.handlers) + bool(node.orelse)
    if isinstance(node, ast.For | ast.AsyncFor | ast.While):
        return 1 + bool(node.orelse)
    if isinstance(node, ast.Match):
        return len(node.cases)
    return isinstance(node, ast.If | ast.IfExp | ast.Assert | ast.Lambda)


def twice_defined(trees: dict[Path, ast.Module]) -> list[str]:
    """List public constants that two modules define under one name by a value of their own."""
    values: dict[str, list[Path]] = defaultdict(list)
    for path, tree in trees.items():
        for node in tree.body:
            targets = node.targets if isinstance(node, ast.Assign) else []
            for target in targets:
                if isinstance(target, ast.Name) and re.fullmatch(r"[A-Z][A-Z0-9_]+", target.id):
                    values[target.id].append(path)
    return sorted(name for name, paths in values.items() if len(set(paths)) > 1)


def inner_imports(tree: ast.Module) -> int:
    """Count the import statements inside functions."""
    inner = {
        node
        for function in ast.walk(tree)
        if isinstance(function, Function)
        for node in ast.walk(function)
        if isinstance(node, ast.Import | ast.ImportFrom)
    }
    return len(inner)


def docstrings(trees: dict[Path, ast.Module]) -> tuple[int, int]:
    """Count docstrings, and docstrings whose first line has the word "what"."""
    found: Counter[bool] = Counter()
    for tree in trees.values():
        for node in ast.walk(tree):
            if isinstance(node, (ast.Module, *NEW_SCOPES)) and (text := ast.get_docstring(node)):
                found[bool(RIDDLE.search(text.splitlines()[0]))] += 1
    return found.total(), found[True]


if __name__ == "__main__":
    main()
