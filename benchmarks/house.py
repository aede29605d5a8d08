"""Figures of the house: how large files and functions are, what imports what, what is documented.

``tests/test_house.py`` holds the limits. To see two trees side by side:

    python benchmarks/house.py                        # this tree
    python benchmarks/house.py OLD_CHECKOUT .         # two trees, a column each
    python benchmarks/house.py --chains               # the longest import chain of each room
"""

import argparse
import ast
import re
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path

# From below: a room imports rooms on the floors under it. Rooms on one floor do not know each
# other, but for the pairs in `NEIGHBOURS`.
FLOORS: tuple[tuple[str, ...], ...] = (
    ("errors", "progress", "config"),
    ("geometry", "pooling", "backbones", "storage"),
    ("images",),
    ("training",),
    ("evaluation",),
    ("classification", "detection"),
    ("labelling", "bulk"),
    ("server",),
    ("paper",),
    ("app",),
)
NEIGHBOURS = {("backbones", "storage"), ("pooling", "geometry")}
MOST_MODULES, MOST_FILES, MOST_LINES, LONGEST_CHAIN, SMALL = 200, 12, 500, 6, 80
# What a file under `SMALL` lines says in its docstring if only one other file needs it.
REASON = "a file of its own"
_SHAPE = re.compile(r"\(\s*(?:[A-Z]\w*|\d+|\.\.\.)\s*,[^()]*\)")
_ARRAYS = ("Tensor", "ndarray", "NDArray")

Function = ast.FunctionDef | ast.AsyncFunctionDef


