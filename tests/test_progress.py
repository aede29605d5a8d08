"""Work that other threads do ahead."""

import threading
import time

import pytest
import torch

from sppnet.progress import using_threads, work_ahead


@pytest.fixture(autouse=True)
def _three_threads():
    with using_threads(3):
        yield


@pytest.mark.parametrize("workers", [0, 1, 2, 5])
@pytest.mark.parametrize("count", [0, 1, 2, 17])
def test_results_come_in_order_whoever_is_first(workers: int, count: int) -> None:
    def work(n: int) -> int:
        time.sleep(0.004 * (n % 3))
        return n * n

    found = [(n, ready.result()) for n, ready in work_ahead(iter(range(count)), work, workers)]
    assert found == [(n, n * n) for n in range(count)]


def test_each_of_several_workers_computes_with_one_thread_and_nobody_else_does() -> None:
    def threads(_: int) -> tuple[str, int]:
        time.sleep(0.01)
        return threading.current_thread().name, torch.get_num_threads()

    found = [ready.result() for _, ready in work_ahead(range(8), threads, 2)]
    assert {count for _, count in found} == {1}
    assert len({name for name, _ in found}) == 2
    assert torch.get_num_threads() == 3
    later = [ready.result()[1] for _, ready in work_ahead(range(2), threads)]
    assert later == [3, 3]  # nor do threads that begin afterwards
    both = [ready.result()[1] for _, ready in work_ahead(range(4), threads, 2, alone=False)]
    assert both == [3] * 4


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_no_more_is_begun_than_the_workers_can_hold(workers: int) -> None:
    begun: list[int] = []
    ahead = work_ahead(iter(range(100)), begun.append, workers)
    for n, ready in ahead:
        ready.result()
        time.sleep(0.002)
        assert max(begun) <= n + workers
    assert sorted(begun) == list(range(100))


@pytest.mark.parametrize("workers", [0, 2])
def test_an_error_is_raised_where_its_item_is_and_the_others_go_on(workers: int) -> None:
    def work(n: int) -> float:
        return 1 / (n - 1)

    ahead = dict(work_ahead(range(3), work, workers))
    with pytest.raises(ZeroDivisionError):
        ahead[1].result()
    assert (ahead[0].result(), ahead[2].result()) == (-1, 1)


def test_who_stops_early_does_not_wait_for_the_rest() -> None:
    begun: list[int] = []
    for _ in work_ahead(iter(range(1000)), begun.append, 2):
        break
    time.sleep(0.01)
    assert len(begun) <= 4
    assert threading.active_count() < 20


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_where_no_thread_can_be_begun_those_that_are_do_not_wait_for_ever(monkeypatch) -> None:
    begin, before = threading.Thread.start, set(threading.enumerate())

    def refuse_the_second(thread: threading.Thread) -> None:
        if set(threading.enumerate()) - before:
            raise RuntimeError("can't start new thread")
        begin(thread)

    monkeypatch.setattr(threading.Thread, "start", refuse_the_second)
    with pytest.raises(RuntimeError, match="new thread"):
        next(work_ahead(range(3), str, 2))
    for thread in set(threading.enumerate()) - before:
        thread.join(5)
        assert not thread.is_alive()
