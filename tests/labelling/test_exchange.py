"""Labels come from other tools and go back to them with all that was in them."""

import json
from pathlib import Path

import pytest
import torch

from image_files import write_image
from labelled_scenes import Photos
from sppnet.errors import NothingUsableError, UnusableFileError
from sppnet.images import check_dataset, draw_detection_set, open_detection_dataset, read_coco
from sppnet.labelling import export_labels, import_labels
from sppnet.labelling.exchange import _ImportFinder
from sppnet.storage import LabelBox, LabelStore

BOX = (10.25, 20.5, 60.0, 70.0)


@pytest.fixture
def store(photos: Photos):
    with LabelStore(photos.folder / ".sppnet", photos.folder) as made:
        for name, image in photos.truth.items():
            boxes = [
                LabelBox(tuple(box), photos.names[label])
                for box, label in zip(image.boxes.tolist(), image.labels.tolist(), strict=True)
            ]
            made.put(name, boxes)
        empty = sorted(photos.truth)[0]
        made.put(empty, [], state="empty")
        yield made


def same(one, two) -> bool:
    return all(
        a.name == b.name and a.corners == pytest.approx(b.corners, abs=2e-3)
        for a, b in zip(one.boxes, two.boxes, strict=True)
    )


@pytest.mark.parametrize("layout", ["voc", "coco", "yolo", "label-studio"])
def test_what_is_exported_comes_back(store: LabelStore, tmp_path: Path, layout: str) -> None:
    out = tmp_path / ("out.json" if layout in ("coco", "label-studio") else "out")
    export_labels(store, layout, out)
    if layout == "coco":
        dataset = read_coco(out, store.photos_folder)
        assert len(dataset) == len(store.every())
    elif layout != "label-studio":
        assert len(open_detection_dataset(out)) == len(store.every())
        assert check_dataset(out, quick=True).problems == ()  # nothing is in two splits
    if layout == "coco":  # the images lie elsewhere
        out = out.rename(store.photos_folder / "labels.json")
    with LabelStore(tmp_path / "again", store.photos_folder) as again:
        assert import_labels(again, out) == len(store.every())
        for ours, theirs in zip(store.every(), again.every(), strict=True):
            assert (ours.photo, ours.state) == (theirs.photo, theirs.state)
            assert same(ours, theirs)


def test_fields_of_voc_that_mean_nothing_here_survive(photos: Photos, tmp_path: Path) -> None:
    name = sorted(photos.truth)[0]
    xml = """<annotation><folder>f</folder><filename>{}</filename><source><database>mine</database>
    </source><object><name>cat</name><pose>Left</pose><occluded>1</occluded><bndbox><xmin>11</xmin>
    <ymin>21</ymin><xmax>60</xmax><ymax>70</ymax></bndbox><part><name>ear</name></part></object>
    </annotation>"""
    (photos.folder / f"{Path(name).stem}.xml").write_text(xml.format(name))
    with LabelStore(tmp_path / "s", photos.folder) as store:
        import_labels(store, photos.folder)
        (photos.folder / f"{Path(name).stem}.xml").unlink()
        box = store.labels(name).boxes[0]
        assert box.corners == (10.0, 20.0, 60.0, 70.0)
        assert box.extra == {"pose": "Left", "occluded": "1", "part": {"name": "ear"}}
        export_labels(store, "voc", tmp_path / "out")
    written = (tmp_path / "out" / "Annotations" / f"{Path(name).stem}.xml").read_text()
    for part in ("<folder>f<", "<database>mine<", "<pose>Left<", "<name>ear<", "<xmin>11<"):
        assert part in written


def test_fields_of_coco_that_mean_nothing_here_survive(photos: Photos, tmp_path: Path) -> None:
    name = sorted(photos.truth)[0]
    entry = {
        "id": 9,
        "image_id": 4,
        "category_id": 30,
        "bbox": [10.25, 20.5, 49.75, 49.5],
        "iscrowd": 0,
        "segmentation": [[1, 2, 3, 4, 5, 6]],
        "area": 77.5,
        "score_by": "ann",
    }
    image = {"id": 4, "file_name": name, "coco_url": "http://x", "license": 2}
    content = {
        "info": {"year": 2026},
        "licenses": [{"id": 2}],
        "images": [image],
        "annotations": [entry],
        "categories": [{"id": 30, "name": "cat", "supercategory": "x"}],
    }
    (photos.folder / "in.json").write_text(json.dumps(content))
    with LabelStore(tmp_path / "s", photos.folder) as store:
        import_labels(store, photos.folder / "in.json")
        assert store.labels(name).boxes[0].corners == BOX
        export_labels(store, "coco", tmp_path / "out.json")
    written = json.loads((tmp_path / "out.json").read_text())
    assert (written["info"], written["licenses"]) == (content["info"], content["licenses"])
    assert written["categories"] == content["categories"]
    assert written["images"][0]["coco_url"] == "http://x"
    made = written["annotations"][0]
    assert {k: made[k] for k in ("segmentation", "area", "score_by", "bbox")} == {
        k: entry[k] for k in ("segmentation", "area", "score_by", "bbox")
    }