class House:
    """A package read as text; nothing of it is imported.

    Args:
        root: Folder of the package, such as ``src/sppnet``.
        tests: Folder of its tests.
    """

    def __init__(self, root: Path, tests: Path | None = None) -> None:
        self.root, self.tests = root, tests
        self.sources = {
            path.relative_to(root): path.read_text(encoding="utf-8")
            for path in sorted(root.rglob("*.py"))
        }
        self.trees = {path: ast.parse(source) for path, source in self.sources.items()}

    @cached_property
    def modules(self) -> list[Path]:
        """All files but the ``__init__`` of folders."""
        return [path for path in self.sources if path.name != "__init__.py"]

    @cached_property
    def lines(self) -> dict[Path, int]:
        """Lines of each module."""
        return {path: len(self.sources[path].splitlines()) for path in self.modules}

    @cached_property
    def files_per_folder(self) -> Counter[str]:
        """Modules side by side in each folder."""
        return Counter(str(path.parent) for path in self.modules)

    @cached_property
    def _path_of(self) -> dict[str, Path]:
        """Dotted name -> file."""
        return {_dotted(self.root.name, path): path for path in self.sources}

    @cached_property
    def imports(self) -> dict[Path, set[Path]]:
        """File -> files of the package that it imports when it is loaded.

        Imports inside functions and under ``if TYPE_CHECKING`` do not count.
        """
        return {path: self._imported(path, self.trees[path].body) for path in self.sources}

    @cached_property
    def all_imports(self) -> dict[Path, set[Path]]:
        """The same with every import, wherever it stands."""
        return {path: self._imported(path, ast.walk(self.trees[path])) for path in self.sources}

    def _imported(self, path: Path, nodes: Iterable[ast.AST]) -> set[Path]:
        package = _dotted(self.root.name, path).split(".")
        if path.name != "__init__.py":
            package = package[:-1]
        names = (name for node in nodes for name in _imported_names(node, package))
        return {self._path_of[name] for name in names if name in self._path_of} - {path}

    @cached_property
    def importers(self) -> Counter[Path]:
        """How many files import each."""
        return Counter(to for targets in self.all_imports.values() for to in targets)

    @cached_property
    def chains(self) -> dict[str, list[Path]]:
        """Room -> its longest chain of modules, each importing the next."""
        longest: dict[str, list[Path]] = {}
        memo: dict[Path, list[Path]] = {}
        for path in self.modules:
            chain = self._chain(path, memo, frozenset())
            if len(chain) > len(longest.get(_room(path), [])):
                longest[_room(path)] = chain
        return longest

    def _chain(self, path: Path, memo: dict[Path, list[Path]], seen: frozenset[Path]) -> list[Path]:
        if path not in memo:
            below = [
                self._chain(to, memo, seen | {path})
                for to in sorted(self.imports[path])
                if _room(to) == _room(path) and to.name != "__init__.py" and to not in seen
            ]
            memo[path] = [path, *max(below, key=len, default=[])]
        return memo[path]

    @cached_property
    def circles(self) -> list[list[Path]]:
        """Modules that import each other, directly or by others."""
        found = []
        for path in self.modules:
            way = self._way_back(path)
            if way and min(way) == path:
                found.append(way)
        return found

    def _way_back(self, start: Path) -> list[Path] | None:
        """A shortest way from a module to itself."""
        ways, seen = [[start]], {start}
        for way in ways:
            for to in sorted(self.imports[way[-1]]):
                if to == start:
                    return way
                if to not in seen and to.name != "__init__.py":
                    seen.add(to)
                    ways.append([*way, to])
        return None

    @cached_property
    def arrows_up(self) -> list[str]:
        """Imports of a room that stands above, or of the package itself."""
        return [
            f"{path} -> {to}"
            for path, targets in self.all_imports.items()
            if path.parts[0] not in ("__init__.py", "__main__.py")
            for to in sorted(targets)
            if not may_import(_room(path), _room(to))
        ]

    @cached_property
    def lonely(self) -> list[Path]:
        """Small modules with one importer and no reason in their docstring."""
        return [
            path
            for path, lines in self.lines.items()
            if lines < SMALL
            and path.name != "__main__.py"
            and self.importers[path] < 2
            and REASON not in " ".join((ast.get_docstring(self.trees[path]) or "").lower().split())
        ]

    @cached_property
    def functions(self) -> list[Function]:
        """Every function and method."""
        return [
            node
            for tree in self.trees.values()
            for node in ast.walk(tree)
            if isinstance(node, Function)
        ]

    @cached_property
    def public(self) -> list[tuple[Function, str]]:
        """Public functions and methods, each with its documentation; a class speaks for its own."""
        return [pair for tree in self.trees.values() for pair in _public_functions(tree)]

    def naming_shapes(self) -> tuple[int, int]:
        """Public functions of tensors whose documentation names a shape, and all of them."""
        about = [(f, doc) for f, doc in self.public if _takes_arrays(f) and doc]
        return sum(bool(_SHAPE.search(doc)) for _, doc in about), len(about)

    def documented_raises(self) -> tuple[int, int]:
        """Public functions that raise and say so, and all that raise."""
        raising = [doc for function, doc in self.public if _raises(function)]
        return sum("Raises:" in doc for doc in raising), len(raising)

    def mirrored(self) -> int:
        """Modules with a test file at the same path."""
        if self.tests is None:
            return 0
        return sum(
            (self.tests / path.parent / f"test_{path.name}").is_file() for path in self.modules
        )

    def figures(self) -> dict[str, str]:
        """The table."""
        lines = list(self.lines.values())
        code = [_code_lines(function) for function in self.functions]
        parameters = [_count_parameters(function) for function in self.functions]
        folder, most = self.files_per_folder.most_common(1)[0]
        chains = sorted(((len(c), room) for room, c in self.chains.items()), reverse=True)
        shapes, of_arrays = self.naming_shapes()
        documented, raising = self.documented_raises()
        return {
            "modules (without `__init__`)": str(len(self.modules)),
            "lines of a module, median / p90 / max": _spread(lines),
            "most files in one folder": f"{most} ({folder})",
            "longest chain inside a room": ", ".join(f"{room} {n}" for n, room in chains if n > 2),
            "circles / arrows up": f"{len(self.circles)} / {len(self.arrows_up)}",
            "small modules without a second importer or a reason": str(len(self.lonely)),
            "code lines of a function, median / p90 / max": _spread(code),
            "parameters of a function, p90 / max": _spread(parameters).partition(" / ")[2],
            "documentation of tensors that names a shape": _share(shapes, of_arrays),
            "public functions that raise and say so": _share(documented, raising),
            "modules with a test file at the same path": _share(self.mirrored(), len(self.modules)),
            "lines of src in all": str(sum(len(s.splitlines()) for s in self.sources.values())),
        }


def may_import(room: str, other: str) -> bool:
    """Tell whether a room may import another: one below it, or itself.

    Example:
        >>> may_import("detection", "pooling"), may_import("pooling", "detection")
        (True, False)
    """
    if room == other or (room, other) == ("app", "__init__"):
        return True
    floor = {name: number for number, names in enumerate(FLOORS) for name in names}
    if room not in floor or other not in floor:
        return False
    return floor[other] < floor[room] or (room, other) in NEIGHBOURS


def _room(path: Path) -> str:
    return path.parts[0].removesuffix(".py")


