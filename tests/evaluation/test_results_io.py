"""Detections in files: every accepted spelling, every broken line named, nothing lost."""

import csv
import io
import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from sppnet.errors import OutputError, Problem, UnusableFileError
from sppnet.evaluation import read_detections, write_coco_results, write_csv
from sppnet.evaluation.result_formats import exact_text, spreadsheet_text
from sppnet.evaluation.results_io import ImageNames
from sppnet.geometry import Detections

NAMES = ("cat", "traffic light", "0")


def dataset(
    ids: tuple = ("000005", "b"), names: tuple = NAMES, category_ids: tuple = (3, 7, 90)
) -> SimpleNamespace:
    images = tuple(SimpleNamespace(image_id=i, path=Path(f"photos/{i}.jpg")) for i in ids)
    files = {image.image_id: f"{image.image_id}.jpg" for image in images}
    about = {"names": names, "category_ids": category_ids, "layout": "coco", "files": files}
    return SimpleNamespace(images=images, **about)


def coco_dataset() -> SimpleNamespace:
    data = dataset()
    data.images = (
        SimpleNamespace(image_id=11, path=Path("photos/000005.jpg")),
        SimpleNamespace(image_id=5, path=Path("photos/b.png")),
    )
    return data


def entry(**changes: object) -> dict:
    good = {"image_id": "b", "category_id": 3, "bbox": [1, 2, 3, 4.5], "score": 0.5}
    return {key: value for key, value in (good | changes).items() if value != "absent"}


def as_json(folder: Path, *entries: object) -> Path:
    (folder / "found.json").write_text(json.dumps(list(entries)))
    return folder / "found.json"


def as_text(folder: Path, text: str | bytes, name: str = "b.txt") -> Path:
    (folder / "found").mkdir(exist_ok=True)
    (folder / "found" / name).write_bytes(text.encode() if isinstance(text, str) else text)
    return folder / "found"


# --- COCO results -----------------------------------------------------------------------------


def test_json_boxes_become_corners(tmp_path: Path) -> None:
    found = read_detections(as_json(tmp_path, entry()), dataset())
    assert found.keys() == {"b"}
    assert found["b"].boxes.tolist() == [[1, 2, 4, 6.5]]
    assert found["b"].scores.tolist() == [0.5]
    assert found["b"].labels.tolist() == [0]


@pytest.mark.parametrize(
    ("name", "image"),
    [
        ("000005", "000005"),
        ("000005.jpg", "000005"),
        ("photos/000005.jpg", "000005"),
        ("elsewhere/000005", "000005"),
        (5, "000005"),
        ("b", "b"),
    ],
)
def test_json_image_names(tmp_path: Path, name: object, image: str) -> None:
    assert read_detections(as_json(tmp_path, entry(image_id=name)), dataset()).keys() == {image}


@pytest.mark.parametrize(
    ("name", "image"),
    [(11, 11), ("11", 11), (5, 5), ("5", 5), ("000005", 11), ("000005.jpg", 11), ("b", 5)],
)
def test_numbers_of_a_coco_file_go_before_names(tmp_path: Path, name: object, image: int) -> None:
    found = read_detections(as_json(tmp_path, entry(image_id=name)), coco_dataset())
    assert found.keys() == {image}


@pytest.mark.parametrize(
    ("name", "image"),
    [
        ("shelf1/p.jpg", 1),
        ("/other/photos/shelf2/p.jpg", 2),
        ("C:\\photos\\shelf2\\p.jpg", 2),
        ("shelf1/p", 1),
        ("1.0", 1),
        (2.0, 2),
        ("p.jpg", None),
        ("shelf3/p.jpg", None),
    ],
)
def test_folders_tell_images_of_one_name_apart(name: object, image: int | None) -> None:
    names = ImageNames([
        SimpleNamespace(image_id=n, path=Path(f"photos/shelf{n}/p.jpg")) for n in (1, 2)
    ])  # fmt: skip
    assert names.find(name) == image
    if image is None:
        assert names.fault(name) == f"image {name!r} may be 1 and 2"


def test_a_name_that_fits_two_images_fits_none() -> None:
    images = [
        SimpleNamespace(image_id="a/x", path=Path("a/x.jpg")),
        SimpleNamespace(image_id="b/x", path=Path("b/x.jpg")),
    ]
    names = ImageNames(images)
    assert names.find("a/x") == "a/x"
    assert names.find("x") is None
    assert names.find(None) is None
    assert names.find(True) is None
    assert names.find([1]) is None


