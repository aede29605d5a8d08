"""What a run learns from: files by their content, labels, classes, and what changed since it began.

A file is hashed when its size or one of its times is not as it was, so that an unchanged data set
costs a look at each entry. No torch.
"""

import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sppnet.errors import UnusableFileError, count_of
from sppnet.storage.files import read_json, sha256_bytes, sha256_file

UNKNOWN_DATA = "it is not known which data the run learnt from"
# A file that was written so shortly before it was looked at may be written again in the same tick
# of its clock: it is hashed again the next time.
_CLOCK_NS = 2_000_000_000
_MAX_BYTES = 2**31


@dataclass(frozen=True)
class LearntFile:
    """A file of a data set, and all that the data set says about it.

    Args:
        path: The file.
        labels: Its labels as text; equal text means equal labels.
        is_learnt: Whether it is learnt from; False if it is only scored on.
    """

    path: Path
    labels: str = ""
    is_learnt: bool = True


@dataclass(frozen=True)
class RunData:
    """What a run learns from.

    Args:
        root: Folder of the data set; files are known by their paths below it.
        files: The images in their order.
        names: Class names.
        inputs: Other files that decide the result, such as weights and proposals.

    Example:
        >>> RunData(Path("photos"), [LearntFile(Path("photos/a.jpg"), "cat")], ["cat"]).names
        ['cat']
    """

    root: Path
    files: Sequence[LearntFile]
    names: Sequence[str] = ()
    inputs: Sequence[Path] = ()

    def record(self, before: Mapping[str, Any]) -> dict[str, Any]:
        """Describe the data; only files whose size or times differ from ``before`` are hashed."""
        known, looked_at = before.get("files", {}), before.get("looked_at", 0)
        now = time.time_ns()
        files: dict[str, list[Any]] = {}
        for each in self.files:
            name = self._name(each.path)
            labels = sha256_bytes(each.labels.encode("utf-8", errors="surrogatepass"))[:16]
            content = _describe_file(each.path, known.get(name), looked_at)
            labels += files[name][1] if name in files else ""  # listed twice
            files[name] = [each.is_learnt, labels, *content]
        inputs = {str(path): _describe_file(path, None, 0)[0] for path in self.inputs}
        return {"looked_at": now, "names": list(self.names), "inputs": inputs, "files": files}

    def _name(self, path: Path) -> str:
        """Path below the root; whole where there is no way from one to the other."""
        try:
            return os.path.relpath(path, self.root)
        except ValueError:  # another drive of Windows
            return str(path)


def _describe_file(path: Path, known: Sequence[Any] | None, looked_at: int) -> list[Any]:
    """SHA-256, size, time of change and of the entry; the hash is looked up where it can be."""
    try:
        status = os.stat(path)  # noqa: PTH116
        stamp = [status.st_size, status.st_mtime_ns, status.st_ctime_ns]
        is_old = max(stamp[1:]) < looked_at - _CLOCK_NS
        if known is not None and is_old and known[3:] == stamp:
            return list(known[2:])
        return [sha256_file(path), *stamp]
    except (OSError, ValueError, UnusableFileError):
        return ["", 0, 0, 0]  # reported where the image is used


def read_data(path: Path) -> dict[str, Any]:
    """Read what an earlier run learnt from; empty if that is not known."""
    try:
        record = read_json(path, _MAX_BYTES)
        is_whole = all(len(each) == 6 for each in record["files"].values())
        is_whole &= isinstance(record["inputs"], dict) and isinstance(record["looked_at"], int)
        return record if is_whole and isinstance(record["names"], list) else {}
    except (UnusableFileError, TypeError, KeyError, AttributeError):
        return {}


@dataclass(frozen=True)
class DataChanges:
    """What is not as it was in the data of a run.

    Args:
        learnt: About what was learnt from, a sentence each.
        scored: About images that are only scored on.
    """

    learnt: tuple[str, ...] = ()
    scored: tuple[str, ...] = ()

    @classmethod
    def between(cls, before: Mapping[str, Any], now: Mapping[str, Any]) -> "DataChanges":
        """Compare two records of :class:`RunData`; an empty one says nothing."""
        if not before:
            return cls((UNKNOWN_DATA,))
        learnt: list[str] = []
        if before["names"] != now["names"]:
            old, new = (", ".join(map(str, each["names"][:20])) for each in (before, now))
            learnt.append(f"the classes were {old}, are {new}")
        inputs = before["inputs"] | now["inputs"]
        changed = [k for k in inputs if before["inputs"].get(k) != now["inputs"].get(k)]
        learnt += [f"{path!r} has another content" for path in changed]
        kinds: dict[bool, dict[str, list[str]]] = {True: {}, False: {}}
        for name, (what, is_learnt) in _compare_files(before["files"], now["files"]).items():
            kinds[is_learnt].setdefault(what, []).append(name)
        total = len(now["files"])
        learnt += [_sentence(what, each, total) for what, each in kinds[True].items()]
        scored = [_sentence(what, each, total) for what, each in kinds[False].items()]
        if not learnt and not scored and list(before["files"]) != list(now["files"]):
            learnt.append("the images are listed in another order")
        return cls(tuple(learnt), tuple(scored))


def _sentence(what: str, names: Sequence[str], total: int) -> str:
    """Say how many images changed, and name one."""
    some = f"{names[0]!r}" + (", ..." if len(names) > 1 else "")
    return f"{len(names)} of {count_of(total, 'image')} {what} ({some})"


def _compare_files(
    before: Mapping[str, Sequence[Any]], now: Mapping[str, Sequence[Any]]
) -> dict[str, tuple[str, bool]]:
    """What became of each file that changed, and whether it is or was learnt from."""
    found: dict[str, tuple[str, bool]] = {}
    gone = {tuple(before[name][:3]): name for name in before if name not in now}
    for name, new in now.items():
        old = before.get(name)
        if old is None:
            renamed = gone.pop(tuple(new[:3]), None)
            found[name] = ("renamed" if renamed is not None else "added", bool(new[0]))
        elif old[2] != new[2]:
            found[name] = ("have another content", bool(old[0] or new[0]))
        elif old[1] != new[1]:
            found[name] = ("have other labels", bool(old[0] or new[0]))
        elif old[0] != new[0]:
            found[name] = ("changed between learning and scoring", True)
    return found | {name: ("removed", bool(before[name][0])) for name in gone.values()}
