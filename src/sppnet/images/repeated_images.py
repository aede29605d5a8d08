"""The same picture twice: inside a split, or in one to learn from and one to test on."""

import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from sppnet.errors import Problem, UnusableFileError
from sppnet.storage.reading import sha256_file

LEAK = "E_LEAK"


def find_repeated(paths: Iterable[Path]) -> list[list[Path]]:
    """Group files of the same bytes.

    Args:
        paths: Files; those that cannot be read are passed over.

    Returns:
        The groups of two or more, each in the order given.
    """
    by_size = _grouped((path, _size(path)) for path in dict.fromkeys(paths))
    return [group for files in by_size for group in _grouped((path, _hash(path)) for path in files)]


def report_repeated(
    paths: Iterable[Path], members: Mapping[str, set[Path]]
) -> tuple[list[Problem], list[Problem]]:
    """Name pictures that come twice.

    Args:
        paths: All image files.
        members: Image files by split.

    Returns:
        Problems (a picture is in two splits that should have none in common) and notes (the same
        bytes in two files of a split).
    """
    every = list(dict.fromkeys(paths))
    splits_of = {path: [name for name, files in members.items() if path in files] for path in every}
    problems = [problem for path in every for problem in _listed_twice(path, splits_of[path])]
    notes: list[Problem] = []
    for first, *others in find_repeated(every):
        for other in others:
            pair = next(_clashes(splits_of[first], splits_of[other]), None)
            rule = f"holds the same bytes as {str(first)!r}"
            if pair is None:
                notes.append(Problem(str(other), rule, "W_DATA", None, "both used"))
            else:
                text = f"{rule}: one is in split {pair[0]!r}, one in {pair[1]!r}"
                problems.append(Problem(str(other), text, LEAK, None, _effect(pair)))
    return problems, notes


def _listed_twice(path: Path, splits: list[str]) -> Iterator[Problem]:
    """A finding if a file is in two splits that should have none in common."""
    pair = next(_clashes(splits, splits), None)
    if pair is not None:
        rule = f"is in split {pair[0]!r} and in split {pair[1]!r}"
        yield Problem(str(path), rule, LEAK, None, _effect(pair))


def _effect(pair: tuple[str, str]) -> str:
    """What it does to the score."""
    scored = next((name for name in pair if "test" in _roles(name)), pair[1])
    return f"used in both; scores on {scored!r} come out too high"


def _clashes(first: list[str], second: list[str]) -> Iterator[tuple[str, str]]:
    """Pairs of splits that serve different ends."""
    for one in first:
        for other in second:
            roles, others = _roles(one), _roles(other)
            if roles and others and not roles & others:
                yield one, other


def _roles(split: str) -> set[str]:
    """What a split is for, by its name; nothing is known of other names.

    Example:
        >>> [sorted(_roles(name)) for name in ("trainval", "val2017", "minibatch")]
        [['train', 'val'], ['val'], []]
    """
    if split.startswith("trainval"):
        return {"train", "val"}
    return {role for role in ("train", "val", "test") if split.startswith(role)}


def _grouped(pairs: Iterable[tuple[Path, object]]) -> list[list[Path]]:
    """Paths of equal keys, where there are two or more; those without a key are left out."""
    groups: dict[object, list[Path]] = {}
    for path, key in pairs:
        if key is not None:
            groups.setdefault(key, []).append(path)
    return [group for group in groups.values() if len(group) > 1]


def _size(path: Path) -> int | None:
    """Bytes in the file, None if it cannot be asked."""
    try:
        return os.stat(path).st_size  # noqa: PTH116
    except OSError:
        return None


def _hash(path: Path) -> str | None:
    """Hash of the file, None if it cannot be read."""
    try:
        return sha256_file(path)
    except UnusableFileError:
        return None
