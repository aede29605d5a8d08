"""Where a Pascal VOC set keeps its parts, and its lists of images."""

import os
from dataclasses import dataclass
from pathlib import Path

from sppnet.errors import Findings, InputError, NothingUsableError, UsageError
from sppnet.images.listing import has_image_suffix, unknown_split
from sppnet.storage.files import read_lines

_IMAGE_FOLDERS = ("JPEGImages", "images", "Images", "img", "imgs")
# The first is VOC's own; the others hold annotations of other layouts as well.
_XML_FOLDERS = ("Annotations", "annotations", "Annotation", "labels", "xmls", "xml")
_PARTS = ("train", "valid", "val", "validation", "test")


@dataclass(frozen=True)
class VocFolders:
    """The folders of a VOC set.

    Args:
        root: The folder that holds them, which may lie below the one that was named.
        annotations: Folder of the XML files.
        images: Folder of the image files.
    """

    root: Path
    annotations: Path
    images: Path

    @property
    def lists(self) -> Path:
        """Folder of the splits' lists."""
        return self.root / "ImageSets" / "Main"


def find_voc_folders(root: str | Path) -> VocFolders | None:
    """Find the parts of a VOC set at or just below a folder.

    Looks for ``Annotations`` (or ``annotations``, ``labels``, ``xmls`` with XML files in them) in
    the folder itself, in ``VOCdevkit/VOC*`` and ``VOC*`` below it, then for XML files that lie
    beside their images.

    Args:
        root: The folder that a user names.

    Returns:
        The folders, or None if this is no VOC set.

    Raises:
        UsageError: If several years lie below it; names them.
    """
    root = Path(root)
    nested = [] if _xml_folder(root) else _nested_sets(root)
    if len(nested) > 1:
        years = ", ".join(str(path) for path in nested)
        raise UsageError(f"holds several VOC sets, name one of them: {years}", path=root)
    for path in (root, *nested):
        annotations = _xml_folder(path)
        if annotations is not None:
            found = [path / name for name in _IMAGE_FOLDERS if (path / name).is_dir()]
            return VocFolders(path, annotations, found[0] if found else path)
    has_xml = any(is_visible_xml(path) for path in root.glob("*.xml"))
    return VocFolders(root, root, root) if has_xml else None


def find_voc_parts(root: str | Path) -> dict[str, VocFolders]:
    """Find the parts of a set that is divided into folders: ``train``, ``valid``, ``test``.

    Args:
        root: The folder that a user names.

    Returns:
        The folders of each part; empty if this is a set as a whole, or none.
    """
    root = Path(root)
    if find_voc_folders(root) is not None:
        return {}
    folders = [path for name in _PARTS if (path := root / name).is_dir()]
    return {path.name: found for path in folders if (found := find_voc_folders(path)) is not None}


def list_voc_splits(root: str | Path) -> list[str]:
    """Name the splits of a VOC set; lists of single classes (``cat_train``) are left out.

    Args:
        root: The folder that a user names.

    Returns:
        Sorted names of the lists, or the names of the parts; empty if there are none.

    Raises:
        UsageError: If several VOC sets lie below the folder.
    """
    folders = find_voc_folders(root)
    return list(find_voc_parts(root)) if folders is None else split_names(folders)


def split_names(folders: VocFolders) -> list[str]:
    """Names of the lists, without those of single classes."""
    stems = {path.stem for path in folders.lists.glob("*.txt") if not path.name.startswith(".")}
    return sorted(stem for stem in stems if not ("_" in stem and stem.rpartition("_")[2] in stems))


def read_split(
    folders: VocFolders, split: str, known_stems: set[str], findings: Findings
) -> list[str]:
    """Read the list of a split.

    Args:
        folders: The set.
        split: Its name.
        known_stems: Stems of all annotations and images; a line may also name a file, or carry the
            -1/0/1 mark of lists of single classes.
        findings: Receives a note for a line that comes twice.

    Returns:
        Stems, each once, in the list's order; one that is not known stays as it is.

    Raises:
        UsageError: If there is no such split, or its list cannot be read.
    """
    known = split_names(folders)
    if split not in known:
        raise unknown_split(folders.root, split, known)
    path = folders.lists / f"{split}.txt"
    stems: dict[str, int] = {}
    try:
        lines = read_lines(path)
    except InputError as error:
        raise UsageError(error.message, path=path) from None
    for number, line in enumerate(lines, start=1):
        stem = _stem_of_line(line.strip(), known_stems)
        if stem in stems:
            rule = f"{stem!r} is listed in line {stems[stem]} already"
            findings.note(path, rule, line=number, action="used once")
        elif stem:
            stems[stem] = number
    return list(stems)


def list_xml_files(folders: VocFolders, root: Path) -> dict[str, Path]:
    """Map stems to annotation files.

    Args:
        folders: The set.
        root: What the user named; errors name it.

    Returns:
        Stem to path, sorted.

    Raises:
        UsageError: If the folder cannot be read.
        NothingUsableError: If there is no annotation.
    """
    entries = _sorted_entries(folders.annotations)
    found = {path.stem: path for path in entries if is_visible_xml(path)}
    if not found:
        raise NothingUsableError("looked for Annotations/*.xml, found none", path=root)
    return found


def list_image_files(folder: Path) -> dict[str, list[Path]]:
    """Map stems to the image files directly in a folder, sorted; hidden ones are skipped."""
    found: dict[str, list[Path]] = {}
    for path in _sorted_entries(folder):
        if has_image_suffix(path) and not path.name.startswith("."):
            found.setdefault(path.stem, []).append(path)
    return found


def is_visible_xml(path: Path) -> bool:
    """Ending in any case; no hidden files, such as the ``._x.xml`` of some file systems."""
    return path.suffix.lower() == ".xml" and not path.name.startswith(".")


def _sorted_entries(folder: Path) -> list[Path]:
    """What a folder holds, by the bytes of the names; one that cannot be read is an error."""
    try:
        return sorted(folder.iterdir(), key=os.fsencode)
    except OSError as error:
        raise UsageError(f"cannot be read: {error.strerror}", path=folder) from None


def _xml_folder(path: Path) -> Path | None:
    """The folder of the annotations, if this is the root of a VOC set."""
    for name in _XML_FOLDERS:
        folder = path / name
        if folder.is_dir() and (
            name == "Annotations" or any(map(is_visible_xml, folder.iterdir()))
        ):
            return folder
    return None


def _nested_sets(root: Path) -> list[Path]:
    """Roots of the VOC sets below a folder such as VOCdevkit."""
    patterns = ("VOCdevkit/VOC*", "VOC*")
    below = [path for pattern in patterns for path in sorted(root.glob(pattern))]
    return [path for path in below if _xml_folder(path)]


def _stem_of_line(line: str, known_stems: set[str]) -> str:
    """One line of a list: a stem, or a file's name or path, or a stem and a -1/0/1 mark."""
    base = line.replace("\\", "/").rpartition("/")[2]
    candidates = [line, line.rpartition(".")[0], base, base.rpartition(".")[0]]
    if line[-2:].strip() in ("1", "0", "-1"):
        candidates.append(line.rsplit(maxsplit=1)[0])
    return next((stem for stem in candidates if stem in known_stems), line)
