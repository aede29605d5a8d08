"""Script: the package where Unix is missing, as far as Linux can be made to look like Windows.

No ``fcntl`` and its like, none of Unix's names in ``os``, folders that cannot be opened, open files
that cannot be renamed or replaced, a locked first byte that nobody else can read, and no
``os.kill``. Run with a folder to work in; every step prints its name when it is done.
"""

import os
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

UNIX_MODULES = ("fcntl", "resource", "termios", "tty", "pty", "pwd", "grp", "syslog")
UNIX_NAMES = (
    *("O_CLOEXEC", "O_DIRECTORY", "O_NOCTTY", "O_NOFOLLOW", "O_NONBLOCK", "fchmod", "getloadavg"),
    *("fork", "geteuid", "getpgid", "getuid", "killpg", "mkfifo", "pread", "pwrite", "statvfs"),
    *("sched_getaffinity", "sysconf", "uname"),
)
PACKAGE = Path(__file__).parents[1] / "src" / "sppnet"


class Locks:
    """Stands in for LockFileEx: one handle may hold a file's lock; closing it frees the lock."""

    def __init__(self) -> None:
        self._holder_of: dict[tuple[int, int], int] = {}
        self._read, self._close = os.read, os.close

    def lock_descriptor(self, descriptor: int, *, blocking: bool = True) -> bool:
        assert not blocking
        return self._holder_of.setdefault(_identity(descriptor), descriptor) == descriptor

    def read(self, descriptor: int, count: int) -> bytes:
        holder = self._holder_of.get(_identity(descriptor), descriptor)
        if holder != descriptor and os.lseek(descriptor, 0, os.SEEK_CUR) == 0:
            raise PermissionError(13, "another process has locked a portion of the file")
        return self._read(descriptor, count)

    def close(self, descriptor: int) -> None:
        if self._holder_of.get(_identity(descriptor)) == descriptor:
            del self._holder_of[_identity(descriptor)]
        self._close(descriptor)


def _identity(file: int | str | os.PathLike[str]) -> tuple[int, int]:
    status = os.fstat(file) if isinstance(file, int) else Path(file).stat()
    return status.st_dev, status.st_ino


def _is_open(path: str | os.PathLike[str]) -> bool:
    """Tell whether this process has the file, or one in the folder, open."""
    wanted = {_identity(each) for each in (path, *Path(path).rglob("*"))}
    links = list(Path("/proc/self/fd").iterdir())
    return any(link.exists() and _identity(link) in wanted for link in links)


def _renaming(real: Callable[..., None]) -> Callable[..., None]:
    def rename(source: str | os.PathLike[str], target: str | os.PathLike[str]) -> None:
        if any(Path(path).exists() and _is_open(path) for path in (source, target)):
            raise PermissionError(13, "the process cannot access the file", str(source))
        real(source, target)

    return rename


def become_windows() -> None:
    """Take away what Windows lacks; what others brought along with them stays."""
    for name in ("torch", "torchvision", "cv2", "sklearn.svm", "typer", "rich", "filelock", "yaml"):
        import_module(name)
    sys.modules.update(dict.fromkeys(UNIX_MODULES))
    for name in UNIX_NAMES:
        delattr(os, name)
    os.name = "nt"
    import_module("sppnet.storage.temp_files")
    os.name = "posix"  # pathlib would make paths of the other kind
    real_open, locks = os.open, Locks()

    def open_file(path: str, flags: int, *arguments: int) -> int:
        if Path(path).is_dir():
            raise PermissionError(13, "Permission denied", str(path))
        return real_open(path, flags, *arguments)

    def kill(*_: int) -> None:
        raise AssertionError("on Windows os.kill ends the process")

    os.open, os.kill, os.read, os.close = open_file, kill, locks.read, locks.close
    os.replace, os.rename = _renaming(os.replace), _renaming(os.rename)
    import_module("shutil")._use_fd_functions = False
    import_module("filelock").lock_descriptor = locks.lock_descriptor


def import_everything() -> None:
    optional = {"tensorboard", "timm", "onnx", "onnxruntime", "keras", "triton"}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
        name = ".".join(parts).removesuffix(".__init__")
        if path.stem in {"__main__", "keras_layer"}:
            continue
        try:
            import_module(name)
        except ModuleNotFoundError as error:
            if (error.name or "").split(".")[0] not in optional:
                raise


