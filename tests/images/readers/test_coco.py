"""COCO: a drawn set reads as it was drawn; every odd entry is told."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from image_files import write_image
from images.readers.drawn_sets import assert_same
from sppnet.errors import NothingUsableError, UnusableFileError, UsageError
from sppnet.images import find_layout, list_splits, open_detection_dataset, read_coco
from sppnet.images.readers.coco import MAX_JSON_BYTES, _mask_box, read_coco_index


def to_coco(dataset) -> dict:
    images, annotations = [], []
    for number, image in enumerate(dataset, start=10):
        height, width = image.size_hw
        images.append(
            {"id": number, "file_name": image.path.name, "width": width, "height": height}
        )
        for (x1, y1, x2, y2), label in zip(
            image.boxes.tolist(), image.labels.tolist(), strict=True
        ):
            entry = {"id": len(annotations), "image_id": number, "category_id": 7 + 2 * label}
            annotations.append({**entry, "bbox": [x1, y1, x2 - x1, y2 - y1], "iscrowd": 0})
    categories = [{"id": 7 + 2 * k, "name": name} for k, name in enumerate(dataset.names)]
    return {"images": images, "annotations": annotations, "categories": categories}


def test_coco_agrees(drawn, tmp_path):
    truth = open_detection_dataset(drawn)
    path = tmp_path / "instances.json"
    path.write_text(json.dumps(to_coco(truth)))
    dataset = read_coco(path, drawn / "JPEGImages")
    assert_same(dataset, truth)
    assert dataset.category_ids == (7, 9, 11, 13, 15, 17)
    assert [image.image_id for image in dataset] == list(range(10, 22))
    swapped = read_coco(path, drawn / "JPEGImages", names=["tree", "ball"])
    assert swapped.category_ids == (17, 7)
    assert swapped.boxes_per_class()["tree"] == truth.boxes_per_class()["tree"]


def coco_set(tmp_path, **changes):
    write_image(tmp_path / "a.jpg", 40, 60)
    write_image(tmp_path / "b.jpg", 40, 60)
    content = {
        "images": [{"id": 1, "file_name": "a.jpg"}, {"id": 2, "file_name": "b.jpg"}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 3, "bbox": [1, 2, 10, 20]}],
        "categories": [{"id": 3, "name": "cat"}],
    }
    path = tmp_path / "set.json"
    path.write_text(json.dumps({**content, **changes}))
    return path


GOOD = {"id": 1, "image_id": 1, "category_id": 3, "bbox": [1, 2, 10, 20]}
BAD_ANNOTATIONS = {
    "negative width": ({"bbox": [5, 5, -2, 4]}, "reversed"),
    "zero": ({"bbox": [5, 5, 0, 4]}, "no area"),
    "nan": ({"bbox": [float("nan"), 5, 2, 4]}, "4 finite numbers"),
    "infinite": ({"bbox": [1, 5, float("inf"), 4]}, "4 finite numbers"),
    "overflow": ({"bbox": [1e308, 5, 1e308, 4]}, "finite corners"),
    "long integer": ({"bbox": [1, 5, 10**400, 4]}, "4 finite numbers"),
    "outside": ({"bbox": [500, 5, 2, 4]}, "less than 1 px"),
    "thin": ({"bbox": [5, 5, 0.5, 4]}, "less than 1 px"),
    "three": ({"bbox": [5, 5, 2]}, "4 finite numbers"),
    "five": ({"bbox": [5, 5, 2, 2, 2]}, "4 finite numbers"),
    "strings": ({"bbox": ["5", "5", "2", "2"]}, "4 finite numbers"),
    "booleans": ({"bbox": [True, 5, 2, 2]}, "4 finite numbers"),
    "none": ({"bbox": None}, "4 finite numbers"),
    "category": ({"category_id": 4}, "unknown category_id, 4"),
    "image": ({"image_id": 99}, "unknown image_id, 99"),
    "list for an id": ({"image_id": [1]}, "unknown image_id"),
    "no polygon": ({"bbox": [], "segmentation": [[1, 2, 3, 4]]}, "no polygon of 3 corners"),
    "no code": ({"bbox": None, "segmentation": {"counts": [1]}}, "no run-length code"),
    "a short code": ({"bbox": [], "segmentation": {"size": [2, 2], "counts": [1]}}, "1 pixels in"),
    "an empty mask": ({"bbox": [], "segmentation": {"size": [1, 1], "counts": [1]}}, "is empty"),
    "an odd code": ({"bbox": [], "segmentation": {"size": [1, 1], "counts": "\x7f"}}, "no run-len"),
    "a huge code": ({"bbox": [], "segmentation": {"size": [1, 1], "counts": "o" * 99}}, "no run-l"),
}


@pytest.mark.parametrize("name", BAD_ANNOTATIONS)
def test_a_bad_annotation_is_one_problem(tmp_path, name):
    change, rule = BAD_ANNOTATIONS[name]
    dataset = read_coco(coco_set(tmp_path, annotations=[GOOD, {**GOOD, "id": 2, **change}]))
    assert len(dataset) == 2
    assert dataset[0].boxes.tolist() == [[1, 2, 11, 22]]
    assert len(dataset[1].boxes) == 0
    assert len(dataset.problems) == 1
    assert rule in dataset.problems[0].rule
    assert dataset.problems[0].code == "E_BOX"


def test_crowd_is_kept(tmp_path):
    path = coco_set(tmp_path, annotations=[{**GOOD, "iscrowd": 1}, {**GOOD, "id": 2}])
    assert read_coco(path)[0].crowd.tolist() == [True, False]


BAD_IMAGES = {
    "no name": ({"id": 3}, "an id and a file_name"),
    "no id": ({"file_name": "b.jpg"}, "an id and a file_name"),
    "no object": (7, "an id and a file_name"),
    "twice": ({"id": 1, "file_name": "b.jpg"}, "image id 1 comes twice"),
    "missing": ({"id": 3, "file_name": "gone.jpg"}, "there is no image 'gone.jpg'"),
    "outside": ({"id": 3, "file_name": "../secret.jpg"}, "there is no image"),
    "absolute": ({"id": 3, "file_name": "/etc/passwd"}, "there is no image"),
    "nul": ({"id": 3, "file_name": "a\0.jpg"}, "there is no image"),
    "too long": ({"id": 3, "file_name": "a" * 300}, "there is no image"),
    "half a character": ({"id": 3, "file_name": "\ud800.jpg"}, "there is no image"),
    "dots": ({"id": 3, "file_name": ".."}, "there is no image"),
    "the folder": ({"id": 3, "file_name": "."}, "there is no image"),
}


@pytest.mark.parametrize("name", BAD_IMAGES)
def test_a_bad_image_entry_is_one_problem(tmp_path, name):
    write_image(tmp_path / "secret.jpg")
    entry, rule = BAD_IMAGES[name]
    folder = tmp_path / "set"
    dataset = read_coco(coco_set(folder, images=[{"id": 1, "file_name": "a.jpg"}, entry]))
    assert [image.image_id for image in dataset] == [1]
    assert len(dataset.problems) == 1
    assert rule in dataset.problems[0].rule


@pytest.mark.parametrize(
    ("content", "rule"),
    [
        ("", "empty"),
        ("{", "is not JSON"),
        ("[]", "must hold a list 'images'"),
        ('{"images": []}', "must hold a list 'annotations'"),
        ('{"images": [], "annotations": [], "categories": []}', "has no category"),
        (
            '{"images": [], "annotations": [], "categories": [{"id": [1], "name": "a"}]}',
            "bad category",
        ),
        ("[" * 1_000_000, "nested too deep"),
        ('{"a": ' + "9" * 5_000 + "}", "is not JSON"),
        (b"\xff\xfe\xfd", "is not JSON"),
    ],
)
def test_an_unusable_index(tmp_path, content, rule):
    path = tmp_path / "set.json"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UnusableFileError, match=rule) as caught:
        open_detection_dataset(path)
    assert caught.value.exit_code == 5
    assert len(str(caught.value)) < 400


def test_categories_that_come_twice(tmp_path):
    twice = [{"id": 0, "name": "cat"}, {"id": 3, "name": "cat"}]
    dataset = read_coco(coco_set(tmp_path, categories=twice))
    assert dataset.names == ("cat",)
    assert len(dataset.notes) == 1
    with pytest.raises(UnusableFileError, match="id 3 comes twice"):
        read_coco(coco_set(tmp_path, categories=[{"id": 3, "name": "a"}, {"id": 3, "name": "b"}]))


JUNK = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=2)
    ),
    max_leaves=5,
)
ENTRY = st.fixed_dictionaries(
    {}, optional=dict.fromkeys(("id", "image_id", "category_id", "bbox"), JUNK)
)


@settings(max_examples=150, deadline=None)
@given(st.lists(JUNK | ENTRY, max_size=5), st.lists(JUNK, max_size=3))
def test_junk_in_an_index_is_counted(tmp_path_factory, annotations, images):
    folder = tmp_path_factory.getbasetemp() / "junk"
    images = [{"id": 1, "file_name": "a.jpg"}, *images]
    dataset = read_coco(coco_set(folder, annotations=annotations, images=images))
    kept = dataset.box_count + len(dataset)
    assert kept + len(dataset.problems) == len(annotations) + len(images)


def test_ids_of_annotations_are_not_needed(tmp_path):
    other = {**GOOD, "bbox": [5, 5, 10, 10]}
    nameless = {key: value for key, value in GOOD.items() if key != "id"} | {"bbox": [0, 0, 9, 9]}
    dataset = read_coco(coco_set(tmp_path, annotations=[GOOD, other, nameless]))
    assert len(dataset[0].boxes) == 3
    assert dataset.problems == ()


@pytest.mark.parametrize(
    ("first", "second"), [("a", "b"), ("1", "2"), (1.0, 2.0), ("1", 2), ("000001", "1")]
)
@pytest.mark.parametrize("category", ["3", 3.0, "three"])
def test_ids_may_be_text_or_floats(tmp_path, first, second, category):
    dataset = read_coco(
        coco_set(
            tmp_path,
            images=[{"id": first, "file_name": "a.jpg"}, {"id": second, "file_name": "b.jpg"}],
            annotations=[{**GOOD, "image_id": first, "category_id": category}],
            categories=[{"id": category, "name": "cat"}],
        )
    )
    assert dataset.problems == ()
    assert [image.image_id for image in dataset] == [first, second]
    assert dataset.box_count == 1


def test_an_id_as_text_and_as_a_number_is_the_same(tmp_path):
    images = [{"id": 1, "file_name": "a.jpg"}, {"id": "1", "file_name": "b.jpg"}]
    annotations = [{**GOOD, "image_id": "1", "category_id": 3.0}]
    dataset = read_coco(coco_set(tmp_path, images=images, annotations=annotations))
    assert "image id 1 comes twice" in dataset.problems[0].rule
    assert dataset.box_count == 1


@pytest.mark.parametrize("change", [{"bbox": [9, 9, -2, 4]}, {"category_id": 9}, {"bbox": "x"}])
def test_an_image_whose_boxes_are_all_lost_is_no_negative(tmp_path, change):
    dataset = read_coco(coco_set(tmp_path, annotations=[{**GOOD, **change}]))
    assert [image.path.name for image in dataset] == ["b.jpg"]
    assert dataset.problems[1].action == "image left out"


def masks() -> dict:
    mask_tools = pytest.importorskip("pycocotools.mask")
    mask = np.zeros((40, 60), np.uint8, order="F")
    mask[7:21, 5:12], mask[30, 44] = 1, 1
    code = mask_tools.encode(mask)
    runs = np.diff(np.flatnonzero(np.diff(np.r_[2, mask.ravel(order="F"), 2])))
    return {
        "polygon": [[5, 7, 45, 7, 45, 31, 5, 31]],
        "two polygons": [[5, 7, 9, 7, 9, 12], [44, 30, 45.0, 30, 45, 31]],
        "flat": [5, 7, 45, 7, 45, 31],
        "code": {"size": [40, 60], "counts": code["counts"].decode()},
        "runs": {"size": [40, 60], "counts": [int(run) for run in runs]},
    }


@pytest.mark.parametrize("box", [{}, {"bbox": []}, {"bbox": None}])
@pytest.mark.parametrize("name", ["polygon", "two polygons", "flat", "code", "runs"])
def test_a_segmentation_alone_gives_its_box(tmp_path, name, box):
    entry = {"id": 1, "image_id": 1, "category_id": 3, "segmentation": masks()[name], **box}
    dataset = read_coco(coco_set(tmp_path, annotations=[{**entry, "iscrowd": 1}]))
    assert dataset.problems == ()
    assert dataset[0].boxes.tolist() == [[5, 7, 45, 31]]
    assert dataset[0].crowd.tolist() == [True]


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 9), st.integers(1, 9))
def test_boxes_of_codes_are_those_of_pycocotools(seed, height, width):
    mask_tools = pytest.importorskip("pycocotools.mask")
    mask = np.random.default_rng(seed).random((height, width)) < 0.3
    code = mask_tools.encode(np.asfortranarray(mask, np.uint8))
    segmentation = {"size": [height, width], "counts": code["counts"].decode()}
    if not mask.any():
        with pytest.raises(ValueError, match="is empty"):
            _mask_box(segmentation)
        return
    assert list(_mask_box(segmentation)) == mask_tools.toBbox(code).tolist()


NAMES_OF_THE_SAME = [
    "images/shelf1/a.jpg",
    "images\\shelf1\\a.jpg",
    "shelf1/a.jpg",
    "C:\\photos\\images\\shelf1\\a.jpg",
    "/data/set/images/shelf1/a.jpg",
    "./images/shelf1/a.jpg",
    "../set/images/shelf1/a.jpg",
    "Images/Shelf1/A.JPG",
    "images/shelf%31/a.jpg",
]


@pytest.mark.parametrize("name", NAMES_OF_THE_SAME)
@pytest.mark.parametrize("index", ["set.json", "annotations/instances_set.json"])
def test_a_file_is_found_where_its_name_means_it(tmp_path, name, index):
    content = json.loads(coco_set(tmp_path / "source").read_text())
    content["images"] = [{"id": 1, "file_name": name}]
    root = tmp_path / "set"
    write_image(root / "images" / "shelf1" / "a.jpg", 40, 60)
    write_image(root / "images" / "shelf2" / "a.jpg", 40, 60, seed=1)
    (root / index).parent.mkdir(exist_ok=True)
    (root / index).write_text(json.dumps(content))
    for data in (root, root / index):
        (image,) = open_detection_dataset(data)
        assert image.path == root / "images" / "shelf1" / "a.jpg"
    content["images"][0]["file_name"] = "images/shelf3/a b.jpg"
    (root / index).write_text(json.dumps(content))
    with pytest.raises(NothingUsableError, match=r"no image 'images/shelf3/a b.jpg' in images"):
        open_detection_dataset(root)


def test_a_file_that_two_names_could_mean_is_neither(tmp_path):
    images = [{"id": 1, "file_name": "one/a.jpg"}, {"id": 2, "file_name": "two/a.jpg"}]
    images.append({"id": 3, "file_name": "b%2Ejpg"})
    dataset = read_coco(coco_set(tmp_path, images=images))
    assert [image.image_id for image in dataset] == [3]
    assert len(dataset.problems) == 2
    assert "'one/a.jpg' may be 'a.jpg'" in dataset.problems[0].rule
    assert "'two/a.jpg'" in dataset.problems[0].rule


def test_files_that_differ_in_case_are_told_apart(tmp_path):
    path = coco_set(tmp_path, images=[{"id": 1, "file_name": "A.JPG"}])
    write_image(tmp_path / "A.jpg", 40, 60)
    with pytest.raises(NothingUsableError, match=r"'A.JPG' may be 'A.jpg' and 'a.jpg'"):
        read_coco(path)


@pytest.mark.parametrize(
    ("index", "images", "split"),
    [
        ("annotations/instances_val2017.json", "val2017", "val2017"),
        ("annotations/instances_val2017.json", "images/val2017", "val"),
        ("val.json", "images", "val"),
        ("val/_annotations.coco.json", "val", "val"),
        ("anything.json", "", None),
    ],
)
def test_where_a_coco_set_keeps_its_parts(tmp_path, index, images, split):
    content = json.loads(coco_set(tmp_path / "source").read_text())
    root = tmp_path / "set"
    for name in ("a.jpg", "b.jpg"):
        write_image(root / images / name, 40, 60)
    (root / index).parent.mkdir(parents=True, exist_ok=True)
    (root / index).write_text(json.dumps(content))
    (root / "settings.json").write_text('{"not": "coco"}')
    assert find_layout(root) == "coco"
    assert len(open_detection_dataset(root, split)) == 2
    with pytest.raises(UsageError, match="no split 'nope'"):
        open_detection_dataset(root, "nope")


def test_a_coco_set_of_several_splits_asks_for_one(tmp_path):
    coco_set(tmp_path)
    (tmp_path / "other.json").write_bytes((tmp_path / "set.json").read_bytes())
    with pytest.raises(UsageError, match="name a split; this set has other, set"):
        open_detection_dataset(tmp_path)
    assert list_splits(tmp_path) == ["other", "set"]
    assert len(open_detection_dataset(tmp_path / "set.json")) == 2


def test_an_index_of_more_than_a_gigabyte_is_not_read(tmp_path):
    path = tmp_path / "a.json"
    with path.open("wb") as file:
        file.truncate(MAX_JSON_BYTES + 1)  # nothing is written
    with pytest.raises(UnusableFileError, match="1,000,000,000 bytes"):
        read_coco_index(path)


@pytest.mark.parametrize("entry", ["[],", "{},", "[ ],", "[[]],"])
def test_a_file_of_brackets_is_refused_before_it_is_parsed(tmp_path, monkeypatch, entry):
    monkeypatch.setattr("sppnet.images.readers.coco.json.loads", lambda _: pytest.fail("parsed"))
    path = tmp_path / "a.json"
    lists = (entry * 4_000_000)[:-1]
    path.write_text(f'{{"images": [], "categories": [], "annotations": [{lists}]}}')
    with pytest.raises(UnusableFileError, match=r"holds [0-9,]+ lists"):
        read_coco_index(path)
