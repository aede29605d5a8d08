"""``sppnet classify val`` and ``predict``: score and use a saved classifier on other images."""

import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from textwrap import indent
from typing import Any

import torch
from torch import Tensor

from sppnet.app.classify import shared
from sppnet.app.console import (
    Tally,
    human_seconds,
    note,
    options_to_blame,
    report_problems,
    say,
    say_table,
    warn,
)
from sppnet.app.detect.predict import overlay_names
from sppnet.app.options import choose_device
from sppnet.app.progress import track
from sppnet.classification import (
    Classifier,
    FeatureSet,
    ImageClassifier,
    View,
    ViewPlan,
    load_classifier,
    match_classes,
    predict_each,
    predict_files,
    rank_scores,
    score_predictions,
    scoring_split,
)
from sppnet.errors import NothingUsableError, OutputError, Problem, UsageError, count_of
from sppnet.evaluation import (
    ClassificationFigures,
    to_jpeg_bytes,
    write_classification_report,
)
from sppnet.evaluation.report import seen_warnings, write_found_page
from sppnet.evaluation.result_formats import Number, write_table
from sppnet.images import (
    ClassificationDataset,
    list_class_splits,
    list_images,
    load_compact,
    read_class_folders,
)
from sppnet.progress import Track
from sppnet.storage import FeatureCache, ensure_output_folder, write_bytes, write_json
from sppnet.storage.files import json_text, write_text
from sppnet.storage.temp_files import remove_leftovers

UNFINISHED, PICTURES = "unfinished", "pictures"
SHOWN = 20
EMPTY_IMAGES = '  "images": [],\n'


def run_val(
    model: Path,
    data: Path,
    out: Path,
    split: str | None,
    *,
    view: str | None,
    imgsz: int | None,
    skip_seen: bool,
    device: str,
    dry_run: bool,
) -> None:
    """Run the whole of ``val``."""
    classifier = load_classifier(model, choose_device(device))
    chosen = choose_view(classifier, view, imgsz)
    dataset = read_class_folders(data, split or scoring_split(list_class_splits(data)))
    labels = match_classes(dataset, classifier.names)
    report_problems(dataset.problems)
    if dry_run:
        _say_plan(classifier, dataset.paths, chosen)
        return
    begin = time.perf_counter()
    remove_leftovers(ensure_output_folder(out), PICTURES)
    found = _predict(classifier, dataset.paths, chosen, out)
    seconds = time.perf_counter() - begin
    shared.report_each(found.problems)
    if not len(found.kept):
        raise NothingUsableError("none of the images can be used", path=data)
    about = {"view": _view_words(chosen), "seconds": {"predicting": seconds}}
    metrics = _score(classifier, dataset, labels, found, out, about, skip_seen)
    shutil.rmtree(out / UNFINISHED, ignore_errors=True)
    shared.say_figures(metrics, None)
    shared.say_results(out / "metrics.json", out / "report.html")
    shared.finish([*dataset.problems, *found.problems])


def _score(
    classifier: ImageClassifier,
    dataset: ClassificationDataset,
    labels: Tensor,
    found: FeatureSet,
    out: Path,
    about: dict[str, Any],
    skip_seen: bool,
) -> dict[str, Any]:
    """Compute the figures; write them and the report."""
    was_seen = torch.isin(found.digests, classifier.seen)
    seen = int(was_seen.sum()) if len(classifier.seen) else None
    warnings = seen_warnings(0 if skip_seen and seen else seen, len(was_seen))
    for warning in warnings:
        warn(f"{warning}; --skip-seen leaves them out" if seen else warning)
    rows = ((~was_seen) if skip_seen else was_seen | True).nonzero().flatten()
    scores, truth = found.rows[rows], labels[found.kept[rows]]
    metrics = {
        **score_predictions(scores, truth, classifier.names),
        "images": {
            "listed": len(dataset.paths),
            "failed": len(found.problems),
            "scored": len(truth),
            "seen_in_training": seen,
            "skipped": len(was_seen) - len(truth),
        },
        "warnings": warnings,
        **about,
        "seconds_per_image": about["seconds"]["predicting"] / len(dataset.paths),
        "problems": shared.plain_problems([*dataset.problems, *found.problems]),
    }
    write_json(out / "metrics.json", metrics)
    figures = ClassificationFigures(
        classifier.names,
        truth.numpy(),
        scores.numpy(),
        seconds=about["seconds"],
        problems=[*dataset.problems, *found.problems],
        config=classifier.about,
        warnings=warnings,
    )
    paths = [dataset.paths[index] for index in found.kept[rows].tolist()]
    _write_answers(
        out / "predictions.csv", classifier, [dataset.files[p] for p in paths], scores, truth
    )
    write_classification_report(out / "report.html", paths, figures, subtitle=dataset.root.name)
    return metrics