def _dotted(package: str, path: Path) -> str:
    parts = [package, *path.with_suffix("").parts]
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _imported_names(node: ast.AST, package: Sequence[str]) -> Iterator[str]:
    """Dotted names of what an import statement may load, relative ones made absolute."""
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        base = package[: len(package) - node.level + 1] if node.level else []
        module = ".".join([*base, *([node.module] if node.module else [])])
        yield from (f"{module}.{alias.name}" for alias in node.names)
        yield module


def _public_functions(tree: ast.Module) -> Iterator[tuple[Function, str]]:
    for node in tree.body:
        if isinstance(node, Function) and not node.name.startswith("_"):
            yield node, ast.get_docstring(node) or ""
        elif isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            of_class = ast.get_docstring(node) or ""
            for method in (n for n in node.body if isinstance(n, Function)):
                if method.name in ("__init__", "__post_init__"):
                    yield method, of_class
                elif not method.name.startswith("_"):
                    yield method, ast.get_docstring(method) or ""


def _takes_arrays(function: Function) -> bool:
    arguments = function.args.posonlyargs + function.args.args + function.args.kwonlyargs
    hints = [a.annotation for a in arguments] + [function.returns]
    words = " ".join(ast.unparse(hint) for hint in hints if hint is not None)
    return any(array in words for array in _ARRAYS)


def _raises(function: Function) -> bool:
    """Tell whether a function itself raises a new error, not one of a function inside it."""
    inner = {
        id(node) for f in ast.walk(function) if isinstance(f, Function) and f is not function
        for node in ast.walk(f)
    }  # fmt: skip
    return any(
        isinstance(node, ast.Raise)
        and isinstance(node.exc, ast.Call)
        and "NotImplementedError" not in ast.unparse(node.exc)
        for node in ast.walk(function)
        if id(node) not in inner
    )


def _code_lines(function: Function) -> int:
    """Lines of a function that hold code: no docstring, no blank line, no comment."""
    body = function.body
    if isinstance(body[0], ast.Expr) and isinstance(body[0].value, ast.Constant):
        body = body[1:]
    held = {
        line
        for statement in body
        for node in ast.walk(statement)
        if hasattr(node, "lineno")
        for line in (node.lineno, node.end_lineno)
    }
    return len(held)


def _count_parameters(function: Function) -> int:
    arguments = function.args.posonlyargs + function.args.args + function.args.kwonlyargs
    return len([a for a in arguments if a.arg not in ("self", "cls")])


def _spread(values: Sequence[int]) -> str:
    ordered = sorted(values)
    ninth = ordered[int(0.9 * (len(ordered) - 1))]
    return f"{statistics.median(ordered):.0f} / {ninth} / {ordered[-1]}"


def _share(part: int, whole: int) -> str:
    return f"{part} of {whole} ({100 * part / whole:.0f} %)" if whole else "none"


def time_help(checkout: Path, turns: int = 5) -> str:
    """Fastest of some calls of ``sppnet --help`` on the sources of a checkout."""
    seconds = []
    for _ in range(turns):
        begin = time.perf_counter()
        subprocess.run(
            [sys.executable, "-m", "sppnet", "--help"],
            env={"PYTHONPATH": str(checkout / "src"), "PATH": ""},
            stdout=subprocess.DEVNULL,
            check=True,
        )
        seconds.append(time.perf_counter() - begin)
    return f"{min(seconds):.2f} s"


def to_markdown(columns: Mapping[str, Mapping[str, str]]) -> str:
    """A table with one column for each tree."""
    names = list(next(iter(columns.values())))
    rows = [["figure", *columns], ["---"] * (len(columns) + 1)]
    rows += [[name, *(column[name] for column in columns.values())] for name in names]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def main() -> None:
    """Print the table, or the chains."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkouts", nargs="*", type=Path, default=[Path(__file__).parents[1]])
    parser.add_argument("--chains", action="store_true", help="show the longest chain of each room")
    options = parser.parse_args()
    houses = {
        str(path): House(path / "src" / "sppnet", path / "tests") for path in options.checkouts
    }
    if options.chains:
        for house in houses.values():
            for room, chain in sorted(house.chains.items()):
                print(f"{room}, {len(chain)}: {' > '.join(map(str, chain))}")
        return
    columns = {
        name: {**house.figures(), "`sppnet --help`, fastest of 5": time_help(Path(name).resolve())}
        for name, house in houses.items()
    }
    print(to_markdown(columns))


if __name__ == "__main__":
    main()
