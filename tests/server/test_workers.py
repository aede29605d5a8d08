"""Children that crash, hang, grow or vanish cost the photo that they looked at, and no other."""

import hashlib
import json
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from serve_models import open_dying, open_kept, open_none, open_obedient, open_once, order
from sppnet.errors import OutputError, UnusableFileError
from sppnet.server.serve_app import build_serve_app
from sppnet.server.serve_gate import Access, UploadLimits
from sppnet.server.workers import BusyError, NotReadyError, PoolLimits, Reply, WorkerPool

SOON = 60.0  # seconds on a busy machine


@contextmanager
def pool_of(opener=open_obedient, arguments=(), **limits) -> Iterator[WorkerPool]:
    pool = WorkerPool(opener, arguments, PoolLimits(**{"megabytes": 500, **limits}))
    try:
        pool.start()
        yield pool
    finally:
        pool.close()


def ask(pool: WorkerPool, *words: str) -> list[Reply]:
    futures = pool.submit([(f"{word}.gif", order(word)) for word in words])
    return [future.result(SOON) for future in futures]


def wait_for(fact: Callable[[], object]) -> None:
    end = time.monotonic() + SOON
    while not fact():
        assert time.monotonic() < end
        time.sleep(0.02)


def count_files() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


@pytest.fixture(scope="module")
def pool() -> Iterator[WorkerPool]:
    with pool_of(workers=2, seconds=5.0) as made:
        yield made


def test_each_photo_has_its_own_answer(pool: WorkerPool) -> None:
    photos = [(f"{number}.gif", order("fine", number)) for number in range(30)]
    for (name, photo), future in zip(photos, pool.submit(photos), strict=True):
        said = json.loads(future.result(SOON).text)
        assert (said["file"], said["names"]) == (name, [hashlib.sha256(photo).hexdigest()])


@pytest.mark.parametrize(
    ("word", "code"),
    [("bug", "E_BUG"), ("nan", "E_BUG"), ("damaged", "E_UNREADABLE"), ("die", "E_WORKER"),
     ("crash", "E_WORKER")],
)  # fmt: skip
def test_what_goes_wrong_is_a_code_and_the_others_are_answered(
    pool: WorkerPool, word: str, code: str
) -> None:
    first, bad, last = ask(pool, "fine", word, "fine")
    assert (bad.code, bad.text) == (code, "")
    assert (first.code, last.code) == ("", "")
    wait_for(lambda: pool.ready_count == 2)


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere memory has no limit")
def test_memory_has_a_limit_and_the_child_is_replaced(pool: WorkerPool) -> None:
    before = set(pool.processes())
    assert [reply.code for reply in ask(pool, "greedy", "fine")] == ["E_MEMORY", ""]
    wait_for(lambda: pool.ready_count == 2)
    assert len(before - set(pool.processes())) == 1


def test_a_photo_that_takes_too_long_is_given_up() -> None:
    with pool_of(seconds=1.0) as pool:
        begin = time.monotonic()
        assert ask(pool, "loop")[0].code == "E_TIMEOUT"
        assert time.monotonic() - begin < SOON / 2
        wait_for(lambda: pool.is_ready)
        assert ask(pool, "fine")[0].code == ""
        assert pool.deaths == {"E_TIMEOUT": 1}


def test_a_photo_that_waited_too_long_is_not_looked_at() -> None:
    with pool_of(seconds=1.0, queue=8) as pool:
        futures = pool.submit([("a.gif", order("slow"))] * 5 + [("b.gif", order("die"))])
        codes = [future.result(SOON).code for future in futures]
        assert codes[0] == ""
        assert codes[-1] == "E_TIMEOUT"
        assert pool.deaths["E_WORKER"] == 0


def test_a_child_that_is_stopped_is_replaced_even_while_a_photo_is_sent() -> None:
    with pool_of(seconds=1.0) as pool:
        os.kill(pool.processes()[0], signal.SIGSTOP)
        (future,) = pool.submit([("large.gif", order("fine") + bytes(5_000_000))])
        assert future.result(SOON).code == "E_TIMEOUT"
        wait_for(lambda: pool.is_ready)
        assert ask(pool, "fine")[0].code == ""


def test_a_child_that_is_killed_while_it_rests_costs_nothing(pool: WorkerPool) -> None:
    wait_for(lambda: pool.ready_count == 2)
    deaths = sum(pool.deaths.values())
    for number in pool.processes():
        os.kill(number, signal.SIGKILL)
    # a photo that is sent to a child in the moment of its death is lost with it
    wait_for(lambda: sum(pool.deaths.values()) == deaths + 2)
    assert [reply.code for reply in ask(pool, *["fine"] * 8)] == [""] * 8  # they wait for others
    wait_for(lambda: pool.ready_count == 2)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_children_that_are_gone_leave_nothing_open() -> None:
    with pool_of(workers=1) as pool:
        before, gone = count_files(), set()
        for _ in range(2):
            (number,) = pool.processes()
            gone.add(number)
            os.kill(number, signal.SIGKILL)
            wait_for(lambda: pool.processes() and gone.isdisjoint(pool.processes()))
        assert count_files() == before


