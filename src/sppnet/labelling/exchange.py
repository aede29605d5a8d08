"""Labels from and for other tools: Pascal VOC, COCO, YOLO and Label Studio.

Fields that mean nothing here are kept with the box or the photo and written again in the layout
that they came in. What is lost: attributes of XML elements, comments, the order of keys and of
elements, numbers' spelling, and boxes that the readers leave out.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

import yaml

from sppnet.errors import Findings, InputError, NothingUsableError, UnusableFileError
from sppnet.evaluation.result_formats import write_table
from sppnet.images import (
    DetectionDataset,
    LabelledImage,
    list_images,
    open_detection_dataset,
    read_image_size,
)
from sppnet.images.decode import read_content
from sppnet.images.readers.voc import XmlElement, read_voc_annotation, read_xml
from sppnet.images.readers.yolo import choose_places, find_yolo_places
from sppnet.labelling.drawn import StudioPhotos, from_percent, to_percent
from sppnet.storage.files import (
    ensure_output_folder,
    json_text,
    read_json,
    read_lines,
    write_bytes,
    write_text,
)
from sppnet.storage.label_store import LabelStore
from sppnet.storage.labels import EMPTY, LABELLED, UNLABELLED, LabelBox, PhotoLabels

CATEGORY = "coco"  # under this name the store keeps what a COCO file says of the whole set
_COCO_OWN = {"image_id", "category_id", "bbox"}
_STUDIO_OWN = {"type", "value", "original_width", "original_height"}
_STUDIO_VALUE_OWN = {"x", "y", "width", "height", "rotation", "rectanglelabels"}
_MAX_STUDIO_BYTES = 1_000_000_000
Extras = dict[str, Any]
Key = tuple[str, int, int, int, int]


def import_labels(store: LabelStore, source: str | Path, split: str | None = None) -> int:
    """Take labels over that another tool made of the same photos.

    Photos are found by their paths, then by their names. What the store says of them is replaced,
    and comes back by undo. An annotated photo without boxes becomes one without things.

    Args:
        store: Receives them, all at once.
        source: A set in VOC, COCO or YOLO layout, or a JSON file of Label Studio.
        split: Part of the set; None for all.

    Returns:
        The number of photos.

    Raises:
        UsageError: If the source or the split does not exist.
        NothingUsableError: If no photo of the store is among them.
        UnusableFileError: If the source cannot be read.
        OutputError: If the store cannot be written.
    """
    source = Path(source)
    studio = _studio_tasks(source)
    finder = _ImportFinder(store.photos_folder)
    if studio is not None:
        try:
            edits = list(_from_studio(studio, finder))
        except ValueError as error:
            raise UnusableFileError(str(error), path=source, code="E_FORMAT") from error
    else:
        edits = list(_from_dataset(open_detection_dataset(source, split), finder, source, store))
    if not edits:
        raise NothingUsableError("is about no photo of this folder", path=source)
    store.put_all(edits)
    return len(edits)


class _ImportFinder:
    """Finds the photo of the store that a set means, by path or by the only name that fits."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder.resolve()
        paths = list_images([folder]).paths
        self._known = {path.resolve(): path.relative_to(folder).as_posix() for path in paths}
        self.photos = StudioPhotos(tuple(self._known.values()))

    def find(self, path: str | Path) -> str | None:
        """Name of the photo, or None."""
        found = self._known.get(Path(path).resolve())
        if found is not None:
            return found
        matches = self.photos.matches(str(path))
        return matches[0] if len(matches) == 1 else None


