"""The classifier keeps scikit-learn's contract."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.base import clone, is_classifier
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV, StratifiedKFold, cross_val_score

from small_photos import PATTERNS, draw_folders, spoil
from sppnet.app.main import main
from sppnet.classification import Classifier, View, build_classifier
from sppnet.classification.estimator import SppClassifier
from sppnet.errors import InputError

pytestmark = pytest.mark.usefixtures("one_thread")
QUICK = {"backbone": "small5", "weights": "none", "short_side": 64}
TRAINED = {**QUICK, "method": "train", "epochs": 2, "sizes": (24, 32), "trunk_rate": 1.0}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw_folders(tmp_path_factory.mktemp("photos") / "data", 16)


@pytest.fixture(scope="module")
def paths(folder: Path) -> np.ndarray:
    return np.array([str(path) for path in sorted(folder.rglob("*.png"))])


@pytest.fixture(scope="module")
def labels(paths: np.ndarray) -> np.ndarray:
    return np.array([Path(path).parent.name for path in paths])


@pytest.fixture(scope="module")
def fitted(folder: Path) -> SppClassifier:
    return SppClassifier(**QUICK).fit(folder)


def test_constructor_only_stores() -> None:
    model = SppClassifier("no such trunk", method="guess", levels=[])
    assert model.get_params()["levels"] == []
    assert not [name for name in vars(model) if name.endswith("_")]
    twin = clone(model.set_params(c=3.0))
    assert twin is not model
    assert twin.get_params() == model.get_params()
    assert is_classifier(model)


def test_fit_returns_self_and_learns(fitted: SppClassifier, folder: Path) -> None:
    model = SppClassifier(**QUICK)
    assert model.fit(folder) is model
    assert fitted.classes_.tolist() == list(PATTERNS)
    assert model.score(folder) > 0.6  # chance is 0.25


def test_folder_and_lists_are_the_same(
    fitted: SppClassifier, paths: np.ndarray, labels: np.ndarray
) -> None:
    model = SppClassifier(**QUICK).fit(paths, labels)
    assert np.array_equal(model.decision_function(paths), fitted.decision_function(paths))
    assert model.score(paths, labels) == np.mean(model.predict(paths) == labels)


def test_train_and_test_parts_of_a_folder(tmp_path: Path) -> None:
    draw_folders(tmp_path / "train", 4, seed=1)
    draw_folders(tmp_path / "test", 2, seed=2)
    model = SppClassifier(**QUICK).fit(tmp_path)
    assert len(model.classifier_.seen) == 16
    files = sorted((tmp_path / "test").rglob("*.png"))
    truth = np.array([path.parent.name for path in files])
    assert model.score(tmp_path) == np.mean(model.predict(files) == truth)


def test_every_kind_of_image(fitted: SppClassifier, paths: np.ndarray) -> None:
    photos = [Image.open(path) for path in paths[:3]]
    arrays = [np.asarray(photo) for photo in photos]
    tensors = [torch.from_numpy(array.copy()).permute(2, 0, 1) for array in arrays]
    expected = fitted.decision_function(paths[:3])
    for images in (photos, arrays, tensors, [Path(path) for path in paths[:3]]):
        assert np.array_equal(fitted.decision_function(images), expected)
    assert fitted.predict(arrays[0]).shape == (1,)
    for method in ({}, TRAINED):
        model = SppClassifier(**{**QUICK, **method})
        memory = model.fit(tensors, ["a", "b", "a"]).classifier_.scores(photos)
        files = model.fit(paths[:3], ["a", "b", "a"]).classifier_.scores(photos)
        assert torch.equal(memory, files)


def test_works_in_cross_validation_and_grid_search(paths: np.ndarray, labels: np.ndarray) -> None:
    folds = StratifiedKFold(2, shuffle=True, random_state=0)
    scores = cross_val_score(SppClassifier(**QUICK), paths, labels, cv=folds)
    assert scores.shape == (2,)
    assert scores.mean() > 0.4
    search = GridSearchCV(SppClassifier(**QUICK), {"c": [0.1, 10.0]}, cv=folds)
    search.fit(paths, labels)
    assert search.best_estimator_.c == search.best_params_["c"]
    assert set(search.predict(paths)) <= set(PATTERNS)


def test_labels_keep_their_type(paths: np.ndarray) -> None:
    numbers = np.array([7, 3, 7, 3])
    model = SppClassifier(**QUICK).fit(paths[:4], numbers)
    assert model.classes_.tolist() == [3, 7]
    assert model.predict(paths[:4]).dtype == numbers.dtype
    margins = model.decision_function(paths[:4])  # of two classes, one number for each image
    assert margins.shape == (4,)
    assert np.array_equal(model.classes_[(margins > 0).astype(int)], model.predict(paths[:4]))


def test_trained_networks_have_probabilities(paths: np.ndarray, labels: np.ndarray) -> None:
    model = SppClassifier(**TRAINED).fit(paths, labels)
    probabilities = model.predict_proba(paths[:5])
    assert probabilities.shape == (5, 4)
    assert np.allclose(probabilities.sum(1), 1)
    assert np.array_equal(model.classes_[probabilities.argmax(1)], model.predict(paths[:5]))
    assert not hasattr(model, "decision_function")
    again = SppClassifier(**TRAINED).fit(paths, labels)
    assert np.array_equal(again.predict_proba(paths[:5]), probabilities)


def test_svms_have_margins(fitted: SppClassifier) -> None:
    assert fitted.decision_function([torch.rand(3, 20, 30)]).shape == (1, 4)


def test_random_numbers_of_the_caller_are_left_alone(paths: np.ndarray, labels: np.ndarray) -> None:
    state = torch.random.get_rng_state()
    SppClassifier(**QUICK).fit(paths[::5], labels[::5])
    assert torch.equal(torch.random.get_rng_state(), state)


def test_views_of_the_prediction(fitted: SppClassifier, paths: np.ndarray) -> None:
    before = fitted.decision_function(paths[:2])
    try:
        many = fitted.set_params(test_view="98").decision_function(paths[:2])
    finally:
        fitted.set_params(test_view=None)
    assert not np.array_equal(many, before)
    assert np.array_equal(many, fitted.classifier_.scores(paths[:2], "98").numpy())


def test_saved_and_loaded(fitted: SppClassifier, paths: np.ndarray, tmp_path: Path) -> None:
    assert all(each.is_contiguous() for each in fitted.classifier_.tensors().values())
    fitted.save(tmp_path / "model")
    loaded = SppClassifier.load(tmp_path / "model")
    assert loaded.get_params() == fitted.get_params()
    assert loaded.classes_.tolist() == fitted.classes_.tolist()
    assert np.array_equal(loaded.decision_function(paths), fitted.decision_function(paths))
    command = ["classify", "predict", str(tmp_path / "model"), str(paths[0])]
    assert main([*command, "--out", str(tmp_path / "out")]) == 0


def test_model_of_the_command_line_is_loaded(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = build_classifier("small5", 2)
    Classifier(network, View("full", 32), ("cat", "dog")).save(tmp_path / "model")
    model = SppClassifier.load(tmp_path / "model")
    assert model.method == "train"
    assert model.predict(torch.rand(3, 30, 40)).item() in ("cat", "dog")


def test_mistakes_are_named(folder: Path, paths: np.ndarray, tmp_path: Path) -> None:
    model = SppClassifier(**QUICK)
    with pytest.raises(NotFittedError):
        model.predict(paths)
    with pytest.raises(NotFittedError):
        model.save(tmp_path / "model")
    with pytest.raises(ValueError, match=r"y must be of at least 2 classes, got \['a'\]"):
        model.fit(paths[:2], ["a", "a"])
    with pytest.raises(ValueError, match="y must be 2, one for each image, got 1"):
        model.fit(paths[:2], ["a"])
    with pytest.raises(TypeError, match="y must be given unless images is a folder"):
        model.fit(paths)
    with pytest.raises(ValueError, match="method must be one of svm, train, got 'tree'"):
        SppClassifier(method="tree").fit(folder)
    with pytest.raises(ValueError, match="backbone must be one of"):
        SppClassifier("resnet9").fit(folder)


@pytest.mark.parametrize("settings", [QUICK, TRAINED], ids=["svm", "train"])
def test_unreadable_file_is_named(settings: dict, tmp_path: Path) -> None:
    folder = draw_folders(tmp_path / "data", 2)
    spoil(folder)
    with pytest.raises(InputError, match=r"data/checks/empty\.png"):
        SppClassifier(**settings).fit(folder)
