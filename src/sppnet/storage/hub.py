"""Models on a hub and in MLflow: the same folder, with a card made from what was measured.

What is loaded is the folder of ``save_model``, safetensors and JSON checked by SHA-256; no other
file of a repository is fetched, and nothing is unpickled.
"""

import importlib.util
import math
import re
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self, cast

from sppnet.errors import MissingPackageError, UnusableFileError, count_of
from sppnet.storage.files import json_text, read_json, write_text
from sppnet.storage.models import CONFIG, MANIFEST, TENSORS

CARD, OWN_CARD = "README.md", "library_name: sppnet"
FILES = [MANIFEST, CONFIG, TENSORS]
TASKS = {"detector": "object-detection", "combined": "object-detection"}
USUAL_TASK = "image-classification"
# figures of metrics.json -> type and name on a card
FIGURES = {
    "ap50": ("ap50", "AP at overlap 0.5"),
    "ap": ("ap", "AP at overlaps 0.5 to 0.95"),
    "ap75": ("ap75", "AP at overlap 0.75"),
    "ap50_voc07": ("ap50_voc07", "VOC 2007 AP"),
    "top1": ("accuracy", "accuracy"),
    "top5": ("top5_accuracy", "top-5 accuracy"),
    "mean_class_accuracy": ("mean_class_accuracy", "mean class accuracy"),
    "mean_ap": ("map", "mean average precision"),
}
Metrics = Mapping[str, Any] | str | Path | None
MOST_CLASSES = 100  # classes that a card names

# A model as code: MLflow runs this file where the model is used, and pickles nothing.
MLFLOW_CODE = '''"""A model of sppnet for mlflow.pyfunc: paths of photos in, a row a find out."""

import mlflow.pyfunc
import pandas


class SppnetModel(mlflow.pyfunc.PythonModel):
    """Names whole photos, or finds objects in them."""

    def load_context(self, context):
        """Read the model's folder."""
        from sppnet.storage import read_kind

        folder = context.artifacts["model"]
        self.detects = read_kind(folder) == "detector"
        if self.detects:
            from sppnet.detection import Detector

            self.model = Detector.load(folder)
        else:
            from sppnet.classification import load_classifier

            self.model = load_classifier(folder)

    def predict(self, context, model_input: list[str], params=None):
        """Look at photos; MLflow makes a list of a table of one column of paths."""
        rows = []
        for path in model_input:
            if not self.detects:
                [best] = self.model.predict([path], top=1)
                name = self.model.names[int(best["labels"][0])]
                rows.append({"path": path, "name": name, "score": float(best["scores"][0])})
                continue
            found = self.model.predict(path)
            if self.model.operating_points is not None:
                found = self.model.operating_points.select(found)
            triples = zip(found.boxes.tolist(), found.scores.tolist(), found.labels.tolist())
            for box, score, label in triples:
                corners = dict(zip(("x0", "y0", "x1", "y1"), box))
                name = self.model.names[label]
                rows.append({"path": path, "name": name, "score": score, **corners})
        columns = ["path", "name", "score", *(["x0", "y0", "x1", "y1"] if self.detects else [])]
        return pandas.DataFrame(rows, columns=columns)


mlflow.models.set_model(SppnetModel())
'''

# What FiftyOne runs of a folder in its zoo, beside the model's own folder.
FIFTYONE_CODE = '''"""A model of sppnet in the zoo of FiftyOne: labels for a photo."""

from pathlib import Path

import fiftyone.core.models as fom


class SppnetModel(fom.Model):
    """Names whole photos, or finds objects in them."""

    media_type = "image"
    ragged_batches = True
    transforms = None
    preprocess = False

    def __init__(self, folder, device="cpu"):
        from sppnet.storage import read_kind

        self.detects = read_kind(folder) == "detector"
        if self.detects:
            from sppnet.detection import Detector

            self.model = Detector.load(folder, device)
        else:
            from sppnet.classification import load_classifier

            self.model = load_classifier(folder, device)

    def predict(self, arg):
        """Look at one photo, (H, W, 3) uint8."""
        import fiftyone

        if not self.detects:
            [best] = self.model.predict([arg], top=1)
            name = self.model.names[int(best["labels"][0])]
            return fiftyone.Classification(label=name, confidence=float(best["scores"][0]))
        found = self.model.predict(arg)
        if self.model.operating_points is not None:
            found = self.model.operating_points.select(found)
        return found.to_fiftyone(arg.shape[:2], self.model.names)


def download_model(model_name, model_path):
    """Fetch nothing: the model lies beside this file."""


def load_model(model_name, model_path, **kwargs):
    """Read the model; ``device="cuda"`` puts it there."""
    return SppnetModel(Path(model_path).parent / "model", **kwargs)
'''