def _from_dataset(
    dataset: DetectionDataset, finder: _ImportFinder, source: Path, store: LabelStore
) -> Iterator[PhotoLabels]:
    """An edit for each image of a set, with what only its own layout knows."""
    if dataset.layout == "voc":
        extras_of = _voc_extras(source)
    elif dataset.layout == "coco":
        extras_of = _coco_extras(source, dataset, store)
    elif dataset.layout == "yolo":
        extras_of = _yolo_extras(source, dataset)
    else:
        extras_of = _no_extras
    for image in dataset:
        photo = finder.find(image.path)
        if photo is None:
            continue
        of_photo, of_box = extras_of(image)
        stated = image.boxes if image.stated_boxes is None else image.stated_boxes
        boxes = []
        for row, corners in enumerate(image.boxes.tolist()):
            name = dataset.names[int(image.labels[row])]
            extra = {
                **of_box.get(_key(name, stated[row].tolist()), {}),
                **({"difficult": "1"} if image.difficult[row] else {}),
                **({"truncated": "1"} if image.truncated[row] else {}),
                **({"iscrowd": 1} if image.crowd[row] else {}),
            }
            boxes.append(LabelBox(tuple(corners), name, extra))
        state = LABELLED if boxes else EMPTY
        yield PhotoLabels(photo, 0, state, tuple(boxes), of_photo, "", f"import {dataset.layout}")


def _no_extras(_: LabelledImage) -> tuple[Extras, dict[Key, Extras]]:
    """Another label store has nothing but boxes."""
    return {}, {}


def _key(name: str, corners: Sequence[float]) -> Key:
    """What is the same for a box that a reader gave and its entry in the file."""
    x1, y1, x2, y2 = (round(16 * value) for value in corners)
    return name, x1, y1, x2, y2


def _voc_extras(source: Path) -> Callable[[LabelledImage], tuple[Extras, dict[Key, Extras]]]:
    """What annotations in XML say beyond names and corners."""
    files = {path.stem: path for path in sorted(source.rglob("*.xml"))}

    def extras(image: LabelledImage) -> tuple[Extras, dict[Key, Extras]]:
        path = files.get(image.path.stem)
        if path is None:
            return {}, {}
        root = read_xml(path)
        own = {"filename", "size", "object"}
        of_photo = {"voc": _plain(root, own)}
        elements = root.named("object")
        of_box = {}
        for raw in read_voc_annotation(path).boxes:
            element = elements[int(raw.where.split()[1]) - 1]  # "object 3"
            of_box[_key(raw.class_name, raw[:4])] = _plain(element, {"name", "bndbox"})
        return of_photo, of_box

    return extras


def _plain(element: XmlElement, own: set[str]) -> Extras:
    """Children as JSON values: text, or an object; those that come twice as a list."""
    made: Extras = {}
    for child in element.children:
        if child.tag in own:
            continue
        value: Any = _plain(child, set()) if child.children else child.text
        if child.tag in made:
            before = made[child.tag]
            made[child.tag] = [*before, value] if isinstance(before, list) else [before, value]
        else:
            made[child.tag] = value
    return made


def _coco_extras(
    source: Path, dataset: DetectionDataset, store: LabelStore
) -> Callable[[LabelledImage], tuple[Extras, dict[Key, Extras]]]:
    """What a COCO file says beyond boxes; what it says of the whole set goes into the store."""
    path = source if source.is_file() else _coco_file(source, dataset)
    content = read_json(path, _MAX_STUDIO_BYTES) if path else {}
    lists = ("images", "annotations")
    store.put_fact(CATEGORY, json.dumps({k: v for k, v in content.items() if k not in lists}))
    names = {each["id"]: each["name"] for each in content.get("categories", [])}
    of_image: dict[Any, Extras] = {
        str(each.get("id")): {"coco": {k: v for k, v in each.items() if k != "id"}}
        for each in content.get("images", [])
    }
    of_boxes: dict[Any, dict[Key, Extras]] = {}
    for entry in content.get("annotations", []):
        if isinstance(entry.get("bbox"), list) and len(entry["bbox"]) == 4:
            x, y, width, height = entry["bbox"]
            key = _key(str(names.get(entry["category_id"])), (x, y, x + width, y + height))
            extra = {name: value for name, value in entry.items() if name not in _COCO_OWN}
            of_boxes.setdefault(str(entry["image_id"]), {})[key] = extra

    def extras(image: LabelledImage) -> tuple[Extras, dict[Key, Extras]]:
        number = str(image.image_id)
        return of_image.get(number, {}), of_boxes.get(number, {})

    return extras


