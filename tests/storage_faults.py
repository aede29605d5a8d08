"""Faults of the disk for the tests of every room: full, or the k-th call fails."""

import os
import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from sppnet.errors import OutputError

CALLS = ("open", "write", "fsync", "replace", "rename", "mkdir")


@contextmanager
def file_size_limit(size: int) -> Iterator[None]:
    """A disk that is full after ``size`` bytes of any file."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@contextmanager
def without_root() -> Iterator[None]:
    """Root ignores mode bits: act as nobody meanwhile."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


def lie_once(told: bytes, kept: bytes) -> Callable[[int, bytes], int]:
    """A call of the system that keeps other bytes, the first time that it is told certain ones."""
    write, lies = os.write, [kept]

    def call(descriptor: int, data: bytes) -> int:
        if told in bytes(data) and lies:
            return write(descriptor, bytes(data).replace(told, lies.pop()))
        return write(descriptor, data)

    return call


def names_in(folder: Path) -> list[str]:
    """What lies in a folder, hidden files too."""
    return sorted(path.name for path in folder.iterdir())


def failure_of(action: Callable[[], object]) -> str | None:
    """Text of the OutputError that an action ends in; None when it succeeds."""
    try:
        action()
    except OutputError as error:
        return str(error)
    return None


def fail_call(patch: pytest.MonkeyPatch, k: int, code: int) -> list[str]:
    """Make the k-th of the system's writing calls fail; the list tells which one did."""
    calls: list[str] = []
    fired: list[str] = []

    def wrap(name: str, real: Callable[..., object]) -> Callable[..., object]:
        def call(*args: object, **kwargs: object) -> object:
            calls.append(name)
            if len(calls) == k:
                fired.append(name)
                raise OSError(code, os.strerror(code))
            return real(*args, **kwargs)

        return call

    for name in CALLS:
        patch.setattr(os, name, wrap(name, getattr(os, name)))
    return fired
