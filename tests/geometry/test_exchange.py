"""Detections in the words of other libraries and back, held against the libraries themselves."""

import sys
from types import ModuleType, SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import supervision as sv
import torch
from pycocotools.coco import COCO
from torchvision import tv_tensors
from torchvision.transforms import v2

from sppnet import Detections
from sppnet.errors import MissingPackageError

NAMES = ("cat", "dog", "owl")
BOXES = torch.tensor([[1.0, 2.0, 5.0, 4.0], [0.5, 0.25, 9.75, 8.0]])
SCORES, LABELS = torch.tensor([1.5, -0.25]), torch.tensor([2, 0])
SURE = torch.tensor([0.75, 0.5])


@pytest.fixture(params=["sure", "unsure", "none"])
def found(request: pytest.FixtureRequest) -> Detections:
    if request.param == "none":
        return Detections.empty()
    return Detections(BOXES, SCORES, LABELS, SURE if request.param == "sure" else None)


def assert_same(one: Detections, other: Detections) -> None:
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_supervision(found: Detections) -> None:
    there = found.to_supervision(NAMES)
    assert isinstance(there, sv.Detections)
    sure = found.scores if found.confidence is None else found.confidence
    assert np.array_equal(there.xyxy, found.boxes.numpy())
    assert np.array_equal(there.confidence, sure.numpy())
    assert there.data["class_name"].tolist() == [NAMES[n] for n in found.labels.tolist()]
    picture = sv.BoxAnnotator().annotate(np.zeros((12, 12, 3), np.uint8), there)
    assert picture.any() == bool(found.count)
    assert_same(Detections.from_supervision(there), found)


def test_supervision_of_other_detectors() -> None:
    other = sv.Detections(BOXES.numpy(), class_id=np.array([1, 0]), confidence=SURE.numpy())
    back = Detections.from_supervision(other)
    assert back.scores.tolist() == [0.75, 0.5]
    assert back.labels.tolist() == [1, 0]
    assert back.confidence is None
    assert Detections.from_supervision(sv.Detections.empty()).count == 0
    with pytest.raises(TypeError, match="class_id must be given"):
        Detections.from_supervision(sv.Detections(BOXES.numpy()))


def test_torchvision(found: Detections) -> None:
    plain = found.to_torchvision(first_label=1)
    assert type(plain) is dict
    assert plain["labels"].tolist() == [label + 1 for label in found.labels.tolist()]
    back = Detections.from_torchvision(plain, first_label=1)
    assert all(torch.equal(back[name], found[name]) for name in ("boxes", "scores", "labels"))
    moved = v2.functional.horizontal_flip(found.to_torchvision((10, 20))["boxes"])
    assert isinstance(moved, tv_tensors.BoundingBoxes)
    flipped = torch.stack([20 - found.boxes[:, 2], 20 - found.boxes[:, 0]], 1)
    assert torch.equal(moved[:, [0, 2]].as_subclass(torch.Tensor), flipped)


def test_labels_of_torchvision_are_ours_unless_it_is_said(found: Detections) -> None:
    assert torch.equal(Detections.from_torchvision(found.to_torchvision()).labels, found.labels)
    later = found.to_torchvision(first_label=1)
    assert torch.equal(Detections.from_torchvision(later).labels, found.labels + 1)


def test_coco_results_are_read_by_pycocotools(found: Detections, capsys) -> None:
    truth = COCO()
    truth.dataset = {
        "images": [{"id": 7}],
        "categories": [{"id": n} for n in (1, 2, 3)],
        "annotations": [],
    }
    truth.createIndex()
    entries = found.to_coco(7)
    if entries:
        loaded = truth.loadRes(entries).loadAnns([1, 2])
        assert [each["area"] for each in loaded] == [8.0, 9.25 * 7.75]
        assert [each["category_id"] for each in loaded] == [3, 1]
    back = Detections.from_coco(entries)
    assert all(torch.equal(back[name], found[name]) for name in ("boxes", "scores", "labels"))


