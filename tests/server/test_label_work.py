"""The thread that learns: soon after edits, never in their way, and it lives through failures."""

import threading
import time
from types import SimpleNamespace

import pytest

from label_people import StandInSession, wait_for
from sppnet.errors import OutputError, UsageError
from sppnet.labelling.base import list_photos, open_store
from sppnet.server import label_work
from sppnet.server.answers import EventHub, error_response
from sppnet.server.board import Board, Withheld
from sppnet.server.label_work import LabelWork
from sppnet.storage.label_store import LabelStore


@pytest.fixture
def made(folder):
    store = open_store(folder, None, "detect")
    session = StandInSession(store, list_photos(folder))
    board = Board(store, session.photos)
    hub, heard = EventHub(), []
    hub.publish = lambda *event: heard.append(event)
    work = LabelWork(lambda: session, board, Withheld(board), hub, settle=0.02)
    work.suggest = session.suggest
    yield SimpleNamespace(work=work, session=session, store=store, heard=heard, folder=folder)
    session.blocker.set()
    if work._thread.ident is not None:
        work.stop()


def draw(made, photo: str = "a.jpg") -> None:
    made.session.set_boxes(photo, [[1, 1, 9, 9]], ["cat"])
    made.work.edited(photo)


def test_edits_that_come_together_are_learnt_once(made, monkeypatch) -> None:
    made.work.settle = 0.2
    made.work.start()
    made.work.session  # noqa: B018 (it is open)
    for _ in range(5):
        draw(made)
        time.sleep(0.02)
    assert made.session.fits == []
    wait_for(lambda: made.session.fits)
    time.sleep(0.3)
    assert made.session.fits == [False]


def test_an_edit_is_answered_while_a_fit_runs(made) -> None:
    made.session.fit_seconds = 30.0
    made.work.start()
    draw(made)
    wait_for(lambda: "fitting" in str(made.heard))
    begin = time.monotonic()
    draw(made, "b.png")
    assert made.work.state()["phase"] == "queued"
    assert time.monotonic() - begin < 1.0
    made.session.blocker.set()
    wait_for(lambda: len(made.session.fits) == 2)  # what came meanwhile is learnt, too


def test_what_was_labelled_before_is_learnt_at_once(made) -> None:
    made.session.set_boxes("a.jpg", [[1, 1, 9, 9]], ["cat"])
    made.work.start()
    wait_for(lambda: made.session.fits)


def test_what_another_process_draws_is_learnt(made, monkeypatch) -> None:
    monkeypatch.setattr(label_work, "LOOK", 0.05)
    made.work.start()
    made.work.session  # noqa: B018
    with LabelStore(made.store.folder) as other:
        other.put("a.jpg", [], state="empty")
        assert made.session.fits == []
        made.store.put("b.png", made.store.labels("a.jpg").boxes, state="empty")
    draw(made, "b.png")
    wait_for(lambda: made.session.fits)


def test_nothing_to_learn_from_is_no_failure(made) -> None:
    made.session.set_empty("a.jpg")
    made.work.start()
    made.work.edited("a.jpg")
    wait_for(lambda: made.work._learnt == made.work._edits > 0)
    assert made.work.state()["phase"] == "idle"


def test_a_failed_fit_is_told_and_the_next_edit_is_learnt(made) -> None:
    made.session.failure = "the disk is full"
    made.work.start()
    draw(made)
    wait_for(lambda: made.session.fits)
    wait_for(lambda: made.work.state()["phase"] == "failed")
    assert made.work.state()["message"] == "the disk is full"
    made.session.failure = ""
    draw(made, "b.png")
    wait_for(lambda: len(made.session.fits) == 2)
    wait_for(lambda: made.work.state()["phase"] == "idle")


def test_a_failure_is_told_without_the_paths_of_this_machine(made) -> None:
    made.session.failure = f"cannot write {made.store.path}: the disk is full"
    made.work.start()
    draw(made)
    wait_for(lambda: made.work.state()["phase"] == "failed")
    message = made.work.state()["message"]
    assert message == "cannot write photos/.sppnet/labels.sqlite: the disk is full"


