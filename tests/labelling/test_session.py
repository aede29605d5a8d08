"""A session keeps what is said, learns it at once, and forgets what is taken back."""

import threading
import time
from pathlib import Path

import pytest
import torch

from labelled_scenes import CONFIG
from sppnet import Detector, LabelSession
from sppnet.app.detect.train import TrainingJob
from sppnet.errors import InputError, NothingUsableError, UsageError
from sppnet.evaluation import evaluate_detections
from sppnet.images import open_detection_dataset
from sppnet.labelling import loop
from sppnet.labelling.base import StoppedError
from sppnet.storage import ConflictError, sha256_file


def bytes_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.glob("*.*")) if path.is_file()}


def weights(session: LabelSession) -> torch.Tensor:
    return session._loop.learner.detector().tensors()["scorer.weights"]


def test_one_box_on_one_photo_gives_suggestions_of_its_class(session, photos) -> None:
    first, second = session.photos[:2]
    image = photos.truth[first]
    assert session.suggest(second).count == 0  # nothing is known yet
    session.set_boxes(first, image.boxes[:1], ["thing"])
    state = session.refit()
    assert (state.phase, state.labelled, state.waiting) == ("idle", 1, 0)
    found = session.suggest(first)
    assert set(found.names) == {"thing"}
    assert found.model == state.model
    assert found.confidence is not None


def test_photos_are_never_touched(session, photos) -> None:
    before = bytes_of(photos.folder)
    for photo in session.photos[:3]:
        photos.label(session, photo)
    session.refit()
    session.suggest(session.photos[4])
    session.undo(session.photos[0])
    assert bytes_of(photos.folder) == before


def test_suggestions_stay_apart_from_labels(session, photos) -> None:
    photos.label(session, session.photos[0])
    session.refit()
    found = session.suggest(session.photos[1])
    kept, model = session.store.suggestions(session.photos[1])
    assert (len(kept), model) == (found.count, found.model)
    assert session.labels(session.photos[1]).state == "unlabelled"


