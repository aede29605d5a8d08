"""The load of ``benchmarks/serve_load.py``: a little of it, and that it sees what is wrong."""

import asyncio
import io
from argparse import Namespace

import pytest
from PIL import Image

import serve_load

OPTIONS = Namespace(model=None, milliseconds=30.0, minutes=0.05, saturate=1.5, rounds=1, seed=0)


def test_photo_is_one_of_100_kilobytes() -> None:
    photo = serve_load.jpeg()
    assert 90_000 < len(photo) <= serve_load.PHOTO_BYTES
    assert Image.open(io.BytesIO(photo)).size == serve_load.SIDES


def answer(status: int, begin: float, seconds: float, *, tells_when: bool = True):
    return serve_load.Answer(status, begin, begin, begin + seconds, tells_when)


@pytest.mark.parametrize(
    ("change", "wanted"),
    [
        ({}, []),
        ({"goods": 10}, ["goodput under 90 %"]),
        ({"status": 500}, ["other statuses", "refusals over 50 ms"]),
        ({"status": 0}, ["other statuses", "refusals over 50 ms"]),
        ({"tells_when": False}, ["no Retry-After"]),
        ({"refused": 0.2}, ["refusals over 50 ms"]),
        ({"good": 4.0}, ["goodput under 90 %", "answers over the queue's 2 s and 3 p50"]),
        ({"peak": 900.0}, ["memory over 100 MB"]),
        ({"normal": 6.0}, ["not normal in 5 s"]),
    ],
)
def test_each_line_of_the_bar_of_overload_is_seen_to_be_broken(change: dict, wanted: list) -> None:
    held = {"goods": 20, "status": 429, "tells_when": True, "refused": 0.01, "good": 1.0,
            "peak": 120.0, "normal": 1.0} | change  # fmt: skip
    answers = [answer(200, number / 20, held["good"]) for number in range(held["goods"])]
    answers += [
        answer(held["status"], number / 80, held["refused"], tells_when=held["tells_when"])
        for number in range(80)
    ]
    answers.append(answer(200, 0.0, 1.0))
    load = serve_load.Load(most=10.0, usual=0.03, before=100.0, peak=held["peak"], after=100.0,
                           normal=held["normal"])  # fmt: skip
    assert serve_load.judge_overload(load, answers)["beyond"] == wanted


def test_too_many_requests_are_refused_and_the_server_is_itself_again() -> None:
    found = serve_load.bench_overload(OPTIONS)
    assert found["statuses_of_requests"].keys() <= {"200", "429", "503"}
    assert found["statuses_of_requests"]["429"] > 20
    assert "no Retry-After" not in found["beyond"]
    assert found["workers_lost"] == 0


def test_requests_before_a_signal_are_answered() -> None:
    found = serve_load.bench_drain(OPTIONS)
    assert found["lost_that_were_sent_before"] == 0
    assert found["statuses"]["before 200"] >= 1


def test_a_request_that_nobody_hears_is_no_answer() -> None:
    assert asyncio.run(serve_load.post("127.0.0.1:1", b"photo", 0.0)).status == 0
