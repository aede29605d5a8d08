"""A disk that remembers what was flushed: what may be left of a folder after the power is cut.

``disk.c`` writes down the calls of a program. Here they are done again, on a disk of two layers:
what is flushed stays, and of the rest a power cut leaves anything, as harshly as POSIX allows.
``fsync`` of a file flushes its bytes but not its name, ``fsync`` of a folder the names in it; what
is not flushed may be there or not, in any order, torn at sectors of 512 bytes, or as zeros where
only the new length arrived.
"""

import ctypes
import os
import random
import shutil
import struct
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

SOURCE = Path(__file__).with_name("disk.c")
SECTOR = 512
_HEAD = struct.Struct("<cQQII")
# what SQLite keeps in shared memory, and makes anew when nobody has the file open
UNWRITTEN = "-shm"


def run_below(library_folder: Path) -> ctypes.CDLL:
    """Start this program again with the library of ``disk.c`` below it, and give the library."""
    library = library_folder / "disk.so"
    if os.environ.get("LD_PRELOAD") != str(library):
        library_folder.mkdir(parents=True, exist_ok=True)
        options = ["-O2", "-shared", "-fPIC", "-o", str(library), str(SOURCE), "-ldl", "-lpthread"]
        subprocess.run(["cc", *options], check=True)
        environment = {**os.environ, "LD_PRELOAD": str(library), "OMP_NUM_THREADS": "1"}
        os.execve(sys.executable, [sys.executable, *sys.argv], environment)
    disk = ctypes.CDLL(str(library))
    disk.disk_fired.restype = ctypes.c_char_p
    disk.disk_calls.restype = ctypes.c_long
    disk.disk_fail.argtypes = [ctypes.c_char_p, ctypes.c_long, ctypes.c_int, ctypes.c_int]
    return disk


@dataclass(frozen=True)
class Call:
    """One call: C create, W write, T truncate, S, D fsync of a file, of a folder, R rename,
    U remove, M make a folder, A what the program acknowledges.
    """  # noqa: D205

    kind: str
    inode: int
    at: int
    first: bytes
    second: bytes

    @property
    def path(self) -> str:
        """The path, of calls that have one."""
        return os.fsdecode(self.first)


def read_calls(log: Path) -> list[Call]:
    """Read what ``disk.c`` wrote down."""
    data, place, calls = log.read_bytes(), 0, []
    while place < len(data):
        kind, inode, at, first, second = _HEAD.unpack_from(data, place)
        place += _HEAD.size
        parts = data[place : place + first], data[place + first : place + first + second]
        place += first + second
        calls.append(Call(kind.decode(), inode, at, *parts))
    return calls


