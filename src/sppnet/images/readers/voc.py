"""Pascal VOC: an XML file of boxes for each image, read within limits, and the set of them."""

import codecs
import math
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from xml.parsers import expat

from sppnet.errors import Findings, InputError, NothingUsableError, Problem
from sppnet.images.dataset import (
    DetectionDataset,
    LabelledImage,
    RawBox,
    compare_sizes,
    keep_unless_emptied,
    make_dataset,
    make_labelled_image,
    read_names,
)
from sppnet.images.listing import require_folder, unknown_split
from sppnet.images.readers.voc_layout import (
    VocFolders,
    find_voc_folders,
    find_voc_parts,
    list_image_files,
    list_xml_files,
    read_split,
)
from sppnet.progress import Track, no_tracking
from sppnet.storage.files import read_capped

MAX_XML_BYTES = 1_000_000
_UTF16_MARKS = (b"\xff\xfe", b"\xfe\xff", b"<\0", b"\0<")
_LIKELY = ("gb18030", "shift_jis", "euc_jp", "big5", "euc_kr", "cp1251", "cp1252")  # what is tried
# Encodings of several bytes a character, which expat cannot read, and the fullest kin of each.
_EAST_ASIAN = {
    "gb2312": "gb18030",
    "gbk": "gb18030",
    "gb18030": "gb18030",
    "shift_jis": "cp932",
    "cp932": "cp932",
    "euc_jp": "euc_jp",
    "iso2022_jp": "iso2022_jp",
    "big5": "cp950",
    "cp950": "cp950",
    "big5hkscs": "big5hkscs",
    "euc_kr": "cp949",
    "cp949": "cp949",
}
_DECLARATION = re.compile(rb"\s*<\?xml[^>]{0,200}?encoding\s*=\s*[\"']([\w.:-]{1,40})[\"']")
_MAX_DEPTH = 32
_OBJECT_LEFT_OUT = "box left out"


@dataclass(frozen=True)
class VocAnnotation:
    """What one XML file says.

    Args:
        path: The XML file.
        filename: Base name of the image it names, "" if it names none.
        size_hw: (height, width) as the file claims, None if it does not say.
        boxes: Half-open, as the file says, not clipped.
        problems: Objects that could not be read.
    """

    path: Path
    filename: str
    size_hw: tuple[int, int] | None
    boxes: tuple[RawBox, ...]
    problems: tuple[Problem, ...]


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
    fits = _find_images(reading, stem, annotation.filename)
    if len(fits) > 1:
        rule = f"is of {fits[0].name!r} or of {fits[1].name!r}: <filename> must name one of them"
        findings.leave_out(annotation.path, rule, "E_XML")
        return None
    image_path = next(iter(fits), None)
    if image_path is None:
        rule = f"there is no image {stem}.* in {folders.images.name}"
        findings.leave_out(annotation.path, rule, "E_UNREADABLE")
        return None
    image = make_labelled_image(
        image_path, stem, annotation.boxes, names, annotation.path, findings
    )
    if image is None:
        return None
    compare_sizes(image, annotation.size_hw, annotation.path, "<size>", findings)
    all_read = not annotation.problems
    return keep_unless_emptied(image, annotation.boxes, all_read, names, annotation.path, findings)


def _find_images(reading: _Reading, stem: str, filename: str) -> list[Path]:
    """By the XML's stem, then by ``<filename>``; only files listed in the image folder count."""
    found = reading.image_files.get(stem) or reading.image_files.get(Path(filename).stem) or []
    return [path for path in found if path.name == filename] or found


class XmlError(InputError):
    """A file that is no annotation, and the line that tells.

    Args:
        rule: What is wrong.
        line: Where, from 1.
        path: The file.
    """

    def __init__(self, rule: str, line: int, path: str | Path) -> None:
        super().__init__(f"line {line}: {rule}", path=path, code="E_XML")
        self.rule = rule
        self.line = line


@dataclass
class XmlElement:
    """An element with the line it starts in."""

    tag: str
    line: int
    text: str = ""
    children: list["XmlElement"] = field(default_factory=list)
    attributes: Mapping[str, str] = field(default_factory=dict)

    def named(self, tag: str) -> list["XmlElement"]:
        """The direct children of one name."""
        return [child for child in self.children if child.tag == tag]


