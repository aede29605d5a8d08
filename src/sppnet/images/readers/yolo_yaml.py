"""What the YAML file of a YOLO set says: names, splits, key points; and other files of names."""

import os
import re
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import yaml

from sppnet.errors import InputError, UnusableFileError, UsageError
from sppnet.storage.files import read_lines

# Text files with a name a line: labelImg's, Roboflow's for darknet, CVAT's.
NAME_FILES = ("classes.txt", "_darknet.labels", "obj.names", "predefined_classes.txt")
_YAML_SUFFIXES = (".yaml", ".yml")
_MAX_NAMES_BYTES = 1_000_000
# Tabs that separate, which YAML allows and PyYAML does not: on empty lines, and behind a text.
_BLANK_LINE, _TAB_BEHIND = re.compile(r"(?m)^[ \t]+$"), re.compile(r"(?m)(?<=\S)([ \t]*\t[ \t]*)")


def is_yaml_file(path: Path) -> bool:
    """Tell whether a path is that of a YAML file, by which a user may name a YOLO set."""
    return path.suffix.lower() in _YAML_SUFFIXES and os.path.isfile(path)  # noqa: PTH113


def read_yolo_names(
    folders: Sequence[Path], description: Path | None = None
) -> tuple[str, ...] | None:
    """Read the class names of a YOLO set.

    Args:
        folders: Where to look: the data set's, then those of its images and labels.
        description: The YAML file that the user named, which is then the only one that counts.

    Returns:
        The names in the first file of names, a YAML file before the text files of other tools; None
        if there is no such file.

    Raises:
        UsageError: If two YAML files of a folder name different classes.
        UnusableFileError: If a file is there but its names cannot be read or are misnumbered.
    """
    path = description or find_names_file(folders)
    if path is None:
        return None
    names = _names_in(path)
    if not names or len(set(names)) != len(names):
        shown = [name[:60] for name in names[:20]]
        raise UnusableFileError(f"names must be given once each, are {shown}", path=path)
    return tuple(names)


def find_names_file(folders: Sequence[Path]) -> Path | None:
    """Find the file of names, in the first folder that has one.

    Args:
        folders: Where to look.

    Raises:
        UsageError: If two YAML files of a folder describe different sets.
    """
    for folder in folders:
        described = find_description(folder)
        candidates = [described] if described else []
        candidates += [folder / name for name in NAME_FILES]
        candidates.append(folder / "labels" / "classes.txt")
        for path in candidates:
            if path.is_file():
                return path
    return None


def find_description(folder: Path) -> Path | None:
    """Find the YAML file that describes the set in a folder.

    Args:
        folder: Where to look.

    Returns:
        The one that names classes, of several others that do not; None without a YAML file.

    Raises:
        UsageError: If two of them describe different sets; names both.
    """
    files = sorted(folder.glob("*.y*ml"), key=lambda path: (path.name != "data.yaml", path.name))
    files = [path for path in files if is_yaml_file(path) and path.name[0] != "."]
    if len(files) < 2:
        return next(iter(files), None)
    meanings = {path: _meaning(path) for path in files}
    telling = [path for path in files if meanings[path] is not None]
    for other in telling[1:]:
        if meanings[other] != meanings[telling[0]]:
            both = f"{telling[0].name} and {other.name}"
            rule = f"holds two descriptions of a set, {both}: name one of them instead"
            raise UsageError(rule, path=folder)
    return next(iter(telling), files[0])


def _meaning(path: Path) -> object:
    """What a YAML file says of a set, to compare; None if it describes none."""
    try:
        top = _top_level("\n".join(read_lines(path, _MAX_NAMES_BYTES)))
    except (InputError, ValueError):
        return path if path.name == "data.yaml" else None
    if "names" not in top:
        return None
    try:
        names: object = _names_of(top["names"])
    except ValueError:
        names = path
    values = yaml_texts(path)
    return names, [values.get(key) for key in ("path", "train", "val", "test")]


def parse_yaml_names(text: str) -> list[str]:
    r"""Find ``names`` in the text of a data.yaml: a list, or a mapping from numbers.

    Every name is the text that stands there: ``no`` and ``7`` are names, not False and a number.

    Args:
        text: The file's content.

    Returns:
        The names in order.

    Raises:
        ValueError: If it is not YAML (names the line), or there is no such key, or its value is
            neither.

    Example:
        >>> parse_yaml_names("nc: 2\nnames: ['cat', dog]  # two")
        ['cat', 'dog']
        >>> parse_yaml_names("names:\n  0: cat\n  1: dog\npath: x")
        ['cat', 'dog']
    """
    return _names_of(_top_level(text).get("names"))


def _names_of(names: yaml.Node | None) -> list[str]:
    """The names in a list or a numbered mapping."""
    if isinstance(names, yaml.SequenceNode):
        nodes = names.value
        if all(isinstance(node, yaml.SequenceNode) and len(node.value) == 1 for node in nodes):
            nodes = [node.value[0] for node in nodes]  # "- [cat]", as some write a name
        return [_name_in(node) for node in nodes]
    if isinstance(names, yaml.MappingNode):
        numbered = {_number_in(key): _name_in(value) for key, value in names.value}
        if numbered.keys() != set(range(len(names.value))):
            raise ValueError(f"names must be numbered 0..{len(names.value) - 1}")
        return [numbered[number] for number in range(len(names.value))]
    raise ValueError("must hold names as a list or a numbered mapping")


