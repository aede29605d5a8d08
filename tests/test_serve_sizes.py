"""The requests of ``benchmarks/serve_sizes.py``: a few of them, and that it sees what is wrong."""

import sys

import pytest

import serve_sizes

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="/proc tells what a server takes")

GOOD = {"statuses": [413], "megabytes_read": 20.0, "megabytes_read_until_refused": 0.1,
        "megabytes_of_memory": 5.0, "processor_seconds": 0.1, "is_alive": True}  # fmt: skip


@pytest.mark.parametrize(
    ("change", "wanted"),
    [
        ({}, []),
        ({"statuses": [200]}, ["answered", "not refused"]),
        ({"statuses": []}, ["not refused"]),
        ({"statuses": [500]}, ["a bug"]),
        ({"megabytes_read_until_refused": 1.0}, ["read"]),
        ({"megabytes_read": 50.0}, ["read on"]),
        ({"megabytes_of_memory": 31.0}, ["memory"]),
        ({"processor_seconds": 0.3}, ["processor"]),
        ({"is_alive": False}, ["dead"]),
    ],
)
def test_each_line_of_the_bar_is_seen_to_be_broken(change: dict, wanted: list[str]) -> None:
    request = serve_sizes.Hostile("length", ())
    assert serve_sizes.judge(request, {**GOOD, **change}) == wanted


@pytest.mark.parametrize("name", ["length of 100 GB", "100,000 header lines", "epilogue"])
def test_what_is_too_large_is_refused_and_kept_nowhere(name: str) -> None:
    (request,) = (each for each in serve_sizes.requests() if each.name == name)
    found = serve_sizes.measure(request, 20.0)
    assert found["statuses"][-1] in (400, 413)
    assert not {"read", "memory", "not refused", "dead"} & set(found["beyond"])


def test_a_body_that_is_taken_is_seen_to_be_answered_and_to_be_in_memory() -> None:
    length = 19_000_000
    head = (serve_sizes.RAW, f"Content-Length: {length}")
    body = serve_sizes.pieces(serve_sizes.GIF + bytes(length - len(serve_sizes.GIF)))
    found = serve_sizes.measure(serve_sizes.Hostile("a photo", head, body), 20.0)
    assert found["statuses"] == [200]
    assert found["megabytes_of_memory"] > 15
    assert found["megabytes_read"] > 18.9
    assert {"answered", "not refused"} <= set(found["beyond"])