@pytest.mark.parametrize(
    ("change", "label"),
    [
        ({"category_id": 90}, 2),
        ({"category_id": "traffic light"}, 1),
        ({"category_id": "absent", "category_name": "cat"}, 0),
        ({"category_id": 7, "category_name": "cat"}, 0),  # a name goes before a number
        ({"category_id": 7, "category_name": "Traffic light"}, 1),
        ({"category_id": "0"}, 2),  # a name goes before a place
        ({"category_id": "7"}, 1),  # an id of the set, not a place in it
        ({"category_id": 7.0}, 1),
        ({"category_id": "7.0"}, 1),
    ],
)
def test_json_classes(tmp_path: Path, change: dict, label: int) -> None:
    found = read_detections(as_json(tmp_path, entry(**change)), dataset())
    assert found["b"].labels.tolist() == [label]


def test_numbers_mean_nothing_where_the_data_set_has_none(tmp_path: Path) -> None:
    """A model with other classes numbers them differently; its names must not be passed over."""
    data = dataset()
    data.layout = "voc"
    problems: list[Problem] = []
    stranger = entry(category_id=3, category_name="dog")
    assert read_detections(as_json(tmp_path, stranger), data, problems) == {}
    assert "class 'dog' is not in the data set" in problems[0].rule


def test_without_category_ids_they_count_from_one(tmp_path: Path) -> None:
    path = as_json(tmp_path, entry(category_id=1), entry(category_id=3))
    assert read_detections(path, dataset(category_ids=()))["b"].labels.tolist() == [0, 2]


def test_best_score_first_and_ties_in_the_order_of_the_file(tmp_path: Path) -> None:
    scores = [0.5, 0.9, 0.5, 0.123456789, 0.123456788]  # the last two are equal in float32
    path = as_json(tmp_path, *(entry(score=s, bbox=[i, 0, 1, 1]) for i, s in enumerate(scores)))
    boxes = read_detections(path, dataset())["b"].boxes
    assert boxes[:, 0].tolist() == [1, 0, 2, 3, 4]
    backwards = as_json(tmp_path, entry(score=scores[4]), entry(score=scores[3], bbox=[9, 0, 1, 1]))
    assert read_detections(backwards, dataset())["b"].boxes[0, 0] == 9


def test_no_detections(tmp_path: Path) -> None:
    assert read_detections(as_json(tmp_path), dataset()) == {}
    assert read_detections(as_text(tmp_path, "\n \n"), dataset()) == {}


@pytest.mark.parametrize(
    ("bad", "rule"),
    [
        (7, "entry 2 must be an object"),
        (entry(score=float("nan")), "entry 2 must hold finite numbers"),
        (entry(score=float("inf")), "finite"),
        (entry(bbox=[0, 0, 1e39, 1]), "finite"),
        (entry(bbox=[0, 0, 10**400, 1]), "four coordinates"),
        (entry(bbox=[0, 0, -1, 1]), "entry 2 has a box of negative size, -1 x 1"),
        (entry(bbox=[0, 0, 1]), "score and four coordinates"),
        (entry(bbox=[0, 0, 1, 1, 1]), "score and four coordinates"),
        (entry(bbox=["0", 0, 1, 1]), "score and four coordinates"),
        (entry(bbox={"x": 1}), "score and four coordinates"),
        (entry(bbox="absent"), "score and four coordinates"),
        (entry(score=True), "score and four coordinates"),
        (entry(score=None), "score and four coordinates"),
        (entry(score="absent"), "score and four coordinates"),
        (entry(image_id="absent"), "entry 2 must have file or image_id"),
        (entry(category_id="absent"), "entry 2 must have file or image_id and category_id or"),
    ],
)
def test_broken_entries_are_named(tmp_path: Path, bad: object, rule: str) -> None:
    path = as_json(tmp_path, entry(), bad)
    with pytest.raises(UnusableFileError, match=rule) as caught:
        read_detections(path, dataset(), [])
    assert caught.value.path == path
    assert caught.value.exit_code == 5
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["", "{}", '{"annotations": []}', "null", "[", "\x00"])
def test_other_json_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "found.json").write_text(text)
    with pytest.raises(UnusableFileError):
        read_detections(tmp_path / "found.json", dataset())


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(UnusableFileError, match="does not exist"):
        read_detections(tmp_path / "found.json", dataset())


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        ({"image_id": "z"}, "entry 1: image 'z' is not in the data set"),
        ({"image_id": 6}, "image 6 is not"),
        ({"image_id": [1]}, r"image \[1\] is not"),
        ({"category_id": 4}, "class 4 is not in the data set"),
        ({"category_id": "dog"}, "class 'dog' is not"),
        ({"category_id": "1"}, "class '1' is not"),
        ({"category_id": 7.5}, "class 7.5 is not"),
        ({"image_id": 5.5}, "image 5.5 is not"),
        ({"category_id": True}, "class True is not"),
    ],
)
def test_unknown_images_and_classes_are_counted_or_refused(
    tmp_path: Path, change: dict, rule: str
) -> None:
    path = as_json(tmp_path, entry(**change), entry())
    problems: list[Problem] = []
    assert read_detections(path, dataset(), problems)["b"].count == 1
    assert len(problems) == 1
    assert str(path) in str(problems[0])
    with pytest.raises(UnusableFileError, match=rule):
        read_detections(path, dataset())


