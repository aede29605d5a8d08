"""What the package keeps on a disk: how it is written, step by step, and what must hold.

A thing writes step after step into a folder and acknowledges each one when the call has returned.
Whatever happens, ``check`` looks at what is left: the acknowledged step or the one after it, whole.
"""

import json
import random
import sqlite3
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Any

import torch

from sppnet.errors import OutputError, UnusableFileError, UsageError
from sppnet.storage import (
    FeatureCache,
    LabelBox,
    LabelStore,
    RunFolder,
    ensure_output_folder,
    load_model,
    save_model,
    sha256_bytes,
    write_json,
    write_text,
)
from sppnet.storage.labels import PhotoLabels
from sppnet.training.checkpoints import Checkpoints, TrainingLog, TrainingState

Mend = Callable[[], None]  # what lets the disk work again


class WrongError(AssertionError):
    """What must hold does not."""


def require(holds: bool, what: str) -> None:
    """Raise ``WrongError`` unless something holds."""
    if not holds:
        raise WrongError(what)


def tensor_of(step: int) -> torch.Tensor:
    """Numbers that tell a step: about 12 kB."""
    return torch.full((3000,), float(step))


class Models:
    """A model folder that is replaced again and again."""

    place = "runs/first/model"

    def steps(self, folder: Path, first: int = 0) -> Iterator[str]:
        """Save models with growing numbers."""
        for step in count(first):
            answers = {"step": step}
            save_model(folder / self.place, "toy", {"step": step}, {"w": tensor_of(step)}, answers)
            yield str(step)

    def another(self, folder: Path, mend: Mend = lambda: None) -> list[str]:  # noqa: ARG002
        """One more step after those that are there."""
        step = load_model(folder / self.place, "toy")[0]["step"] + 1
        return [next(self.steps(folder, step))]

    def check(self, folder: Path, acknowledged: list[str], coming: list[str]) -> None:
        """Exactly the last acknowledged model, or the next."""
        try:
            config, tensors = load_model(folder / self.place, "toy")
        except UnusableFileError as error:
            require(not acknowledged and error.code == "E_MISSING", f"no model: {error}")
            return
        allowed = [*acknowledged[-1:], *coming[:1]]
        require(str(config["step"]) in allowed, f"model {config['step']}, not one of {allowed}")
        require(torch.equal(tensors["w"], tensor_of(config["step"])), "another model's tensors")

    def go_on(self, folder: Path) -> None:
        """The next save works and leaves nothing else."""
        next(self.steps(folder, 999))
        names = sorted(path.name for path in (folder / self.place).parent.iterdir())
        require(names in (["model"], [".models.lock", "model"]), f"leftovers: {names}")
        self.check(folder, ["999"], [])