def _number_in(node: yaml.Node) -> int | str:
    """A class number: an integer as YAML writes it, or the text of one; other text as it is."""
    text = _name_in(node)
    try:
        is_integer = node.tag == "tag:yaml.org,2002:int"
        return int(yaml.SafeLoader("").construct_yaml_int(node) if is_integer else text)
    except ValueError:
        return text


def keypoint_columns(description: Path | None) -> int:
    """Count the numbers of key points that follow a box in each line, as ``kpt_shape`` says.

    Args:
        description: The YAML file, or None.

    Returns:
        0 without key points.
    """
    shape = yaml_texts(description).get("kpt_shape", []) if description else []
    if len(shape) != 2 or not all(text.isascii() and text.isdecimal() for text in shape):
        return 0
    return int(shape[0]) * int(shape[1])


def _names_in(path: Path) -> list[str]:
    """The names in one of the two kinds of files."""
    try:
        lines = read_lines(path, _MAX_NAMES_BYTES)
        if path.name in NAME_FILES:
            return [line.strip() for line in lines if line.strip()]
        return parse_yaml_names("\n".join(lines))
    except InputError as error:
        raise UnusableFileError(error.message, path=path) from None
    except ValueError as error:
        raise UnusableFileError(str(error), path=path) from None


class _TextLoader(yaml.SafeLoader):
    """Takes characters, too, that YAML does not allow, such as those of other encodings."""

    def check_printable(self, data: str) -> None:
        """Refuse none."""


@lru_cache(maxsize=4)  # the same file is asked for its folders, its names and its key points
def _top_level(text: str) -> dict[str, yaml.Node]:
    """Parse YAML, as far as the nodes of its top level: nothing is constructed or expanded."""
    spaced = _TAB_BEHIND.sub(lambda tabs: " " * len(tabs[0]), _BLANK_LINE.sub("", text))
    try:
        root = yaml.compose(spaced, Loader=_TextLoader)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise ValueError(f"line {line} cannot be read as YAML: {error.problem}") from None
    except RecursionError:
        raise ValueError("cannot be read as YAML: it is nested too deep") from None
    except (ValueError, OverflowError) as error:  # an escape beyond Unicode
        raise ValueError(f"cannot be read as YAML: {error}") from None
    pairs = root.value if isinstance(root, yaml.MappingNode) else []
    top: dict[str, yaml.Node] = {}
    for key, value in pairs:
        if isinstance(key, yaml.ScalarNode):
            if key.value in top:
                line = key.start_mark.line + 1
                raise ValueError(f"line {line} gives {key.value!r} a second time")
            top[key.value] = value
    merged = top.get("<<")  # one level of it: more could be made to grow without end
    pairs = merged.value if isinstance(merged, yaml.MappingNode) else []
    return {key.value: value for key, value in pairs if isinstance(key, yaml.ScalarNode)} | top


def _name_in(node: yaml.Node) -> str:
    """The text of a node that must be nothing else."""
    if not isinstance(node, yaml.ScalarNode) or not node.value.strip():
        raise ValueError(f"line {node.start_mark.line + 1} must hold a name")
    return str(node.value).strip()


def yaml_texts(path: Path) -> dict[str, list[str]]:
    """The texts and lists of texts at the top of a YAML file; none if it cannot be read."""
    try:
        top = _top_level("\n".join(read_lines(path, _MAX_NAMES_BYTES)))
    except (InputError, ValueError):
        return {}
    nodes = {
        key: value.value if isinstance(value, yaml.SequenceNode) else [value]
        for key, value in top.items()
    }
    return {
        key: [node.value for node in each if isinstance(node, yaml.ScalarNode) and node.value]
        for key, each in nodes.items()
    }


def require_one_place(description: Path, above: str, value: str, found: Path | None) -> None:
    """Refuse a path that lies where the YAML file says, outside the set, and in the set, too.

    Args:
        description: The YAML file.
        above: Its ``path``.
        value: The path of a split.
        found: Where it was found in the set.

    Raises:
        UsageError: Names both places.
    """
    if found is None:
        return
    for start in (above, ""):
        literal = os.path.normpath(os.path.join(description.parent, start, value))  # noqa: PTH118
        if os.path.exists(literal):  # noqa: PTH110 (False for names that pathlib raises on)
            if not os.path.samefile(literal, found):  # noqa: PTH121
                rule = f"{value[:200]!r} may be {literal!r}, outside the set, or {str(found)!r}"
                raise UsageError(f"{rule}; write it as it lies below this file", path=description)
            return


def require_no_splits(named: Path) -> None:
    """Refuse a YAML file that names folders of which none is there.

    Args:
        named: The YAML file.

    Raises:
        UnusableFileError: If it names any.
    """
    values = yaml_texts(named)
    texts = [text for name in ("train", "val", "test") for text in values.get(name, [])]
    if texts:
        shown = ", ".join(repr(text[:60]) for text in texts[:3])
        rule = f"names {shown}; there is no such folder or list of images beside this file"
        raise UnusableFileError(rule, path=named)