# --- text files -------------------------------------------------------------------------------


def test_text_lines(tmp_path: Path) -> None:
    text = (
        "\ufeffcat 0.25 1 2 3 4\r\n\r\ntraffic  light 0.75 0 0 5.5 6\n1 0.5 0 0 1 1\n0 .1 0 0 1 1"
    )
    folder = as_text(tmp_path, text)
    as_text(tmp_path, "cat 1e-3 0 0 1 1\n", "000005.TXT")
    as_text(tmp_path, "not detections", "README.md")
    found = read_detections(folder, dataset())
    assert found["b"].labels.tolist() == [1, 1, 0, 2]
    assert found["b"].scores.tolist() == pytest.approx([0.75, 0.5, 0.25, 0.1])
    assert found["b"].boxes[0].tolist() == [0, 0, 5.5, 6]
    assert found["000005"].count == 1


@pytest.mark.parametrize(
    ("line", "rule"),
    [
        ("cat 0.5 0 0 1", "line 2 must be 'class score x1 y1 x2 y2', got 'cat 0.5 0 0 1'"),
        ("cat", "line 2 must be"),
        ("cat x 0 0 1 1", "line 2 must hold a score and four coordinates"),
        ("cat nan 0 0 1 1", "line 2 must hold finite numbers"),
        ("cat 0.5 0 0 inf 1", "finite"),
        ("cat 0.5 5 0 1 1", "line 2 has a box of negative size"),
        ("cat 0.5 0,0 0 1 1", "four coordinates"),
        ("\x1b[31m 0.5", "line 2 must be"),
    ],
)
def test_broken_lines_are_named(tmp_path: Path, line: str, rule: str) -> None:
    folder = as_text(tmp_path, f"cat 0.5 0 0 1 1\n{line}\n")
    with pytest.raises(UnusableFileError, match=rule) as caught:
        read_detections(folder, dataset(), [])
    assert caught.value.path == folder / "b.txt"
    assert "\x1b" not in str(caught.value)


def test_text_of_unknown_images_and_classes(tmp_path: Path) -> None:
    folder = as_text(tmp_path, "dog 0.5 0 0 1 1\ncat 0.5 0 0 1 1\n3 0.5 0 0 1 1\n")
    as_text(tmp_path, "cat 0.5 0 0 1 1\n", "other.txt")
    problems: list[Problem] = []
    assert read_detections(folder, dataset(), problems)["b"].count == 1
    assert [(Path(p.path).name, p.line) for p in problems] == [
        ("b.txt", 1),
        ("b.txt", 3),
        ("other.txt", 1),
    ]


def test_text_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(UnusableFileError, match="not UTF-8"):
        read_detections(as_text(tmp_path, b"\xff\xfa"), dataset())
    (tmp_path / "empty").mkdir()
    with pytest.raises(UnusableFileError, match=r"holds no \.txt file"):
        read_detections(tmp_path / "empty", dataset())


# --- CSV --------------------------------------------------------------------------------------


def as_csv(folder: Path, text: str | bytes) -> Path:
    path = folder / "found.CSV"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


