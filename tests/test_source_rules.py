"""What the sources must not contain; every rule has a planted line that it catches."""

import ast
import re
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src" / "sppnet"
UNSAFE_MODULES = {"pickle", "marshal", "shelve", "dill", "cloudpickle", "joblib"}
UNSAFE_YAML = {
    *("load", "load_all", "full_load", "full_load_all", "unsafe_load", "unsafe_load_all"),
    *("Loader", "CLoader", "FullLoader", "CFullLoader", "UnsafeLoader", "CUnsafeLoader"),
}
UNIX_MODULES = {"fcntl", "grp", "pty", "pwd", "resource", "syslog", "termios", "tty"}
NETWORK_MODULES = {"urllib.request", "requests", "httpx", "http.client", "socket"}
BROAD = {"Exception", "BaseException"}
VAGUE_NAMES = {"utils", "util", "misc", "helpers", "helper", "common", "engine"}

Rule = Callable[[ast.AST], bool]


def _imports(node: ast.AST, modules: set[str]) -> bool:
    """Tell whether a node imports one of the modules or something from them."""
    if isinstance(node, ast.Import):
        names = [alias.name for alias in node.names]
    elif isinstance(node, ast.ImportFrom):
        names = [node.module or "", *(f"{node.module}.{alias.name}" for alias in node.names)]
    else:
        return False
    return any(name == m or name.startswith(f"{m}.") for name in names for m in modules)


def _calls(node: ast.AST, *names: str) -> bool:
    """Tell whether a node calls a function or method of one of the names."""
    if not isinstance(node, ast.Call):
        return False
    function = node.func
    called = function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")
    return called in names


def _calls_bare(node: ast.AST, *names: str) -> bool:
    """Tell whether a node calls a builtin of one of the names; model.eval() is another thing."""
    return isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in names


def _passes(node: ast.AST, name: str, value: bool) -> bool:
    """Tell whether a node passes a keyword with a value."""
    return isinstance(node, ast.Call) and any(
        k.arg == name and isinstance(k.value, ast.Constant) and k.value.value is value
        for k in node.keywords
    )


def _names_attribute(node: ast.AST, owner: str, name: str) -> bool:
    return isinstance(node, ast.Attribute) and ast.unparse(node) == f"{owner}.{name}"


def _swallows(node: ast.AST) -> bool:
    """Tell whether a handler of (nearly) everything does nothing."""
    if not isinstance(node, ast.ExceptHandler) or node.type is None:
        return False
    broad = ast.unparse(node.type).strip("()").split(", ")
    empty = all(isinstance(line, ast.Pass | ast.Continue) for line in node.body)
    return empty and bool(BROAD & set(broad))


_MANY = re.compile(
    r"(?<!All )(?<!the )(?<!model's )\{len\([^{}]*\)\} "
    r"(?:images|photos|classes|objects|boxes|inputs|frames|detections|labels|problems)\b"
)


def _says_one_images(node: ast.AST) -> bool:
    """Tell whether a text has a number that may be 1 before several of a thing."""
    return isinstance(node, ast.JoinedStr) and bool(_MANY.search(ast.unparse(node)))


