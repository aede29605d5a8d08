"""Pascal VOC layout: ``Annotations/*.xml``, ``JPEGImages/*`` and ``ImageSets/Main/SPLIT.txt``."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from sppnet.errors import InputError, NothingUsableError
from sppnet.images.annotations import (
    Findings,
    make_dataset,
    read_names,
    require_folder,
    unknown_split,
)
from sppnet.images.datasets import DetectionDataset, LabelledImage
from sppnet.images.raw_boxes import compare_sizes, make_labelled_image, note_if_emptied
from sppnet.images.voc_folders import (
    VocFolders,
    find_voc_folders,
    find_voc_parts,
    list_image_files,
    list_xml_files,
    read_split,
)
from sppnet.images.voc_xml import VocAnnotation, XmlError, read_voc_annotation
from sppnet.progress import Track, no_tracking


@dataclass
class _Reading:
    """State of one call of ``read_voc``."""

    folders: VocFolders
    xml_files: dict[str, Path]
    image_files: dict[str, list[Path]]
    findings: Findings = field(default_factory=Findings)
    annotations: dict[str, VocAnnotation | InputError] = field(default_factory=dict)


def read_voc(
    root: str | Path,
    split: str | None = None,
    names: Sequence[str] | str | Path | None = None,
    *,
    track: Track = no_tracking,
) -> DetectionDataset:
    """Read a data set in Pascal VOC layout.

    An image is found by the XML's stem, then by the base name in ``<filename>``; its size is read
    from its own header. Corners are converted to half-open boxes. Images without boxes stay.

    Args:
        root: The set, or a folder above it (``VOCdevkit``).
        split: Name of a list in ``ImageSets/Main``, or of a folder (``train``, ``valid``,
            ``test``) that holds a set of its own; None takes every annotation and image.
        names: Class names, or a text file of them; None takes the sorted classes of all annotations
            in the folder, so that splits agree.
        track: Shows progress.

    Returns:
        The data set; what had to be left out is in its ``problems``.

    Raises:
        UsageError: If the folder or the split does not exist.
        NothingUsableError: If no image is usable, or this is no VOC set.
        InputError: If the file of names cannot be read.
    """
    root = Path(root)
    require_folder(root)
    parts = find_voc_parts(root)
    if parts:
        return _read_parts(root, parts, split, names, track)
    folders = find_voc_folders(root)
    if folders is None:
        raise NothingUsableError("looked for Annotations/*.xml or *.xml, found none", path=root)
    images = list_image_files(folders.images)
    reading = _Reading(folders, list_xml_files(folders, root), images)
    listed = None
    if split is not None:
        listed = read_split(folders, split, {*reading.xml_files, *images}, reading.findings)
    given = read_names(names)
    _read_annotations(reading, listed if given else None, track)
    class_names = given or _all_classes(reading)
    stems = _all_stems(reading) if listed is None else listed
    tracked = track(stems, "reading image sizes", total=len(stems))
    usable = [one for stem in tracked if (one := _read_one(reading, stem, class_names))]
    return make_dataset(usable, class_names, reading.findings, root=root, split=split, layout="voc")


def _read_parts(
    root: Path,
    parts: dict[str, VocFolders],
    split: str | None,
    names: Sequence[str] | str | Path | None,
    track: Track,
) -> DetectionDataset:
    """Read a set whose splits are folders; the classes are those of all of them."""
    aliases = {"val": "valid", "valid": "val"}
    chosen = split if split in parts else aliases.get(split or "", split)
    if split is not None and chosen not in parts:
        raise unknown_split(root, split, list(parts))
    class_names = read_names(names)
    if class_names is None:
        whole = [read_voc(part.root, track=track) for part in parts.values()]
        class_names = tuple(sorted({name for dataset in whole for name in dataset.names}))
    taken = [part for name, part in parts.items() if split is None or name == chosen]
    read = [read_voc(part.root, names=class_names, track=track) for part in taken]
    findings = Findings(
        [problem for dataset in read for problem in dataset.problems],
        [note for dataset in read for note in dataset.notes],
    )
    images = [image for dataset in read for image in dataset]
    return make_dataset(images, class_names, findings, root=root, split=split, layout="voc")


def _read_annotations(reading: _Reading, listed: Sequence[str] | None, track: Track) -> None:
    """Parse the listed annotations, all of them without a list."""
    wanted = reading.xml_files.keys() if listed is None else reading.xml_files.keys() & set(listed)
    for stem in track(sorted(wanted), "reading annotations", total=len(wanted)):
        try:
            reading.annotations[stem] = read_voc_annotation(reading.xml_files[stem])
        except InputError as error:
            reading.annotations[stem] = error


def _all_classes(reading: _Reading) -> tuple[str, ...]:
    """Sorted class names of all annotations that can be read."""
    read = [one for one in reading.annotations.values() if isinstance(one, VocAnnotation)]
    return tuple(sorted({box.class_name for one in read for box in one.boxes}))


def _all_stems(reading: _Reading) -> list[str]:
    """Every annotation, and every image that no annotation names."""
    named = {
        Path(one.filename).stem
        for stem, one in reading.annotations.items()
        if isinstance(one, VocAnnotation) and stem not in reading.image_files
    }
    return sorted(reading.xml_files.keys() | (reading.image_files.keys() - named), key=os.fsencode)


def _read_one(reading: _Reading, stem: str, names: Sequence[str]) -> LabelledImage | None:
    """One image with its boxes, or None and a problem."""
    findings, folders = reading.findings, reading.folders
    if stem not in reading.xml_files:
        known = reading.image_files.get(stem, [folders.annotations / f"{stem}.xml"])
        findings.leave_out(known[0], "there is no annotation for this image", "E_XML")
        return None
    annotation = reading.annotations[stem]
    if isinstance(annotation, XmlError):
        path = reading.xml_files[stem]
        findings.leave_out(path, annotation.rule, annotation.code, line=annotation.line)
        return None
    if isinstance(annotation, InputError):
        findings.leave_out(reading.xml_files[stem], annotation.message, annotation.code)
        return None
    findings.problems.extend(annotation.problems)
    image_path = _find_image(reading, stem, annotation.filename)
    if image_path is None:
        rule = f"there is no image {stem}.* in {folders.images.name}"
        findings.leave_out(annotation.path, rule, "E_UNREADABLE")
        return None
    image = make_labelled_image(
        image_path, stem, annotation.boxes, names, annotation.path, findings
    )
    if image is not None:
        compare_sizes(image, annotation.size_hw, annotation.path, "<size>", findings)
        had_boxes = bool(annotation.boxes or annotation.problems)
        note_if_emptied(image, had_boxes, annotation.path, findings)
    return image


def _find_image(reading: _Reading, stem: str, filename: str) -> Path | None:
    """By the XML's stem, then by ``<filename>``; only files listed in the image folder count."""
    found = reading.image_files.get(stem) or reading.image_files.get(Path(filename).stem) or []
    exact = [path for path in found if path.name == filename]
    return next(iter(exact or found), None)