def _coco_file(source: Path, dataset: DetectionDataset) -> Path | None:
    """The annotation file that the reader chose in a folder."""
    found = [
        path
        for path in sorted(source.rglob("*.json"))
        if dataset.split is None or dataset.split in path.stem or dataset.split == path.parent.name
    ]
    return found[0] if found else None


def _yolo_extras(
    source: Path, dataset: DetectionDataset
) -> Callable[[LabelledImage], tuple[Extras, dict[Key, Extras]]]:
    """Polygons and key points that follow, or stand for, a box."""
    places = choose_places(find_yolo_places(source), dataset.split)
    label_of = dict(pair for place in places for pair in place.pairs(Findings()))

    def extras(image: LabelledImage) -> tuple[Extras, dict[Key, Extras]]:
        path = label_of.get(image.path)
        height, width = image.size_hw
        of_box = {}
        for line in read_lines(path) if path and path.is_file() else []:
            try:
                label, *shares = (float(word) for word in line.split())
                name = dataset.names[int(label)]
            except (ValueError, IndexError):
                continue
            if len(shares) >= 6 and len(shares) % 2 == 0 and all(-1 < each < 2 for each in shares):
                columns, rows = shares[::2], shares[1::2]
                box = (min(columns), min(rows), max(columns), max(rows))
                extra = {"polygon": shares}
            elif len(shares) > 4:
                x, y, w, h = shares[:4]
                box = (x - w / 2, y - h / 2, x + w / 2, y + h / 2)
                extra = {"keypoints": shares[4:]}
            else:
                continue
            corners = [side * size for side, size in zip(box, (width, height) * 2, strict=True)]
            of_box[_key(name, corners)] = extra
        return {}, of_box

    return extras


def _studio_tasks(source: Path) -> list[Any] | None:
    """The tasks of a JSON file of Label Studio; None if it is something else."""
    if source.suffix.lower() != ".json" or not source.is_file():
        return None
    content = read_json(source, _MAX_STUDIO_BYTES)
    is_list = isinstance(content, list) and content
    return content if is_list and isinstance(content[0], dict) and "data" in content[0] else None


def _from_studio(tasks: Sequence[Any], finder: _ImportFinder) -> Iterator[PhotoLabels]:
    """An edit for each annotated task: its last annotation that was not cancelled."""
    for task in tasks:
        data = task.get("data", {})
        place = next((str(data[name]) for name in ("image", "img", "photo") if name in data), "")
        photo = finder.find(place)
        done = [one for one in task.get("annotations", []) if not one.get("was_cancelled")]
        if photo is None or not done:
            continue
        size_hw = read_image_size(finder.folder / photo)
        boxes, _, others = read_results(done[-1].get("result", []), size_hw)
        kept = {k: v for k, v in task.items() if k not in ("annotations",)}
        extra = {"studio": kept, "studio_results": others}
        state = LABELLED if boxes else EMPTY
        yield PhotoLabels(photo, 0, state, tuple(boxes), extra, "", "import label-studio")


def read_results(
    results: Any, size_hw: tuple[int, int]
) -> tuple[list[LabelBox], list[str], list[Any]]:
    """Read the results of an annotation of Label Studio.

    Args:
        results: The list of them.
        size_hw: Height and width of the photo.

    Returns:
        The rectangles, what was chosen for the whole photo, and all results that are no boxes here.

    Raises:
        ValueError: If it is no such list, or a rectangle lacks a number or its label.
    """
    if not isinstance(results, list) or not all(isinstance(each, dict) for each in results):
        raise ValueError("an annotation must have a list of results")
    boxes, names, others = [], [], []
    for result in results:
        value = result.get("value")
        value = value if isinstance(value, dict) else {}
        if result.get("type") == "choices":
            names += [name for name in value.get("choices") or [] if isinstance(name, str)]
        labels = value.get("rectanglelabels")
        is_box = result.get("type") == "rectanglelabels" and isinstance(labels, list) and labels
        corners = from_percent(value, size_hw) if is_box else None
        if corners is None:
            others.append(result)
            continue
        extra = {k: v for k, v in result.items() if k not in _STUDIO_OWN}
        extra["value"] = {k: v for k, v in value.items() if k not in _STUDIO_VALUE_OWN}
        if not isinstance(value["rectanglelabels"][0], str):
            raise ValueError("labels of a rectangle must be texts")  # noqa: TRY004 (of a file)
        boxes.append(LabelBox(corners, value["rectanglelabels"][0], {"studio": extra}))
    return boxes, names, others


