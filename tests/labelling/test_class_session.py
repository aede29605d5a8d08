"""Names of whole photos: fits whose held-out scores are exact, and a session around them."""

import csv
from pathlib import Path

import pytest
import torch
from PIL import Image

from image_files import write_image
from sppnet.classification import load_classifier
from sppnet.classification.transfer.svm import fit_dual
from sppnet.config.classification import FitConfig
from sppnet.errors import NothingUsableError, UsageError
from sppnet.labelling import LabelSession
from sppnet.labelling.base import StoppedError
from sppnet.labelling.class_learner import choose_steepness, fit_held_out, to_probabilities
from sppnet.labelling.class_session import ClassSession
from sppnet.storage import ConflictError

CONFIG = FitConfig(backbone="small5", weights="none", imgsz=48)


def some_rows(count: int = 9, length: int = 5) -> tuple[torch.Tensor, torch.Tensor]:
    draw = torch.Generator().manual_seed(0)
    rows = torch.nn.functional.normalize(torch.randn(count, length, generator=draw).double())
    targets = torch.full((count, 3), -1.0).double()
    targets[torch.arange(count), torch.arange(count) % 3] = 1.0
    return rows, targets


def test_held_out_scores_are_those_of_models_fitted_without_the_photo() -> None:
    rows, targets = some_rows()
    fitted = fit_held_out(rows @ rows.T, targets, 3.0)
    for left_out in range(len(rows)):
        rest = [row for row in range(len(rows)) if row != left_out]
        other = fit_held_out(rows[rest] @ rows[rest].T, targets[rest], 3.0)
        score = rows[left_out] @ rows[rest].T @ other.dual + other.bias
        assert torch.allclose(score, fitted.held_out[left_out], atol=1e-9)


def test_the_fit_is_that_of_classify_fit() -> None:
    rows, targets = some_rows()
    gram = rows @ rows.T
    dual, bias = fit_dual(gram, targets.to(torch.int8), 10.0, "squares")
    fitted = fit_held_out(gram, targets, 10.0)
    assert torch.allclose(fitted.dual.float(), dual, atol=1e-5)
    assert torch.allclose(fitted.bias.float(), bias, atol=1e-5)


def test_one_photo_is_enough_and_none_is_an_error() -> None:
    fitted = fit_held_out(torch.ones(1, 1).double(), torch.ones(1, 1))
    assert fitted.held_out.tolist() == [[0.0]]
    with pytest.raises(ValueError, match="one photo or more"):
        fit_held_out(torch.zeros(0, 0).double(), torch.zeros(0, 2))


def test_steepness_follows_how_often_scores_are_right() -> None:
    targets = torch.eye(2).repeat(20, 1) * 2 - 1
    wrong = targets.clone()
    wrong[::3] *= -1
    sure = choose_steepness(targets, targets, one_each=True)
    unsure = choose_steepness(wrong, targets, one_each=True)
    assert unsure < sure
    rows = to_probabilities(targets, sure, one_each=True).sum(1)
    assert torch.allclose(rows, torch.ones(40))
    assert choose_steepness(targets[:3], targets[:3], one_each=True) == 4.0


@pytest.fixture(scope="module")
def drawn(tmp_path_factory) -> Path:
    """Red, green and blue photos: even a trunk with random weights tells them apart."""
    folder = tmp_path_factory.mktemp("drawn") / "photos"
    for channel, name in enumerate(("blue", "green", "red")):
        (folder / name).mkdir(parents=True)
        for number in range(4):
            colour = [20 + 9 * number, 30 - 5 * number, 25 + number]
            colour[2 - channel] = 200 + 9 * number
            Image.new("RGB", (60, 40 + number), tuple(colour)).save(folder / name / f"{number}.png")
    return folder


@pytest.fixture
def session(drawn: Path, tmp_path: Path):
    with ClassSession.open(drawn, tmp_path / "store", config=CONFIG, background=False) as opened:
        yield opened


def name_all(session: ClassSession, photos) -> None:
    for photo in photos:
        session.set_names(photo, [photo.split("/")[0]])


def test_from_the_first_name_on(session: ClassSession) -> None:
    first, second = session.photos[:2]
    assert session.suggest(second).names == ()
    session.set_names(first, ["ball"])
    assert session.state.waiting == 1
    state = session.refit()
    assert (state.phase, state.waiting, state.labelled) == ("idle", 0, 1)
    found = session.suggest(second)
    assert (found.names, found.model) == (("ball",), state.model)


def test_a_named_folder_is_learnt_and_measured(session: ClassSession) -> None:
    name_all(session, session.photos)
    session.refit()
    expected = session.evaluate()
    assert expected.photos == expected.objects == len(session.photos)
    assert expected.ap50 > 1.5 / len(session.names)  # by chance: one in so many
    assert set(expected.ap_per_class) == set(session.names)
    found = session.suggest(session.photos[0])
    assert found.names[0] == session.photos[0].split("/")[0]
    assert float(found.confidence.sum()) == pytest.approx(1.0)
    with pytest.raises(StoppedError):
        session.evaluate(stop=lambda: True)