RULES: dict[str, tuple[Rule, str]] = {
    "loads objects that can run code": (lambda n: _imports(n, UNSAFE_MODULES), "import pickle"),
    "makes objects of YAML": (
        lambda n: (
            any(_names_attribute(n, "yaml", name) for name in UNSAFE_YAML)
            or _imports(n, {f"yaml.{name}" for name in UNSAFE_YAML})
        ),
        "yaml.load(text, Loader=yaml.FullLoader)",
    ),
    "evaluates text": (lambda n: _calls_bare(n, "eval", "exec", "compile"), "eval('1 + 1')"),
    "allows pickle in numpy files": (
        lambda n: _passes(n, "allow_pickle", True),
        "np.load(f, allow_pickle=True)",
    ),
    "loads whole objects with torch": (
        lambda n: _passes(n, "weights_only", False),
        "torch.load(f, weights_only=False)",
    ),
    "leaves torch.load's default": (
        lambda n: (
            isinstance(n, ast.Call)
            and ast.unparse(n.func) == "torch.load"
            and not _passes(n, "weights_only", True)
        ),
        "torch.load(f)",
    ),
    "runs a shell": (
        lambda n: _passes(n, "shell", True) or _calls(n, "system", "popen"),
        "run('ls', shell=True)",
    ),
    "extracts an archive unchecked": (
        lambda n: _calls(n, "extractall", "unpack_archive"),
        "archive.extractall()",
    ),
    "catches everything": (
        lambda n: isinstance(n, ast.ExceptHandler) and n.type is None,
        "try:\n    f()\nexcept:\n    g()",
    ),
    "swallows every error": (_swallows, "try:\n    f()\nexcept Exception:\n    pass"),
    "runs code of others by torch.hub": (
        lambda n: (
            isinstance(n, ast.Attribute)
            and ast.unparse(n).startswith("torch.hub.")
            and n.attr in {"load", "list", "help"}
        ),
        "torch.hub.load('a', 'b')",
    ),
    "opens the network": (
        lambda n: _imports(n, NETWORK_MODULES) or _calls(n, "urlopen", "urlretrieve"),
        "from urllib.request import urlopen",
    ),
    "needs Unix": (lambda n: _imports(n, UNIX_MODULES), "import fcntl"),
    "decodes with torchvision": (
        lambda n: _imports(n, {"torchvision.io"}) or _names_attribute(n, "torchvision", "io"),
        "from torchvision.io import read_image",
    ),
    "asserts": (lambda n: isinstance(n, ast.Assert), "assert x > 0"),
    "prints past the console": (lambda n: _calls_bare(n, "print"), "print('x')"),
    "says '1 images' where `count_of` does not": (_says_one_images, "f'{len(found)} images'"),
}


def broken_rules(source: str) -> set[str]:
    """Names of the rules that a source breaks."""
    nodes = list(ast.walk(ast.parse(source)))
    return {name for name, (rule, _) in RULES.items() if any(map(rule, nodes))}


def test_sources_break_no_rule() -> None:
    found = {
        str(path.relative_to(PACKAGE)): broken
        for path in PACKAGE.rglob("*.py")
        if (broken := broken_rules(path.read_text(encoding="utf-8")))
    }
    assert found == {}


@pytest.mark.parametrize("name", RULES)
def test_planted_line_is_caught(name: str) -> None:
    assert name in broken_rules(RULES[name][1])


def test_look_alikes_are_left_in_peace() -> None:
    lines = ["model.eval()", "re.compile('a')", "torch.load(f, weights_only=True)"]
    lines += ["f'all {len(n)} in order'", "f'All {len(n)} classes'", "f'{count_of(n, 1)} of many'"]
    lines += ["yaml.compose(t, Loader=yaml.SafeLoader)", "yaml.safe_load(t)", "import tomllib"]
    assert broken_rules("\n".join(lines)) == set()


def vague(path: Path) -> bool:
    """Tell whether a file or a folder on its way is named after nothing in particular."""
    return any(part.removesuffix(".py").strip("_") in VAGUE_NAMES for part in path.parts)


def test_every_file_is_named_after_its_content() -> None:
    folders = ["src", "tests", "benchmarks", "examples"]
    paths = [p.relative_to(ROOT) for folder in folders for p in (ROOT / folder).rglob("*.py")]
    assert [path for path in paths if vague(path)] == []
    assert vague(Path("src/sppnet/images/utils.py"))
    assert vague(Path("tests/helpers/boxes.py"))


def test_no_file_speaks_of_one_machine() -> None:
    """A path of somebody's machine is of no use to anybody else."""
    place = re.compile("|".join(["/ho" + "me/[a-z]", "/wo" + "rk/", "/opt/v" + "env"]))
    kinds = {".py", ".md", ".toml", ".css", ".json", ""}
    folders = ["src", "tests", "docs", "benchmarks", "configs", "examples", ".ci"]
    paths = [p for folder in folders for p in (ROOT / folder).rglob("*") if p.is_file()]
    paths += [p for p in ROOT.iterdir() if p.is_file() and p.name != ".git"]  # of a worktree
    wrong = [
        p.relative_to(ROOT)
        for p in paths
        if p.suffix in kinds and place.search(p.read_text(encoding="utf-8", errors="replace"))
    ]
    assert wrong == []