class Labels:
    """A label store that is edited, closed and opened."""

    photos = 7
    afterwards = "afterwards.jpg"

    def steps(self, folder: Path, first: int = 0) -> Iterator[str]:
        """Put, undo, redo, edits of several photos at once, and closing now and then."""
        draw = random.Random(first)
        store = LabelStore(folder / "photos" / ".sppnet", folder / "photos")
        for step in count(first):
            if draw.random() < 0.02:
                store.close()
                store = LabelStore(folder / "photos" / ".sppnet")
            yield "\n".join(map(said_of, self._edit(store, draw, step)))

    def another(self, folder: Path, mend: Mend = lambda: None) -> list[str]:
        """Edit two photos at once; where that fails, the same store takes edits afterwards."""
        boxes = (LabelBox((1.0, 2.0, 3.0, 4.0), "a class that is new"),) * 40
        names = ["photo0.jpg", "a photo that is new.jpg"]
        with LabelStore(folder / "photos" / ".sppnet") as store:
            edits = [PhotoLabels(name, 0, boxes=boxes, state="labelled") for name in names]
            try:
                made = store.put_all(edits)
            except OutputError:
                mend()
                store.put(self.afterwards, boxes)
                raise
            return ["\n".join(map(said_of, made))]

    def _edit(self, store: LabelStore, draw: random.Random, step: int) -> list[PhotoLabels]:
        photo = f"photo{draw.randrange(self.photos)}.jpg"
        undo, redo = store.can_step(photo)
        kind = draw.choice(["put", "put", "put", "empty", "undo", "redo", "many"])
        if kind == "undo" and undo:
            return [store.undo(photo)]
        if kind == "redo" and redo:
            return [store.redo(photo)]
        if kind == "empty":
            return [store.put(photo, [], state="empty")]
        name = f"class{draw.randrange(4)}"
        box = LabelBox(
            (float(step), 1.0, step + 7.5, 9.5), name, {"note": "x" * draw.randrange(90)}
        )
        boxes = (box,) * draw.randrange(1, 120)
        if kind == "many":
            names = {f"photo{draw.randrange(self.photos)}.jpg" for _ in range(3)}
            return store.put_all(
                [PhotoLabels(each, 0, boxes=boxes, state="labelled") for each in names]
            )
        return [store.put(photo, boxes)]

    def check(self, folder: Path, acknowledged: list[str], coming: list[str]) -> None:
        """Every acknowledged revision is there as it was; of a later step all or nothing."""
        place = folder / "photos" / ".sppnet"
        try:
            store = LabelStore(place)
        except (UsageError, UnusableFileError, sqlite3.Error) as error:
            require(not acknowledged, f"the store cannot be opened: {error}")
            return
        with store:
            require(integrity_of(store.path) == "ok", "SQLite finds damage")
            found = {
                said_of(each) for photo in store.every() for each in store.history(photo.photo)
            }
            known = {line for each in acknowledged for line in each.splitlines()}
            gone = sorted(known - found)
            require(not gone, f"{len(gone)} acknowledged revisions are gone, {gone[:1]}")
            new = {each for each in found - known if not each.startswith(self.afterwards)}
            whole = not new or new == set(coming[0].splitlines() if coming else [])
            require(whole, f"half an edit: {sorted(new)[:2]}")

    def go_on(self, folder: Path) -> None:
        """The next edit works, also where the store was lost before anything was acknowledged."""
        with LabelStore(folder / "photos" / ".sppnet", folder / "photos") as store:
            made = store.put("another.jpg", [LabelBox((1, 2, 3, 4), "cat")])
        with LabelStore(folder / "photos" / ".sppnet") as store:
            require(store.labels("another.jpg") == made, "the next edit is not there")


def said_of(labels: PhotoLabels) -> str:
    """What a revision says, as text."""
    said = (labels.state, [(box.corners, box.name, dict(box.extra)) for box in labels.boxes])
    return f"{labels.photo} {labels.revision} {hash_of(said)}"


def hash_of(value: object) -> str:
    """A short digest."""
    return sha256_bytes(repr(value).encode())[:16]


def integrity_of(path: Path) -> str:
    """SQLite's own check."""
    database = sqlite3.connect(path)
    try:
        return str(database.execute("PRAGMA integrity_check").fetchone()[0])
    finally:
        database.close()


class Cache:
    """A feature cache that is filled."""

    def steps(self, folder: Path, first: int = 0) -> Iterator[str]:
        """Put records."""
        cache = FeatureCache(folder / "runs" / "cache")
        for step in count(first):
            cache.put(self.key(step), {"map": tensor_of(step)})
            yield str(step)

    def another(self, folder: Path, mend: Mend = lambda: None) -> list[str]:  # noqa: ARG002
        """Put one more record."""
        return [next(self.steps(folder, len(list((folder / "runs/cache").glob("*/*.record")))))]

    def key(self, step: int) -> str:
        """The key of a step."""
        return FeatureCache.make_key(step=step)

    def check(self, folder: Path, acknowledged: list[str], coming: list[str]) -> None:
        """Every acknowledged record is there, and none is torn."""
        cache = FeatureCache(folder / "runs" / "cache")
        for step in [*map(int, acknowledged), *map(int, coming[:2])]:
            record = cache.get(self.key(step))
            require(record is not None or str(step) not in acknowledged, f"record {step} is gone")
            if record is not None:
                require(torch.equal(record["map"], tensor_of(step)), f"record {step} is another")
        require(cache.damaged == 0, f"{cache.damaged} records are damaged")

    def go_on(self, folder: Path) -> None:
        """Another record can be put."""
        next(self.steps(folder, 999))
        self.check(folder, ["999"], [])