def test_a_planted_error_is_the_most_doubtful(session: ClassSession) -> None:
    name_all(session, session.photos)
    session.set_names(session.photos[0], [session.names[-1]])
    doubts = session.doubtful(3)
    assert session.photos[0] in [doubt.photo for doubt in doubts]
    assert doubts[0].box is None
    assert [d.probability for d in doubts] == sorted((d.probability for d in doubts), reverse=True)


def test_the_next_photo_is_unlike_those_that_are_named(session: ClassSession) -> None:
    assert session.next(2) == list(session.photos[:2])  # nothing is known yet
    kinds = {photo.split("/")[0] for photo in session.photos}
    known = sorted(kinds)[0]
    name_all(session, [photo for photo in session.photos if photo.startswith(known)])
    session.refit()
    for photo in session.photos:
        session.suggest(photo)
    assert not session.next(1)[0].startswith(known)
    for bad in (-1, 1.5, float("nan")):
        with pytest.raises(ValueError, match="count must be"):
            session.next(bad)


def test_edits_are_kept_undone_and_refused(
    session: ClassSession, drawn: Path, tmp_path: Path
) -> None:
    photo = session.photos[0]
    made = session.set_names(photo, ["cat", "cat", "dog"], author="Ann")
    assert (made.names, made.revision, made.author) == (("cat", "dog"), 1, "Ann")
    with pytest.raises(ConflictError) as conflict:
        session.set_names(photo, ["cow"], expected=0)
    assert conflict.value.current.names == ("cat", "dog")
    assert conflict.value.offered.names == ("cow",)
    session.set_empty(photo)
    assert session.undo(photo).names == ("cat", "dog")
    session.merge_classes("dog", "cat")
    assert session.labels(photo).names == ("cat",)
    session.rename_class("cat", "lynx")
    with ClassSession.open(drawn, tmp_path / "store", config=CONFIG, background=False) as again:
        assert again.labels(photo).names == ("lynx",)
    with pytest.raises(ValueError, match="one of the folder's"):
        session.set_names("../x.jpg", ["cat"])
    with pytest.raises(ValueError, match="must not be empty"):
        session.set_names(photo, [" "])


def test_several_classes_and_none(session: ClassSession) -> None:
    first, second, third = session.photos[:3]
    session.set_names(first, ["red", "round"])
    session.set_names(second, ["red"])
    session.set_empty(third)
    session.refit()
    sure = session.suggest(first).confidence
    assert 0 <= float(sure.min()) <= float(sure.max()) <= 1
    with pytest.raises(NothingUsableError):
        ClassSession.refit(_emptied(session))


def _emptied(session: ClassSession) -> ClassSession:
    for photo in session.photos[:3]:
        session.set_names(photo, [])
    return session


def test_a_damaged_photo_is_left_out_and_named(tmp_path: Path) -> None:
    for number in range(3):
        write_image(tmp_path / f"{number}.jpg", seed=number)
    (tmp_path / "3.jpg").write_bytes(b"\xff\xd8\xff\xe0 nothing")
    with ClassSession.open(tmp_path, config=CONFIG, background=False) as session:
        for number, name in enumerate(["cat", "dog", "cat", "dog"]):
            session.set_names(f"{number}.jpg", [name])
        session.refit()
        assert [problem.path for problem in session.problems] == ["3.jpg"]
        assert len(session.suggest("0.jpg").names) == 2


def test_the_saved_model_answers_as_the_session(session: ClassSession, tmp_path: Path) -> None:
    with pytest.raises(NothingUsableError, match="nothing was learnt"):
        session.save_model(tmp_path / "model")
    name_all(session, session.photos[:-1])
    session.refit()
    found = session.suggest(session.photos[-1])
    classifier = load_classifier(session.save_model(tmp_path / "model"))
    assert len(classifier.seen) == len(session.photos) - 1
    answer = classifier.predict([session.folder / session.photos[-1]])[0]
    assert [classifier.names[label] for label in answer["labels"].tolist()] == list(found.names)
    assert torch.allclose(answer["scores"], found.scores, atol=1e-4)


def test_names_for_other_tools(session: ClassSession, tmp_path: Path) -> None:
    with pytest.raises(NothingUsableError):
        session.export("csv", tmp_path / "none.csv")
    first, second = session.photos[:2]
    session.set_names(first, ["a/b: c"])
    session.set_empty(second)
    with session.export("csv", tmp_path / "names.csv").open() as file:
        assert list(csv.reader(file)) == [["photo", "class"], [first, "a/b: c"], [second, ""]]
    out = session.export("folders", tmp_path / "folders")
    copies = [path for path in out.rglob("*") if path.suffix != ".csv" and path.is_file()]
    assert [path.read_bytes() for path in copies] == [(session.folder / first).read_bytes()]
    assert copies[0].parent.parent == out
    assert (session.folder / first).is_file()
    only_list = session.export("folders", tmp_path / "list", copy_photos=False)
    assert [path.name for path in only_list.iterdir()] == ["photos.csv"]
    with pytest.raises(ValueError, match="csv or folders"):
        session.export("voc", tmp_path / "x")


def test_a_store_is_for_boxes_or_for_names(
    session: ClassSession, drawn: Path, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match="for classify, not for detect"):
        LabelSession.open(drawn, tmp_path / "store")
    from sppnet.images import read_labels

    session.set_names(session.photos[0], ["cat"])
    with pytest.raises(UsageError, match="name whole photos"):
        read_labels(tmp_path / "store")