def test_polygons_of_yolo_survive(photos: Photos, tmp_path: Path) -> None:
    name = sorted(photos.truth)[0]
    folder = tmp_path / "yolo"
    (folder / "images").mkdir(parents=True)
    (folder / "labels").mkdir()
    (folder / "images" / name).write_bytes((photos.folder / name).read_bytes())
    polygon = "1 0.1 0.2 0.4 0.25 0.3 0.6 0.15 0.5"
    (folder / "labels" / f"{Path(name).stem}.txt").write_text(f"{polygon}\n0 0.5 0.5 0.2 0.1\n")
    (folder / "data.yaml").write_text("names: [dog, cat]\n")
    with LabelStore(tmp_path / "s", photos.folder) as store:
        assert import_labels(store, folder) == 1
        assert {box.name for box in store.labels(name).boxes} == {"cat", "dog"}
        export_labels(store, "yolo", tmp_path / "out")
    lines = (tmp_path / "out" / "labels" / f"{Path(name).stem}.txt").read_text().splitlines()
    shares = {len(line.split()): [float(word) for word in line.split()[1:]] for line in lines}
    assert shares[9] == pytest.approx([float(word) for word in polygon.split()[1:]])
    assert shares[5] == pytest.approx([0.5, 0.5, 0.2, 0.1], abs=1e-5)


def test_an_import_can_be_undone(store: LabelStore, tmp_path: Path) -> None:
    before = store.every()[1]
    export_labels(store, "label-studio", tmp_path / "out.json")
    store.put(before.photo, [LabelBox(BOX, "other")])
    import_labels(store, tmp_path / "out.json")
    assert same(store.labels(before.photo), before)
    assert store.undo(before.photo).boxes[0].name == "other"


def test_a_set_of_other_photos_is_refused(store: LabelStore, tmp_path: Path) -> None:
    other = draw_detection_set(tmp_path / "other", 2, seed=5)
    for path in (other / "JPEGImages").iterdir():
        path.rename(path.with_name(f"other_{path.name}"))
    for path in (other / "Annotations").iterdir():
        path.rename(path.with_name(f"other_{path.name}"))
    with pytest.raises(NothingUsableError, match="no photo of this folder"):
        import_labels(store, other)


def test_unknown_layouts_and_empty_stores_are_refused(photos: Photos, tmp_path: Path) -> None:
    with LabelStore(tmp_path / "s", photos.folder) as store:
        with pytest.raises(NothingUsableError, match="nothing is labelled"):
            export_labels(store, "voc", tmp_path / "out")
        with pytest.raises(ValueError, match="voc, coco, yolo, label-studio, csv"):
            export_labels(store, "xml", tmp_path / "out")


def test_a_table_has_a_line_for_each_box_and_for_each_empty_photo(
    photos: Photos, tmp_path: Path
) -> None:
    first, second, third = sorted(photos.truth)[:3]
    with LabelStore(tmp_path / "s", photos.folder) as store:
        store.put(first, [LabelBox((1, 2, 3.5, 4), "=cat"), LabelBox((5, 6, 7, 8), "dog")])
        store.put(second, [], state="empty")
        store.put(third, [], state="unlabelled")
        export_labels(store, "csv", tmp_path / "out.csv")
    assert (tmp_path / "out.csv").read_text().splitlines() == [
        "photo,x1,y1,x2,y2,class",
        f"{first},1.0,2.0,3.5,4.0,'=cat",  # no formula for a spreadsheet
        f"{first},5.0,6.0,7.0,8.0,dog",
        f"{second},,,,,",
    ]


