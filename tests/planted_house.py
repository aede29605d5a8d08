"""A small package with planted violations, for the tests of the house."""

from pathlib import Path

from house import House


def plant(folder: Path, files: dict[str, str]) -> House:
    """A package of these files; empty ``__init__`` files are added."""
    root = folder / "sppnet"
    for name, source in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(source, encoding="utf-8")
    for place in {path.parent for path in root.rglob("*.py")} | {root}:
        (place / "__init__.py").touch()
    return House(root)
