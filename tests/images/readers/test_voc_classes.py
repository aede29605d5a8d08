"""What classes images show, by VOC's own lists and by the annotations that they were made from."""

from pathlib import Path

import pytest

from image_files import make_voc, voc_object, voc_xml, write_image, write_split
from sppnet.errors import NothingUsableError, UsageError
from sppnet.images.readers.voc_classes import common_names, read_voc_classes

HARD = "<difficult>1</difficult>"
BOX = (1, 1, 10, 10)
CONTENT = {
    "a": voc_object(BOX) + voc_object(BOX, "dog", HARD),
    "b": voc_object(BOX, "dog") + voc_object(BOX, "dog", HARD),
    "c": "",
}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = make_voc(
        tmp_path / "set",
        {stem: voc_xml(objects, f"{stem}.jpg") for stem, objects in CONTENT.items()},
        {f"{stem}.jpg": (30, 40) for stem in CONTENT},
    )
    write_split(folder, "train", "b\na\nc\n")
    return folder


def test_annotations_say_what_is_shown(root: Path) -> None:
    found = read_voc_classes(root, "train")
    assert [path.stem for path in found.paths] == ["b", "a", "c"]
    assert found.names == ("cat", "dog")
    assert found.targets.tolist() == [[-1, 1], [1, 0], [-1, -1]]


def test_lists_of_classes_come_first(root: Path) -> None:
    write_split(root, "cat_train", "b  1\na -1\nc  0\n")
    write_split(root, "dog_train", "b -1\na  1\nc -1\n")
    write_split(root, "dog_val", "b -1\n")  # of another split
    found = read_voc_classes(root, "train")
    assert (len(found), found.names) == (3, ("cat", "dog"))
    assert found.targets.tolist() == [[1, -1], [-1, 1], [0, -1]]


def test_both_ways_agree_where_both_are_right(root: Path) -> None:
    by_annotations = read_voc_classes(root, "train").targets
    for label, name in enumerate(("cat", "dog")):
        marks = zip("bac", by_annotations[:, label].tolist(), strict=True)
        write_split(root, f"{name}_train", "".join(f"{stem} {mark:2}\n" for stem, mark in marks))
    assert read_voc_classes(root, "train").targets.equal(by_annotations)


def test_lists_need_no_annotations(tmp_path: Path) -> None:
    root = make_voc(tmp_path / "test", {})
    write_image(root / "JPEGImages" / "x.jpg")
    write_split(root, "test", "x\ny\n")
    write_split(root, "cat_test", "x 1\ny -1\n")
    found = read_voc_classes(root, "test")
    assert found.targets.tolist() == [[1]]
    assert [(Path(p.path).stem, p.code) for p in found.problems] == [("y", "E_UNREADABLE")]


def test_a_stem_of_two_images_is_named_and_left_out(root: Path) -> None:
    write_split(root, "cat_train", "b  1\na -1\nc  0\n")
    before = read_voc_classes(root, "train")
    (first, *_) = before.paths
    first.with_suffix(".bmp").write_bytes(first.read_bytes())
    after = read_voc_classes(root, "train")
    assert after.paths == before.paths[1:]
    assert any(f"{first.stem}.bmp" in problem.rule for problem in after.problems)


def test_what_cannot_be_read_is_named(root: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="val"):
        read_voc_classes(root, "val")
    with pytest.raises(NothingUsableError):
        read_voc_classes(tmp_path, "train")
    write_split(root, "cat_train", "b yes\n")
    with pytest.raises(UsageError, match="line 1 must be an image and 1, 0 or -1, is 'b yes'"):
        read_voc_classes(root, "train")


def test_splits_of_other_classes_are_refused(root: Path) -> None:
    write_split(root, "val", "a\n")
    write_split(root, "cat_val", "a 1\n")
    parts = [read_voc_classes(root, split) for split in ("train", "val")]
    with pytest.raises(UsageError, match="'dog' is missing in one"):
        common_names(parts)
    assert common_names(parts[:1]) == ("cat", "dog")