@dataclass
class File:
    """A file: bytes as a program sees them, bytes that are flushed, and calls since."""

    live: bytearray = field(default_factory=bytearray)
    flushed: bytearray = field(default_factory=bytearray)
    waiting: list[Call] = field(default_factory=list)

    def do(self, call: Call) -> None:
        """Write or truncate."""
        _do(self.live, call)
        self.waiting.append(call)

    def flush(self) -> None:
        """What an fsync does."""
        for call in self.waiting:
            _do(self.flushed, call)
        self.waiting.clear()

    def left(self, draw: random.Random) -> bytes:
        """What a power cut may leave."""
        found = bytearray(self.flushed)
        way = draw.choice(["none", "all", "first", "some", "torn", "length"])
        if way == "length":
            return bytes(found + bytes(max(0, len(self.live) - len(found))))
        kept = self.waiting
        if way == "none":
            kept = []
        elif way in ("first", "torn"):
            kept = kept[: draw.randint(0, len(kept))]
        elif way == "some":
            kept = [call for call in kept if draw.random() < 0.5]
        for number, call in enumerate(kept):
            if way == "torn" and number == len(kept) - 1 and call.kind == "W":
                cut = SECTOR * draw.randint(0, len(call.first) // SECTOR)
                call = Call("W", call.inode, call.at, call.first[:cut], b"")
            _do(found, call)
        return bytes(found)


def _do(content: bytearray, call: Call) -> None:
    if call.kind == "T":
        del content[call.at :]
        content.extend(bytes(call.at - len(content)))
        return
    content.extend(bytes(max(0, call.at - len(content))))
    content[call.at : call.at + len(call.first)] = call.first


@dataclass(eq=False)
class Folder:
    """A folder: names as a program sees them, and those that are flushed, with their numbers."""

    live: dict[str, "File | Folder"] = field(default_factory=dict)
    flushed: dict[str, tuple[int, "File | Folder | None"]] = field(default_factory=dict)


Edit = tuple[Folder, str, File | Folder | None]


class Disk:
    """Does calls again, and gives what a power cut may leave.

    Args:
        honest: False: no flush ever arrives, to see that the tests would notice.
        flushes_folders: False: flushes of folders do not arrive.
    """

    def __init__(self, *, honest: bool = True, flushes_folders: bool = True) -> None:
        self.top = Folder()
        self.acknowledged: list[str] = []
        self._files: dict[int, File] = {}
        self._edits: dict[int, list[Edit]] = {}  # by number, not flushed
        self._number = 0
        self._honest, self._flushes_folders = honest, flushes_folders

    def do(self, call: Call) -> None:
        """Do a call that succeeded."""
        if call.kind == "A":
            self.acknowledged.append(call.first.decode())
        elif call.kind == "C":
            made = self._files[call.inode] = File()
            self._edit((*self._place(call.path), made))
        elif call.kind in "WT":
            self._files[call.inode].do(call)
        elif call.kind == "S" and self._honest:
            self._files[call.inode].flush()
        elif call.kind == "D" and self._honest and self._flushes_folders:
            self._flush(self._folder(call.path))
        elif call.kind == "M":
            self._edit((*self._place(call.path), Folder()))
        elif call.kind == "U":
            self._edit((*self._place(call.path), None))
        elif call.kind == "R":
            old, new = self._place(call.path), self._place(os.fsdecode(call.second))
            self._edit((*new, old[0].live[old[1]]), (*old, None))

    def leave(self, target: Path, draw: random.Random) -> None:
        """Write what a power cut now may leave into a folder that is not there yet."""
        numbers = sorted(self._edits)
        way = draw.choice(["none", "all", "first", "some"])
        if way == "none":
            numbers = []
        elif way == "first":
            numbers = numbers[: draw.randint(0, len(numbers))]
        elif way == "some":
            numbers = [number for number in numbers if draw.random() < 0.5]
        extra: dict[Folder, dict[str, tuple[int, File | Folder | None]]] = {}
        for number in numbers:
            for folder, name, node in self._edits[number]:
                extra.setdefault(folder, {})[name] = (number, node)
        _leave(self.top, target, extra, draw)

    def leave_all(self, target: Path) -> None:
        """Write everything, as if no power was cut."""
        _write_live(self.top, target)

    def _edit(self, *edits: Edit) -> None:
        self._number += 1
        for folder, name, node in edits:
            if node is None:
                folder.live.pop(name, None)
            else:
                folder.live[name] = node
        self._edits[self._number] = list(edits)

    def _flush(self, folder: Folder) -> None:
        for number in sorted(self._edits):
            if any(edited is folder for edited, _, _ in self._edits[number]):
                for edited, name, node in self._edits.pop(number):
                    if edited.flushed.get(name, (0, None))[0] < number:
                        edited.flushed[name] = (number, node)

    def _folder(self, path: str) -> Folder:
        found = self.top
        for name in filter(None, path.split("/")):
            inner = found.live[name]
            if not isinstance(inner, Folder):
                raise NotADirectoryError(path)
            found = inner
        return found

    def _place(self, path: str) -> tuple[Folder, str]:
        parent, _, name = path.rpartition("/")
        return self._folder(parent), name


def _leave(
    folder: Folder,
    target: Path,
    extra: dict[Folder, dict[str, tuple[int, File | Folder | None]]],
    draw: random.Random,
) -> None:
    target.mkdir(exist_ok=True)
    names = dict(folder.flushed)
    for name, (number, node) in extra.get(folder, {}).items():
        if names.get(name, (0, None))[0] < number:
            names[name] = (number, node)
    for name, (_, node) in sorted(names.items()):
        if isinstance(node, Folder):
            _leave(node, target / name, extra, draw)
        elif node is not None:
            (target / name).write_bytes(node.left(draw))


def _write_live(folder: Folder, target: Path) -> None:
    target.mkdir(exist_ok=True)
    for name, node in folder.live.items():
        if isinstance(node, Folder):
            _write_live(node, target / name)
        else:
            (target / name).write_bytes(bytes(node.live))


def power_cuts(
    calls: Sequence[Call], points: int, seed: int, target: Path, disk: Disk
) -> Iterator[tuple[int, list[str], list[str]]]:
    """Cut the power at random points of a list of calls.

    Args:
        calls: What a program did.
        points: How often.
        seed: Of the draws.
        target: Folder that is made anew for each point.
        disk: An empty one.

    Yields:
        How many calls were done, and what was acknowledged before and after that.
    """
    draw = random.Random(seed)
    done = 0
    said = [call.first.decode() for call in calls if call.kind == "A"]
    for place in sorted(draw.randint(0, len(calls)) for _ in range(points)):
        for call in calls[done:place]:
            disk.do(call)
        done = place
        shutil.rmtree(target, ignore_errors=True)
        disk.leave(target, draw)
        yield place, list(disk.acknowledged), said[len(disk.acknowledged) :]


def content_of(folder: Path) -> dict[str, bytes | None]:
    """Every file and folder by path, with bytes; for comparing."""
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None
        for path in sorted(folder.rglob("*"))
        if not path.name.endswith(UNWRITTEN)
    }