def run_predict(
    model: Path,
    images: Sequence[str],
    out: Path,
    *,
    view: str | None,
    imgsz: int | None,
    top: int,
    device: str,
    dry_run: bool,
    show: Track = track,
    with_page: bool = False,
) -> None:
    """Run the whole of ``predict``; with a page for people, where they look at it in a browser."""
    classifier = load_classifier(model, choose_device(device))
    chosen = choose_view(classifier, view, imgsz)
    listing = list_images(images, out)
    tally = Tally.of(listing)
    if dry_run:
        _say_plan(classifier, listing.paths, chosen)
        return
    cache = FeatureCache(ensure_output_folder(out) / UNFINISHED)
    remove_leftovers(out, PICTURES)
    found, counts = _Rows(cache), Counter(dict.fromkeys(classifier.names, 0))
    for each in predict_each(classifier, listing.paths, chosen, cache, show):
        if isinstance(each, Problem):
            tally.add_failed(each)
            continue
        found.keys[each.number] = each.key
        counts[classifier.names[int(rank_scores(each.row, 1)["labels"][0])]] += 1
        tally.add_ok()

    def records() -> Iterator[dict[str, Any]]:
        return _records(classifier, listing.paths, listing.files, found, top)

    document = {
        "model": str(model),
        "names": list(classifier.names),
        "score_kind": classifier.score_kind,
        "view": _view_words(chosen),
        "counts": dict(counts),
        "images": [],
        "failed": shared.plain_problems(tally.problems),
    }
    _write_predictions(out, document, records)
    _say_predictions(list(islice(records(), SHOWN)), tally.ok, counts)
    if with_page:
        _write_page(out, list(records()), classifier.names)
    shutil.rmtree(out / UNFINISHED, ignore_errors=True)
    shared.say_results(out / "predictions.json", out / "predictions.csv", out / "counts.csv")
    tally.finish()


def forget_unfinished(out: Path) -> None:
    """Drop the scores that an earlier run which was killed left in its folder for results."""
    shutil.rmtree(out / UNFINISHED, ignore_errors=True)


def choose_view(
    classifier: ImageClassifier, name: str | None, short_side: int | None
) -> View | ViewPlan | None:
    """Find what ``--view`` and ``--imgsz`` mean for this model; None is its own view."""
    if isinstance(classifier, Classifier):
        with options_to_blame():
            return classifier.resolve_view(name, short_side)
    if name is not None or short_side is not None:
        raise UsageError("--view and --imgsz are for networks; this model's recipe has its own")
    return None


def _view_words(view: View | ViewPlan | None) -> dict[str, Any] | str:
    """What was scored, as plain values."""
    return "own" if view is None else view.config()


def _write_page(out: Path, records: Sequence[Mapping[str, Any]], names: Sequence[str]) -> None:
    """Write a page that shows each image with its best class."""
    files = overlay_names([record["file"] for record in records])
    counts = {}
    for record in records:
        path = out / PICTURES / files[record["file"]]
        ensure_output_folder(path.parent)
        write_bytes(path, to_jpeg_bytes(load_compact(record["path"])))
        best = record["labels"][0]
        counts[record["file"]] = [int(label == best) for label in range(len(names))]
    links = {file: f"{PICTURES}/{name}" for file, name in files.items()}
    write_found_page(out / "index.html", counts, names, links, title="What the photos show")


def _predict(
    classifier: ImageClassifier,
    paths: Sequence[Path],
    view: View | ViewPlan | None,
    out: Path,
    show: Track = track,
) -> FeatureSet:
    """Score every image; scores are cached until the command ends, so that a killed run goes on."""
    cache = FeatureCache(out / UNFINISHED)
    return predict_files(classifier, paths, view, cache=cache, track=show)


class _Rows:
    """The scores of each image that was read, which stay on disk: there may be many.

    Args:
        cache: Where they are.

    Attributes:
        keys: By the position of the image, the key of its scores.
    """

    def __init__(self, cache: FeatureCache) -> None:
        self.cache = cache
        self.keys: dict[int, str] = {}

    def __iter__(self) -> Iterator[tuple[int, Tensor]]:
        """Each image and its scores (K,), from the disk."""
        for index, key in self.keys.items():
            record = self.cache.get(key)
            if record is None:
                raise OutputError("lost a file that it had just written", path=self.cache.folder)
            yield index, record["row"]


