"""Events reach every listener, and one that does not read holds nobody up."""

import asyncio
import json
import threading
from pathlib import Path

import pytest

from sppnet.errors import NothingUsableError
from sppnet.server import answers as events
from sppnet.server.answers import EventHub, error_response


def test_events_come_from_any_thread_in_order() -> None:
    hub = EventHub()

    async def listen() -> list[str]:
        heard = []
        async for text in hub.listen([("first", 0)]):
            heard.append(text)
            if len(heard) == 1:
                threading.Thread(target=lambda: [hub.publish("n", i) for i in range(5)]).start()
            if len(heard) == 6:
                return heard
        return heard

    heard = asyncio.run(listen())
    assert heard == ["event: first\ndata: 0\n\n", *(f"event: n\ndata: {i}\n\n" for i in range(5))]


def test_what_is_not_finite_becomes_null_and_no_line_breaks() -> None:
    text = events.format_event("x", {"recall": float("nan"), "name": "a\nb"})
    assert text.count("\n") == 3
    assert json.loads(text.split("data: ")[1]) == {"recall": None, "name": "a\nb"}


def test_silence_is_filled(monkeypatch) -> None:
    monkeypatch.setattr(events, "SILENCE", 0.01)

    async def listen() -> str:
        return await anext(EventHub().listen())

    assert asyncio.run(listen()).startswith(":")


def test_a_listener_that_does_not_read_is_let_go(monkeypatch) -> None:
    monkeypatch.setattr(events, "MOST_WAITING", 10)
    hub = EventHub()

    async def sleep_through() -> list[str]:
        listener = hub.listen([("first", 0)])
        await anext(listener)
        for number in range(30):
            hub.publish("n", number)
        await asyncio.sleep(0)  # the queue fills while nobody reads
        return [text async for text in listener]

    assert len(asyncio.run(sleep_through())) < 10
    assert not hub._listeners


def test_one_listener_too_many_hears_nothing() -> None:
    hub = EventHub()

    async def listen() -> tuple[list[str], list[str]]:
        listeners = [hub.listen([("first", 0)]) for _ in range(events.MOST_LISTENERS)]
        heard = [await anext(each) for each in listeners]
        beyond = [text async for text in hub.listen([("first", 0)])]
        await listeners[0].aclose()
        again = hub.listen([("first", 0)])
        heard.append(await anext(again))
        return heard, beyond

    heard, beyond = asyncio.run(listen())
    assert (len(heard), beyond) == (65, [])


def test_closing_lets_all_go_and_nobody_in() -> None:
    hub = EventHub()

    async def listen() -> list[str]:
        first = hub.listen([("first", 0)])
        await anext(first)
        hub.close()
        rest = [text async for text in first]
        return rest + [text async for text in hub.listen([("late", 0)])]

    assert asyncio.run(listen()) == []


@pytest.mark.parametrize("folder", ["photos", "."])
def test_only_absolute_paths_are_taken_out_of_messages(tmp_path, monkeypatch, folder: str) -> None:
    (tmp_path / "photos").mkdir()
    monkeypatch.chdir(tmp_path)
    own = Path(folder).absolute()
    text = f"two photos or more must be in {own}/a.b"
    answer = error_response(NothingUsableError(text), [Path(folder)])
    said = json.loads(answer.body)["error"]["message"]
    assert said == f"two photos or more must be in {own.name}/a.b"
