"""What a file says of itself, and what lies there: encodings of XML, folders of a YAML file."""

from pathlib import Path

import pytest

from image_files import voc_object, voc_xml, write_image
from images.readers.layout_shapes import roboflow_yolo
from sppnet.errors import InputError, UsageError
from sppnet.images import list_splits, open_detection_dataset
from sppnet.images.readers.voc import read_xml

NAME = "街灯"


@pytest.mark.parametrize("declared", ["", '<?xml version="1.0" encoding="utf-8"?>\n'])
@pytest.mark.parametrize("encoding", ["gb18030", "shift_jis", "big5", "euc_jp"])
def test_xml_in_another_encoding_than_it_declares(
    tmp_path: Path, declared: str, encoding: str
) -> None:
    path = tmp_path / "a.xml"
    text = declared + voc_xml(voc_object((1, 1, 9, 9), NAME), "a.jpg")
    path.write_bytes(text.encode(encoding, "ignore"))
    with pytest.raises(InputError, match=f"its bytes fit .*{encoding}") as caught:
        read_xml(path)
    assert "tf-8" in str(caught.value).lower()
    path.write_bytes(text.encode())
    assert NAME in str(read_xml(path).children[-1].children[0].text)


@pytest.mark.parametrize("encoding", ["utf-16", "utf-8-sig"])
def test_xml_with_a_mark_of_its_encoding(tmp_path: Path, encoding: str) -> None:
    path = tmp_path / "a.xml"
    path.write_bytes(voc_xml(voc_object((1, 1, 9, 9), NAME), "a.jpg").encode(encoding))
    assert read_xml(path).children[-1].children[0].text == NAME


def test_a_folder_that_the_yaml_names_is_not_replaced_by_one_of_its_name(tmp_path: Path) -> None:
    """Roboflow's ``../train/images`` means the folder here, unless there is one where it says."""
    root = tmp_path / "sets" / "mine"
    root.mkdir(parents=True)
    roboflow_yolo(root)
    assert list_splits(root) == ["train", "val"]
    write_image(tmp_path / "sets" / "train" / "images" / "x.jpg", 20, 30)
    for place in (root, root / "data.yaml"):
        with pytest.raises(UsageError, match=r"'../train/images' may be .* or ") as caught:
            open_detection_dataset(place, "train")
        assert str(tmp_path / "sets" / "train" / "images") in str(caught.value)
        assert str(root / "train" / "images") in str(caught.value)
    text = (root / "data.yaml").read_text().replace("../train", "train")
    (root / "data.yaml").write_text(text)
    assert len(open_detection_dataset(root, "train")) == 2


def test_an_absolute_folder_of_the_yaml(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    roboflow_yolo(tmp_path / "mine")
    other = tmp_path / "other" / "train" / "images"
    text = f"train: {other}\nval: valid/images\nnames: ['7', b, c]\n"
    (tmp_path / "mine" / "data.yaml").write_text(text)
    assert len(open_detection_dataset(tmp_path / "mine", "train")) == 2  # moved since
    other.mkdir(parents=True)
    with pytest.raises(UsageError, match="outside the set"):
        open_detection_dataset(tmp_path / "mine", "train")
