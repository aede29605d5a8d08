"""The answers of ``benchmarks/serve_answers.py``: a few, and that it sees those of others."""

import json

import numpy as np
import pytest

import serve_answers

ASKED = serve_answers.digest_requests(8)


def answer(asked: serve_answers.Asked, *texts: str) -> tuple[int, bytes]:
    images = [
        {"file": name, "names": [text]} for name, text in zip(asked.names, texts, strict=True)
    ]
    return 200, json.dumps({"images": images}).encode()


def all_right() -> list[tuple[int, bytes]]:
    return [answer(each, *each.wanted) for each in ASKED]


def test_every_picture_is_another_one_and_its_file_says_it_exactly() -> None:
    texts = [text for each in ASKED for text in each.wanted]
    assert len(set(texts)) == len(texts) > len(ASKED)
    assert {photo[:2] for each in ASKED for photo in each.photos} == {b"BM", b"\x89P"}
    digests = serve_answers.open_digests(0)
    for each in ASKED:
        said = [digests.answer("", photo)["names"][0] for photo in each.photos]
        assert tuple(said) == each.wanted


def test_one_pixel_makes_another_digest() -> None:
    pixels = serve_answers.picture(7, 16, 16)
    other = pixels.copy()
    other[-1, -1, -1] ^= 1
    assert serve_answers.digest_of(pixels) != serve_answers.digest_of(other)
    assert not np.array_equal(pixels, serve_answers.picture(8, 16, 16))


def test_right_answers_are_right() -> None:
    found = serve_answers.judge(ASKED, all_right(), 0)
    assert (found["correct"], found["beyond"]) == (8, [])


FORM = 3  # the place of a form of several photos
SWAPPED = answer(ASKED[FORM], *ASKED[FORM].wanted[1::-1], *ASKED[FORM].wanted[2:])


@pytest.mark.parametrize(
    ("changes", "wanted"),
    [
        ({0: (0, b"")}, {"lost": 1}),
        ({0: (429, b"{}")}, {"lost": 1}),
        ({0: (200, b"no JSON")}, {"lost": 1}),
        ({FORM: answer(ASKED[0], *ASKED[0].wanted)}, {"mixed": 1, "duplicated": 1}),
        ({0: (200, b'{"images": []}')}, {"lost": 1}),
        ({0: answer(ASKED[0], *ASKED[1].wanted)}, {"mixed": 1, "duplicated": 1}),
        ({0: answer(ASKED[0], *ASKED[1].wanted), 1: answer(ASKED[1], *ASKED[0].wanted)},
         {"mixed": 2}),
        ({FORM: SWAPPED}, {"mixed": 1}),
        ({FORM: answer(ASKED[FORM], *ASKED[FORM].wanted[1:], "0" * 64)}, {"wrong": 1}),
        ({0: answer(ASKED[0], "0" * 64)}, {"wrong": 1}),
    ],
)  # fmt: skip
def test_answers_of_others_and_none_are_seen(changes: dict, wanted: dict) -> None:
    answers = [changes.get(place, each) for place, each in enumerate(all_right())]
    found = serve_answers.judge(ASKED, answers, 0)
    assert {name: found[name] for name in serve_answers.FAULTS if found[name]} == wanted
    assert set(found["beyond"]) == set(wanted)


def test_more_than_was_asked_for_is_seen() -> None:
    assert serve_answers.judge(ASKED, all_right(), 1)["beyond"] == ["duplicated"]


@pytest.mark.parametrize("mix", [0, 20])
def test_a_server_that_mixes_answers_up_is_seen(mix: int) -> None:
    words = (serve_answers.__file__, "serve", "--mix", str(mix))
    found = serve_answers.bench(words, serve_answers.digest_requests(200))
    assert found["statuses"] == {"200": 200}
    assert (found["mixed"] > 0) == (found["duplicated"] > 0) == bool(mix)
    assert found["correct"] + found["mixed"] == 200