def test_a_bug_does_not_end_the_thread(made, monkeypatch) -> None:
    monkeypatch.setattr(label_work, "LOOK", 0.01)

    def explode(*_: object, **__: object) -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr(made.session, "refit", explode)
    made.work.start()
    draw(made)
    wait_for(lambda: "a bug: RuntimeError" in str(made.heard))
    assert made.work.state()["phase"] == "failed"
    monkeypatch.undo()
    draw(made, "b.png")
    wait_for(lambda: made.session.fits)
    wait_for(lambda: made.work.state()["phase"] == "idle")


def test_who_comes_before_the_session_is_open_may_come_again(made, monkeypatch) -> None:
    monkeypatch.setattr(label_work, "OPENING_SECONDS", 0.01)
    with pytest.raises(OutputError) as caught:
        made.work.session  # noqa: B018
    assert error_response(caught.value).status_code == 503


def test_a_session_that_cannot_be_opened_is_told(made) -> None:
    ended = threading.Event()

    def refuse() -> None:
        raise UsageError("the weights are not there")

    made.work._open, made.work.on_failure = refuse, ended.set
    made.work.start()
    assert ended.wait(10)
    with pytest.raises(UsageError, match="weights"):
        made.work.session  # noqa: B018
    assert made.work.state()["phase"] == "failed"


def test_the_thread_outlives_a_failure_that_cannot_be_told(made, monkeypatch) -> None:
    monkeypatch.setattr(label_work, "LOOK", 0.01)
    tries = []

    def explode(*_: object, **__: object) -> None:
        tries.append(1)
        raise OutputError("the label store fails: disk I/O error")

    monkeypatch.setattr(made.work, "state", explode)
    made.work.start()
    draw(made)
    wait_for(lambda: len(tries) > 3)
    monkeypatch.undo()
    draw(made, "b.png")
    wait_for(lambda: made.session.fits)


def test_a_session_that_cannot_be_opened_ends_the_server_also_if_it_cannot_be_told(made) -> None:
    ended = threading.Event()

    def refuse() -> None:
        raise OutputError("the label store fails: disk I/O error")

    made.work._open, made.work.state, made.work.on_failure = refuse, refuse, ended.set
    made.work.start()
    assert ended.wait(5)


def test_measuring_gives_way_to_an_edit(made, monkeypatch) -> None:
    monkeypatch.setattr(label_work, "QUIET", 0.0)
    made.work.start()
    draw(made)
    wait_for(lambda: made.session.fits)
    made.session.fit_seconds = 30.0
    made.session.blocker.set()  # fits are quick, measuring is not
    draw(made, "b.png")
    wait_for(lambda: len(made.session.fits) == 2)
    time.sleep(0.1)
    begin = time.monotonic()
    draw(made, "sub/c d.jpg")
    wait_for(lambda: len(made.session.fits) == 3)
    assert time.monotonic() - begin < 5.0
    assert made.session.stopped >= 1


def test_what_is_measured_is_kept_and_makes_a_curve(made, monkeypatch) -> None:
    monkeypatch.setattr(label_work, "QUIET", 0.0)
    made.work.start()
    draw(made)
    wait_for(lambda: made.work.expected())
    draw(made, "b.png")
    curve = wait_for(lambda: made.work.curve() if len(made.work.curve()) == 2 else None)
    assert [point["labelled"] for point in curve] == [1, 2]
    assert made.work.expected()["recall"] == 0.75
    assert made.work.expected()["labelled"] == 2
    told = [1, 2]  # soon after it is kept
    wait_for(lambda: told == [d["labelled"] for event, d in made.heard if event == "expected"])
    assert made.work.expected()["agreement_photos"] == 0
    assert made.store.fact("expected")  # for the next start


def test_a_full_training_is_asked_for_once(made) -> None:
    made.session.set_boxes("a.jpg", [[1, 1, 9, 9]], ["cat"])
    made.work.start()
    wait_for(lambda: made.session.fits)
    made.work.refit(full=True)
    wait_for(lambda: True in made.session.fits)
    draw(made, "b.png")
    wait_for(lambda: len(made.session.fits) > made.session.fits.index(True) + 1)
    assert made.session.fits.count(True) == 1


def test_what_was_learnt_is_kept_once_it_is_quiet(made, monkeypatch) -> None:
    monkeypatch.setattr(label_work, "LOOK", 0.02)
    monkeypatch.setattr(label_work, "KEEP_EVERY", 0.3)
    made.work.start()
    draw(made)
    wait_for(lambda: made.session.fits)
    assert made.session.kept == 0
    wait_for(lambda: made.session.kept)
