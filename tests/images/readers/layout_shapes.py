"""One small set in the shapes in which usual tools write it, for the tests of the readers."""

import json
from collections.abc import Callable
from pathlib import Path

from image_files import voc_object, voc_xml, write_image

NAMES = ["7", "Straßen-Schild \u732b", "traffic light"]
SIZE = (40, 60)
# Stem -> (class, half-open pixel box); c has no box.
SPLITS: dict[str, dict[str, list[tuple[int, tuple[int, int, int, int]]]]] = {
    "train": {"a": [(2, (0, 0, 30, 20)), (0, (15, 10, 45, 30))], "c": []},
    "valid": {"b": [(1, (30, 20, 60, 40))]},
}
SEEDS = {"a": 1, "b": 2, "c": 3}


def _images(folder: Path, stems: list[str]) -> None:
    for stem in stems:
        write_image(folder / f"{stem}.jpg", *SIZE, seed=SEEDS[stem])


def _text(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def _yolo_label(path: Path, boxes: list, *, empty: bool = True) -> None:
    height, width = SIZE
    lines = [
        f"{label} {(x1 + x2) / 2 / width} {(y1 + y2) / 2 / height} "
        f"{(x2 - x1) / width} {(y2 - y1) / height}\n"
        for label, (x1, y1, x2, y2) in boxes
    ]
    if lines or empty:
        _text(path, "".join(lines))


def _voc_label(path: Path, boxes: list) -> None:
    objects = [
        voc_object((x1 + 1, y1 + 1, x2, y2), NAMES[label]) for label, (x1, y1, x2, y2) in boxes
    ]
    _text(path, voc_xml("".join(objects), f"{path.stem}.jpg"))


def _coco(path: Path, images: dict, folder: str = "", first: list | None = None) -> None:
    entries, annotations = [], []
    shift = len(first or [])
    for number, (stem, boxes) in enumerate(images.items(), start=1):
        size = {"height": SIZE[0], "width": SIZE[1]}
        entries.append({"id": number, "file_name": f"{folder}{stem}.jpg", **size})
        for label, (x1, y1, x2, y2) in boxes:
            place = {"id": len(annotations), "image_id": number, "category_id": label + shift}
            annotations.append({**place, "bbox": [x1, y1, x2 - x1, y2 - y1], "iscrowd": 0})
    group = {"supercategory": first[0]["name"]} if first else {}
    own = [{"id": label + shift, "name": name, **group} for label, name in enumerate(NAMES)]
    content = {"images": entries, "annotations": annotations, "categories": [*(first or []), *own]}
    _text(path, json.dumps(content))


def roboflow_yolo(root: Path) -> None:
    for split, images in SPLITS.items():
        _images(root / split / "images", list(images))
        for stem, boxes in images.items():
            _yolo_label(root / split / "labels" / f"{stem}.txt", boxes)
    ways = "train: ../train/images\nval: ../valid/images\ntest: ../test/images\n\n"
    _text(root / "data.yaml", f"{ways}nc: 3\nnames: {NAMES!r}\n\nroboflow:\n  workspace: x\n")


def ultralytics(root: Path) -> None:
    for split, images in (("train2017", SPLITS["train"]), ("val2017", SPLITS["valid"])):
        _images(root / "images" / split, list(images))
        for stem, boxes in images.items():
            _yolo_label(root / "labels" / split / f"{stem}.txt", boxes, empty=False)
    items = "".join(f"  {label}: {name}\n" for label, name in enumerate(NAMES))
    start = "path: ../datasets/mine  # root\ntrain: images/train2017\nval: images/val2017\ntest:\n"
    _text(root / "mine.yaml", f"{start}\nnames:\n{items}\ndownload: none\n")


def yaml_folders(root: Path) -> None:
    """Folders of any name, which only the YAML file tells apart."""
    for split, folder in (("train", "mine/first"), ("valid", "mine/second")):
        _images(root / folder / "images", list(SPLITS[split]))
        for stem, boxes in SPLITS[split].items():
            _yolo_label(root / folder / "labels" / f"{stem}.txt", boxes)
    _text(
        root / "data.yaml",
        f"names: {NAMES!r}\ntrain: /home\\x/mine/first/images\nval:\n  - mine/second/images\n",
    )


def yaml_lists(root: Path) -> None:
    """Text files that list the images."""
    for split in SPLITS:
        _images(root / "images", list(SPLITS[split]))
        for stem, boxes in SPLITS[split].items():
            _yolo_label(root / "labels" / f"{stem}.txt", boxes)
        lines = "".join(f"./images/{stem}.jpg\n" for stem in SPLITS[split])
        _text(root / f"{split}.txt", lines)
    _text(root / "data.yaml", f"train: train.txt\nval: valid.txt\nnames: {NAMES!r}\n")


def cvat_yolo(root: Path) -> None:
    for split, images in SPLITS.items():
        _images(root / f"obj_{split}_data", list(images))
        for stem, boxes in images.items():
            _yolo_label(root / f"obj_{split}_data" / f"{stem}.txt", boxes)
        lines = [f"data/obj_{split}_data/{stem}.jpg\n" for stem in images]
        _text(root / f"{split}.txt", "".join(lines))
    _text(root / "obj.data", "classes = 3\nnames = data/obj.names\n")
    _text(root / "obj.names", "\n".join(NAMES) + "\n")


def roboflow_darknet(root: Path) -> None:
    for split, images in SPLITS.items():
        _images(root / split, list(images))
        for stem, boxes in images.items():
            _yolo_label(root / split / f"{stem}.txt", boxes)
        _text(root / split / "_darknet.labels", "\n".join(NAMES))


def roboflow_voc(root: Path) -> None:
    for split, images in SPLITS.items():
        _images(root / split, list(images))
        for stem, boxes in images.items():
            _voc_label(root / split / f"{stem}.xml", boxes)


def divided_voc(root: Path) -> None:
    for split, images in SPLITS.items():
        _images(root / split / "images", list(images))
        for stem, boxes in images.items():
            _voc_label(root / split / "annotations" / f"{stem}.xml", boxes)


def cvat_voc(root: Path) -> None:
    for split, images in SPLITS.items():
        _images(root / "JPEGImages", list(images))
        for stem, boxes in images.items():
            _voc_label(root / "Annotations" / f"{stem}.xml", boxes)
        _text(root / "ImageSets" / "Main" / f"{split}.txt", "".join(f"{s}\n" for s in images))
    _text(root / "labelmap.txt", "# label:color_rgb:parts:actions\nbackground:0,0,0::\n")


def roboflow_coco(root: Path) -> None:
    group = [{"id": 0, "name": "things", "supercategory": "none"}]
    for split, images in SPLITS.items():
        _images(root / split, list(images))
        _coco(root / split / "_annotations.coco.json", images, first=group)


def official_coco(root: Path) -> None:
    for split, images in (("train2017", SPLITS["train"]), ("val2017", SPLITS["valid"])):
        _images(root / split, list(images))
        _coco(root / "annotations" / f"instances_{split}.json", images)
        _coco(root / "annotations" / f"person_keypoints_{split}.json", images)
        _text(root / "annotations" / f"captions_{split}.json", '{"images": [], "annotations": []}')


def cvat_coco(root: Path) -> None:
    for split, images in SPLITS.items():
        _images(root / "images" / split, list(images))
        _coco(root / "annotations" / f"instances_{split}.json", images)


def parts_coco(root: Path) -> None:
    for split, images in SPLITS.items():
        _images(root / split / "data", list(images))
        _coco(root / split / "labels.json", images, folder="elsewhere/data/")


def label_img_yolo(root: Path) -> None:
    everything = {stem: boxes for images in SPLITS.values() for stem, boxes in images.items()}
    _images(root, list(everything))
    for stem, boxes in everything.items():
        _yolo_label(root / f"{stem}.txt", boxes, empty=False)
    _text(root / "classes.txt", "\n".join(NAMES))


def label_studio_yolo(root: Path) -> None:
    everything = {stem: boxes for images in SPLITS.values() for stem, boxes in images.items()}
    _images(root / "images", list(everything))
    for stem, boxes in everything.items():
        _yolo_label(root / "labels" / f"{stem}.txt", boxes)
    _text(root / "classes.txt", "\n".join(NAMES))
    _text(root / "notes.json", '{"categories": []}')


def label_img_voc(root: Path) -> None:
    everything = {stem: boxes for images in SPLITS.values() for stem, boxes in images.items()}
    _images(root, list(everything))
    for stem, boxes in everything.items():
        _voc_label(root / f"{stem}.xml", boxes)


def small_letters_voc(root: Path) -> None:
    everything = {stem: boxes for images in SPLITS.values() for stem, boxes in images.items()}
    _images(root / "images", list(everything))
    for stem, boxes in everything.items():
        _voc_label(root / "annotations" / f"{stem}.xml", boxes)


def label_studio_coco(root: Path) -> None:
    everything = {stem: boxes for images in SPLITS.values() for stem, boxes in images.items()}
    _images(root / "images", list(everything))
    _coco(root / "result.json", everything, folder="images\\\\1\\\\")


def contents(dataset) -> dict:
    """Stem -> classes by name and boxes."""
    return {
        image.path.stem: [
            (dataset.names[label], tuple(round(side, 2) for side in box))
            for label, box in zip(image.labels.tolist(), image.boxes.tolist(), strict=True)
        ]
        for image in dataset
    }


def expected(*splits: str) -> dict:
    return {
        stem: [(NAMES[label], tuple(map(float, box))) for label, box in boxes]
        for split in splits
        for stem, boxes in SPLITS[split].items()
    }


# Writer -> its layout; the names of its splits for train and valid, none if it has no splits.
SHAPES: dict[Callable[[Path], None], tuple[str, tuple[str, ...]]] = {
    roboflow_yolo: ("yolo", ("train", "val")),
    ultralytics: ("yolo", ("train", "val")),
    yaml_folders: ("yolo", ("train", "val")),
    yaml_lists: ("yolo", ("train", "val")),
    cvat_yolo: ("yolo", ("train", "valid")),
    roboflow_darknet: ("yolo", ("train", "valid")),
    label_img_yolo: ("yolo", ()),
    label_studio_yolo: ("yolo", ()),
    roboflow_voc: ("voc", ("train", "valid")),
    divided_voc: ("voc", ("train", "valid")),
    cvat_voc: ("voc", ("train", "valid")),
    label_img_voc: ("voc", ()),
    small_letters_voc: ("voc", ()),
    roboflow_coco: ("coco", ("train", "valid")),
    official_coco: ("coco", ("train2017", "val2017")),
    cvat_coco: ("coco", ("train", "valid")),
    parts_coco: ("coco", ("train", "valid")),
    label_studio_coco: ("coco", ()),
}
