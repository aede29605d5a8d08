"""``sppnet check``: finds what is wrong in a data set."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from sppnet.app.console import DONE, SOME_FAILED, say, say_table
from sppnet.app.options import DataFolder, Debug, JsonFile, MaxPixels, Split, command_app
from sppnet.app.progress import track
from sppnet.errors import count_of

if TYPE_CHECKING:
    import numpy as np
    from PIL.Image import Image

    from sppnet.images import CheckReport

app = command_app("Look through a data set and name what is wrong, file and line.")

SIDE = 10  # pixels of the thumbnails by which labels are compared
NEIGHBOURS = 8
MOST_COMPARED = 5000  # labels that each one is compared with, drawn at random
CROP_SIDE = 160
MARGIN = 0.1  # of the box, around it
SINGULAR = {
    "images": "image",
    "boxes": "box",
    "images without boxes": "image without boxes",
    "classes": "class",
}
PageFolder = Annotated[
    Path | None,
    typer.Option(
        "--page", metavar="DIR", help="Write DIR/index.html, a picture of each label to look at."
    ),
]
Quick = Annotated[
    bool,
    typer.Option("--quick", help="Read headers only; images damaged behind them stay unnoticed."),
]


@app.command()
def check(
    data: DataFolder,
    split: Split = None,
    quick: Quick = False,
    page: PageFolder = None,
    json_file: JsonFile = None,
    max_pixels: MaxPixels = None,
    debug: Debug = False,
) -> None:
    """Look through a data set of any layout, or a label store, and name what is wrong in it.

    Every finding names the file, the line, and what training will do about it: problems are left
    out or spoil a score, notes are used. All splits are looked at, and what they have in common.
    Nothing is changed.
    """
    from sppnet.images import check_dataset

    report = check_dataset(data, split, quick=quick, track=track)
    if json_file is not None:
        from sppnet.storage import write_json

        write_json(json_file, report.to_json())
    _say_report(report)
    if page is not None:
        from sppnet.evaluation.report.galleries import SAYS_LITTLE

        odd = draw_labels(data, split, page)
        found = f"{count_of(odd, 'label looks', 'labels look')} like another class"
        if odd > SAYS_LITTLE * sum(report.per_class.values()):
            found += ": too many to say much, these classes are not told apart by looks alone"
        say(f"page: {page / 'index.html'} ({found})")
    raise typer.Exit(SOME_FAILED if report.problems else DONE)


def _say_report(report: "CheckReport") -> None:
    """Print counts, classes, then what is wrong, what will be left out last."""
    splits = f", splits {', '.join(report.splits)}" if report.splits else ""
    say(f"{report.layout} layout{splits}")
    counts = report.counts.items()
    say(", ".join(count_of(count, SINGULAR.get(many, many), many) for many, count in counts))
    say()
    things = "boxes" if "boxes" in report.counts else "images"
    parts = list(report.by_split)
    rows = [
        [name, count, *(report.by_split[part].get(name, 0) for part in parts)]
        for name, count in report.per_class.items()
    ]
    say_table(["class", things, *parts], rows)
    for line in _summary_lines(report.summary):
        say(line)
    say()
    for finding in report.notes:
        say(f"note: {finding}")
    for finding in report.problems:
        say(f"problem: {finding}")
    for hint in report.hints:
        say(f"hint: {hint}")
    problems, notes = len(report.problems), len(report.notes)
    say(f"{count_of(problems, 'problem')}, {count_of(notes, 'note')}")


def _summary_lines(summary: dict[str, Any]) -> list[str]:
    """Sizes in words."""
    spreads = {name: spread for name, spread in summary.items() if isinstance(spread, list)}
    lines = [
        f"{name.replace('_', ' ')}: {low:g} to {high:g}, half of them up to {middle:g}"
        for name, (low, middle, high) in spreads.items()
    ]
    if "sizes" in summary:
        sizes = ", ".join(f"{share:.0%} {name}" for name, share in summary["sizes"].items())
        lines.append(f"sizes of boxes as COCO counts: {sizes}")
        lines.append(f"half of the boxes take up to {summary['share_of_image']:.1%} of their image")
    return ["", *lines] if lines else []


class Label(NamedTuple):
    """One label: where its image lies, what the image is called, its box, its class by name."""

    image: Path
    file: str
    box: tuple[float, float, float, float] | None  # None: the whole image
    name: str


def draw_labels(data: Path, split: str | None, out: Path) -> int:
    """Write a page with a picture of each label, those that look like another class first.

    Args:
        data: Folder of the data set.
        split: Part of it; all if not given.
        out: Folder for ``index.html`` and ``labels/``, at most 2,000 pictures.

    Returns:
        How many of the labels shown look like another class.
    """
    import numpy as np

    from sppnet.evaluation.report import ShownLabel, write_label_page
    from sppnet.evaluation.report.galleries import MOST_PICTURES, ODD
    from sppnet.evaluation.visualize import to_jpeg_bytes
    from sppnet.storage import ensure_output_folder, write_bytes

    labels, looks = [], []
    for label, picture in with_pictures(list(list_labels(data, split)), "comparing labels"):
        labels.append(label)
        looks.append(look_at(picture, label))
    names = sorted({label.name for label in labels})
    number_of = {name: number for number, name in enumerate(names)}
    numbers = np.array([number_of[label.name] for label in labels], np.int64)
    oddness, looks_like = compare_looks(np.array(looks), numbers, len(names))
    order = np.lexsort((np.arange(len(labels)), -oddness))[:MOST_PICTURES].tolist()
    crops = ensure_output_folder(out / "labels")
    places = {id(labels[row]): row for row in order}
    for label, picture in with_pictures([labels[row] for row in sorted(order)], "drawing labels"):
        crop = picture.crop(_around(picture, label))
        write_bytes(crops / f"{places[id(label)]:06d}.jpg", to_jpeg_bytes(crop, CROP_SIDE))
    shown = [
        ShownLabel(
            f"labels/{row:06d}.jpg",
            labels[row].file,
            int(numbers[row]),
            float(oddness[row]),
            int(looks_like[row]),
        )
        for row in order
    ]
    totals = np.bincount(numbers, minlength=len(names)).tolist()
    write_label_page(out / "index.html", shown, names, totals, title=f"Labels of {data.name}")
    return sum(each.oddness >= ODD for each in shown)


def list_labels(data: Path, split: str | None) -> Iterator[Label]:
    """List every label of the data set once, image by image.

    Args:
        data: Folder of the data set.
        split: Part of it; all if not given.
    """
    from sppnet.images import open_detection_dataset, read_class_folders
    from sppnet.images.readers.layouts import find_layout, list_splits

    if find_layout(data) is None:
        folders = read_class_folders(data, split)
        for path, number in folders:
            yield Label(path, folders.files[path], None, folders.names[number])
        return
    seen: set[Path] = set()
    parts: list[str | None] = [split] if split else [*list_splits(data)] or [None]
    for part in parts:
        dataset = open_detection_dataset(data, part)
        for image in dataset:
            if Path(image.path) in seen:
                continue
            seen.add(Path(image.path))
            file = dataset.files[image.image_id]
            for box, number in zip(image.boxes.tolist(), image.labels.tolist(), strict=True):
                yield Label(Path(image.path), file, tuple(box), dataset.names[number])


def with_pictures(labels: list[Label], what: str) -> Iterator[tuple[Label, "Image"]]:
    """Give labels with their images, each read once; images that cannot be read are left out.

    Args:
        labels: Those of an image one after the other.
        what: What the progress line says.
    """
    from itertools import groupby

    from sppnet.errors import InputError
    from sppnet.evaluation.visualize import to_picture
    from sppnet.images.decode import load_compact

    groups = [(path, list(some)) for path, some in groupby(labels, key=lambda each: each.image)]
    for path, some in track(groups, what, total=len(groups)):
        try:
            picture = to_picture(load_compact(path))
        except InputError:
            continue
        yield from ((label, picture) for label in some)


def _around(picture: "Image", label: Label, margin: float = MARGIN) -> tuple[int, int, int, int]:
    """The box with some margin, in whole pixels inside the image, at least one wide and high."""
    x1, y1, x2, y2 = label.box or (0, 0, picture.width, picture.height)
    across, down = margin * (x2 - x1), margin * (y2 - y1)
    left, top = int(max(0, x1 - across)), int(max(0, y1 - down))
    left, top = min(left, picture.width - 1), min(top, picture.height - 1)
    right, bottom = round(min(picture.width, x2 + across)), round(min(picture.height, y2 + down))
    return left, top, max(right, left + 1), max(bottom, top + 1)


def look_at(picture: "Image", label: Label) -> "np.ndarray":
    """Describe what lies in a box, to be compared with others.

    Args:
        picture: The whole image.
        label: One of its labels.

    Returns:
        (302,) float32: colours of a thumbnail, 0..1, and the logarithms of the box's share of the
        image and of its aspect.
    """
    import numpy as np

    place = _around(picture, label, margin=0)
    small = picture.resize((SIDE, SIDE), box=place, reducing_gap=2)
    width, height = place[2] - place[0], place[3] - place[1]
    share = width * height / (picture.width * picture.height)
    colours = np.asarray(small, np.float32).reshape(-1) / 255
    return np.append(colours, np.log([share, width / height]).astype(np.float32))


def compare_looks(
    looks: "np.ndarray", numbers: "np.ndarray", num_classes: int
) -> tuple["np.ndarray", "np.ndarray"]:
    """Find labels that look like another class.

    Args:
        looks: (N, D) what each looks like.
        numbers: (N,) classes.
        num_classes: K.

    Returns:
        (N,) which share of the nearest labels has another class, and (N,) the class that most have.

    Example:
        >>> import numpy as np
        >>> looks = np.repeat([[0.0], [1.0]], 20, axis=0)
        >>> numbers = np.repeat([0, 1], 20)
        >>> numbers[3] = 1  # a wrong label
        >>> compare_looks(looks, numbers, 2)[0].argmax()
        np.int64(3)
    """
    import numpy as np
    import torch

    rows = np.arange(len(looks))
    if len(rows) > MOST_COMPARED:
        rows = np.sort(np.random.default_rng(0).choice(rows, MOST_COMPARED, replace=False))
    others, oddness, most = torch.from_numpy(looks[rows]), [], []
    for start in range(0, len(looks), 500):
        part = slice(start, start + 500)
        own = numbers[part]
        far = torch.cdist(torch.from_numpy(looks[part]), others)
        far[torch.from_numpy(rows[None] == np.arange(len(looks))[part, None])] = torch.inf
        count = min(NEIGHBOURS, max(1, len(rows) - 1))
        near = numbers[rows[far.topk(count, largest=False).indices.numpy()]]
        oddness.append((near != own[:, None]).mean(1))
        most.append((near[..., None] == np.arange(num_classes)).sum(1).argmax(1))
    none = np.zeros(0)
    return np.concatenate([none, *oddness]), np.concatenate([none.astype(int), *most])