def test_coco_ids_of_a_data_set() -> None:
    found = Detections(BOXES, SCORES, LABELS)
    entries = found.to_coco("a", ["x", "y", 90])
    assert [each["category_id"] for each in entries] == [90, "x"]
    assert Detections.from_coco(entries, ["x", "y", 90]).labels.tolist() == [2, 0]
    with pytest.raises(ValueError, match=r"category_ids must have an entry for every label \(0..1"):
        found.to_coco("a", [1, 2])
    with pytest.raises(ValueError, match=r"category_id must be one of \[90\], got 'x' in row 1"):
        Detections.from_coco(entries, [90])


def test_pandas(found: Detections) -> None:
    table = found.to_pandas(NAMES)
    assert isinstance(table, pd.DataFrame)
    assert table["class"].tolist() == [NAMES[n] for n in found.labels.tolist()]
    assert ("confidence" in table.columns) == (found.confidence is not None)
    if found.count:
        assert (table.x2 - table.x1).tolist() == [4.0, 9.25]
    assert_same(Detections.from_pandas(table), found)
    with pytest.raises(ValueError, match=r"lacks \['y2'\]"):
        Detections.from_pandas(table.drop(columns="y2"))


@pytest.fixture
def fiftyone(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """Stand in for FiftyOne: 118 packages and a database. Fields as its documentation has them."""
    module = ModuleType("fiftyone")
    module.Detection = lambda **fields: SimpleNamespace(**fields)  # type: ignore[attr-defined]
    module.Detections = lambda detections: SimpleNamespace(detections=detections)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "fiftyone", module)
    return module


def test_fiftyone(found: Detections, fiftyone: ModuleType) -> None:
    there = found.to_fiftyone((8, 16), NAMES)
    if found.count:
        first = there.detections[0]
        assert first.label == "owl"
        assert first.bounding_box == [1 / 16, 2 / 8, 4 / 16, 2 / 8]
        assert first.confidence == (1.5 if found.confidence is None else 0.75)
        assert first.score == 1.5
    back = Detections.from_fiftyone(there, (8, 16), NAMES)
    assert torch.equal(back.boxes, found.boxes)
    assert torch.equal(back.labels, found.labels)
    sure = found.scores if found.confidence is None else found.confidence
    assert torch.equal(back.scores, sure)
    for each in there.detections:  # drawn by a person
        each.confidence = None
    assert Detections.from_fiftyone(there, (8, 16), NAMES).scores.tolist() == [1.0] * found.count


def test_fiftyone_labels_that_are_unknown(fiftyone: ModuleType) -> None:
    there = Detections(BOXES, SCORES, LABELS).to_fiftyone((8, 16), NAMES)
    with pytest.raises(ValueError, match=r"label must be one of \['cat'\], got 'owl' in row 0"):
        Detections.from_fiftyone(there, (8, 16), ["cat"])
    with pytest.raises(ValueError, match="image_size must be 1 or more on both sides"):
        Detections.from_fiftyone(there, (0, 16), NAMES)


@pytest.mark.parametrize("package", ["supervision", "pandas", "fiftyone"])
def test_a_package_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch, package: str) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    found = Detections.empty()
    calls = {
        "supervision": found.to_supervision,
        "pandas": found.to_pandas,
        "fiftyone": lambda: found.to_fiftyone((1, 1), NAMES),
    }
    with pytest.raises(MissingPackageError, match=f"this needs {package}: pip install {package}"):
        calls[package]()


def test_names_must_be_enough() -> None:
    with pytest.raises(
        ValueError, match=r"names must have an entry for every label \(0..0\), got 2"
    ):
        Detections(BOXES, SCORES, LABELS).to_pandas(["cat"])


def test_it_says_what_it_holds() -> None:
    assert repr(Detections.empty()) == "Detections(nothing found)"
    found = Detections(BOXES, SCORES, LABELS, SURE)
    line = "Detections(1 of class 0, 1 of class 2; scores -0.25 to 1.50, with confidence)"
    assert repr(found) == line