@pytest.mark.parametrize(
    "text",
    [
        "image,class,score,x1,y1,x2,y2\nb,traffic light,0.5,1,2,4,6.5\n",
        "\ufeffxmin,ymin,xmax,ymax,confidence,class,name,image\r\n1,2,4,6.5,.5,9,traffic light,b",
        "Filename, Label, X, Y, W, H, Conf\n\n b ,1,1,2,3,4.5,0.5\n\n",
        "image_id,category_name,score,left,top,right,bottom\nphotos/b,traffic light,5e-1,1,2,4,6.5",
        'image,class,score,x1,y1,x2,y2,note\n"b","traffic light",0.5,1,2,4,6.5,"two\nlines"\n',
    ],
)
def test_tables_of_several_tools(tmp_path: Path, text: str) -> None:
    found = read_detections(as_csv(tmp_path, text), dataset())
    assert found.keys() == {"b"}
    assert found["b"].boxes.tolist() == [[1, 2, 4, 6.5]]
    assert found["b"].scores.tolist() == [0.5]
    assert found["b"].labels.tolist() == [1]


COLUMNS = ["image", "class", "score", "x1", "y1", "x2", "y2"]
ROW = ["photos\\b.jpg", "traffic light", "0.5", "1", "2", "4", "6.5"]


@pytest.mark.parametrize("delimiter", [";", "\t", "|", ","])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_tables_of_other_regions(tmp_path: Path, delimiter: str, encoding: str) -> None:
    text = "\r\n".join(delimiter.join(cells) for cells in (COLUMNS, ROW)) + "\r\n"
    found = read_detections(as_csv(tmp_path, text.encode(encoding)), dataset())
    assert found["b"].boxes.tolist() == [[1, 2, 4, 6.5]]


def test_decimal_commas_between_semicolons(tmp_path: Path) -> None:
    row = [cell.replace(".5", ",5") for cell in ROW]
    text = "\n".join(";".join(cells) for cells in (COLUMNS, row))
    found = read_detections(as_csv(tmp_path, text), dataset())
    assert found["b"].boxes.tolist() == [[1, 2, 4, 6.5]]
    assert found["b"].scores.tolist() == [0.5]


def test_a_column_of_category_ids_holds_ids(tmp_path: Path) -> None:
    """They were taken for places: id 1 for the second class."""
    text = "image_id,category_id,score,x1,y1,x2,y2\nb,1,0.5,0,0,1,1\nb,2.0,0.4,0,0,1,1\n"
    data = dataset(category_ids=(1, 2, 3))
    assert read_detections(as_csv(tmp_path, text), data)["b"].labels.tolist() == [0, 1]
    data.layout = "voc"
    text = text.replace("2.0", "2")
    assert read_detections(as_csv(tmp_path, text), data)["b"].labels.tolist() == [1, 2]


def test_text_in_utf_16(tmp_path: Path) -> None:
    folder = as_text(tmp_path, "cat 0.5 0 0 1 1\r\n".encode("utf-16"))
    assert read_detections(folder, dataset())["b"].count == 1


HEADER = "image,class,score,x1,y1,x2,y2\n"


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("", "file is empty|line 1 must name the columns"),
        ("image,score,x1,y1,x2,y2\n", "lacks class"),
        ("a,b\n", "lacks image, class, score, x1, y1, x2, y2"),
        (HEADER + "b,cat,0.5,0,0,1\n", "line 2 must have a value in every column"),
        (HEADER + "b,cat,0.5,0,0,1,1\nb,cat,high,0,0,1,1\n", "line 3 must hold a score and four"),
        (HEADER + "b,cat,nan,0,0,1,1\n", "line 2 must hold finite numbers"),
        (HEADER + "b,cat,0.5,5,0,1,1\n", "line 2 has a box of negative size"),
        ("image,class,score,x,y,w,h\nb,cat,0.5,5,0,-1,1\n", "line 2 has a box of negative size"),
        (HEADER.encode() + b"\xff\n", "not UTF-8"),
        (HEADER + '"' + "x" * 200_000, "line 2: field larger"),
    ],
)
def test_broken_tables_are_named(tmp_path: Path, text: str | bytes, rule: str) -> None:
    with pytest.raises(UnusableFileError, match=rule) as caught:
        read_detections(as_csv(tmp_path, text), dataset(), [])
    assert caught.value.exit_code == 5


def test_rows_of_unknown_images_and_classes(tmp_path: Path) -> None:
    text = HEADER + "b,cat,0.5,0,0,1,1\nz,cat,0.5,0,0,1,1\nb,dog,0.5,0,0,1,1\n"
    problems: list[Problem] = []
    assert read_detections(as_csv(tmp_path, text), dataset(), problems)["b"].count == 1
    assert [problem.line for problem in problems] == [3, 4]


