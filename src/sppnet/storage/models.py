"""A model as a folder: tensors, configuration, and a manifest with the SHA-256 of both.

Saving writes a sibling folder whole, flushes it, reads it back, and then swaps it in by two
renames: the old model becomes ``.NAME.previous``, the new one takes the name, the old one goes. A
kill before the first rename leaves the old model; between the two, ``load_model`` finds it as
``.NAME.previous``; after them the new one is there.
"""

import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

from torch import Tensor

from sppnet.errors import OutputError, UnusableFileError, as_path
from sppnet.storage.files import (
    json_text,
    output_error,
    parse_json,
    read_bytes,
    sha256_bytes,
    write_bytes,
)
from sppnet.storage.temp_files import (
    fsync_folder,
    make_folders,
    open_folder,
    stale_temp_files,
    temporary_path,
    try_lock,
)
from sppnet.storage.tensors import bytes_to_tensors, first_not_finite, tensors_to_bytes

FORMAT = "sppnet-model"
VERSION = 1
MANIFEST = "manifest.json"
MAX_JSON_BYTES = 16 * 2**20
TENSORS, CONFIG = "model.safetensors", "config.json"
LOCK = ".models.lock"
_WAIT_SECONDS = 0.02
_MAX_TENSOR_BYTES = 2**36
T = TypeVar("T")


def save_model(
    folder: str | Path,
    kind: str,
    config: Mapping[str, Any],
    tensors: Mapping[str, Tensor],
    answers: Mapping[str, Any] | None = None,
) -> None:
    """Write or replace a model folder; a kill at any point leaves the old or the new model.

    Args:
        folder: Where; an existing folder is replaced only if it is empty or a model.
        kind: What the model is, such as ``"detector"``; ``load_model`` asks for the same.
        config: What JSON can hold, all numbers finite; tuples come back as lists.
        tensors: Finite tensors by name.
        answers: What the model says of a picture that everyone has, for ``read_answers``.

    Raises:
        OutputError: If it cannot be written; the model that was there is untouched.
        ValueError: If ``config`` or ``tensors`` hold a number that is not finite; names it.
        TypeError: If ``config`` holds something that JSON lacks.

    Example:
        >>> import tempfile, torch
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     save_model(folder + "/model", "toy", {"names": ["cat"]}, {"w": torch.ones(2)})
        ...     load_model(folder + "/model", "toy")
        ({'names': ['cat']}, {'w': tensor([1., 1.])})
    """
    _check_values(config, tensors)
    files = {TENSORS: tensors_to_bytes(tensors), CONFIG: json_text(config).encode()}
    files[MANIFEST] = manifest_text(kind, files, answers).encode()
    try:
        target = as_path(folder, "path").resolve()
        make_folders(target.parent)
        _check_own(target)
        with _locked(target.parent):
            _sweep(target)
            _write_and_swap(target, files)
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        raise output_error(folder, error) from error


