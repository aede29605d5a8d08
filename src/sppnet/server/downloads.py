"""Labels and models as files to take home: made in a temporary folder, removed once sent."""

import shutil
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from sppnet.errors import OutputError, UnusableFileError, UsageError
from sppnet.storage.files import write_bytes

if TYPE_CHECKING:
    from sppnet.pooling.onnx.export import ExportRecipe
    from sppnet.server.desk import LabelDesk

ENDINGS = {"voc": ".zip", "yolo": ".zip", "coco": ".json", "label-studio": ".json", "csv": ".csv"}
CLASS_ENDINGS = {"csv": ".csv", "folders": ".zip"}
OPSET = 20
Download = tuple[Path, str, Callable[[], None]]


class Downloads:
    """Makes files of what a session knows.

    Args:
        desk: Has the session.
    """

    def __init__(self, desk: "LabelDesk") -> None:
        self.desk = desk

    def export(self, layout: str, *, with_photos: bool = False) -> Download:
        """Write the labels.

        Args:
            layout: One of the endings' names.
            with_photos: Whether layouts that keep photos and labels together hold copies of them.

        Returns:
            The file, its name for the browser, and what removes it.

        Raises:
            UsageError: If there is no such layout.
            NothingUsableError: If nothing is labelled.
        """
        endings = ENDINGS if self.desk.task == "detect" else CLASS_ENDINGS
        if layout not in endings:
            raise UsageError(f"layout must be one of {', '.join(endings)}, got {layout[:40]!r}")
        ending = endings[layout]

        def write(folder: Path) -> Path:
            out = folder / ("labels" if ending == ".zip" else f"labels{ending}")
            session = cast(Any, self.desk.work.session)
            session.export(layout, out, copy_photos=with_photos)
            return out

        return _make(write, f"{self._stem()}-{layout}{ending}")

    def model(self, kind: str) -> Download:
        """Write the model as it is: ``folder`` (zipped) or ``onnx``.

        Raises:
            UsageError: If there is no such kind, or a package is missing.
            NothingUsableError: If nothing was learnt yet.
            OutputError: If onnxruntime computes something else than torch.
        """
        if kind not in ("folder", "onnx"):
            raise UsageError(f"format must be folder or onnx, got {kind[:40]!r}")
        name = f"{self._stem()}-model"

        def write(folder: Path) -> Path:
            saved = self.desk.work.session.save_model(folder / name)
            return saved if kind == "folder" else write_onnx(saved, folder / f"{name}.onnx")

        return _make(write, f"{name}{'.zip' if kind == 'folder' else '.onnx'}")

    def _stem(self) -> str:
        return self.desk.folder.absolute().name or "photos"


def write_onnx(model: Path, out: Path) -> Path:
    """Write a saved model as ONNX, after comparing onnxruntime with torch.

    Raises:
        UnusableFileError: If this kind of model has no ONNX.
        OutputError: If the two differ.
    """
    from sppnet.pooling.onnx.export import check_packages, export_onnx

    check_packages()
    recipe = _recipe(model)
    data, comparisons = export_onnx(recipe, OPSET)
    if not all(each.matches(recipe.tolerance) for each in comparisons):
        raise OutputError("onnxruntime and torch differ on this model", code="E_MISMATCH")
    write_bytes(out, data)
    return out


def _recipe(model: Path) -> "ExportRecipe":
    from sppnet.storage import read_kind

    kind = read_kind(model)
    if kind == "detector":
        from sppnet.detection import Detector
        from sppnet.detection.onnx import detector_recipe

        return detector_recipe(Detector.load(model))
    if kind == "classifier":
        from sppnet.classification import Classifier
        from sppnet.classification.onnx import classifier_recipe

        return classifier_recipe(Classifier.load(model))
    raise UnusableFileError(f"a {kind} has no ONNX", code="E_WEIGHTS_ARCH")


def _make(write: Callable[[Path], Path], name: str) -> Download:
    """Write into a temporary folder; a folder that was written becomes a zip file."""
    folder = Path(tempfile.mkdtemp(prefix="sppnet-label-"))

    def remove() -> None:
        shutil.rmtree(folder, ignore_errors=True)

    try:
        path = write(folder)
        if path.is_dir():
            path = zip_folder(path, folder / "whole.zip")
    except BaseException:
        remove()
        raise
    return path, name, remove


def zip_folder(folder: Path, out: Path) -> Path:
    """Pack a folder; photos are packed as they are.

    Args:
        folder: What is packed, under its own name.
        out: The file.
    """
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                archive.write(path, path.relative_to(folder.parent).as_posix())
    return out