def test_the_written_table_is_read_back(tmp_path: Path) -> None:
    found = {"000005": some_detections(50), "b": some_detections(3)}
    write_csv(tmp_path / "a.csv", found, NAMES)
    back = read_detections(tmp_path / "a.csv", dataset())
    for image, detections in back.items():
        assert torch.allclose(detections.boxes, found[image].boxes, atol=0.006)
        assert torch.equal(detections.labels, found[image].labels)


# --- writing ----------------------------------------------------------------------------------


def some_detections(count: int) -> Detections:
    generator = torch.Generator().manual_seed(count)
    corners = torch.rand(count, 2, generator=generator) * 1000
    sides = torch.rand(count, 2, generator=generator) * 300
    return Detections(
        torch.cat([corners, corners + sides], 1),
        torch.rand(count, generator=generator).sort(descending=True).values,
        torch.randint(3, (count,), generator=generator),
    )


def test_what_is_written_is_read_back_exactly(tmp_path: Path) -> None:
    found = {"000005": some_detections(500), "b": some_detections(3), "c": Detections.empty()}
    write_coco_results(tmp_path / "a.json", found, NAMES, (3, 7, 90))
    back = read_detections(tmp_path / "a.json", dataset())
    assert back.keys() == {"000005", "b"}
    for image, detections in back.items():
        for key in ("boxes", "scores", "labels"):
            assert torch.equal(detections[key], found[image][key])


def test_coco_results_have_the_fields_of_coco(tmp_path: Path) -> None:
    box = Detections(torch.tensor([[1.0, 2, 4, 6.5]]), torch.tensor([0.5]), torch.tensor([1]))
    write_coco_results(tmp_path / "a.json", {7: box}, NAMES)
    assert json.loads((tmp_path / "a.json").read_text()) == [
        {
            "image_id": 7,
            "category_id": 2,
            "category_name": "traffic light",
            "bbox": [1.0, 2.0, 3.0, 4.5],
            "score": 0.5,
        }
    ]
    write_coco_results(tmp_path / "a.json", {}, NAMES)
    assert json.loads((tmp_path / "a.json").read_text()) == []


def test_csv_has_one_row_per_detection(tmp_path: Path) -> None:
    box = Detections(torch.tensor([[1.0, 2, 4, 6.5]]), torch.tensor([0.5]), torch.tensor([1]))
    write_csv(tmp_path / "a.csv", {'odd, "name"\n.jpg': box, "b": Detections.empty()}, NAMES)
    with (tmp_path / "a.csv").open(newline="") as file:
        rows = list(csv.reader(file))
    assert rows == [
        ["image", "class", "score", "confidence", "x1", "y1", "x2", "y2"],
        ['odd, "name"\n.jpg', "traffic light", "0.5", "", "1.00", "2.00", "4.00", "6.50"],
    ]


def test_unwritable_results(tmp_path: Path) -> None:
    for write in (write_coco_results, write_csv):
        with pytest.raises(OutputError):
            write(tmp_path / "missing" / "a", {}, NAMES)


@pytest.mark.parametrize("sign", ["=", "+", "-", "@", "\t", "\r", "'=", "''@"])
def test_no_cell_is_a_formula_and_the_exact_names_come_back(tmp_path: Path, sign: str) -> None:
    name = f'{sign}HYPERLINK("http://x";"y")'
    found = {
        name: Detections(torch.tensor([[0.0, 0, 5, 5]]), torch.tensor([-0.5]), torch.tensor([0]))
    }
    write_csv(tmp_path / "a.csv", found, [name])
    write_coco_results(tmp_path / "a.json", found, [name])
    _, (image, category, score, *_) = csv.reader(
        io.StringIO((tmp_path / "a.csv").read_bytes().decode(), newline="")
    )
    assert image == category == f"'{name}"
    assert float(score) == -0.5
    (entry,) = json.loads((tmp_path / "a.json").read_text())
    assert entry["image_id"] == entry["category_name"] == name
    assert [exact_text(spreadsheet_text(each)) for each in (name, f"'{name}", "'tis")] == [
        name,
        f"'{name}",
        "'tis",
    ]


# --- files: the identity of images ------------------------------------------------------------