def write_and_read(folder: Path) -> None:
    from sppnet.storage import files, temp_files

    files.write_bytes(folder / "a", b"one\ntwo\r\n\x1a\n")
    assert files.read_bytes(folder / "a") == b"one\ntwo\r\n\x1a\n"
    files.write_json(folder / "b.json", {"a": [1, None]})
    assert files.read_json(files.ensure_output_folder(folder) / "b.json") == {"a": [1, None]}
    temp_files.REPLACE_TRIES = 3
    with (folder / "a").open("rb"), _raises("OutputError"):  # somebody reads it all the time
        files.write_text(folder / "a", "new")
    assert files.read_capped(folder / "a", 100).startswith(b"one")
    with _raises("UnusableFileError"):
        files.read_bytes(folder)
    assert sorted(path.name for path in folder.iterdir()) == ["a", "b.json"]


def leave_living_writers_alone(folder: Path) -> None:
    from sppnet.storage.temp_files import stale_temp_files, temporary_path, try_lock

    busy, gone, young = (temporary_path(folder / name) for name in ("busy", "gone", "young"))
    for path in (busy, gone, young):
        path.touch()
    for path in (busy, gone):
        os.utime(path, (0, 0))
    lock = os.open(busy, os.O_RDWR)
    assert try_lock(lock)
    assert stale_temp_files(folder) == [gone]
    os.close(lock)
    assert stale_temp_files(folder) == sorted([busy, gone])


def use_a_cache(folder: Path) -> None:
    import warnings

    import torch

    from sppnet.storage import FeatureCache, WriteBehind

    with warnings.catch_warnings():
        warnings.simplefilter("error")  # the mode of a folder says nothing there
        folder.mkdir(mode=0o777)
        folder.chmod(0o777)
        cache = FeatureCache(folder)
    key = cache.make_key(number=1)
    with WriteBehind(cache) as later:
        later.put(key, {"map": torch.ones(2)})
    assert torch.equal(FeatureCache(folder).get(key)["map"], torch.ones(2))


def run_and_save(folder: Path) -> None:
    import torch

    from sppnet.storage import RunFolder, load_model, save_model

    with RunFolder.open(folder, "toy", {"a": 1}, seed=0) as run:
        with _raises("OutputError", f"another process ({os.getpid()}) is working in this folder"):
            RunFolder.open(folder, "toy", {"a": 1}, seed=0)
        for index in range(2):
            save_model(folder / "model", "toy", {"index": index}, {"w": torch.ones(2)})
        run.mark_done("model")
    assert load_model(folder / "model", "toy")[0] == {"index": 1}
    with RunFolder.open(folder, "toy", {"a": 1}, seed=0) as run:
        assert run.resumed
        assert run.is_done("model")
    names = {path.name for path in folder.iterdir()}
    assert names == {".lock", ".models.lock", "model", "run.json", "stages.json"}


def call_the_command(folder: Path) -> None:
    from sppnet.app.main import StopSignals, main
    from sppnet.images import draw_detection_set

    signals = StopSignals()
    signals.install()
    draw_detection_set(folder, 4)
    for words in (["--help"], ["info"], ["check", str(folder)]):
        code = main(words, signals)
        assert code == 0, f"{words} ended with {code}"


class _raises:
    """Stands in for pytest.raises, whose imports are Unix's."""

    def __init__(self, kind: str, text: str = "") -> None:
        self._kind, self._text = kind, text

    def __enter__(self) -> None: ...

    def __exit__(self, kind: type | None, error: BaseException | None, _: object) -> bool:
        assert kind is not None, f"no {self._kind} came"
        return kind.__name__ == self._kind and self._text in str(error)


def main(folder: Path) -> None:
    become_windows()
    import_everything()
    print("import_everything")
    for step in (
        *(write_and_read, leave_living_writers_alone, use_a_cache, run_and_save, call_the_command),
    ):
        place = folder / step.__name__
        if step is not use_a_cache:
            place.mkdir()
        step(place)
        print(step.__name__)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
