r"""Average precision of one setting on several data sets, a row per set and the mean.

    python benchmarks/detection_folds.py DATA/raccoon DATA/bccd DATA/cards --folds 3
    python benchmarks/detection_folds.py DATA/raccoon DATA/cards --test test --photos 20 --draws 5

Settings are chosen by folds over the photos that they may learn from (``--train``, the split of
each set that is for training): they are shuffled and divided, and each part is scored by a detector
that learnt from the others. With ``--test SPLIT`` a detector learns from the training split, or
from ``--photos`` of it, and is scored on that split; that is for reporting, not for choosing.
``--set NAME=VALUE`` changes a setting of ``sppnet detect train``, ``--testing`` one of ``val``.
Proposals and maps stay in OUT/cache, so that several settings share them. Leaves NAME.json in the
folder of ``--out``, with what each kind of mistake costs of AP50 (``ap_cost``).
"""

import argparse
import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import torch

from sppnet.app.detect import choose_split
from sppnet.app.detect.budget import cross_validate, hold_out_in_turn
from sppnet.app.progress import track
from sppnet.app.settings import load_settings
from sppnet.detection import DetectionConfig
from sppnet.images import LabelledImage, open_detection_dataset
from sppnet.storage import FeatureCache, write_json
from sppnet.storage.runs import environment

TRAINING = ("train", "trainval")
FIGURES = ("ap50", "ap75", "ap")
Images = list[LabelledImage]


def rounds(
    images: Images, scored: Images, words: argparse.Namespace
) -> Iterator[list[tuple[Images, Images]]]:
    """For each draw: pairs of the photos that are learnt from and those that are scored."""
    most = words.photos or None
    for draw in range(words.draws):
        shuffle = torch.Generator().manual_seed(draw)
        mixed = [images[i] for i in torch.randperm(len(images), generator=shuffle).tolist()]
        if words.test:
            yield [(mixed[:most], scored)]
            continue
        yield [(rest[:most], part) for rest, part in hold_out_in_turn(mixed, words.folds)]


def main() -> None:
    """Score every set, print a row for each and the mean, and write."""
    parser = argparse.ArgumentParser(description=str(__doc__).split("\n", maxsplit=1)[0])
    parser.add_argument("data", type=Path, nargs="+", help="folders of the sets")
    parser.add_argument("--train", help="split to learn from; train or trainval if none")
    parser.add_argument("--test", help="split that is scored; folds of the training split if none")
    parser.add_argument("--folds", type=int, default=3)
    parser.add_argument("--photos", type=int, default=0, help="to learn from; 0 for all")
    parser.add_argument("--draws", type=int, default=1)
    parser.add_argument("--set", nargs="*", default=[], metavar="NAME=VALUE")
    parser.add_argument("--testing", nargs="*", default=[], metavar="NAME=VALUE")
    parser.add_argument("--name", default="folds", help="of the file that is written")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path("runs/detection-folds"))
    words = parser.parse_args()
    torch.set_num_threads(words.threads)
    config = load_settings(DetectionConfig, None, _values(words.set))
    testing = _values(words.testing)
    cache = FeatureCache(words.out / "cache")
    rows: dict[str, list[dict[str, Any]]] = {}
    for folder in words.data:
        learnt = open_detection_dataset(folder, choose_split(folder, words.train, TRAINING))
        names, scored = learnt.names, ()
        if words.test:
            scored = open_detection_dataset(folder, words.test, names=names).images
        rows[folder.name] = [
            cross_validate(pairs, names, config, cache, testing=testing, track=track)
            for pairs in rounds(list(learnt.images), list(scored), words)
        ]
        print(folder.name, _row(rows[folder.name]), flush=True)
    everything = [_mean(row) for row in zip(*rows.values(), strict=True)]
    print("mean", _row(everything))
    facts = {
        "settings": asdict(config),
        "testing": testing,
        "photos": words.photos,
        **environment(),
    }
    write_json(words.out / f"{words.name}.json", {"sets": rows, **facts})


def _values(words: list[str]) -> dict[str, Any]:
    return {name: _value(text) for name, text in (word.split("=", 1) for word in words)}


def _value(text: str) -> Any:
    try:
        value = json.loads(text)
    except ValueError:
        return text
    return tuple(value) if isinstance(value, list) else value


def _mean(rows: tuple[dict[str, Any], ...]) -> dict[str, Any]:
    return {key: mean(row[key] for row in rows) for key in (*FIGURES, "seconds")}


def _row(draws: list[dict[str, Any]]) -> str:
    cells = []
    for key in (*FIGURES, "seconds"):
        values = [float(draw[key]) for draw in draws]
        spread = f" ± {stdev(values):.3f}" if len(values) > 1 else ""
        cells.append(f"{key} {mean(values):.3f}{spread}")
    return ", ".join(cells)


if __name__ == "__main__":
    main()