def test_check_looks_through_a_store(store: LabelStore) -> None:
    report = check_dataset(store.folder, quick=True)
    assert report.layout == "labels"
    assert report.counts["images without boxes"] == 1
    assert report.problems == ()


def test_a_folder_with_annotations_of_its_own_is_read_by_these(tmp_path: Path) -> None:
    root = draw_detection_set(tmp_path / "voc", 3, seed=1)
    with LabelStore(root / ".sppnet", root) as store:
        photo = next((root / "JPEGImages").iterdir())
        store.put(f"JPEGImages/{photo.name}", [LabelBox((1, 1, 9, 9), "mine")])
    assert open_detection_dataset(root).layout == "voc"
    own = open_detection_dataset(root / ".sppnet")
    assert (own.layout, own.names) == ("labels", ("mine",))
    assert torch.equal(own[0].boxes, torch.tensor([[1.0, 1, 9, 9]]))


def test_a_name_that_two_photos_have_is_no_photo(tmp_path: Path) -> None:
    """Of 6,000 photos in two folders, those that are meant by a name alone."""
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        for number in range(3000):
            (tmp_path / folder / f"{number}.jpg").touch()
    (tmp_path / "two" / "own.jpg").touch()
    finder = _ImportFinder(tmp_path)
    assert finder.find("elsewhere/7.jpg") is None
    assert finder.find("elsewhere/own.jpg") == finder.find("two/own.jpg") == "two/own.jpg"
    assert finder.find(tmp_path / "one" / "7.jpg") == finder.find("one/7.jpg") == "one/7.jpg"


def studio_file(folder: Path, image: str, **value: object) -> Path:
    """An export of Label Studio: one task with one rectangle."""
    box = {"x": 10, "y": 20, "width": 30, "height": 40, "rectanglelabels": ["cat"], **value}
    result = [{"type": "rectanglelabels", "value": box}]
    tasks = [{"data": {"image": image}, "annotations": [{"result": result}]}]
    (folder / "export.json").write_text(json.dumps(tasks))
    return folder / "export.json"


@pytest.fixture
def empty_store(tmp_path: Path):
    write_image(tmp_path / "photos" / "a b.jpg", 100, 200)
    with LabelStore(tmp_path / "photos" / ".sppnet", tmp_path / "photos") as made:
        yield made


@pytest.mark.parametrize(
    "place", ["a b.jpg", "/data/local-files/?d=x/a%20b.jpg", "/data/upload/1/0123abcd-a_b.jpg"]
)
def test_a_photo_of_label_studio_is_found_wherever_it_was_put(
    empty_store: LabelStore, tmp_path: Path, place: str
) -> None:
    assert import_labels(empty_store, studio_file(tmp_path, place)) == 1
    assert empty_store.labels("a b.jpg").boxes[0].corners == (20, 20, 80, 60)


def test_a_turned_box_of_label_studio_is_the_box_around_it_also_when_it_goes_back(
    empty_store: LabelStore, tmp_path: Path
) -> None:
    import_labels(empty_store, studio_file(tmp_path, "a b.jpg", x=50, rotation=90, width=10))
    (box,) = empty_store.labels("a b.jpg").boxes
    assert [round(side, 6) for side in box.corners] == [60, 20, 100, 40]
    export_labels(empty_store, "label-studio", tmp_path / "out.json")
    (task,) = json.loads((tmp_path / "out.json").read_text())
    value = task["annotations"][0]["result"][0]["value"]
    assert {key: round(value[key], 6) for key in ("x", "y", "width", "height", "rotation")} == {
        "x": 30, "y": 20, "width": 20, "height": 20, "rotation": 0}  # fmt: skip


def test_a_box_of_label_studio_that_covers_nothing_ends_no_import(
    empty_store: LabelStore, tmp_path: Path
) -> None:
    assert import_labels(empty_store, studio_file(tmp_path, "a b.jpg", x=120)) == 1
    assert empty_store.labels("a b.jpg").state == "empty"


@pytest.mark.parametrize("value", [{"x": "1"}, {"x": None}, {"rectanglelabels": [7]}])
def test_a_damaged_export_of_label_studio_is_named(
    empty_store: LabelStore, tmp_path: Path, value: dict
) -> None:
    with pytest.raises(UnusableFileError, match=r"export\.json.*must be"):
        import_labels(empty_store, studio_file(tmp_path, "a b.jpg", **value))
    assert empty_store.every() == []