def load_model(folder: str | Path, kind: str) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Read a model folder, every byte checked.

    Args:
        folder: What ``save_model`` wrote.
        kind: The kind that the caller can use.

    Returns:
        The configuration and the tensors, on the CPU.

    Raises:
        UnusableFileError: If a file is missing, changed, torn, of another kind or version, or holds
            NaN; names file and rule.
    """
    return _read_present(as_path(folder, "path"), lambda present: _load(present, kind))


def restore_model(
    folder: str | Path, kind: str, restore: Callable[[dict[str, Any], dict[str, Tensor]], T]
) -> T:
    """Read a model folder and make what it describes.

    Args:
        folder: What ``save_model`` wrote.
        kind: The kind that the caller can use.
        restore: From the configuration and the tensors to the model.

    Returns:
        What ``restore`` makes.

    Raises:
        UnusableFileError: As of ``load_model``, or if the parts do not fit together.
    """
    config, tensors = load_model(folder, kind)
    try:
        return restore(config, tensors)
    except UnusableFileError as error:  # of a part, which does not know its file
        raise UnusableFileError(
            error.message, path=error.path or folder, code=error.code
        ) from error
    except (
        AttributeError,
        LookupError,
        TypeError,
        ValueError,
        OverflowError,
        RuntimeError,
    ) as error:
        reason = " ".join(str(error).split())[:200]
        rule = f"the saved {kind} does not fit together: {reason}"
        raise UnusableFileError(rule, path=folder, code="E_WEIGHTS_ARCH") from error


def read_kind(folder: str | Path) -> str:
    """Say which kind of model a folder holds; only its manifest is read and checked.

    Raises:
        UnusableFileError: If there is no manifest, or it is damaged or of another version.
    """
    manifest = _read_present(Path(folder), lambda present: read_manifest(present / MANIFEST))
    return str(manifest.get("kind"))


def is_model(folder: str | Path) -> bool:
    """Tell whether a folder is meant to hold a model: whether it has a manifest."""
    return (Path(folder) / MANIFEST).is_file()


def read_answers(folder: str | Path) -> dict[str, Any] | None:
    """Read what the model said when it was saved; None for a model that was saved without.

    Raises:
        UnusableFileError: If there is no manifest, or it is damaged or of another version.
    """
    manifest = _read_present(Path(folder), lambda present: read_manifest(present / MANIFEST))
    answers = manifest.get("answers")
    return answers if isinstance(answers, dict) else None


def manifest_text(
    kind: str, files: Mapping[str, bytes], answers: Mapping[str, Any] | None = None
) -> str:
    """Text of the manifest: what the files are, and a checksum of the manifest itself."""
    content: dict[str, Any] = {
        "format": FORMAT,
        "version": VERSION,
        "kind": kind,
        "files": {
            name: {"bytes": len(data), "sha256": sha256_bytes(data)} for name, data in files.items()
        },
    }
    if answers is not None:
        content["answers"] = dict(answers)
    return _with_checksum(content)


def _with_checksum(content: Mapping[str, Any]) -> str:
    """Add the SHA-256 of the content's own text."""
    return json_text({**content, "sha256": sha256_bytes(json_text(content).encode())})


def read_manifest(path: Path) -> dict[str, Any]:
    """Read the manifest; it must be, byte for byte, what its content would be written as."""
    data = read_bytes(path, MAX_JSON_BYTES)
    manifest = parse_json(data, path)
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise UnusableFileError(f"is not a manifest of {FORMAT}", path=path, code="E_FORMAT")
    if _with_checksum({k: v for k, v in manifest.items() if k != "sha256"}).encode() != data:
        raise UnusableFileError("the file was changed after saving", path=path, code="E_CHECKSUM")
    if manifest.get("version") != VERSION:
        rule = f"model format {manifest.get('version')!r} is unknown; this version reads {VERSION}"
        raise UnusableFileError(rule, path=path, code="E_FORMAT")
    return manifest


def read_listed(path: Path, manifest: Mapping[str, Any], max_bytes: int) -> bytes:
    """Read a file that the manifest lists and compare its SHA-256."""
    data = read_bytes(path, max_bytes)
    listed = manifest.get("files", {}).get(path.name, {})
    if len(data) != listed.get("bytes") or sha256_bytes(data) != listed.get("sha256"):
        rule = f"SHA-256 or length differs from {MANIFEST}: the file was cut or changed"
        raise UnusableFileError(rule, path=path, code="E_CHECKSUM")
    return data


def _read_present(folder: Path, read: Callable[[Path], T]) -> T:
    """Read a folder, twice if need be: a save elsewhere may swap it while it is read."""
    with suppress(UnusableFileError):
        return read(_present(folder))
    return read(_present(folder))  # out of the handler, whose error still held the first reading