def export_labels(
    store: LabelStore, layout: str, out: str | Path, *, copy_photos: bool = True
) -> Path:
    """Write labels for other tools.

    Photos of which nothing is said are left out.

    Args:
        store: The labels.
        layout: ``voc``, ``coco``, ``yolo``, ``label-studio`` or ``csv``.
        out: A folder (voc, yolo) or a file (the others).
        copy_photos: Whether voc and yolo, which keep photos and labels together, get copies.

    Returns:
        ``out``.

    Raises:
        NothingUsableError: If nothing is labelled.
        ValueError: If there is no such layout.
        OutputError: If something cannot be written.
    """
    if layout not in _WRITERS:
        raise ValueError(f"layout must be one of {', '.join(_WRITERS)}, got {layout!r}")
    labels = [each for each in store.every() if each.state != UNLABELLED]
    if not labels:
        raise NothingUsableError("nothing is labelled", path=store.path)
    usable = []
    for each in labels:
        try:
            usable.append((each, read_image_size(store.photos_folder / each.photo)))
        except InputError:
            continue  # the photo is gone
    _WRITERS[layout](store, usable, Path(out))
    if copy_photos and layout in ("voc", "yolo"):
        folder = ensure_output_folder(Path(out) / ("JPEGImages" if layout == "voc" else "images"))
        for each, _ in usable:
            copy_photo(store.photos_folder, each.photo, folder)
    return Path(out)


Sized = list[tuple[PhotoLabels, tuple[int, int]]]


def copy_photo(photos: Path, photo: str, folder: Path) -> None:
    """Copy a photo into one folder with all others."""
    write_bytes(folder / _flat(photo), read_content(photos / photo))


def _flat(photo: str) -> str:
    """A name in one folder: two photos of one name in two folders stay two."""
    return photo.replace("/", "__")


def _write_voc(_: LabelStore, labels: Sized, out: Path) -> None:
    """``Annotations``, one file a photo, and the list of all."""
    folder = ensure_output_folder(out / "Annotations")
    lists = ensure_output_folder(out / "ImageSets" / "Main")
    for each, (height, width) in labels:
        name = _flat(each.photo)
        size = {"width": width, "height": height, "depth": 3}
        lines = ["<annotation>", *_xml("filename", name, 1), *_xml("size", size, 1)]
        for tag, value in each.extra.get("voc", {}).items():
            lines += _xml(tag, value, 1)
        for box in each.boxes:
            x1, y1, x2, y2 = box.corners
            corners = {"xmin": x1 + 1, "ymin": y1 + 1, "xmax": x2, "ymax": y2}
            known = {"name": box.name, **{k: v for k, v in box.extra.items() if _is_voc(k, v)}}
            shown = {tag: f"{value:.10g}" for tag, value in corners.items()}
            lines += _xml("object", {**known, "bndbox": shown}, 1)
        write_text(folder / f"{Path(name).stem}.xml", "\n".join([*lines, "</annotation>", ""]))
    stems = [Path(_flat(each.photo)).stem for each, _ in labels]
    write_text(lists / "train.txt", "\n".join(stems) + "\n")


def _is_voc(tag: str, value: Any) -> bool:
    """Whether a field can be an element; what other layouts say is left to them."""
    plain = isinstance(value, str | dict) or (isinstance(value, list) and tag != "polygon")
    return plain and tag.isidentifier() and tag not in ("studio", "segmentation")


def _xml(tag: str, value: Any, depth: int) -> list[str]:
    """Lines of an element."""
    pad = "  " * depth
    if isinstance(value, list):
        return [line for each in value for line in _xml(tag, each, depth)]
    if isinstance(value, Mapping):
        inner = [line for name, each in value.items() for line in _xml(name, each, depth + 1)]
        return [f"{pad}<{tag}>", *inner, f"{pad}</{tag}>"]
    return [f"{pad}<{tag}>{escape(str(value))}</{tag}>"]


