"""YOLO: a drawn set reads as it was drawn; every odd line, name and place is told."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from image_files import write_image
from images.readers.drawn_sets import assert_same
from images.readers.layout_shapes import (
    NAMES,
    contents,
    expected,
    roboflow_yolo,
    ultralytics,
    yaml_folders,
    yaml_lists,
)
from sppnet.errors import NothingUsableError, UnusableFileError, UsageError
from sppnet.images import check_dataset, find_layout, list_splits, open_detection_dataset, read_yolo
from sppnet.images.readers.yolo_yaml import parse_yaml_names


def write_yolo(root: Path, dataset, split: str = "train", way: str = "images/SPLIT") -> Path:
    for kind in ("images", "labels"):
        (root / way.replace("images", kind).replace("SPLIT", split)).mkdir(parents=True)
    for image in dataset:
        folder = root / way.replace("SPLIT", split)
        (folder / image.path.name).write_bytes(image.path.read_bytes())
        height, width = image.size_hw
        lines = [
            f"{label} {(x1 + x2) / 2 / width} {(y1 + y2) / 2 / height} "
            f"{(x2 - x1) / width} {(y2 - y1) / height}"
            for (x1, y1, x2, y2), label in zip(
                image.boxes.tolist(), image.labels.tolist(), strict=True
            )
        ]
        if lines:
            labels = Path(root / way.replace("images", "labels").replace("SPLIT", split))
            (labels / f"{image.path.stem}.txt").write_text("\n".join(lines))
    names = ", ".join(f"'{name}'" for name in dataset.names)
    (root / "data.yaml").write_text(
        f"train: images/train\nnc: {len(dataset.names)}\nnames: [{names}]\n"
    )
    return root


@pytest.mark.parametrize("way", ["images/SPLIT", "SPLIT/images"])
def test_yolo_agrees(drawn, tmp_path, way):
    truth = open_detection_dataset(drawn)
    root = write_yolo(tmp_path / "yolo", truth, way=way)
    assert find_layout(root) == "yolo"
    assert list_splits(root) == ["train"]
    assert_same(open_detection_dataset(root), truth)
    assert_same(open_detection_dataset(root, "train"), truth)
    with pytest.raises(UsageError, match="splits of this set: train"):
        open_detection_dataset(root, "val")


def test_yolo_without_splits(drawn, tmp_path):
    truth = open_detection_dataset(drawn)
    root = write_yolo(tmp_path / "yolo", truth, split="", way="images")
    (root / "data.yaml").unlink()
    (root / "classes.txt").write_text("\n".join(truth.names))
    assert_same(open_detection_dataset(root), truth)
    assert list_splits(root) == []


def yolo_set(root: Path, labels: str) -> Path:
    write_image(root / "images" / "a.jpg", 40, 60)
    write_image(root / "images" / "b.jpg", 40, 60)
    (root / "labels").mkdir()
    (root / "labels" / "a.txt").write_text(labels)
    (root / "data.yaml").write_text("names: [cat, dog]\n")
    return root


@pytest.mark.parametrize(
    ("line", "rule"),
    [
        ("0 0.5 0.5 0.2", "must have 5 numbers"),
        ("0 0.5 0.5 0.2 0.2 0.9", "must have 5 numbers"),
        ("0", "must have 5 numbers"),
        ("cat 0.5 0.5 0.2 0.2", "must hold numbers"),
        ("0.5 0.5 0.5 0.2 0.2", "class must be in 0..1, is 0.5"),
        ("nan 0.5 0.5 0.2 0.2", "class must be in 0..1, is nan"),
        ("0 0.5 0.5 0.2 0.2 0.9 17", "cannot be a polygon"),
        ("0 0.5 0.5 0.2 0.2 0.9 1", "polygon of 3 corners or a box, its score"),
        ("0 0.5 0.5 0.2 0.2 0.4 0.4 2 0.6 0.6 2", "need kpt_shape"),
        ("2 0.5 0.5 0.2 0.2", "class must be in 0..1, is 2"),
        ("-1 0.5 0.5 0.2 0.2", "class must be in 0..1, is -1"),
        ("0 nan 0.5 0.2 0.2", "finite numbers"),
        ("0 0.5 0.5 0 0.2", "no area"),
        ("0 0.5 0.5 -0.2 0.2", "reversed"),
        ("0 5 0.5 0.2 0.2", "less than 1 px"),
        ("0 1e308 0.5 1e308 0.2", "finite corners"),
    ],
)
def test_a_bad_line_is_one_problem(tmp_path, line, rule):
    dataset = read_yolo(yolo_set(tmp_path, f"\n{line}\n1 0.5 0.5 0.5 0.5\n"))
    assert dataset[0].boxes.tolist() == [[15, 10, 45, 30]]
    assert dataset[0].labels.tolist() == [1]
    assert len(dataset[1].boxes) == 0
    assert len(dataset.problems) == 1
    assert rule in dataset.problems[0].rule
    assert dataset.problems[0].line == 2
    assert dataset.problems[0].path.endswith("a.txt")


def test_a_polygon_is_the_box_around_it(tmp_path):
    dataset = read_yolo(yolo_set(tmp_path, "0 0.5 0.25 0.75 0.5 0.25 0.75"))
    assert dataset[0].boxes.tolist() == [[15, 10, 45, 30]]


@pytest.mark.parametrize("label", ["1", "1.0", "1e+00", "01", "+1"])
def test_a_class_may_be_written_as_any_whole_number(tmp_path, label):
    dataset = read_yolo(yolo_set(tmp_path, f"{label} 0.5 0.5 0.5 0.5"))
    assert dataset[0].labels.tolist() == [1]
    assert dataset.problems == ()


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_labels_and_names_as_windows_writes_them(tmp_path, encoding):
    root = yolo_set(tmp_path, "")
    text = "1 0.5 0.5 0.5 0.5\r\n0 0.5 0.5 0.5 0.5\r\n"
    (root / "labels" / "a.txt").write_bytes(text.encode(encoding))
    (root / "data.yaml").write_bytes("names:\r\n  - cat\r\n  - dög\r\n".encode(encoding))
    dataset = read_yolo(root)
    assert dataset.names == ("cat", "dög")
    assert dataset[0].labels.tolist() == [1, 0]
    assert dataset.problems == ()


@pytest.mark.parametrize("line", ["0 0.5 0.5 -0.2 0.2", "x 0.5 0.5 0.2 0.2", "\ufffd\0"])
def test_an_image_whose_labels_are_all_lost_is_no_negative(tmp_path, line):
    dataset = read_yolo(yolo_set(tmp_path, line))
    assert [image.path.name for image in dataset] == ["b.jpg"]
    assert [problem.action for problem in dataset.problems] == ["box left out", "image left out"]
    assert "a.jpg" in dataset.problems[1].rule


def test_key_points_are_passed_over_where_the_yaml_file_speaks_of_them(tmp_path):
    root = yolo_set(
        tmp_path, "0 0.5 0.5 0.5 0.5 0.1 0.1 0.9 0.9\n1 0.5 0.5 0.5 0.5\n0 0 0 1 0 1 1\n"
    )
    (root / "data.yaml").write_text("names: [cat, dog]\nkpt_shape: [2, 2]\n")
    dataset = read_yolo(root)
    assert dataset[0].boxes.tolist() == [[15, 10, 45, 30]] * 2
    (problem,) = dataset.problems
    assert "5 numbers and 4 of key points (kpt_shape), has 7" in problem.rule


def test_images_that_differ_in_their_ending_only_are_two(tmp_path):
    root = yolo_set(tmp_path, "0 0.5 0.5 0.5 0.5")
    write_image(root / "images" / "a.png", 40, 60)
    assert [one.image_id for one in read_yolo(root)] == ["images/a.jpg", "images/a.png", "b"]


def plums(root: Path) -> Path:
    """Two sets in one folder, each with its YAML file."""
    for kind, name in (("apples", "data.yaml"), ("plums", "plums.yaml")):
        write_image(root / kind / "images" / f"{kind}.jpg", 40, 60)
        (root / kind / "labels").mkdir()
        (root / kind / "labels" / f"{kind}.txt").write_text("0 0.5 0.5 0.5 0.5")
        (root / name).write_text(f"train: {kind}/images\nnames: [{kind[:-1]}]\n")
    return root


@pytest.mark.parametrize(("name", "kind"), [("data.yaml", "apples"), ("plums.yaml", "plums")])
def test_the_yaml_file_that_was_named_is_the_one_that_is_read(tmp_path, name, kind):
    path = plums(tmp_path) / name
    dataset = open_detection_dataset(path)
    assert dataset.names == (kind[:-1],)
    assert [image.path.stem for image in dataset] == [kind]
    assert list_splits(path) == ["train"]
    assert check_dataset(path).per_class == {kind[:-1]: 1}


def test_two_yaml_files_and_a_folder_ask_for_one(tmp_path):
    root = plums(tmp_path)
    for look in (open_detection_dataset, list_splits, find_layout):
        with pytest.raises(UsageError, match=r"data.yaml and plums.yaml: name one of them"):
            look(root)
    (root / "plums.yaml").write_text("lr0: 0.01\n")  # settings of another tool
    assert open_detection_dataset(root).names == ("apple",)
    (root / "plums.yaml").write_bytes((root / "data.yaml").read_bytes())
    assert open_detection_dataset(root).names == ("apple",)


def test_a_yaml_file_of_which_nothing_is_there(tmp_path):
    path = plums(tmp_path) / "plums.yaml"
    path.write_text("train: pears/images\nnames: [pear]\n")
    with pytest.raises(UnusableFileError, match=r"names 'pears/images'; there is no such folder"):
        open_detection_dataset(path)


def several(root: Path, train: str) -> Path:
    for part in ("one", "two"):
        write_image(root / "pics" / part / "images" / f"{part}.jpg", 40, 60)
        (root / "pics" / part / "labels").mkdir()
        (root / "pics" / part / "labels" / f"{part}.txt").write_text("0 0.5 0.5 0.5 0.5")
    (root / "data.yaml").write_text(f"train: {train}\nnames: [cat]\n")
    return root


@pytest.mark.parametrize("train", ["[pics/one/images, pics/two/images]", "pics"])
def test_a_split_of_several_folders(tmp_path, train):
    dataset = open_detection_dataset(several(tmp_path, train), "train")
    assert [image.path.stem for image in dataset] == ["one", "two"]
    assert dataset.box_count == 2
    assert dataset.problems == dataset.notes == ()


def test_two_splits_of_the_same_folder_hold_each_image_once(tmp_path):
    root = several(tmp_path, "pics/one/images\nval: pics/one/images\ntest: pics")
    assert [image.path.stem for image in open_detection_dataset(root)] == ["one", "two"]
    assert len(open_detection_dataset(root, "val")) == 1


def test_a_folder_of_a_split_that_is_missing_is_told(tmp_path):
    root = several(tmp_path, "[pics/one/images, pics/three/images]")
    dataset = open_detection_dataset(root, "train")
    assert [image.path.stem for image in dataset] == ["one"]
    (problem,) = dataset.problems
    assert problem.path.endswith("pics/three/images")
    assert problem.rule == "does not exist"


def test_images_of_a_list_that_are_missing_are_told(tmp_path):
    yaml_lists(tmp_path)
    with (tmp_path / "train.txt").open("a") as file:
        file.write("./images/gone.jpg\n")
    (problem,) = open_detection_dataset(tmp_path, "train").problems
    assert problem.rule == "lists 1 image that is not there, such as './images/gone.jpg'"


@pytest.mark.parametrize("folder", ["2019", "train2017", "all/of/them"])
def test_the_yaml_file_names_the_splits(tmp_path, folder):
    write_image(tmp_path / "images" / folder / "a.jpg", 40, 60)
    (tmp_path / "labels" / folder).mkdir(parents=True)
    (tmp_path / "labels" / folder / "a.txt").write_text("0 0.5 0.5 0.5 0.5")
    write_image(tmp_path / "images" / "test" / "b.jpg", 40, 60)
    (tmp_path / "labels" / "test").mkdir(parents=True)
    (tmp_path / "data.yaml").write_text(f"train: images/{folder}\nnames: [cat]\n")
    assert list_splits(tmp_path) == ["train", "test"]
    for split in ("train", folder.rpartition("/")[2]):
        assert open_detection_dataset(tmp_path, split).box_count == 1


def test_a_folder_is_not_the_split_of_its_name_if_the_yaml_file_says_otherwise(tmp_path):
    roboflow_yolo(tmp_path)
    (tmp_path / "data.yaml").write_text(f"train: gone\nval: train/images\nnames: {NAMES!r}\n")
    assert contents(open_detection_dataset(tmp_path, "validation")) == expected("train")
    with pytest.raises(UsageError, match="no split 'train'; splits of this set: val, valid"):
        open_detection_dataset(tmp_path, "train")


WAYS_TO_WRITE_NAMES = {
    "flow": "names: [cat, dog]",
    "flow, quoted": "names: ['cat', \"dog\"]  # classes",
    "flow over lines": "names: [\n  cat,  # a cat\n  dog,\n]",
    "flow mapping": "names: {0: cat, 1: dog}",
    "block": "names:\n  - cat\n  - dog\nnc: 2",
    "block without indent": "names:\n- cat\n- dog\nval: x",
    "quoted numbers": "names:\n  '0': cat\n  \"1\": dog",
    "JSON": '{"names": ["cat", "dog"], "nc": 2}',
    "JSON mapping": '{"names": {"0": "cat", "1": "dog"}}',
    "quoted key": '"names": [cat, dog]',
    "anchor": "classes: &them [cat, dog]\nnames: *them",
    "merged": "base: &base\n  names: [cat, dog]\n<<: *base",
    "lists of one": "names:\n- [cat]\n- [dog]",
    "hexadecimal": "names: {0x0: cat, 0x1: dog}",
    "literal": "names:\n- |\n  cat\n- >\n  dog\n",
    "block mapping": "path: x\nnames:\n  # classes\n  1: dog\n  0: cat\n\nnc: 2",
}


@pytest.mark.parametrize("name", WAYS_TO_WRITE_NAMES)
def test_every_way_to_write_names(name):
    assert parse_yaml_names(WAYS_TO_WRITE_NAMES[name]) == ["cat", "dog"]


def test_names_with_odd_characters():
    text = "names: ['it''s', \"a \\\"b\\\" \\u00e9\", traffic light, baby's breath, 'x#y', 'a, b']"
    expected = ["it's", 'a "b" é', "traffic light", "baby's breath", "x#y", "a, b"]
    assert parse_yaml_names(text) == expected


def test_names_are_the_text_that_stands_there():
    text = "names: [no, 7, 1.0, null, ~, 2020-01-01, 0x10, 'yes']"
    expected = ["no", "7", "1.0", "null", "~", "2020-01-01", "0x10", "yes"]
    assert parse_yaml_names(text) == expected


def test_names_of_another_encoding_are_kept(tmp_path):
    root = yolo_set(tmp_path, "0 0.5 0.5 0.5 0.5")
    (root / "data.yaml").write_bytes("names: [Stra\u00dfe, dog]\n".encode("latin-1"))
    assert open_detection_dataset(root).names == ("Stra\udcdfe", "dog")


def test_aliases_are_followed_and_never_multiplied(tmp_path):
    assert parse_yaml_names("mine: &a [cat, dog]\nnames: *a") == ["cat", "dog"]
    bomb = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    bomb += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 40)]
    with pytest.raises(ValueError, match="line 40 must hold a name"):
        parse_yaml_names("\n".join([*bomb, "names: [*a39]"]))


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("nc: 1\nnames: [a, b\n", "line 2 cannot be read as YAML: expected"),
        ("names:\n- a\n- [b]\n", "line 3 must hold a name"),
        ("names:\n- a\n-\n", "line 3 must hold a name"),
        ("names: *gone", "line 1 cannot be read as YAML: found undefined alias"),
        ("names:\n\t- a", "line 2 cannot be read as YAML"),
        ("names: !!python/object/apply:os.system [ls]\nnc: [", "line 2 cannot be read as YAML"),
        ("names: " + "[" * 100_000, "nested too deep"),
        ('names: ["\\UFFFFFFFF"]', "cannot be read as YAML"),
        ("names: {a: 0, b: 1}", "must be numbered 0..1"),
        ("names: {0: a, 0: b}", "must be numbered 0..1"),
    ],
)
def test_bad_names_are_told_with_their_line(tmp_path, text, rule):
    root = yolo_set(tmp_path, "")
    (root / "data.yaml").write_text(text)
    with pytest.raises(UnusableFileError) as caught:
        open_detection_dataset(root)
    assert rule in caught.value.message
    assert caught.value.path == root / "data.yaml"


def test_a_file_of_names_is_limited_in_size(tmp_path):
    root = yolo_set(tmp_path, "")
    (root / "data.yaml").write_text("names: [a]\n" + "#" * 1_000_000)
    with pytest.raises(UnusableFileError, match="at most 1,000,000 bytes"):
        open_detection_dataset(root)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "nc: 2",
        "names: cat",
        "names: [a, b",
        "names: [a, [b]]",
        "names: {0: a, 2: b}",
        "names: &x",
    ],
)
def test_names_that_cannot_be_read(tmp_path, text):
    with pytest.raises(ValueError, match=r"must|cannot"):
        parse_yaml_names(text)
    root = yolo_set(tmp_path, "")
    (root / "data.yaml").write_text(text + "\n")
    with pytest.raises(UnusableFileError):
        open_detection_dataset(root)


@settings(max_examples=100, deadline=None)
@given(st.text(alphabet="names:[]{}'\",#-01 \nab\\", max_size=60))
def test_any_text_for_names_is_read_or_refused(text):
    try:
        names = parse_yaml_names(f"names:{text}")
    except ValueError:
        return
    assert all(isinstance(name, str) for name in names)


def test_val_and_valid_mean_the_same(tmp_path) -> None:
    roboflow_yolo(tmp_path)
    assert contents(open_detection_dataset(tmp_path, "val")) == expected("valid")


@pytest.mark.parametrize("write", [roboflow_yolo, ultralytics, yaml_folders, yaml_lists])
def test_a_yolo_set_may_be_named_by_its_yaml_file(tmp_path, write) -> None:
    write(tmp_path)
    (path,) = tmp_path.glob("*.yaml")
    assert find_layout(path) == "yolo"
    assert list_splits(path) == list_splits(tmp_path)
    assert contents(open_detection_dataset(path)) == expected("train", "valid")


def test_a_yaml_file_never_leads_out_of_the_set(tmp_path) -> None:
    root = tmp_path / "set"
    yaml_lists(root)
    outside = write_image(tmp_path / "secret" / "images" / "x.jpg")
    (tmp_path / "secret" / "labels").mkdir()
    (root / "train.txt").write_text(f"{outside}\n../secret/images/x.jpg\n./images/a.jpg\n\0\n")
    (root / "data.yaml").write_text(f"path: {tmp_path}\ntrain: train.txt\nnames: {NAMES!r}\n")
    assert list(contents(open_detection_dataset(root, "train"))) == ["a"]
    with (root / "data.yaml").open("a") as file:
        file.write("val: ../secret/images\n")
    with pytest.raises(UsageError, match="outside the set"):
        open_detection_dataset(root, "val")


def test_the_same_stem_in_two_splits_keeps_two_images_apart(tmp_path) -> None:
    roboflow_yolo(tmp_path)
    write_image(tmp_path / "valid" / "images" / "a.jpg", seed=9)
    dataset = open_detection_dataset(tmp_path)
    ids = [image.image_id for image in dataset]
    assert len(set(ids)) == 4
    assert {"train/images/a", "valid/images/a", "b", "c"} == set(ids)


def test_labels_without_image_are_problems(tmp_path) -> None:
    roboflow_yolo(tmp_path)
    (tmp_path / "train" / "labels" / "gone.txt").write_text("0 0.5 0.5 0.1 0.1\n")
    (problem,) = open_detection_dataset(tmp_path).problems
    assert problem.path.endswith("gone.txt")
    assert problem.action == "labels left out"


def test_a_split_without_any_label_folder_is_noted(tmp_path) -> None:
    roboflow_yolo(tmp_path)
    write_image(tmp_path / "test" / "images" / "t.jpg", seed=9)
    dataset = open_detection_dataset(tmp_path, "test")
    assert contents(dataset) == {"t": []}
    assert "no folder 'labels'" in dataset.notes[0].rule


@pytest.mark.parametrize("labels", ["labels/train2017", "train/labels", "labels"])
@pytest.mark.parametrize("with_folder", [True, False])
@pytest.mark.parametrize("names", ["names: [cat]\n", ""])
def test_labels_without_any_image_are_counted(tmp_path, labels, with_folder, names):
    (tmp_path / labels).mkdir(parents=True)
    for number in range(3):
        (tmp_path / labels / f"{number}.txt").write_text("0 0.5 0.5 0.5 0.5\n")
    images = labels.replace("labels", "images")
    if with_folder:
        (tmp_path / images).mkdir(parents=True)
    if names:
        (tmp_path / "data.yaml").write_text(names)
    for read in (open_detection_dataset, check_dataset):
        with pytest.raises(NothingUsableError) as caught:
            read(tmp_path)
        assert f"3 label files, no images in {images}" in str(caught.value)


@pytest.mark.parametrize(
    "text",
    ["nc:\t2\nnames: [a, b]", "names: [a,\tb]", "names: [a, b]\n\t\nnc: 2", "names:\t\n - a\n - b"],
)
def test_tabs_that_separate_are_spaces(text: str) -> None:
    assert parse_yaml_names(text) == ["a", "b"]


def test_a_tab_that_indents_is_an_error_with_its_line() -> None:
    with pytest.raises(ValueError, match="line 2 cannot be read as YAML"):
        parse_yaml_names("names:\n\t- a\n\t- b")


def test_a_key_that_stands_twice_is_an_error_with_its_line() -> None:
    with pytest.raises(ValueError, match="line 2 gives 'names' a second time"):
        parse_yaml_names("names: [a, b]\nnames: [c]")
