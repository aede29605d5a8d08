"""A prediction has the same bits alone and in any company, order, batch, thread and way to ask."""

import json
import random
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

from small_photos import draw_folders, spoil
from sppnet.app.main import main
from sppnet.classification import Classifier, View, build_classifier, predict_files
from sppnet.images import load_image

pytestmark = pytest.mark.usefixtures("one_thread")
VIEWS = (None, "crop", "10", "full", "96", "98")
NAMES = ("a", "b", "c", "d", "e", "f")


@pytest.fixture(scope="module", params=["probability", "margin"])
def classifier(request: pytest.FixtureRequest) -> Classifier:
    torch.manual_seed(0)
    hidden = (32,) if request.param == "probability" else ()
    pool = "spp" if request.param == "probability" else "spp+avg"
    network = build_classifier("small5", 6, hidden=hidden, pool=pool, feature_norm=1.0)
    return Classifier(network, View("full", 32), NAMES, score_kind=request.param)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw_folders(tmp_path_factory.mktemp("photos") / "data", 14)


@pytest.fixture(scope="module")
def paths(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*.png"))


@pytest.fixture(scope="module")
def images(paths: list[Path]) -> list[Tensor]:
    strips = [torch.rand(3, *size) for size in ((1, 1), (1, 300), (200, 10), (31, 31))]
    return [load_image(path) for path in paths] + strips


def _batches(count: int, seed: int) -> Iterator[list[int]]:
    """Cut the numbers below ``count``, shuffled, into batches of 2 to 32."""
    rng = random.Random(seed)
    order = rng.sample(range(count), count)
    while order:
        size = rng.randint(2, 32)
        yield order[:size]
        order = order[size:]


@pytest.mark.parametrize("view", VIEWS)
def test_batch_mates_and_order_change_no_bit(
    classifier: Classifier, images: list[Tensor], view: str | None
) -> None:
    assert len(images) == 60
    alone = torch.cat([classifier.scores(image, view) for image in images])
    assert alone.isfinite().all()
    for seed in (0, 1):
        for part in _batches(len(images), seed):
            together = classifier.scores([images[i] for i in part], view)
            assert torch.equal(together, alone[part])


def test_a_planted_dependence_on_the_batch_is_caught(
    classifier: Classifier, images: list[Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    alone = torch.cat([classifier.scores(image) for image in images[:32]])
    monkeypatch.setattr(
        "sppnet.classification.views.apply_in_blocks", lambda head, rows: head(rows)
    )
    wrong = torch.cat([classifier.scores(image) for image in images[:32]])
    together = classifier.scores(images[:32])
    assert torch.allclose(together, alone, atol=1e-4)
    assert not torch.equal(together, wrong)


@pytest.mark.parametrize("view", ["own", "98"])
def test_python_files_and_command_give_one_answer(
    classifier: Classifier, folder: Path, paths: list[Path], view: str, tmp_path: Path
) -> None:
    words = [] if view == "own" else ["--view", view]
    expected = classifier.scores(paths, None if view == "own" else view)
    assert torch.equal(predict_files(classifier, paths, *words[1:]).rows, expected)
    classifier.save(tmp_path / "model")
    bad = spoil(folder)
    command = ["classify", "predict", str(tmp_path / "model"), str(folder), *words, "--top", "6"]
    try:
        assert main([*command, "--out", str(tmp_path / "out")]) == 3
    finally:
        for path in bad:
            path.unlink()
    found = json.loads((tmp_path / "out" / "predictions.json").read_text())
    assert len(found["failed"]) == 3
    rows = {record["path"]: record for record in found["images"]}
    assert len(rows) == len(paths) == 56
    for path, row in zip(paths, expected, strict=True):
        record = rows[str(path)]
        assert record["scores"] == [row[label].item() for label in record["labels"]]


@pytest.mark.parametrize("view", [None, "98"])
def test_eight_threads_on_one_model(
    classifier: Classifier, images: list[Tensor], view: str | None
) -> None:
    images = images[::4]
    serial = [classifier.scores(image, view) for image in images]
    state, threads = torch.random.get_rng_state(), torch.get_num_threads()
    wrong: list[int] = []

    def ask(seed: int) -> None:
        for _ in range(2 if view else 10):
            for index in random.Random(seed).sample(range(len(images)), len(images)):
                if not torch.equal(classifier.scores(images[index], view), serial[index]):
                    wrong.append(index)

    workers = [threading.Thread(target=ask, args=(seed,)) for seed in range(8)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(timeout=120)
    assert not any(worker.is_alive() for worker in workers)
    assert wrong == []
    assert torch.equal(torch.random.get_rng_state(), state)
    assert torch.get_num_threads() == threads
    assert torch.is_grad_enabled()
