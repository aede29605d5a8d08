"""Label stores: what ``LabelSession`` and ``sppnet label`` keep beside the photos, read as a set.

A file of its own: the store itself (``storage/label_store.py``) knows no images.
"""

from collections.abc import Sequence
from pathlib import Path

from sppnet.errors import Findings, NothingUsableError, UsageError
from sppnet.images.dataset import (
    DetectionDataset,
    LabelledImage,
    RawBox,
    keep_unless_emptied,
    make_dataset,
    make_labelled_image,
    read_names,
)
from sppnet.images.listing import unknown_split
from sppnet.progress import Track, no_tracking
from sppnet.storage.label_store import LabelStore, find_store
from sppnet.storage.labels import UNLABELLED, LabelBox, PhotoLabels


def read_labels(
    root: str | Path,
    split: str | None = None,
    names: Sequence[str] | str | Path | None = None,
    *,
    track: Track = no_tracking,
) -> DetectionDataset:
    """Read a label store: photos with boxes, and those of which somebody said that they are empty.

    Photos without a word on them are left out: nobody knows what they show.

    Args:
        root: The folder of the store, or the folder of photos that has it in ``.sppnet``.
        split: None; a store is not divided.
        names: Class names; None takes the store's classes of which there are boxes, in the order
            in which they came.
        track: Shows progress.

    Returns:
        The data set; photos that are gone are in its ``problems``.

    Raises:
        UsageError: If there is no store, it has no boxes but names of whole photos, or a split was
            asked for.
        NothingUsableError: If no photo is labelled, or none can be used.
        UnusableFileError: If the store is damaged.
        InputError: If the file of names cannot be read.
    """
    folder = find_store(root)
    if folder is None:
        raise UsageError("there is no label store here", path=root)
    if split is not None:
        raise unknown_split(Path(root), split, [])
    with LabelStore(folder) as store:
        if store.fact("task") == "classify":
            raise UsageError("these labels name whole photos, there are no boxes", path=root)
        labels = [each for each in store.every() if each.state != UNLABELLED]
        used = {box.name for each in labels for box in each.boxes}
        own_names = tuple(name for name in store.names() if name in used)
        photos, path = store.photos_folder, store.path
    if not labels:
        raise NothingUsableError("no photo of this label store is labelled yet", path=root)
    class_names = read_names(names) or own_names
    findings = Findings()
    images = [
        image
        for each in track(labels, "reading image sizes", total=len(labels))
        if (image := label_image(photos, each, class_names, path, findings)) is not None
    ]
    return make_dataset(images, class_names, findings, root=photos, split=None, layout="labels")


def label_image(
    photos: Path, labels: PhotoLabels, names: Sequence[str], path: Path, findings: Findings
) -> LabelledImage | None:
    """Make a labelled image of what a store says about a photo.

    Args:
        photos: Folder of the photos.
        labels: What the store says.
        names: Class names.
        path: File of the store, named in findings.
        findings: Receives what is left out.

    Returns:
        The image, or None and a problem.
    """
    raw = [_raw_box(labels.photo, box) for box in labels.boxes]
    file = photos / labels.photo
    image = make_labelled_image(file, file.stem, raw, names, path, findings)
    return image and keep_unless_emptied(image, raw, True, names, path, findings)


def _raw_box(photo: str, box: LabelBox) -> RawBox:
    """A box with the marks that training knows."""
    marks = {name: _is_set(box.extra.get(name)) for name in ("difficult", "truncated")}
    crowd = _is_set(box.extra.get("iscrowd"))
    return RawBox(*box.corners, box.name, crowd=crowd, **marks, where=f"box on {photo!r}")


def _is_set(value: object) -> bool:
    return value in (1, True, "1", "true", "True")
