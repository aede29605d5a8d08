"""Class names of a YOLO set, from ``data.yaml`` or ``classes.txt``, without a YAML library.

Only the three ways in which such files write ``names`` are read; nothing else of YAML is.
"""

import json
import re
from collections.abc import Sequence
from pathlib import Path

from sppnet.errors import InputError, UnusableFileError
from sppnet.storage.files import read_lines

# Text files with a name a line: labelImg's, Roboflow's for darknet, CVAT's.
NAME_FILES = ("classes.txt", "_darknet.labels", "obj.names", "predefined_classes.txt")
_MAX_BYTES = 1_000_000
# No part of these can match the same text in two ways: they take linear time on any input.
_ITEM = re.compile(r"\s*(?:-\s+|(\d+)\s*:\s*)(\S.*)")
_NUMBER = re.compile(r"\s*(?:(\d+)\s*:)?\s*")
_SCALAR = re.compile(r"""("(?:[^"\\]|\\.)*"|'(?:[^']|'')*'|[^,'"\[\]{}\s][^,\[\]{}]*)\s*(?:,|$)""")


def read_yolo_names(folders: Sequence[Path]) -> tuple[str, ...] | None:
    """Read the class names of a YOLO set.

    Args:
        folders: Where to look: the data set's, then those of its images and labels.

    Returns:
        The names in the first file of names, ``data.yaml`` (or another ``*.yaml``) before the text
        files of other tools; None if there is no such file.

    Raises:
        UnusableFileError: If a file is there but its names cannot be read or are misnumbered.
    """
    path = find_names_file(folders)
    return None if path is None else _checked(_read(path), path)


def find_names_file(folders: Sequence[Path]) -> Path | None:
    """Find the file of names, in the first folder that has one.

    Args:
        folders: Where to look.
    """
    for folder in folders:
        candidates = [*yaml_files(folder), *(folder / name for name in NAME_FILES)]
        candidates.append(folder / "labels" / "classes.txt")
        for path in candidates:
            if path.is_file():
                return path
    return None


def yaml_files(folder: Path) -> list[Path]:
    """The YAML files of a folder, ``data.yaml`` first."""
    return sorted(folder.glob("*.y*ml"), key=lambda path: (path.name != "data.yaml", path.name))


def yaml_values(path: Path) -> dict[str, list[str]]:
    """Plain values at the top of a YAML file: ``key: value``, ``key: [a, b]`` or a block of items.

    Args:
        path: The file; one that cannot be read has none.

    Returns:
        Values by key; what is neither of these is left out.
    """
    try:
        lines = [_without_comment(line) for line in read_lines(path, _MAX_BYTES)]
    except InputError:
        return {}
    found: dict[str, list[str]] = {}
    for number, line in enumerate(lines):
        match = re.match(r"(\w+)\s*:(?:\s+(\S.*))?$", line.rstrip())
        if match is None:
            continue
        value = (match[2] or "").strip()
        try:
            if value[:1] == "[":
                found[match[1]] = _flow_items(_flow_text(value, lines[number + 1 :]))
            else:
                found[match[1]] = [_unquote(value)] if value else _block_items(lines[number + 1 :])
        except ValueError:
            continue
    return found


def parse_yaml_names(lines: list[str]) -> list[str]:
    """Find ``names`` in the lines of a data.yaml: a list or a mapping, in one line or in several.

    Args:
        lines: The file's lines.

    Returns:
        The names in order.

    Raises:
        ValueError: If there is no such key or its value is none of these.

    Example:
        >>> parse_yaml_names(["nc: 2", "names: ['cat', dog]  # two"])
        ['cat', 'dog']
        >>> parse_yaml_names(["names:", "  0: cat", "  1: dog", "path: x"])
        ['cat', 'dog']
    """
    for number, line in enumerate(lines):
        if match := re.match(r"names\s*:(.*)$", line):
            value = _without_comment(match[1]).strip()
            if value[:1] in ("[", "{"):
                return _flow_items(_flow_text(value, lines[number + 1 :]))
            if not value:
                return _block_items(lines[number + 1 :])
            break
    raise ValueError("must hold names as a list or a numbered mapping")


def _read(path: Path) -> list[str]:
    """The names in one of the two kinds of files."""
    try:
        lines = read_lines(path, _MAX_BYTES)
        if path.name in NAME_FILES:
            return [line.strip() for line in lines if line.strip()]
        return parse_yaml_names(lines)
    except InputError as error:
        raise UnusableFileError(error.message, path=path) from None
    except ValueError as error:
        raise UnusableFileError(str(error), path=path) from None


def _checked(names: list[str], path: Path) -> tuple[str, ...]:
    """Names that are there, each once."""
    if not names or len(set(names)) != len(names):
        raise UnusableFileError(f"names must be given once each, are {names[:20]}", path=path)
    return tuple(names)


def _flow_text(value: str, following: list[str]) -> str:
    """What is between the brackets, which may span lines."""
    closing = "]" if value[0] == "[" else "}"
    parts = []
    for line in (value, *map(_without_comment, following)):
        parts.append(line.strip())
        if parts[-1].endswith(closing):
            return " ".join(parts)[1:-1]
    raise ValueError(f"names must be closed with {closing}")


def _flow_items(text: str) -> list[str]:
    """``a, 'b', "c"`` or ``0: a, 1: b``."""
    pairs: list[tuple[str | None, str]] = []
    place = 0
    text = text.strip()
    while place < len(text):
        number = _NUMBER.match(text, place)
        scalar = _SCALAR.match(text, number.end()) if number else None
        if number is None or scalar is None:
            raise ValueError(f"names cannot be read at {text[place : place + 30]!r}")
        pairs.append((number[1], _unquote(scalar[1].strip())))
        place = scalar.end()
    return _in_order(pairs)


def _block_items(lines: list[str]) -> list[str]:
    """``- a`` or ``0: a``, one a line, until something else comes."""
    pairs: list[tuple[str | None, str]] = []
    for line in lines:
        bare = _without_comment(line)
        if not bare.strip():
            continue
        match = _ITEM.match(bare)
        if match is None:
            break
        pairs.append((match[1], _unquote(match[2].strip())))
    return _in_order(pairs)


def _in_order(pairs: list[tuple[str | None, str]]) -> list[str]:
    """Sort by number if they are numbered; the numbers must be 0..K-1."""
    if all(number is None for number, _ in pairs):
        return [name for _, name in pairs]
    numbered = {int(number): name for number, name in pairs if number is not None}
    if sorted(numbered) != list(range(len(pairs))):
        raise ValueError(f"names must be numbered 0..{len(pairs) - 1}")
    return [numbered[number] for number in range(len(pairs))]


def _without_comment(line: str) -> str:
    """Cut ``# ...`` off, but not inside quotes."""
    quote = ""
    for place, char in enumerate(line):
        if quote:
            quote = "" if char == quote else quote
        elif char in "'\"" and (place == 0 or not line[place - 1].isalnum()):
            quote = char
        elif char == "#" and (place == 0 or line[place - 1].isspace()):
            return line[:place]
    return line


def _unquote(text: str) -> str:
    """A scalar without its quotes."""
    if text[:1] == "'" and text[-1:] == "'" and len(text) > 1:
        return text[1:-1].replace("''", "'")
    if text[:1] == '"' and text[-1:] == '"' and len(text) > 1:
        try:
            return str(json.loads(text))
        except ValueError:
            return text[1:-1]
    return text
