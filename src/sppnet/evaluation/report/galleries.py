"""Galleries to look through: what a detector found, image by image, and the labels of a data set.

A page needs the pictures that lie beside it and nothing else: no script, no network. Radio
buttons and rules of CSS choose the class that is shown, and the order.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from urllib.parse import quote

from markupsafe import Markup

from sppnet.evaluation.report.html import Choice, Page, Tile, gallery, paragraph, table, tiles
from sppnet.storage.files import write_text

MOST_CHOICES = 60  # classes that have a switch, those found most
MOST_PICTURES = 2000  # that a browser shows well
ODD = 0.5  # of the labels that look most like one, this share or more has another class
SAYS_LITTLE = 0.5  # of all labels; if more look like another class, looks do not tell classes
SHOW, ORDER = "Show", "Order"


def write_found_page(
    path: Path,
    counts: Mapping[str, Sequence[int] | None],
    names: Sequence[str],
    pictures: Mapping[str, str],
    *,
    title: str = "What was found",
    subtitle: str = "",
) -> None:
    """Write the page.

    Args:
        path: The HTML file.
        counts: By image, (K,) how many of each class were found; None for one that could not be
            read. The names of the images are shown in this order.
        names: K class names.
        pictures: By image, path of its picture from the folder of the page, with ``/``.
        title: Heading of the page.
        subtitle: One line below it.

    Raises:
        OutputError: If it cannot be written.
    """
    totals, shown_in, with_any = _sum_up(counts, len(names))
    ranked = sorted(range(len(names)), key=lambda label: -totals[label])
    chosen = [label for label in ranked if totals[label]][:MOST_CHOICES]
    page = Page(
        title,
        subtitle,
        "The same counts as a table are in counts.csv, every detection in detections.csv.",
        style=_rules([*(f"c{label}" for label in chosen), "none"], _variables(chosen)),
        local_images=True,
    )
    unread = sum(each is None for each in counts.values())
    page.add_section("", tiles(_key_figures(len(counts), unread, sum(totals), with_any)))
    rows = [[names[label], totals[label], shown_in[label]] for label in ranked]
    total = ["all", sum(totals), with_any]
    listing = table(["class", "found", "in images"], rows, total=total if len(rows) > 1 else None)
    page.add_section("By class", listing)
    shown = dict(islice(counts.items(), MOST_PICTURES))
    entries = [_entry(image, each, names, pictures.get(image)) for image, each in shown.items()]
    hint = (
        "A picture opens when it is clicked. The number at a box is its confidence, 0 to 1, or its "
        "score if the model knows no confidence."
    )
    if len(shown) < len(counts):
        hint = f"The first {len(shown):,} of {len(counts):,} images are shown. {hint}"
    choices = _choices(chosen, names, _sum_up(shown, len(names))[1], shown)
    page.add_section("Images", gallery(entries, choices), paragraph(hint, note=True))
    write_text(path, page.render())


def _sum_up(
    counts: Mapping[str, Sequence[int] | None], num_classes: int
) -> tuple[list[int], list[int], int]:
    """(K,) how many of each class, (K,) in how many images, and how many images show any."""
    totals, shown_in, with_any = [0] * num_classes, [0] * num_classes, 0
    for numbers in counts.values():
        for label, number in enumerate(numbers or ()):
            if number:
                totals[label] += number
                shown_in[label] += 1
        with_any += any(numbers or ())
    return totals, shown_in, with_any


def _key_figures(images: int, unread: int, found: int, with_any: int) -> list[Tile]:
    """How many images, and how many things in them."""
    entries = [
        Tile("Images", f"{images:,}"),
        Tile("Found", f"{found:,}"),
        Tile("Images with none", f"{images - unread - with_any:,}"),
    ]
    if unread:
        entries.append(Tile("Not readable", f"{unread:,}", "not counted"))
    return entries


def _entry(
    image: str, numbers: Sequence[int] | None, names: Sequence[str], picture: str | None
) -> dict[str, object]:
    """One picture of the gallery: its classes and variables are what the switches go by."""
    if numbers is None:
        note = "could not be read"
        return {"source": "", "title": image, "note": note, "classes": "failed", "style": "--n: 0"}
    found = {label: number for label, number in enumerate(numbers) if number}
    variables = {"n": sum(numbers), **{f"n{label}": number for label, number in found.items()}}
    texts = [f"{number} {names[label]}" for label, number in found.items()]
    return {
        "source": "" if picture is None else quote(picture),
        "title": image,
        "note": ", ".join(texts) or "nothing",
        "classes": " ".join(f"c{label}" for label in found) or "none",
        "style": "; ".join(f"--{name}: {number}" for name, number in variables.items()),
    }


def _choices(
    chosen: Sequence[int],
    names: Sequence[str],
    shown_in: Sequence[int],
    counts: Mapping[str, Sequence[int] | None],
) -> list[Choice]:
    """The switches: all images, those of each class, those with nothing; and two orders."""
    empty = sum(each is not None and not any(each) for each in counts.values())
    some = [Choice(SHOW, f"c{n}", f"{names[n]} ({shown_in[n]})") for n in chosen]
    return [
        Choice(SHOW, "all", f"all ({len(counts)})", is_on=True),
        *some,
        *([Choice(SHOW, "none", f"nothing found ({empty})")] if empty else []),
        Choice(ORDER, "by-name", "by name", is_on=True),
        Choice(ORDER, "most-first", "most first"),
        Choice(ORDER, "fewest-first", "fewest first"),
    ]


def _variables(chosen: Sequence[int]) -> dict[str, str]:
    """By switch, the number that the images are ordered by."""
    return {"all": "n", "none": "n", **{f"c{label}": f"n{label}" for label in chosen}}


def _rules(shown: Sequence[str], variables: Mapping[str, str]) -> Markup:
    """What each switch does: those of what is shown, and those of the order."""
    rules = [
        f"#{name}:checked ~ .gallery > figure:not(.{name}) {{ display: none; }}" for name in shown
    ]
    for name, number in variables.items():
        for order, sign in (("most-first", "-1"), ("fewest-first", "1")):
            rules.append(
                f"#{name}:checked ~ #{order}:checked ~ .gallery > figure "
                f"{{ order: calc({sign} * var(--{number}, 0)); }}"
            )
    for name in (*shown, "all", "by-name", "most-first", "fewest-first"):
        label = f"~ .choices label[for={name}]"
        rules.append(
            f"#{name}:checked {label} {{ background: var(--accent); color: var(--paper); "
            "border-color: var(--accent); }"
        )
        rules.append(f"#{name}:focus-visible {label} {{ outline: 2px solid var(--accent); }}")
    return Markup("\n").join(Markup(rule) for rule in rules)  # noqa: S704 - numbers and our words


@dataclass(frozen=True)
class ShownLabel:
    """One label of a data set, as its page shows it.

    Args:
        crop: Path of what lies in the box, from the folder of the page, with ``/``.
        title: What it is of, such as the file.
        label: Its class.
        oddness: Which share of the labels that look most like it has another class, 0..1.
        looks_like: The class that most of those have.
    """

    crop: str
    title: str
    label: int
    oddness: float
    looks_like: int


def write_label_page(
    path: Path,
    labels: Sequence[ShownLabel],
    names: Sequence[str],
    totals: Sequence[int],
    *,
    title: str = "Labels",
    subtitle: str = "",
) -> None:
    """Write the page of the labels of a data set, those that look like another class first.

    Args:
        path: The HTML file.
        labels: Shown in this order.
        names: K class names.
        totals: (K,) how many labels of each class there are, shown or not.
        title: Heading of the page.
        subtitle: One line below it.

    Raises:
        OutputError: If it cannot be written.
    """
    chosen = [label for label in range(len(names)) if totals[label]][:MOST_CHOICES]
    classes = [f"c{label}" for label in chosen]
    odd = [
        sum(each.oddness >= ODD and each.label == n for each in labels) for n in range(len(names))
    ]
    page = Page(
        title,
        subtitle,
        "Nothing was changed. Mend labels in the program that made them, or with sppnet label.",
        style=_rules([*classes, "odd"], {}),
        local_images=True,
    )
    figures = [
        Tile("Labels", f"{sum(totals):,}"),
        Tile("Classes", f"{len(names):,}"),
        Tile("Look like another class", f"{sum(odd):,}", "worth a look, not wrong for that"),
    ]
    page.add_section("", tiles(figures))
    rows = [[names[n], totals[n], odd[n]] for n in range(len(names))]
    page.add_section("By class", table(["class", "labels", "look like another class"], rows))
    entries = [
        {
            "source": quote(each.crop),
            "title": names[each.label],
            "note": _label_note(each, names),
            "classes": f"c{each.label}{' odd' if each.oddness >= ODD else ''}",
            "style": f"--n: {each.oddness:.2f}",
        }
        for each in labels
    ]
    choices = [
        Choice(SHOW, "all", f"all ({len(labels)})", is_on=True),
        Choice(SHOW, "odd", f"look like another class ({sum(odd)})"),
        *(Choice(SHOW, f"c{n}", f"{names[n]} ({totals[n]})") for n in chosen),
    ]
    hint = (
        "A label comes early if those that look most like it have another class, by colour, shape "
        "and size. Within a class, strangers stand out."
    )
    if sum(odd) > SAYS_LITTLE * sum(totals):
        hint += (
            f" Here {sum(odd):,} of {sum(totals):,} do: these classes are not told apart by looks "
            "alone, or have few labels, so the order says little."
        )
    if len(labels) < sum(totals):
        hint = f"The first {len(labels):,} of {sum(totals):,} labels are shown. {hint}"
    page.add_section("Labels", paragraph(hint, note=True), gallery(entries, choices, small=True))
    write_text(path, page.render())


def _label_note(label: ShownLabel, names: Sequence[str]) -> str:
    """What is written below a label."""
    if label.oddness >= ODD and label.looks_like != label.label:
        return f"looks like {names[label.looks_like]}; {label.title}"
    return label.title
