"""The fuzzing of ``benchmarks/fuzz.py``: a little of each kind, and that it sees what is wrong."""

import mmap
import os
import random
import signal
import sys
import time
from pathlib import Path

import pytest

import fuzz
from fuzz_kinds import KINDS, Kind
from fuzz_mutations import BY_ENDING, spoil_bytes, spoil_file
from sppnet.errors import UnusableFileError

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


class Planted(Kind):
    """Inputs that are read, refused, refused in too long a line, a bug, large, deadly or slow."""

    way = "read"

    def make(self, draw: random.Random) -> None:  # noqa: ARG002
        """Nothing to write; the first inputs only warm the child."""
        self.made = getattr(self, "made", 0) + 1

    def read(self) -> None:
        """Behave as the class says."""
        if self.made <= fuzz.WARM_INPUTS or self.way == "read":
            return
        if self.way == "refused":
            raise UnusableFileError("is damaged")
        if self.way == "long":
            raise UnusableFileError("is damaged", path="y" * 4000)
        if self.way == "bug":
            raise KeyError("a fault")
        if self.way == "peak":
            self.large = mmap.mmap(-1, 60_000_000)  # new pages, whatever the parent has freed
            self.large.write(bytes(len(self.large)))
        if self.way == "signal":
            os.kill(os.getpid(), signal.SIGSEGV)
        while self.way == "hang":
            time.sleep(0.01)


@pytest.fixture
def in_this_process(tmp_path: Path):
    """Read inputs here, of which none may do harm."""

    def read(kind: str, count: int) -> dict[str, int]:
        source = KINDS[kind](tmp_path, None)
        source.make(random.Random(0))
        fuzz.try_input(source)  # imports take seconds of their own
        tally = fuzz.Tally(kind, 0)
        for number in range(count):
            source.make(random.Random(f"test-{kind}-{number}"))
            begin = time.process_time()
            outcome, detail = fuzz.try_input(source)
            seconds = time.process_time() - begin
            answer = {"outcome": outcome, "detail": detail, "seconds": seconds, "bytes": 0}
            tally.add(number, answer)
        assert not tally.faults
        return tally.counts

    return read


COUNTS = {
    "images": 80,
    "annotations": 12,
    "trainings": 12,
    "proposals": 100,
    "detections": 12,
    "models": 20,
}


@pytest.mark.parametrize("kind", KINDS)
def test_spoilt_inputs_are_read_or_refused(kind: str, in_this_process, monkeypatch) -> None:
    monkeypatch.setenv("SPPNET_MAX_PIXELS", "1000000")
    counts = in_this_process(kind, COUNTS[kind])
    assert counts["read"] > 0
    assert counts["refused"] > 0


WAYS = {"read": "read", "refused": "refused", "long": "traceback", "bug": "traceback"}
WAYS |= {"peak": "peak", "signal": "signal", "hang": "hang"}


@pytest.mark.parametrize("way", WAYS)
def test_faults_are_counted_and_kept(tmp_path: Path, monkeypatch, way: str) -> None:
    """In a child that is forked, so that it knows the planted kind."""
    monkeypatch.setitem(KINDS, "planted", Planted)
    monkeypatch.setattr(Planted, "way", way)
    monkeypatch.setattr(fuzz, "START_METHOD", "fork")
    monkeypatch.setattr(fuzz, "PEAK_BYTES", 40_000_000)
    if way == "hang":
        monkeypatch.setattr(fuzz, "STILL_SECONDS", 3.0)
    tally = fuzz.fuzz("planted", seconds=60, most=1, keep=tmp_path)
    assert +tally.counts == {WAYS[way]: 1}
    assert len(list(tmp_path.iterdir())) == len(tally.faults) == (WAYS[way] in fuzz.FAULTS)


@pytest.mark.parametrize("ending", [*BY_ENDING, ".bin"])
def test_the_same_draw_spoils_in_the_same_way(ending: str) -> None:
    text = b'{"images": [{"id": 1, "b": [1, 2.5]}]}\nnames: [a]\n<a><b>1</b></a>\nx,y\n1,2\n'
    found = [spoil_file(random.Random(n), text, ending, [text]) for n in range(60)]
    assert found == [spoil_file(random.Random(n), text, ending, [text]) for n in range(60)]
    assert len(set(found)) > 40
    assert all(len(each) <= 1 << 22 for each in found)
    assert spoil_bytes(random.Random(0), b"") is not None