def _write_coco(store: LabelStore, labels: Sized, out: Path) -> None:
    """One JSON file; ``file_name`` is the path from the photos' folder."""
    whole = json.loads(store.fact(CATEGORY, "{}"))
    known = {each["name"]: each for each in whole.pop("categories", [])}
    names = store.names()
    free = max((n["id"] for n in known.values() if isinstance(n["id"], int)), default=0) + 1
    categories = []
    for name in names:
        categories.append(known.get(name, {"id": free, "name": name}))
        free += name not in known
    id_of = {each["name"]: each["id"] for each in categories}
    images: list[Extras] = []
    annotations: list[Extras] = []
    for number, (each, (height, width)) in enumerate(labels, start=1):
        own = each.extra.get("coco", {})
        own = own | {"file_name": each.photo, "height": height, "width": width}
        images.append({"id": number, **own})
        for box in each.boxes:
            x1, y1, x2, y2 = box.corners
            area = (x2 - x1) * (y2 - y1)
            extra = {k: v for k, v in box.extra.items() if k not in ("id", "studio")}
            entry = {"id": len(annotations) + 1, "image_id": number, "iscrowd": 0, "area": area}
            place = {"category_id": id_of[box.name], "bbox": [x1, y1, x2 - x1, y2 - y1]}
            annotations.append({**entry, **extra, **place})
    content = {**whole, "images": images, "annotations": annotations, "categories": categories}
    write_text(out, json_text(content))


def _write_yolo(store: LabelStore, labels: Sized, out: Path) -> None:
    """``labels``, one text a photo, and ``data.yaml`` with the names; nothing is held out."""
    folder = ensure_output_folder(out / "labels")
    names = store.names()
    for each, (height, width) in labels:
        lines = []
        for box in each.boxes:
            x1, y1, x2, y2 = box.corners
            middle = [(x1 + x2) / 2 / width, (y1 + y2) / 2 / height]
            shares = [*middle, (x2 - x1) / width, (y2 - y1) / height]
            shares += box.extra.get("keypoints", [])
            shares = box.extra.get("polygon", shares)
            words = " ".join(f"{share:.7g}" for share in shares)
            lines.append(f"{names.index(box.name)} {words}\n")
        write_text(folder / f"{Path(_flat(each.photo)).stem}.txt", "".join(lines))
    content = {"path": ".", "train": "images", "names": dict(enumerate(names))}
    write_text(out / "data.yaml", yaml.safe_dump(content, sort_keys=False, allow_unicode=True))


def _write_studio(_: LabelStore, labels: Sized, out: Path) -> None:
    """Tasks with annotations, boxes in percent of the photo."""
    tasks = []
    for each, (height, width) in labels:
        results = list(each.extra.get("studio_results", []))
        for box in each.boxes:
            extra = dict(box.extra.get("studio", {}))
            value = {
                "rotation": 0,
                **extra.pop("value", {}),
                **to_percent(box.corners, (height, width)),
                "rectanglelabels": [box.name],
            }
            whole = {"original_width": width, "original_height": height, "value": value}
            names = {"from_name": "label", "to_name": "image", **extra}
            results.append({"type": "rectanglelabels", **names, **whole})
        data = {"image": f"/data/local-files/?d={each.photo}"}
        kept = dict(each.extra.get("studio", {}))
        tasks.append({"data": data, **kept, "annotations": [{"result": results}]})
    write_text(out, json_text(tasks))


def _write_csv(_: LabelStore, labels: Sized, out: Path) -> None:
    """A line for each box; a photo without things has one without a box."""
    rows: list[list[object]] = []
    for each, _size in labels:
        boxes: list[list[object]] = [[each.photo, *box.corners, box.name] for box in each.boxes]
        rows += boxes or [[each.photo, *[""] * 5]]
    write_table(out, ["photo", "x1", "y1", "x2", "y2", "class"], rows)


_WRITERS: dict[str, Callable[[LabelStore, Sized, Path], None]] = {
    "voc": _write_voc,
    "coco": _write_coco,
    "yolo": _write_yolo,
    "label-studio": _write_studio,
    "csv": _write_csv,
}