class HubModel:
    """A model that is saved as one folder and loaded from one, and so can be shared.

    Whoever inherits from it has ``save(path)``, ``load(path, device)``, ``names`` and a ``kind``.
    """

    def save_pretrained(
        self,
        folder: str | Path,
        *,
        metrics: Metrics = None,
        data: str = "",
        license: str = "",  # noqa: A002
    ) -> None:
        """Write the model and a card for a hub.

        Args:
            folder: Folder to make or to replace.
            metrics: What ``sppnet detect val``, ``classify val`` or ``classify fit`` measured:
                metrics.json or its content; None leaves figures out.
            data: Name of the photos that it was measured on.
            license: Licence of the model, by its identifier there; none is claimed if empty.

        Raises:
            MissingPackageError: If huggingface_hub is not installed.
            OutputError: If it cannot be written.
        """
        card = model_card(self, metrics=metrics, data=data, license=license)
        _remove_card(Path(folder) / CARD)
        cast(Any, self).save(folder)
        write_text(Path(folder) / CARD, card)

    @classmethod
    def from_pretrained(
        cls,
        name: str | Path,
        *,
        revision: str | None = None,
        device: str = "cpu",
        token: str | None = None,
        cache_dir: str | Path | None = None,
        local_files_only: bool = False,
    ) -> Self:
        """Read a model from a folder, or from a repository of the hub.

        Three files are fetched, the model's own; each must have the SHA-256 of its manifest.

        Args:
            name: A folder on this machine if there is one, else ``"owner/name"``.
            revision: Branch, tag or commit of the repository.
            device: Where to put it.
            token: For private repositories; None takes the one that is logged in.
            cache_dir: Where fetched files are kept; None is the hub's usual place.
            local_files_only: Ask no network.

        Raises:
            MissingPackageError: If it is no folder, and huggingface_hub is not installed.
            UnusableFileError: If the hub does not give it, or a file is missing, damaged or of
                another kind.
        """
        load = cast(Any, cls).load
        if Path(name).is_dir():
            return cast(Self, load(name, device))
        hub = _hub()
        try:
            found = hub.snapshot_download(
                str(name),
                revision=revision,
                token=token,
                cache_dir=cache_dir,
                local_files_only=local_files_only,
                allow_patterns=FILES,
            )
        except (OSError, ValueError) as error:  # its errors of names, networks and rights
            reason = " ".join(str(error).split())
            rule = f"is no folder here, and the hub does not give it: {reason}"
            raise UnusableFileError(rule, path=str(name), code="E_MISSING") from error
        with tempfile.TemporaryDirectory(prefix="sppnet-") as folder:
            for file in FILES:  # there they are links to a common store
                source = Path(found) / file
                if source.is_file():
                    shutil.copyfile(source, Path(folder) / file)
            return cast(Self, load(folder, device))

    def push_to_hub(
        self,
        name: str,
        *,
        metrics: Metrics = None,
        data: str = "",
        license: str = "",  # noqa: A002
        private: bool = True,
        token: str | None = None,
        message: str = "A model of sppnet",
    ) -> str:
        """Upload the model and its card to the hub, into a repository that is made if need be.

        Args:
            name: ``"owner/name"``.
            metrics: As for :meth:`save_pretrained`.
            data: As for :meth:`save_pretrained`.
            license: As for :meth:`save_pretrained`.
            private: Whether a new repository is private.
            token: None takes the one that is logged in.
            message: Message of the commit.

        Returns:
            The address of the repository.

        Raises:
            MissingPackageError: If huggingface_hub is not installed.
        """
        api = _hub().HfApi(token=token)
        with tempfile.TemporaryDirectory(prefix="sppnet-") as folder:
            path = Path(folder) / "model"
            self.save_pretrained(path, metrics=metrics, data=data, license=license)
            address = api.create_repo(name, private=private, exist_ok=True)
            api.upload_folder(
                repo_id=name,
                folder_path=path,
                commit_message=message,
                allow_patterns=[*FILES, CARD],
            )
        return str(address)

    def save_mlflow(self, folder: str | Path, **options: Any) -> None:
        """Write the model as a flavour of ``mlflow.pyfunc``, as code and data: nothing is pickled.

        ``mlflow.pyfunc.load_model(folder).predict(paths)`` takes a list of paths of photos, or a
        table with one column of them, and gives a table with a row for each photo or each find.

        Args:
            folder: Folder to make; it must not exist.
            **options: Further arguments of ``mlflow.pyfunc.save_model``.

        Raises:
            MissingPackageError: If mlflow is not installed.
        """
        if importlib.util.find_spec("mlflow") is None:
            raise MissingPackageError("save_mlflow needs mlflow: pip install mlflow")
        import mlflow.pyfunc

        with tempfile.TemporaryDirectory(prefix="sppnet-") as place:
            code, model = Path(place) / "sppnet_model.py", Path(place) / "model"
            cast(Any, self).save(model)
            write_text(code, MLFLOW_CODE)
            mlflow.pyfunc.save_model(
                path=str(folder),
                python_model=str(code),
                artifacts={"model": str(model)},
                **{"pip_requirements": ["sppnet", "pandas"], **options},
            )

    def save_fiftyone(self, folder: str | Path, *, license: str = "") -> None:  # noqa: A002
        """Write a folder that FiftyOne takes as a source of models for its zoo.

        The folder's name is the model's. Put it, or a link to it, into FiftyOne's
        ``model_zoo_dir``, or into a repository for ``register_zoo_model_source``; then
        ``fiftyone.zoo.load_zoo_model(name)`` gives a model for ``dataset.apply_model``. A detector
        finds ``Detections``, those that count if it was told which; a classifier gives the best
        ``Classification``.

        Args:
            folder: Folder to make; what else lies in it stays.
            license: Licence of the model; none is claimed if empty.

        Raises:
            ValueError: If its name is not letters, digits, and - _ . between them.
            OutputError: If it cannot be written.

        Source:
            FiftyOne's documentation, "Remotely-sourced zoo models".
        """
        name = Path(folder).name
        if not re.fullmatch(r"\w([\w.-]*\w)?", name, re.ASCII):
            raise ValueError(
                f"folder must have a name of letters, digits and - _ . between them, got {name!r}"
            )
        place = Path(folder)
        cast(Any, self).save(place / "model")
        entry = {
            "base_name": name,
            "base_filename": "__init__.py",  # FiftyOne looks for a file; the model is beside it
            "author": None,
            "license": license or None,
            "description": f"sppnet {_kind(self)}: {', '.join(map(str, cast(Any, self).names))}",
            "size_bytes": sum(path.stat().st_size for path in (place / "model").iterdir()),
            "requirements": {"packages": ["sppnet"], "cpu": {"support": True}},
            "tags": ["detection" if _kind(self) in TASKS else "classification", "torch"],
        }
        write_text(place / "__init__.py", FIFTYONE_CODE)
        write_text(place / MANIFEST, json_text({"name": name, "models": [entry]}))


