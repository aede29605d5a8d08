"""Which part of a data set is meant when --split is not given."""

from pathlib import Path

import pytest

from sppnet.app.detect import choose_split
from sppnet.errors import UsageError
from sppnet.images import draw_detection_set


@pytest.fixture(scope="module")
def scenes(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("splits") / "scenes"
    draw_detection_set(folder, count=4, splits={"trainval": 0.5, "val": 0.5})
    return folder


@pytest.mark.parametrize(
    ("given", "preferred", "expected"),
    [
        ("odd", ("train",), "odd"),
        (None, ("train", "trainval"), "trainval"),
        (None, ("val", "trainval"), "val"),
    ],
)
def test_the_first_of_the_usual_names_is_taken(scenes: Path, given, preferred, expected) -> None:
    assert choose_split(scenes, given, preferred) == expected


def test_splits_of_other_names_must_be_chosen_from(scenes: Path) -> None:
    with pytest.raises(UsageError, match=r"choose one with --split: .*trainval, val"):
        choose_split(scenes, None, ("test",))


def test_a_set_without_splits_is_taken_whole(scenes: Path, tmp_path: Path, capsys) -> None:
    for file in [*scenes.glob("JPEGImages/*"), *scenes.glob("Annotations/*")]:
        (tmp_path / file.name).write_bytes(file.read_bytes())
    assert choose_split(tmp_path, None, ("train",)) is None
    assert "using every image" in capsys.readouterr().err