def read_voc_annotation(path: Path) -> VocAnnotation:
    """Read one annotation file.

    VOC's corners count pixels from 1 and include the last one: (xmin, ymin, xmax, ymax) becomes
    (xmin - 1, ymin - 1, xmax, ymax) here and nowhere else. An object whose maximum is not above its
    minimum has no area, as the annotation tools mean it, and is a problem.

    Args:
        path: The XML file.

    Returns:
        Boxes and problems; objects that cannot be read do not spoil the others.

    Raises:
        InputError: If the file as a whole cannot be read (E_XML and the codes of reading files).
    """
    root = read_xml(path)
    if root.tag != "annotation":
        raise XmlError(f"the root must be <annotation>, is <{root.tag}>", root.line, path)
    boxes: list[RawBox] = []
    problems: list[Problem] = []
    for number, element in enumerate(root.named("object"), start=1):
        try:
            boxes.append(_read_object(element, number))
        except _ObjectError as error:
            found = Problem(str(path), str(error), error.code, error.line, _OBJECT_LEFT_OUT)
            problems.append(found)
    return VocAnnotation(path, _base_name(root), _claimed_size(root), tuple(boxes), tuple(problems))


class _ObjectError(Exception):
    """An object that cannot be read."""

    def __init__(self, rule: str, line: int, code: str = "E_XML") -> None:
        super().__init__(rule)
        self.line = line
        self.code = code


def _read_object(element: XmlElement, number: int) -> RawBox:
    """One <object>: its class, its corners, its marks."""
    where = f"object {number}"
    name = _only(element, "name", where).text
    if not name:
        raise _ObjectError(f"{where} has an empty <name>", element.line)
    box = _only(element, "bndbox", where)
    xmin, ymin, xmax, ymax = (_number(box, tag, where) for tag in ("xmin", "ymin", "xmax", "ymax"))
    corners = f"({xmin:g}, {ymin:g}, {xmax:g}, {ymax:g})"
    if xmax < xmin or ymax < ymin:
        raise _ObjectError(f"{where} is reversed, has {corners}", box.line, "E_BOX")
    if xmax == xmin or ymax == ymin:
        raise _ObjectError(f"{where} has no area, has {corners}", box.line, "E_BOX")
    return RawBox(
        xmin - 1,
        ymin - 1,
        xmax,
        ymax,
        name,
        difficult=_mark(element, "difficult"),
        truncated=_mark(element, "truncated"),
        line=box.line,
        where=where,
    )


def _only(element: XmlElement, tag: str, where: str) -> XmlElement:
    """The one child of a name."""
    found = element.named(tag)
    if len(found) != 1:
        raise _ObjectError(f"{where} must have one <{tag}>, has {len(found)}", element.line)
    return found[0]