def model_card(
    model: Any,
    *,
    metrics: Metrics = None,
    data: str = "",
    license: str = "",  # noqa: A002
) -> str:
    """Write the card of a model: a YAML head that hubs read, and a page that people read.

    Args:
        model: A detector or a classifier.
        metrics: metrics.json of a measurement, or its content.
        data: Name of the photos that it was measured on.
        license: Licence of the model.

    Returns:
        Markdown.

    Raises:
        MissingPackageError: If huggingface_hub is not installed.
        UnusableFileError: If the file of figures cannot be read.
    """
    hub = _hub()
    figures = read_json(metrics) if isinstance(metrics, str | Path) else dict(metrics or {})
    task = TASKS.get(_kind(model), USUAL_TASK)
    found = {
        name: float(figures[name])
        for name in FIGURES
        if isinstance(figures.get(name), int | float) and math.isfinite(figures[name])
    }
    results = [
        hub.EvalResult(
            task_type=task,
            dataset_type="image-folder",
            dataset_name=data or "held-out photos",
            metric_type=FIGURES[name][0],
            metric_name=FIGURES[name][1],
            metric_value=round(value, 4),
        )
        for name, value in found.items()
    ]
    card = hub.ModelCardData(
        library_name="sppnet",
        pipeline_tag=task,
        tags=["sppnet", "spatial-pyramid-pooling"],
        license=license or None,
        model_name=f"sppnet {_kind(model)}",
        eval_results=results or None,
    )
    return f"---\n{card.to_yaml()}\n---\n\n{_page(model, task, found, data)}"


def _remove_card(path: Path) -> None:
    """Remove the card of an older model; a file that is none stays, and is refused later."""
    if path.is_file() and OWN_CARD in path.read_text(encoding="utf-8", errors="replace"):
        path.unlink()


def _page(model: Any, task: str, figures: Mapping[str, float], data: str) -> str:
    """The part of a card that people read."""
    names = [str(name).replace("`", "'") for name in model.names]
    more = f" and {len(names) - MOST_CLASSES} more" if len(names) > MOST_CLASSES else ""
    verb, owner = "Tells apart", "sppnet.classification import Classifier"
    if task == "object-detection":
        verb, owner = "Finds", "sppnet import Detector"
    lines = [
        f"# {verb} {count_of(len(names), 'class')} in images of any size",
        "",
        f"Classes: {', '.join(f'`{each}`' for each in names[:MOST_CLASSES])}{more}.",
        "",
        "```python",
        f"from {owner}",
        "",
        f'model = {owner.split()[-1]}.from_pretrained("OWNER/NAME")',
        'found = model.predict("photo.jpg")',
        "```",
    ]
    if figures:
        lines += ["", f"Measured on {data or 'held-out photos'}:", "", "| figure | value |"]
        lines += ["| --- | --- |"]
        lines += [f"| {FIGURES[key][1]} | {value:.4f} |" for key, value in figures.items()]
    about = getattr(model, "operating_points", None)
    if about is not None:
        lines += ["", f"Detections count from scores of {json_text(list(about.thresholds), None)}."]
    lines += ["", "Spatial pyramid pooling: He, Zhang, Ren and Sun, 2014 (arXiv 1406.4729)."]
    return "\n".join(lines) + "\n"


def _kind(model: Any) -> str:
    return str(getattr(model, "kind", "detector"))


def _hub() -> Any:
    """The library of the hub, imported when it is needed."""
    if importlib.util.find_spec("huggingface_hub") is None:
        raise MissingPackageError("this needs huggingface_hub: pip install 'sppnet[hub]'")
    import huggingface_hub

    return huggingface_hub