def test_signals_of_the_terminal_leave_children_alone(pool: WorkerPool) -> None:
    wait_for(lambda: pool.ready_count == 2)
    before = pool.processes()
    for number in before:
        os.kill(number, signal.SIGINT)
        os.kill(number, signal.SIGTERM)
    assert [reply.code for reply in ask(pool, "fine", "fine", "fine")] == ["", "", ""]
    assert pool.processes() == before


def test_the_queue_is_bounded_all_or_none() -> None:
    with pool_of(queue=3) as pool:
        futures = pool.submit([("a.gif", order("slow"))])
        wait_for(lambda: pool.waiting_count == 0)  # it is looked at
        futures += pool.submit([("b.gif", order("slow")), ("c.gif", order("slow"))])
        with pytest.raises(BusyError) as busy:
            pool.submit([("d.gif", order("slow"))] * 2)
        assert 1 <= busy.value.seconds <= 60
        assert pool.waiting_count == 2
        assert not pool.is_full
        futures += pool.submit([("e.gif", order("slow"))])
        assert pool.is_full
        assert [future.result(SOON).code for future in futures] == [""] * 4


def test_a_photo_that_nobody_waits_for_is_not_looked_at() -> None:
    with pool_of() as pool:
        pool.submit([("a.gif", order("slow"))])
        wait_for(lambda: pool.waiting_count == 0)
        (given_up,) = pool.submit([("b.gif", order("die"))])
        assert given_up.cancel()
        assert ask(pool, "fine")[0].code == ""
        assert not pool.deaths


def test_a_model_that_cannot_be_read_is_said_at_once() -> None:
    with pytest.raises(UnusableFileError, match="is no model") as told, pool_of(open_none):
        pass
    assert (told.value.code, str(told.value.path)) == ("E_CHECKSUM", "run/model")
    with pytest.raises(OutputError, match="ended before"), pool_of(open_dying):
        pass


def test_answers_are_never_those_of_another_model(tmp_path) -> None:
    with pool_of(open_once, (str(tmp_path),)) as pool:
        assert pool.about["model"] == "0" * 64
        os.kill(pool.processes()[0], signal.SIGKILL)
        (future,) = pool.submit([("a.gif", order("fine"))])
        assert future.result(SOON).code in ("E_NOT_READY", "E_WORKER")
        wait_for(lambda: pool.deaths.total() >= 2)
        assert not pool.is_ready
        with pytest.raises(NotReadyError):
            pool.submit([("a.gif", order("fine"))])


def test_health_and_readiness_tell_the_truth_within_a_second(tmp_path) -> None:
    weights = tmp_path / "weights"
    weights.write_bytes(b"")
    with pool_of(open_kept, (str(tmp_path),), queue=2) as pool:
        app = build_serve_app(pool, Access(), UploadLimits(), lambda: 8000)
        client = TestClient(app, base_url="http://127.0.0.1:8000")

        def told() -> tuple[int, int]:
            return tuple(client.get(page).status_code for page in ("/health", "/ready"))

        assert told() == (200, 200)
        weights.unlink()
        assert ask(pool, "fine")[0].code == ""  # what was read is there still
        futures = pool.submit([("a.gif", order("slow"))] * 2)
        assert told() == (200, 200)  # a full queue is no reason to send nothing ever again
        assert [future.result(SOON).code for future in futures] == ["", ""]
        end = time.monotonic() + 1.0
        os.kill(pool.processes()[0], signal.SIGKILL)
        while told() != (200, 503):
            assert time.monotonic() < end
        wait_for(lambda: pool.deaths["E_NOT_READY"] >= 2)  # others cannot start without weights
        assert told() == (200, 503)
        with pytest.raises(NotReadyError):
            pool.submit([("a.gif", order("fine"))])
        weights.write_bytes(b"")
        wait_for(lambda: told() == (200, 200))
        assert ask(pool, "fine")[0].code == ""


def test_photos_in_the_queue_are_refused_when_the_pool_is_closed() -> None:
    with pool_of() as pool:
        first, second = pool.submit([("a.gif", order("slow")), ("b.gif", order("fine"))])
        wait_for(lambda: pool.waiting_count == 1)
        pool.drain()
        assert not pool.is_ready
        left = pool.processes()
        pool.close()
        assert first.result(SOON).code == ""
        assert second.result(SOON).code == "E_NOT_READY"
        assert not pool.processes()
        assert all(not is_alive(number) for number in left)


def is_alive(number: int) -> bool:
    try:
        os.kill(number, 0)
    except ProcessLookupError:
        return False
    return True
