"""Where very many photos are: listed and read from disks, object stores and tables of paths."""

import re
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from sppnet.errors import InputError, Problem
from sppnet.images import list_images
from sppnet.images.decode import MAX_FILE_BYTES, content_number, decode_content, read_content
from sppnet.images.listing import has_image_suffix
from sppnet.storage.files import read_lines

PARTS_OF_URL = re.compile(r"([a-z][a-z0-9+.-]+)://([^/]*)/?(.*)", re.DOTALL)
TABLES_OF_PATHS = (".parquet", ".txt")


class Photo(NamedTuple):
    """A photo that was read and decoded.

    Args:
        pixels: (3, H, W), RGB 0..1, or bytes, as ``decode_content`` gives them.
        number: The number by which the content is known again.
        size: Bytes of the file.
    """

    pixels: Tensor
    number: int
    size: int


def load_photo(path: str) -> Photo:
    """Read and decode a photo.

    Args:
        path: A file, or an address such as ``s3://bucket/key``.

    Raises:
        InputError: If it cannot be read or is no image.
    """
    data = read_photo(path)
    return Photo(decode_content(data, path), content_number(data), len(data))


def read_photo(path: str) -> bytes:
    """Read the bytes of a photo from a disk or from an object store.

    Args:
        path: A file, or an address such as ``s3://bucket/key``.

    Raises:
        InputError: If it cannot be read, is empty or too large.
    """
    parts = PARTS_OF_URL.fullmatch(path)
    if parts is None:
        return read_content(path)
    try:
        system, inner = open_address(path)
        with system.open_input_stream(inner) as stream:
            data: bytes = stream.read(MAX_FILE_BYTES + 1)
    except (OSError, ValueError, ImportError) as error:  # pyarrow's own are among them
        words = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(f"cannot be read: {words}", path=path, code="E_UNREADABLE") from None
    if not data:
        raise InputError("the file is empty", path=path, code="E_EMPTY")
    if len(data) > MAX_FILE_BYTES:
        rule = f"the file must have at most {MAX_FILE_BYTES:,} bytes"
        raise InputError(rule, path=path, code="E_TOO_LARGE")
    return data


def open_address(address: str) -> tuple[Any, str]:
    """Find the file system of an address and the path there.

    pyarrow reads ``file``, ``s3``, ``gs`` and ``hdfs``, fsspec the rest that is installed.

    Args:
        address: Such as ``s3://bucket/key``; letters stand for themselves, none is escaped.

    Returns:
        The file system of pyarrow, and the path as it takes it.

    Raises:
        OSError, ValueError, ImportError: If there is no such file system, or it cannot be reached.
    """
    parts = PARTS_OF_URL.fullmatch(address)
    if parts is None:
        raise ValueError(f"address must be SCHEME://PATH, got {address!r}")
    scheme, host, key = parts.groups()
    inner = f"/{key}" if scheme == "file" else f"{host}/{key}".rstrip("/")
    return _open_system(scheme, host), inner


@cache
def _open_system(scheme: str, host: str) -> Any:
    """The file system of a scheme; one for each bucket, which may be in a region of its own."""
    import pyarrow
    from pyarrow import fs

    try:
        return fs.FileSystem.from_uri(f"{scheme}://{host or '/'}")[0]
    except (pyarrow.ArrowInvalid, NotImplementedError):
        import fsspec

        return fs.PyFileSystem(fs.FSSpecHandler(fsspec.filesystem(scheme)))


class Photos(NamedTuple):
    """The photos that were named.

    Args:
        paths: Absolute paths and addresses, each once.
        problems: One for each source that gives nothing.
        own: How many files were left out because we drew them.
    """

    paths: list[str]
    problems: list[Problem]
    own: int = 0


def list_photos(sources: Sequence[str], out: Path) -> Photos:
    """Find the photos that sources name, on disks and in object stores.

    Args:
        sources: Files, folders and patterns; addresses of a file or a folder, such as
            ``s3://bucket/photos``; ``paths.txt`` (a line each) or ``paths.parquet`` (a column
            ``path``), whose entries are not looked at before their turn.
        out: Folder for the results; pictures in it are left out.

    Returns:
        Where they are.

    Raises:
        InputError: If a table of paths cannot be read.

    Example:
        >>> list_photos(["no/such/folder"], Path("out")).problems[0].rule
        'does not exist'
    """
    tables = [source for source in sources if source.lower().endswith(TABLES_OF_PATHS)]
    remote = [s for s in sources if PARTS_OF_URL.fullmatch(s) and s not in tables]
    local = [source for source in sources if source not in {*tables, *remote}]
    listing = list_images(local, out)
    paths = [str(path.absolute()) for path in listing.paths]
    problems = list(listing.problems)
    for table in tables:
        paths += [_absolute(path) for path in _read_paths(table)]
    for source in remote:
        found = _list_address(source)
        if isinstance(found, Problem):
            problems.append(found)
        else:
            paths += found
    kept = [path for path in dict.fromkeys(paths) if path.isascii() or _is_text(path)]
    rule = "has a name that is not UTF-8, which a table cannot hold"
    odd = dict.fromkeys(paths).keys() - set(kept)
    problems += [Problem(path, rule, "E_FORMAT", action="left out") for path in sorted(odd)]
    return Photos(kept, problems, listing.own)


def _is_text(path: str) -> bool:
    """Whether a name is made of letters; bytes that are none are kept as halves of letters."""
    return not any("\ud800" <= letter <= "\udfff" for letter in path)


def _absolute(path: str) -> str:
    """A path that means the same on every machine that sees the same disks."""
    return path if PARTS_OF_URL.fullmatch(path) else str(Path(path).absolute())


def _read_paths(table: str) -> list[str]:
    """The entries of a table of paths."""
    if table.lower().endswith(".txt"):
        return [line for line in map(str.strip, read_lines(table)) if line]
    import pyarrow
    from pyarrow import parquet

    try:
        found = parquet.read_table(table, columns=["path"]).column("path").to_pylist()
    except (OSError, pyarrow.ArrowException, KeyError) as error:
        rule = f"is no table of paths: {str(error).splitlines()[0]}"
        raise InputError(rule, path=table, code="E_FORMAT") from None
    return [str(path) for path in found if path]


def _list_address(source: str) -> list[str] | Problem:
    """The image files at an address: itself, or those in all folders below."""
    from pyarrow import fs

    scheme = source.partition("://")[0]
    try:
        system, inner = open_address(source)
        info = system.get_file_info(inner)
        if info.type == fs.FileType.File:
            return [source]
        if info.type == fs.FileType.NotFound:
            return Problem(source, "does not exist", "E_UNREADABLE", action="left out")
        entries = system.get_file_info(fs.FileSelector(inner, recursive=True))
    except (OSError, ValueError, ImportError) as error:
        words = str(error).splitlines()[0] if str(error) else type(error).__name__
        return Problem(source, f"cannot be listed: {words}", "E_UNREADABLE", action="left out")
    names = sorted(each.path for each in entries if each.type == fs.FileType.File)
    hidden = re.compile(r"(^|/)\.")
    found = [
        f"{scheme}://{name}"
        for name in names
        if has_image_suffix(name) and not hidden.search(name.removeprefix(inner))
    ]
    return found or Problem(source, "holds no image", "E_NOTHING", action="left out")
