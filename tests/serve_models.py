"""Models that the children of a pool hold in tests: each does to a photo what its bytes say."""

import ctypes
import hashlib
import os
import time
from pathlib import Path
from typing import Any

from sppnet.errors import InputError, UnusableFileError

GREEDY = 5_000_000_000  # bytes


class Obedient:
    """Answers with the digest of a photo, unless the photo says otherwise behind its GIF header."""

    def describe(self) -> dict[str, Any]:
        return {"kind": "classifier", "model": "0" * 64, "names": ["yes", "no"]}

    def answer(self, name: str, photo: bytes) -> dict[str, Any]:
        word = photo[6:].partition(b" ")[0].decode("ascii", "replace")
        if word == "die":
            os._exit(3)
        if word == "crash":
            ctypes.string_at(0)
        if word == "loop":
            while True:
                pass
        if word == "greedy":
            bytearray(GREEDY)
        if word == "bug":
            raise KeyError("/secret/path of a bug")
        if word == "damaged":
            raise InputError(
                "the words of a decoder at 0x7f00", path="/secret", code="E_UNREADABLE"
            )
        if word == "nan":
            return {"scores": [float("nan")]}
        if word == "slow":
            time.sleep(0.3)
        digest = hashlib.sha256(photo).hexdigest()
        return {"file": name, "width": 1, "height": 1, "labels": [0], "names": [digest],
                "scores": [1.0]}  # fmt: skip


def open_obedient() -> Obedient:
    """A model."""
    return Obedient()


def open_none() -> Obedient:
    """A model that cannot be read."""
    raise UnusableFileError("is no model", path="run/model", code="E_CHECKSUM")


def open_dying() -> Obedient:
    """A model that takes the process with it."""
    os._exit(9)


def open_once(folder: str) -> Obedient:
    """A model that is another one the second time."""
    model = Obedient()
    place = Path(folder) / "opened"
    if place.exists():
        model.describe = lambda: {"kind": "classifier", "model": "1" * 64, "names": []}  # type: ignore[method-assign]
    place.write_bytes(b"")
    return model


def open_kept(folder: str) -> Obedient:
    """A model whose weights may be removed."""
    if not (Path(folder) / "weights").exists():
        raise UnusableFileError("the file does not exist", path="weights", code="E_MISSING")
    return Obedient()


def order(word: str, more: object = "") -> bytes:
    """A photo, by its first bytes, that says what to do."""
    return b"GIF89a" + f"{word} {more}".encode()