class Outputs:
    """The folder of a run: results, a table, stages, states of a training and its log."""

    def steps(self, folder: Path, first: int = 0) -> Iterator[str]:
        """Everything that a training leaves, epoch after epoch."""
        out = ensure_output_folder(folder / "runs" / "train")
        states, log = Checkpoints(out / "states", every_seconds=0), TrainingLog(out)
        with RunFolder.open(out, "toy", {"levels": (1, 2)}, seed=3) as run:
            history: list[dict[str, Any]] = [
                {"epoch": n, "loss": 1.0 / (n + 1)} for n in range(first)
            ]
            log.begin(history, 0, 20)
            for step in count(first):
                log.add_update(step, 0, step * 20, {"loss": 1.0})
                history.append({"epoch": step, "loss": 1.0 / (step + 1)})
                log.add_epoch(history, step)
                state = TrainingState(
                    epochs_done=step + 1,
                    history=list(history),
                    tensors={"network.w": tensor_of(step)},
                )
                states.save(state)
                write_json(out / "metrics.json", {"step": step, "ap": [step / 7] * 200})
                write_text(out / "rows.csv", "".join(f"{step},{row}\n" for row in range(200)))
                run.mark_done(f"stage {step}")
                yield str(step)

    def another(self, folder: Path, mend: Mend = lambda: None) -> list[str]:  # noqa: ARG002
        """Go on for one epoch."""
        newest = Checkpoints(folder / "runs" / "train" / "states").newest()
        return [next(self.steps(folder, 0 if newest is None else newest.epochs_done))]

    def check(self, folder: Path, acknowledged: list[str], coming: list[str]) -> None:
        """Each file is that of the last acknowledged step, or of the next, and whole."""
        out = folder / "runs" / "train"
        allowed = [int(step) for step in [*acknowledged[-1:], *coming[:1]]]
        self._check_file(
            out / "metrics.json", acknowledged, lambda path: self._metrics(path, allowed)
        )
        self._check_file(out / "rows.csv", acknowledged, lambda path: self._rows(path, allowed))
        self._check_file(out / "log.csv", acknowledged, lambda path: self._log(path, allowed))
        states = Checkpoints(out / "states")
        newest = states.newest()
        require(newest is not None or not acknowledged, "no state to go on from")
        if newest is not None:
            require(newest.epochs_done - 1 in allowed, f"state {newest.epochs_done - 1}")
            whole = torch.equal(newest.tensors["network.w"], tensor_of(newest.epochs_done - 1))
            require(whole, "another state's tensors")
        require(not states.damaged, f"damaged states: {states.damaged}")
        if out.is_dir():
            with RunFolder.open(out, "toy", {"levels": (1, 2)}, seed=3) as run:
                gone = [step for step in acknowledged if not run.is_done(f"stage {step}")]
                require(not gone, f"finished stages are forgotten: {gone}")

    def _check_file(
        self, path: Path, acknowledged: list[str], check: Callable[[Path], None]
    ) -> None:
        require(path.exists() or not acknowledged, f"{path.name} is gone")
        if path.exists():
            check(path)

    def _metrics(self, path: Path, allowed: list[int]) -> None:
        found = json.loads(path.read_bytes())
        require(
            found["step"] in allowed and found["ap"] == [found["step"] / 7] * 200, "metrics.json"
        )

    def _rows(self, path: Path, allowed: list[int]) -> None:
        text = path.read_text()
        whole = ["".join(f"{step},{row}\n" for row in range(200)) for step in allowed]
        require(text in whole, "rows.csv is torn")

    def _log(self, path: Path, allowed: list[int]) -> None:
        rows = path.read_text().splitlines()
        require(rows[0] == "epoch,loss" and len(rows) - 2 in allowed, "log.csv is torn")

    def go_on(self, folder: Path) -> None:
        """A run goes on from what is left."""
        newest = Checkpoints(folder / "runs" / "train" / "states").newest()
        first = 0 if newest is None else newest.epochs_done
        next(self.steps(folder, first))
        self.check(folder, [str(first)], [])


THINGS: dict[str, Any] = {
    "models": Models(),
    "labels": Labels(),
    "caches": Cache(),
    "outputs": Outputs(),
}