def test_a_photo_that_was_taken_back_leaves_no_trace(session, photos) -> None:
    one, two, three = session.photos[:3]
    for photo in (one, two, three):
        photos.label(session, photo)
    session.refit(60)
    held = set(session._loop.learner.learnt)
    session.undo(three)
    session.refit(60)
    learner = session._loop.learner
    assert held - set(learner.learnt) == {photos.folder / three}
    owners = {int(o) for block in learner.miner._svms.blocks for o in block.owners[block.is_used]}
    numbers = {each.number for each in learner.learnt.values()}
    assert {owner // 4 for owner in owners} <= numbers


def test_an_edit_touches_the_rows_of_its_photo_only(session, photos) -> None:
    for photo in session.photos[:4]:
        photos.label(session, photo)
    session.refit(60)
    session.refit(60)  # the last photo is finished now
    learner = session._loop.learner
    seen = []
    learn = learner.learn
    learner.learn = lambda views, **more: (seen.append(views[0].path.name), learn(views, **more))
    photo = session.photos[1]
    boxes = photos.truth[photo].boxes + 1.0
    names = [photos.names[label] for label in photos.truth[photo].labels.tolist()]
    session.set_boxes(photo, boxes, names)
    session.refit()
    assert seen == [photo]


def test_what_is_said_again_is_not_learnt_again(session, photos) -> None:
    photo = session.photos[0]
    photos.label(session, photo)
    session.refit()
    photos.label(session, photo)
    assert session.state.waiting == 0


def test_labels_survive_and_undo_works_after_reopening(session, photos) -> None:
    photo = session.photos[0]
    photos.label(session, photo)
    session.set_empty(photo)
    session.close()
    with LabelSession.open(photos.folder, config=CONFIG, background=False) as again:
        assert again.labels(photo).state == "empty"
        assert len(again.undo(photo).boxes) == len(photos.truth[photo].boxes)
        assert again.redo(photo).state == "empty"


def test_two_people_on_one_photo_get_a_conflict_with_both_versions(session, photos) -> None:
    photo = session.photos[0]
    seen = session.set_boxes(photo, [[1, 1, 20, 20]], ["a"]).revision
    with LabelSession.open(photos.folder, config=CONFIG, background=False, author="bob") as other:
        other.set_boxes(photo, [[2, 2, 30, 30]], ["b"], expected=seen)
        with pytest.raises(ConflictError) as caught:
            session.set_boxes(photo, [[3, 3, 9, 9]], ["c"], expected=seen)
    assert [box.name for box in caught.value.current.boxes] == ["b"]
    assert [box.name for box in caught.value.offered.boxes] == ["c"]
    session.refit()
    assert session._loop.learner.names == ("b",)  # what bob says is what is learnt


def test_classes_come_are_renamed_and_merged(session, photos) -> None:
    first, second = session.photos[:2]
    one, two = photos.truth[first].boxes[:1], photos.truth[second].boxes[:1]
    session.set_boxes(first, one, ["cat"])
    session.refit()
    session.set_boxes(second, two, ["dog"])
    session.refit()
    assert session.names == ("cat", "dog")
    before = weights(session)
    session.rename_class("cat", "lynx")
    assert session.state.waiting == 0  # nothing is learnt anew
    session.refit()
    assert torch.equal(weights(session), before)
    assert set(session.suggest(first).names) <= {"lynx", "dog"}
    session.merge_classes("dog", "lynx")
    assert set(session.suggest(second).names) <= {"lynx"}  # also before it is learnt
    session.refit(60)
    assert session.names == ("lynx",)
    assert set(session.suggest(second).names) <= {"lynx"}
    assert len(session._loop.learner.trimmed().names) == 1


def test_a_class_may_take_the_name_of_one_that_was_merged_into_it(session, photos) -> None:
    first, second = session.photos[:2]
    for photo, name in ((first, "cat"), (second, "dog")):
        session.set_boxes(photo, photos.truth[photo].boxes[:1], [name])
    session.refit(60)
    session.merge_classes("cat", "dog")
    session.rename_class("dog", "cat")
    session.refit(60)
    assert set(session.suggest(second).names) == {"cat"}
    assert session._loop.learner.trimmed().names == ("cat",)
    session.refit(full=True)


def test_a_class_that_another_process_renames_is_no_second_class(session, photos) -> None:
    first, second = session.photos[:2]
    session.set_boxes(first, photos.truth[first].boxes[:1], ["cat"])
    session.refit()
    with LabelSession.open(photos.folder, config=CONFIG, background=False) as other:
        other.rename_class("cat", "lynx")
    session.set_boxes(second, photos.truth[second].boxes[:1], ["lynx"])
    session.refit(60)
    assert session._loop.learner.trimmed().names == ("lynx",)


def test_photos_without_things_teach(session, photos) -> None:
    first, second = session.photos[:2]
    session.set_empty(first)
    with pytest.raises(NothingUsableError, match="no photo with a box"):
        session.refit()
    assert session.state.phase == "failed"
    photos.label(session, second)
    session.refit(60)
    learner = session._loop.learner
    assert set(learner.learnt) == {photos.folder / first, photos.folder / second}
    session.improve(60)
    owners = {int(o) // 2 for block in learner.miner._svms.blocks for o in block.owners}
    assert learner.learnt[photos.folder / first].number in owners  # its regions are negatives


def test_a_small_budget_leaves_photos_for_later(session, photos) -> None:
    for photo in session.photos[:5]:
        photos.label(session, photo)
    state = session.refit(1e-6)
    assert state.waiting == 4
    assert state.model  # there is a model nevertheless
    session.improve(60)
    assert session.state.waiting == 0


@pytest.mark.parametrize(
    ("boxes", "labels", "rule"),
    [
        ([[1, 1, 5, 5]], [], "one for each box, 1, got 0"),
        ([[-9, -9, -1, -1]], ["a"], "must cover a pixel"),
        ([[5, 5, 1, 1]], ["a"], "must cover a pixel"),
        ([[float("nan"), 1, 5, 5]], ["a"], "must cover a pixel"),
        ([[1, 1, 5, 5]], [""], "must not be empty"),
    ],
)
def test_boxes_that_cannot_be_meant_are_refused(session, boxes, labels, rule) -> None:
    with pytest.raises(ValueError, match=rule):
        session.set_boxes(session.photos[0], boxes, labels)
    assert session.labels(session.photos[0]).revision == 0


def test_unknown_photos_and_empty_folders_are_named(session, tmp_path) -> None:
    with pytest.raises(ValueError, match="one of the folder's"):
        session.suggest("none.jpg")
    (tmp_path / "nothing").mkdir()
    with pytest.raises(NothingUsableError, match="no photo to label"):
        LabelSession.open(tmp_path / "nothing")


def test_a_photo_that_is_damaged_is_left_out_and_the_rest_goes_on(photos) -> None:
    bad = photos.folder / "a_bad.png"
    good = sorted(photos.truth)[0]
    bad.write_bytes((photos.folder / good).read_bytes()[:2000])
    with LabelSession.open(photos.folder, config=CONFIG, background=False) as session:
        session.store.put("a_bad.png", [], state="empty")
        photos.label(session, good)
        session.refit(60)
        assert any("a_bad" in problem.path for problem in session.problems)
        with pytest.raises(InputError):
            session.suggest("a_bad.png")


def test_a_full_fit_has_the_bytes_of_detect_train(session, photos, tmp_path) -> None:
    for photo in session.photos[:5]:
        photos.label(session, photo)
    session.set_empty(session.photos[5])
    session.refit(full=True)
    session.save_model(tmp_path / "ours")
    job = TrainingJob(session.store.folder, None, tmp_path / "run", CONFIG)
    assert job.run() == 0
    names = sorted(path.name for path in (tmp_path / "ours").iterdir())
    for name in names:
        ours, theirs = tmp_path / "ours" / name, tmp_path / "run" / "model" / name
        assert sha256_file(ours) == sha256_file(theirs), name


def test_a_full_model_suggests_until_something_new_is_learnt(session, photos) -> None:
    for photo in session.photos[:3]:
        photos.label(session, photo)
    full = session.refit(full=True)  # it learns what waits, too
    assert (full.model[:4], full.waiting) == ("full", 0)
    session.evaluate()
    session.doubtful()
    session.improve(2)
    assert session.state.model == full.model
    photos.label(session, session.photos[3])
    session.evaluate()
    assert session.state.model.startswith("warm")


def test_no_two_starts_give_their_models_the_same_version(session, photos) -> None:
    photos.label(session, session.photos[0])
    version = session.refit().model
    with LabelSession.open(photos.folder, config=CONFIG, background=False) as again:
        assert again.refit().model != version


def test_features_take_bounded_room(photos, monkeypatch) -> None:
    monkeypatch.setattr(loop, "MOST_FEATURES", 100_000)
    monkeypatch.setattr(loop, "MOST_AHEAD", 5)
    with LabelSession.open(photos.folder, config=CONFIG, background=False) as session:
        session.improve(60)
        assert len(session._loop._convolved) == 5 < len(session.photos)
        photos.label(session, session.photos[7])
        session.refit()
        assert session.suggest(session.photos[6]).model  # what is not kept is computed again
        assert 0 < session._loop.learner.cached.cache.num_bytes() <= 100_000


def test_why_it_failed_is_one_line_without_paths(session, photos) -> None:
    with pytest.raises(NothingUsableError):
        session.refit()
    assert session.state.message == "no photo with a box to learn from"
    session._fail(RuntimeError(f"one line\nanother {photos.folder}"))
    assert session.state.message == "a bug: RuntimeError"


def test_a_warm_model_is_worth_a_full_one(session, photos, tmp_path) -> None:
    dataset_names = photos.names
    for number in range(2):
        for photo in session.photos[number::2]:
            photos.label(session, photo)
        session.refit(60)
        session.improve(60)
    images = list(photos.truth.values())
    scores = {}
    for kind in ("warm", "full"):
        if kind == "full":
            session.refit(full=True)
        detector = Detector.load(session.save_model(tmp_path / kind))
        assert set(detector.names) <= set(dataset_names)
        found = {}
        for image in images:
            one = detector.predict(image.path)
            own = torch.tensor([dataset_names.index(name) for name in detector.names])
            found[image.image_id] = type(one)(one.boxes, one.scores, own[one.labels])
        scores[kind] = evaluate_detections(images, found, dataset_names, metric="area").mean_ap
    assert scores["warm"] > scores["full"] - 0.05
    assert scores["warm"] > 0.5


def test_the_store_is_read_as_a_data_set(session, photos) -> None:
    for photo in session.photos[:3]:
        photos.label(session, photo)
    dataset = open_detection_dataset(photos.folder)
    assert (dataset.layout, len(dataset)) == ("labels", 3)
    for image in dataset:
        assert torch.equal(image.boxes, photos.truth[image.path.name].boxes)


def test_the_background_does_the_same_without_being_asked(photos) -> None:
    with LabelSession.open(photos.folder, config=CONFIG) as session:
        photos.label(session, session.photos[0])
        end = time.monotonic() + 60
        while not session._loop.learner.learnt and time.monotonic() < end:
            time.sleep(0.02)
        assert session._loop.learner.learnt
        session.refit()
        assert session.suggest(session.photos[1]).model


def test_the_order_and_the_doubts_name_photos(session, photos) -> None:
    assert session.next(3) == list(session.photos[:3])  # nothing is known yet
    for photo in session.photos[:4]:
        photos.label(session, photo)
    session.refit(60)
    session.improve(60)
    chosen = session.next(3)
    assert len(set(chosen)) == 3
    assert not set(chosen) & set(session.photos[:4])
    expected = session.evaluate()
    assert expected.photos == 4
    found = session.suggest(chosen[0])
    assert found.count
    assert bool((found.there >= found.confidence).all())
    assert session._loop.thing_points is not None
    surest = session.surest(3, without=chosen)
    assert not set(surest) & {*chosen, *session.photos[:4]}
    assert 0 <= expected.recall <= 1
    doubts = session.doubtful(5)
    assert all(0 <= doubt.probability <= 1 for doubt in doubts)
    assert [d.probability for d in doubts] == sorted((d.probability for d in doubts), reverse=True)


@pytest.mark.parametrize("boxes", [[[0, 0, 9, 9, 1, 1, 8, 8]], [[1, 2, 3]], [1, 2, 3, 4]])
def test_boxes_have_four_corners(session, boxes) -> None:
    with pytest.raises((ValueError, TypeError)):
        session.set_boxes(session.photos[0], torch.tensor(boxes), ["cat", "cat"])
    if isinstance(boxes[0], list):
        with pytest.raises(ValueError, match="four corners"):
            session.set_boxes(session.photos[0], boxes, ["cat", "cat"])
    assert session.labels(session.photos[0]).state == "unlabelled"


def test_a_closed_session_says_so(photos) -> None:
    with LabelSession.open(photos.folder, config=CONFIG, background=False) as session:
        first = session.photos[0]
    with pytest.raises(UsageError, match="was closed"):
        session.labels(first)


def test_an_edit_does_not_wait_for_a_fit(session, photos) -> None:
    photo = session.photos[0]
    held, done = threading.Event(), threading.Event()

    def hold() -> None:  # as a fit does
        with session._loop.lock:
            held.set()
            done.wait(30)

    thread = threading.Thread(target=hold)
    thread.start()
    held.wait(30)
    try:
        made = session.set_boxes(photo, photos.truth[photo].boxes[:1], ["cat"], author="Ann")
        assert (made.revision, made.author) == (1, "Ann")
        assert session.undo(photo, author="Bob").author == "Bob"
        session.redo(photo)
        assert session.state.phase == "queued"
        assert session._loop.pending == {}
    finally:
        done.set()
        thread.join()
    assert session.refit(60).waiting == 0
    assert session.suggest(session.photos[1]).model


def test_the_background_leaves_edits_to_whoever_asks(photos) -> None:
    with LabelSession.open(
        photos.folder, config=CONFIG, background=False, learns_edits=False
    ) as session:
        photos.label(session, session.photos[0])
        session.improve(60)
        assert (session.state.model, session.state.waiting) == ("", 1)
        model = session.refit(60).model
        photos.label(session, session.photos[1])
        session.improve(60)
        assert session.state.waiting
        assert session.state.model == model


@pytest.mark.parametrize("bad", [-1, float("nan"), -0.5])
def test_numbers_that_make_no_sense_are_refused(session, bad) -> None:
    for call in (session.refit, session.improve, session.next, session.doubtful, session.evaluate):
        with pytest.raises(ValueError, match="must be at least 0"):
            call(bad)


def test_measuring_is_given_up_when_asked(session, photos) -> None:
    for photo in session.photos[:3]:
        photos.label(session, photo)
    session.refit(60)
    asked = iter([False, True])
    with pytest.raises(StoppedError):
        session.evaluate(stop=lambda: next(asked))
