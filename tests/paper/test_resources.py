"""Where data and networks are looked for, and what is said when they are not there."""

from pathlib import Path

import pytest

from sppnet.paper import Resources
from sppnet.paper.resources import CALTECH, IMAGENET, VOC07, ModelSpec


def make_folders(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).mkdir(parents=True)
    return root


@pytest.mark.parametrize("place", [IMAGENET, CALTECH, VOC07])
def test_a_data_set_in_its_place_is_found(tmp_path: Path, place: str) -> None:
    resources = Resources(tmp_path, data=make_folders(tmp_path, place))
    assert resources.find_data(place) == tmp_path / place
    assert not resources.is_stand_in(place)


def test_class_folders_stand_in_for_imagenet_and_caltech_but_not_for_voc(tmp_path: Path) -> None:
    resources = Resources(tmp_path, data=make_folders(tmp_path, "cat", "dog"))
    assert resources.find_data(CALTECH) == resources.find_data(IMAGENET) == tmp_path
    assert resources.is_stand_in(CALTECH)
    assert resources.find_data(VOC07) is None


def test_a_voc_folder_stands_in_for_voc_only(tmp_path: Path) -> None:
    resources = Resources(tmp_path, data=make_folders(tmp_path, "ImageSets/Main", "JPEGImages"))
    assert resources.find_data(VOC07) == tmp_path
    assert resources.find_data(CALTECH) is None


def test_a_folder_with_another_data_set_in_its_place_does_not_stand_in(tmp_path: Path) -> None:
    resources = Resources(tmp_path, data=make_folders(tmp_path, CALTECH))
    assert resources.find_data(IMAGENET) is None


def test_what_is_missing_is_named_with_its_place(tmp_path: Path) -> None:
    resources = Resources(tmp_path, data=tmp_path / "sets", models=tmp_path / "nets")
    assert str(tmp_path / "sets" / "imagenet") in resources.missing_data(IMAGENET)
    missing = ModelSpec("Overfeat-7", "multi").missing(resources.models_folder)
    assert str(tmp_path / "nets" / "overfeat7-multi") in missing
    assert "--train" in missing