def _records(
    classifier: ImageClassifier,
    paths: Sequence[Path],
    files: Mapping[Path, str],
    found: _Rows,
    top: int,
) -> Iterator[dict[str, Any]]:
    """One record for each image that was read, as predictions.json holds it."""
    for index, row in found:
        named = name_photo(classifier, row, top)
        yield {"file": files[paths[index]], "path": str(paths[index]), **named}


def name_photo(classifier: ImageClassifier, row: Tensor, top: int) -> dict[str, Any]:
    """What predictions.json says of an image's best classes.

    Args:
        classifier: What scored it.
        row: (K,) its scores.
        top: How many classes.
    """
    best = rank_scores(row, top)
    labels, scores = best["labels"].tolist(), best["scores"].tolist()
    names = [classifier.names[label] for label in labels]
    named = {"labels": labels, "names": names, "scores": scores}
    if classifier.score_kind == "probability":
        named["confidence"] = scores[0]
    return named


Records = Callable[[], Iterator[dict[str, Any]]]


def _write_predictions(out: Path, document: dict[str, Any], records: Records) -> None:
    """Write the JSON file, of which ``images`` is still empty, and the tables."""

    def rows() -> Iterator[list[object]]:
        for record in records():
            cells = zip(record["names"], record["labels"], record["scores"], strict=True)
            for rank, (name, label, score) in enumerate(cells, start=1):
                sure = _confidence(score, document["score_kind"])
                yield [record["file"], name, rank, label, score, sure]

    write_text(out / "predictions.json", _with_images(json_text(document), records()))
    header = ["file", "name", "rank", "label", "score", "confidence"]
    write_table(out / "predictions.csv", header, rows())
    write_table(out / "counts.csv", ["class", "images"], list(document["counts"].items()))


def _with_images(text: str, records: Iterable[dict[str, Any]]) -> Iterator[str]:
    """The text of a document, with records in its empty list of images."""
    begin, empty, end = text.partition(EMPTY_IMAGES)
    yield begin + empty.rstrip("],\n")
    between = "\n"
    for record in records:
        yield between + indent(json_text(record).rstrip(), "    ")
        between = ",\n"
    yield ("\n  ]" if between != "\n" else "]") + ",\n" + end


def _write_answers(
    path: Path,
    classifier: ImageClassifier,
    files: Sequence[str],
    scores: Tensor,
    truth: Tensor,
) -> None:
    """Write the truth and the best class of each image that was scored."""
    rows: list[list[object]] = []
    for file, row, label in zip(files, scores, truth.tolist(), strict=True):
        best = rank_scores(row, 1)
        answer, score = int(best["labels"][0]), float(best["scores"][0])
        names = (classifier.names[each] for each in (answer, label))
        sure = _confidence(score, classifier.score_kind)
        rows.append([file, *names, int(answer == label), score, sure])
    header = ["file", "name", "truth", "is_right", "score", "confidence"]
    write_table(path, header, rows)


def _confidence(score: float, kind: str) -> object:
    """The cell of a table for how sure a score is: empty for margins, which say nothing of that."""
    return Number(f"{score:.4f}") if kind == "probability" else ""


def _say_predictions(
    records: Sequence[dict[str, Any]], total: int, counts: Mapping[str, int]
) -> None:
    """Print the first images with their best class, and how many images each class has."""
    rows = [[each["file"], each["names"][0], f"{each['scores'][0]:z.3f}"] for each in records]
    if rows:
        say_table(["image", "class", "score"], rows)
        say()
        say_table(["class", "images"], [pair for pair in counts.items() if pair[1]])
    if total > len(records):
        note(f"{count_of(total - len(records), 'more image is', 'more images are')} in the files")


def _say_plan(
    classifier: ImageClassifier, paths: Sequence[Path], view: View | ViewPlan | None
) -> None:
    """Print what a dry run is asked for."""
    sample = shared.spread_sample(paths)
    predict_files(classifier, sample[:1], view)  # the first call sets things up
    begin = time.perf_counter()
    predict_files(classifier, sample, view)
    seconds = (time.perf_counter() - begin) / max(1, len(sample)) * len(paths)
    images, classes = count_of(len(paths), "image"), count_of(len(classifier.names), "class")
    say(f"would score {images} for {classes}")
    say(f"about {human_seconds(seconds)}")