def cameras(*folders: str, name: str = "IMG_0001.JPG", root: str = "photos") -> SimpleNamespace:
    """A set with a photo of one name in each folder."""
    images = tuple(
        SimpleNamespace(image_id=f"{folder}/IMG_0001", path=Path(root, folder, name))
        for folder in folders
    )
    files = {each.image_id: each.path.relative_to(root).as_posix() for each in images}
    about = {"names": NAMES, "category_ids": (), "layout": "voc", "files": files}
    return SimpleNamespace(images=images, **about)


@pytest.mark.parametrize(
    ("file", "image"),
    [
        ("cam1/IMG_0001.JPG", "cam1/IMG_0001"),
        ("photos/cam2/IMG_0001.JPG", "cam2/IMG_0001"),
        ("cam3/IMG_0001.JPG", None),
        ("other/cam1/IMG_0001.JPG", None),
        ("IMG_0001.JPG", None),
        ("/elsewhere/photos/cam1/IMG_0001.JPG", "cam1/IMG_0001"),
        ("D:\\photos\\cam2\\IMG_0001.JPG", "cam2/IMG_0001"),
    ],
)
@pytest.mark.parametrize("layout", ["json", "csv"])
def test_a_file_is_the_photo_with_that_path_and_no_other(
    tmp_path: Path, layout: str, file: str, image: str | None
) -> None:
    """The id beside it, that of another photo, is not even looked at."""
    if layout == "json":
        path = as_json(tmp_path, entry(file=file, image_id="cam1/IMG_0001", category_name="cat"))
    else:
        row = f"cam1/IMG_0001,{file},cat,0.5,0,0,1,1"
        path = as_csv(tmp_path, f"image,file,class,score,x1,y1,x2,y2\n{row}\n")
    problems: list[Problem] = []
    found = read_detections(path, cameras("cam1", "cam2"), problems)
    assert list(found) == ([] if image is None else [image])
    assert len(problems) == (image is None)
    if file == "IMG_0001.JPG":
        assert "may be 'cam1/IMG_0001' and 'cam2/IMG_0001'" in str(problems[0])


def test_the_same_path_from_the_root_goes_before_paths_that_end_so(tmp_path: Path) -> None:
    data = cameras("", "sub")
    data.files = {"/IMG_0001": "IMG_0001.JPG", "sub/IMG_0001": "sub/IMG_0001.JPG"}
    found = read_detections(as_json(tmp_path, entry(file="IMG_0001.JPG")), data)
    assert list(found) == ["/IMG_0001"]


@pytest.mark.parametrize(
    ("names", "kept"),
    [
        (["cam3/IMG_0001.JPG", "cam1/IMG_0001.JPG"], ["cam1/IMG_0001.JPG"]),
        (["/a/cam3/IMG_0001.JPG", "/b/cam4/IMG_0001.JPG"], []),
        (["/a/cam1/IMG_0001.JPG", "/b/cam1/IMG_0001.JPG"], []),
        (["cam1\\IMG_0001.JPG", "cam1/IMG_0001.JPG"], ["cam1\\IMG_0001.JPG"] * 2),
    ],
)
def test_two_photos_are_never_read_as_one(
    tmp_path: Path, names: list[str], kept: list[str]
) -> None:
    """Other tools' names, whose folders may be those of another machine."""
    problems: list[Problem] = []
    rows = [entry(image_id=name, category_name="cat") for name in names]
    found = read_detections(as_json(tmp_path, *rows), cameras("cam1"), problems)
    assert sum(each.count for each in found.values()) == len(kept)
    assert len(problems) == len(names) - len(kept)
    assert all("IMG_0001" in str(problem) for problem in problems)


def test_text_files_lie_in_folders_as_the_photos_do(tmp_path: Path) -> None:
    for folder in ("cam1", "cam2", "cam3"):
        (tmp_path / "found" / folder).mkdir(parents=True)
        (tmp_path / "found" / folder / "IMG_0001.txt").write_text("cat 0.5 0 0 1 1\n")
    problems: list[Problem] = []
    found = read_detections(tmp_path / "found", cameras("cam1", "cam2"), problems)
    assert sorted(found) == ["cam1/IMG_0001", "cam2/IMG_0001"]
    assert ["cam3/IMG_0001" in str(problem) for problem in problems] == [True]


def test_a_result_without_any_name_of_an_image_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UnusableFileError, match="must have file or image_id"):
        read_detections(as_json(tmp_path, entry(image_id="absent")), dataset())
