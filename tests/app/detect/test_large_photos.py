"""Photos of very many pixels: the same answers, and one of them in memory at a time."""

import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from sppnet import Detector
from sppnet.app.detect.outcomes import ReadImage
from sppnet.classification import Classifier, View, build_classifier
from sppnet.classification.predict import predict_files
from sppnet.errors import InputError
from sppnet.images import decode, load_image

SIDES = [(70, 50), (48, 64), (20, 30), (90, 41)]
LARGE = 2000  # pixels: all but the third


@pytest.fixture
def photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Photos of which some count as large."""
    monkeypatch.setattr(decode, "LARGE_PIXELS", LARGE)
    draw = np.random.default_rng(0)
    paths = []
    for number, (width, height) in enumerate(SIDES):
        pixels = draw.integers(0, 256, (height, width, 3), dtype=np.uint8)
        paths.append(tmp_path / f"{number}.png")
        Image.fromarray(pixels).save(paths[-1])
    return paths


@pytest.mark.parametrize("view", [View("full", 40), View("native"), View("crop", 32)], ids=str)
def test_a_classifier_says_the_same_of_bytes_and_of_floats(
    photos: list[Path], view: View, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    network = build_classifier("small5", 3, hidden=(8,), feature_norm=1.0)
    classifier = Classifier(network, view, ("a", "b", "c"))
    floats = classifier.scores([load_image(path) for path in photos])
    assert torch.equal(classifier.scores(photos), floats)
    kinds = []
    apply = View.apply
    monkeypatch.setattr(
        View, "apply", lambda self, image: kinds.append(image.dtype) or apply(self, image)
    )
    assert torch.equal(predict_files(classifier, photos).rows, floats)
    assert kinds == [torch.uint8] * 4


def test_photos_are_decoded_one_by_one_as_they_are_scored(
    photos: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    network = build_classifier("small5", 3, hidden=(8,), feature_norm=1.0)
    classifier = Classifier(network, View("full", 40), ("a", "b", "c"))
    steps = []
    load, apply = decode.load_image, View.apply
    monkeypatch.setattr(decode, "load_image", lambda *a, **k: steps.append("read") or load(*a, **k))
    monkeypatch.setattr(
        View, "apply", lambda self, image: steps.append("resized") or apply(self, image)
    )
    classifier.predict(photos)
    assert steps == ["read", "resized"] * len(photos)


def test_of_large_photos_one_at_a_time_is_held(photos: list[Path]) -> None:
    first, second, small = (ReadImage.of(path) for path in (photos[0], photos[1], photos[2]))
    order: list[str] = []
    is_held, may_go = threading.Event(), threading.Event()

    def hold() -> None:
        with first.held() as pixels:
            order.append(f"first {pixels.dtype}")
            is_held.set()
            assert may_go.wait(30)
            order.append("first ends")

    def follow() -> None:
        with second.held():
            order.append("second")

    threads = [threading.Thread(target=hold), threading.Thread(target=follow)]
    threads[0].start()
    assert is_held.wait(30)
    threads[1].start()
    with small.held() as pixels:  # which waits for nobody
        order.append(f"small {pixels.dtype}")
    threads[1].join(0.3)
    may_go.set()
    for thread in threads:
        thread.join(30)
    assert order == ["first torch.uint8", "small torch.uint8", "first ends", "second"]
    held = ["pixels" in image.__dict__ for image in (first, second, small)]
    assert held == [False, False, True]


def test_a_large_photo_that_fails_lets_the_next_one_in(photos: list[Path]) -> None:
    cut = photos[0].with_name("cut.png")
    cut.write_bytes(photos[0].read_bytes()[:-300])
    with pytest.raises(InputError), ReadImage.of(cut).held():
        pass
    with pytest.raises(KeyError), ReadImage.of(photos[1]).held():
        raise KeyError("of the work")
    with ReadImage.of(photos[3]).held() as pixels:
        assert pixels.shape == (3, 41, 90)


def test_a_detector_says_the_same_of_bytes_and_of_floats(photos: list[Path]) -> None:
    from laws import plain_detector

    detector: Detector = plain_detector("grid", flip=False, side=48)
    for path in photos:
        one, two = detector.predict(path), detector.predict(load_image(path))
        assert torch.equal(one.boxes, two.boxes)
        assert torch.equal(one.scores, two.scores)