def _number(box: XmlElement, tag: str, where: str) -> float:
    """A finite corner."""
    element = _only(box, tag, where)
    try:
        value = float(element.text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        rule = f"<{tag}> of {where} must be a finite number, is {element.text[:40]!r}"
        raise _ObjectError(rule, element.line, "E_BOX")
    return value


def _mark(element: XmlElement, tag: str) -> bool:
    """A 0/1 mark; missing means 0, as in files of tools that do not write it."""
    return any(child.text in ("1", "true", "True") for child in element.named(tag))


def _base_name(root: XmlElement) -> str:
    """Last part of <filename>: a path in there is never followed."""
    found = root.named("filename")
    return found[0].text.replace("\\", "/").rsplit("/", 1)[-1] if found else ""


def _claimed_size(root: XmlElement) -> tuple[int, int] | None:
    """<size> as (height, width), if it is there and makes sense."""
    try:
        size = root.named("size")[0]
        return int(size.named("height")[0].text), int(size.named("width")[0].text)
    except (IndexError, ValueError):
        return None


def read_xml(path: str | Path) -> XmlElement:
    """Parse a small XML file into elements that know their line.

    defusedxml refuses entities, too, but its elements have no line and their depth no limit.

    Args:
        path: The file; at most 1 MB.

    Returns:
        The root element.

    Raises:
        InputError: If it cannot be opened, is too large, holds a DTD, is nested more than 32 deep
            or is not well-formed (E_XML, with the line in the text).
    """
    return parse_xml(read_capped(path, MAX_XML_BYTES), path)


def parse_xml(data: bytes, path: str | Path) -> XmlElement:
    """Parse XML that is in memory; otherwise as :func:`read_xml`.

    Args:
        data: Its bytes, at most 1 MB.
        path: Where they are from, for the error.

    Raises:
        InputError: As :func:`read_xml`.

    Example:
        >>> parse_xml(b'<View><Image name="photo"/></View>', "a text").children[0].attributes
        {'name': 'photo'}
    """
    if len(data) > MAX_XML_BYTES:
        rule = f"must have at most {MAX_XML_BYTES:,} bytes, has {len(data):,}"
        raise InputError(rule, path=path, code="E_TOO_LARGE")
    data, encoding = _for_expat(data, path)
    builder = _TreeBuilder(encoding)
    # The whole file in one call: fed in pieces, old expat takes quadratic time on one long token.
    try:
        builder.parser.Parse(data, True)
    except _RefusedError as refused:
        raise XmlError(str(refused), builder.parser.CurrentLineNumber, path) from None
    except expat.ExpatError as error:
        raise XmlError(expat.errors.messages[error.code], error.lineno, path) from None
    except (ValueError, LookupError) as error:  # an encoding that Python lacks or cannot map
        raise InputError(f"unusable encoding: {error}", path=path, code="E_XML") from None
    return builder.root


def _for_expat(data: bytes, path: str | Path) -> tuple[bytes, str | None]:
    """The bytes as expat can read them, and their encoding if it is not the one they declare."""
    declared = _DECLARATION.match(data)
    name = declared[1].decode("ascii") if declared else "UTF-8"
    try:
        codec = codecs.lookup(name).name
        if codec == "utf-8" and not data.startswith(_UTF16_MARKS):
            data.decode(codec)
        encoding = _EAST_ASIAN.get(codec)
        return (data.decode(encoding).encode(), "utf-8") if encoding else (data, None)
    except LookupError:
        return data, None  # expat says so
    except UnicodeError:
        source = "its first line declares" if declared else "XML has if nothing is declared"
        seen = ", ".join(each for each in _LIKELY if _fits(data, each))
        rule = f"is not text in {name}, the encoding that {source}"
        rule += f"; its bytes fit {seen}: declare that, or save it as UTF-8" if seen else ""
        raise InputError(rule, path=path, code="E_XML") from None


def _fits(data: bytes, encoding: str) -> bool:
    """Whether bytes are text in an encoding."""
    try:
        data.decode(encoding)
    except UnicodeError:
        return False
    return True


class _RefusedError(Exception):
    """XML that is well-formed, but more than an annotation needs."""


class _TreeBuilder:
    """Builds elements from expat's events; refuses a DTD before any entity can be declared."""

    def __init__(self, encoding: str | None) -> None:
        self.parser = expat.ParserCreate(encoding)
        self.parser.buffer_text = True
        self.parser.StartElementHandler = self._start
        self.parser.EndElementHandler = self._end
        self.parser.CharacterDataHandler = self._text
        self.parser.StartDoctypeDeclHandler = self._refuse_doctype
        self._texts: list[list[str]] = []
        self._open: list[XmlElement] = []
        self.root = XmlElement("", 0)

    def _start(self, tag: str, attributes: dict[str, str]) -> None:
        if len(self._open) >= _MAX_DEPTH:
            raise _RefusedError(f"elements must be nested at most {_MAX_DEPTH} deep")
        element = XmlElement(tag, self.parser.CurrentLineNumber, attributes=attributes)
        if self._open:
            self._open[-1].children.append(element)
        else:
            self.root = element
        self._open.append(element)
        self._texts.append([])

    def _end(self, _: str) -> None:
        self._open.pop().text = "".join(self._texts.pop()).strip()

    def _text(self, text: str) -> None:
        self._texts[-1].append(text)

    def _refuse_doctype(self, *_: object) -> None:
        raise _RefusedError("a DTD is not allowed")