def _load(folder: Path, kind: str) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Read and check the three files."""
    manifest = read_manifest(folder / MANIFEST)
    if manifest.get("kind") != kind:
        rule = f"the model is a {manifest.get('kind')!r}; a {kind!r} is needed"
        raise UnusableFileError(rule, path=folder / MANIFEST, code="E_WEIGHTS_ARCH")
    config_bytes = read_listed(folder / CONFIG, manifest, MAX_JSON_BYTES)
    config = parse_json(config_bytes, folder / CONFIG)
    if not isinstance(config, dict):
        raise UnusableFileError("must hold an object", path=folder / CONFIG, code="E_FORMAT")
    path = folder / TENSORS
    try:
        tensors = bytes_to_tensors(read_listed(path, manifest, _MAX_TENSOR_BYTES))
    except ValueError as error:
        raise UnusableFileError(str(error), path=path, code="E_WEIGHTS_FORMAT") from error
    if name := first_not_finite(tensors):
        rule = f"tensor {name!r} holds NaN or infinity"
        raise UnusableFileError(rule, path=path, code="E_WEIGHTS_NAN")
    return config, tensors


def _present(folder: Path) -> Path:
    """Return the folder, or the previous model beside it if a kill fell between the two renames."""
    previous = _previous(folder.resolve())
    return previous if not folder.exists() and previous.is_dir() else folder


def _previous(target: Path) -> Path:
    """Name that the old model bears during a swap."""
    return target.with_name(f".{target.name}.previous")


def _check_values(config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
    """Refuse to save what could not be loaded or would come back changed."""
    if name := first_not_finite(tensors):
        raise ValueError(f"tensors must be finite, got NaN or infinity in {name!r}")
    _check_finite(config, "config")


def _check_finite(value: Any, name: str) -> None:
    """Refuse NaN and infinities anywhere in the configuration: JSON would lose them."""
    if isinstance(value, float) and value - value != 0:
        raise ValueError(f"{name} must be finite, got {value}")
    if isinstance(value, Mapping):
        for key, item in value.items():
            _check_finite(item, f"{name}[{key!r}]")
    elif isinstance(value, list | tuple):
        for index, item in enumerate(value):
            _check_finite(item, f"{name}[{index}]")


def _check_own(target: Path) -> None:
    """Refuse to replace a folder that holds anything but a model."""
    if not target.exists():
        return
    foreign = sorted(set(os.listdir(target)) - {TENSORS, CONFIG, MANIFEST})  # noqa: PTH208
    if foreign:
        rule = f"holds {foreign[0]!r}, which is no part of a model; choose another folder"
        raise OutputError(rule, path=target)


@contextmanager
def _locked(parent: Path) -> Iterator[None]:
    """Let one process at a time swap models in a folder."""
    descriptor = open_folder(parent)
    if descriptor is None:  # Windows: a file in its place
        descriptor = os.open(parent / LOCK, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        while not try_lock(descriptor):
            time.sleep(_WAIT_SECONDS)
        yield
    finally:
        os.close(descriptor)


def _sweep(target: Path) -> None:
    """Finish what a killed save left: bring an old model back, drop unfinished folders."""
    previous = _previous(target)
    if previous.is_dir():
        if target.exists():
            shutil.rmtree(previous)
        else:
            previous.rename(target)
    for path in stale_temp_files(target.parent):
        if path.name.startswith(f".{target.name}.tmp-"):
            shutil.rmtree(path, ignore_errors=True)


def _write_and_swap(target: Path, files: Mapping[str, bytes]) -> None:
    """Write the new folder beside the old one, check it, and exchange them."""
    temporary = temporary_path(target)
    temporary.mkdir()
    descriptor = open_folder(temporary)
    try:
        if descriptor is not None:
            try_lock(descriptor)
        for name, data in files.items():
            _write_for(target / name, temporary / name, data)
        _swap(temporary, target)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    finally:
        if descriptor is not None:
            os.close(descriptor)


def _write_for(target: Path, path: Path, data: bytes) -> None:
    """Write an unfinished file; an error names the place that the user knows."""
    try:
        write_bytes(path, data)
    except OutputError as error:
        raise OutputError(error.message, path=target) from error


def _swap(temporary: Path, target: Path) -> None:
    """Give the new folder its name by renames; the old one is removed last."""
    previous = _previous(target)
    if target.exists():
        target.rename(previous)
    try:
        temporary.rename(target)
    except OSError:
        if previous.is_dir():
            previous.rename(target)
        raise
    fsync_folder(target.parent)
    shutil.rmtree(previous, ignore_errors=True)
