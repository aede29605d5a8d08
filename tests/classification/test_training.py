"""Training learns, alternates sizes, and goes on after any kill with the same bits."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from small_photos import draw_folders, spoil
from sppnet.classification import (
    Classifier,
    SplitRule,
    SppNet,
    TrainingImages,
    TrainingPlan,
    View,
    build_classifier,
    open_class_data,
    predict_files,
    score_predictions,
    train_network,
    training,
)
from sppnet.classification.checkpoints import Checkpoints
from sppnet.classification.training_images import cut_crop
from sppnet.errors import UnusableFileError, UsageError
from sppnet.storage import sha256_file

pytestmark = pytest.mark.usefixtures("one_thread")
SCRIPT = Path(__file__).with_name("training_to_kill.py")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw_folders(tmp_path_factory.mktemp("train") / "data", 6)


def _network(seed: int = 0) -> SppNet:
    torch.manual_seed(seed)
    return build_classifier("small5", 4, dropout=0.5, feature_norm=20.0)


def _images(folder: Path, plan: TrainingPlan) -> tuple[TrainingImages, torch.Tensor]:
    data = open_class_data(folder, SplitRule())
    images = TrainingImages(data.paths, plan.short_side)
    return images, data.labels[images.kept]


def _same(a: torch.nn.Module, b: torch.nn.Module) -> bool:
    pairs = zip(a.state_dict().values(), b.state_dict().values(), strict=True)
    return all(torch.equal(x, y) for x, y in pairs)


def test_training_from_scratch_beats_chance_and_an_untrained_trunk(tmp_path: Path) -> None:
    data = open_class_data(draw_folders(tmp_path / "d", 40), SplitRule(train_per_class=24))
    (split,) = data.splits()
    test_paths = [data.paths[i] for i in split.test.tolist()]
    figures = {}
    for name, share in (("trained", 1.0), ("untrained trunk", 0.0)):
        plan = TrainingPlan(epochs=12, sizes=(40, 48), batch=16, rate=0.05, trunk_rate=share)
        images = TrainingImages([data.paths[i] for i in split.train.tolist()], plan.short_side)
        network = _network()
        train_network(network, images, data.labels[split.train], plan)
        found = predict_files(Classifier(network, View("full", 55), data.names), test_paths)
        labels = data.labels[split.test]
        figures[name] = score_predictions(found.rows, labels, data.names)["top1"]
    assert figures["trained"] > 0.75  # chance is 0.25
    assert figures["trained"] > figures["untrained trunk"]


def test_sizes_alternate_and_every_image_is_shown_once(folder: Path, monkeypatch) -> None:
    plan = TrainingPlan(epochs=3, sizes=(24, 32), batch=10)
    images, labels = _images(folder, plan)
    shown: list[tuple[tuple[int, ...], list[int]]] = []
    crops = images.crops

    def watch(indices, draws, crop, size):
        batch = crops(indices, draws, crop, size)
        shown.append((tuple(batch.shape[2:]), indices.tolist()))
        return batch

    monkeypatch.setattr(images, "crops", watch)
    history = train_network(_network(), images, labels, plan)
    assert [epoch["size"] for epoch in history] == [32, 24, 32]
    assert [size for size, _ in shown] == [(32, 32)] * 3 + [(24, 24)] * 3 + [(32, 32)] * 3
    for epoch in range(3):
        seen = [index for _, part in shown[3 * epoch : 3 * epoch + 3] for index in part]
        assert sorted(seen) == list(range(len(images)))
        assert [len(part) for _, part in shown[:3]] == [8, 8, 8]  # no last batch of one


def test_smaller_input_is_the_same_crop_resized(folder: Path) -> None:
    images, _ = _images(folder, TrainingPlan(sizes=(24, 48)))
    draws = torch.rand(2, 3)
    large = images.crops(torch.tensor([0, 1]), draws, 48, 48)
    small = images.crops(torch.tensor([0, 1]), draws, 48, 24)
    again = torch.nn.functional.interpolate(large, (24, 24), mode="bilinear", antialias=True)
    assert torch.allclose(small, again, atol=1e-5)


def test_crops_reach_every_border() -> None:
    photo = torch.arange(12, dtype=torch.uint8).expand(3, 8, 12).contiguous()
    first = cut_crop(photo, (0.0, 0.0, 0.9), 8)
    last = cut_crop(photo, (0.999, 0.999, 0.9), 8)
    mirrored = cut_crop(photo, (0.0, 0.0, 0.1), 8)
    assert (first[0, 0] * 255).round().tolist() == list(range(8))
    assert (last[0, 0] * 255).round().tolist() == list(range(4, 12))
    assert torch.equal(mirrored, first.flip(2))


def test_frozen_trunk_keeps_every_bit(folder: Path) -> None:
    plan = TrainingPlan(epochs=1, sizes=(32,), trunk_rate=0.0)
    network, before = _network(), _network()
    train_network(network, *_images(folder, plan), plan)
    assert _same(network.backbone, before.backbone)
    assert not _same(network.head, before.head)


def test_images_outside_the_memory_limit_train_to_the_same_bits(folder: Path) -> None:
    plan = TrainingPlan(epochs=2, sizes=(32,), batch=8)
    data = open_class_data(folder, SplitRule())
    networks = []
    for limit in (1 << 30, 20_000):
        images = TrainingImages(data.paths, plan.short_side, memory_limit=limit)
        network = _network()
        train_network(network, images, data.labels, plan)
        networks.append(network)
    assert _same(*networks)


def test_global_random_numbers_are_left_alone(folder: Path) -> None:
    plan = TrainingPlan(epochs=1, sizes=(24,))
    network, (images, labels) = _network(), _images(folder, plan)
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    train_network(network, images, labels, plan)
    assert torch.equal(torch.rand(3), expected)


def test_stopped_training_goes_on_with_the_same_bits(folder: Path, tmp_path: Path) -> None:
    plan = TrainingPlan(epochs=4, sizes=(24, 32), batch=8)
    images, labels = _images(folder, plan)
    straight = _network()
    whole = train_network(straight, images, labels, plan)

    class Stop(Exception):
        pass

    def stop_at(step: int):
        def track(iterable, description, total=None):
            for number in iterable:
                if number == step:
                    raise Stop
                yield number

        return track

    states = Checkpoints(tmp_path / "states")
    for step in (2, 4, 5):  # in epoch 0, where nothing is saved yet, and in two later ones
        network = _network(0 if states.newest() is None else 9)  # 9: its weights are replaced
        with pytest.raises(Stop):
            train_network(network, images, labels, plan, checkpoints=states, track=stop_at(step))
    resumed = _network(9)
    history = train_network(resumed, images, labels, plan, checkpoints=states)
    assert _same(straight, resumed)
    assert [epoch["loss"] for epoch in history] == [epoch["loss"] for epoch in whole]
    assert len(list((tmp_path / "states").glob("epoch-*"))) == 2


def test_torn_newest_state_falls_back_to_the_one_before(folder: Path, tmp_path: Path) -> None:
    plan = TrainingPlan(epochs=3, sizes=(24,), batch=8)
    images, labels = _images(folder, plan)
    states = Checkpoints(tmp_path / "states")
    straight = _network()
    train_network(straight, images, labels, plan, checkpoints=states)
    torn = tmp_path / "states" / "epoch-00003" / "model.safetensors"
    torn.write_bytes(torn.read_bytes()[:-9])
    resumed = _network(9)
    train_network(resumed, images, labels, plan, checkpoints=states)
    assert [path.name for path in states.damaged] == ["epoch-00003"]
    assert _same(straight, resumed)
    assert states.newest() is not None
    assert states.damaged == []


def test_state_of_another_network_is_refused(folder: Path, tmp_path: Path) -> None:
    plan = TrainingPlan(epochs=1, sizes=(24,))
    states = Checkpoints(tmp_path)
    train_network(_network(), *_images(folder, plan), plan, checkpoints=states)
    other = build_classifier("small5", 5)
    with pytest.raises(UnusableFileError, match="not of this network"):
        train_network(other, *_images(folder, plan), plan, checkpoints=states)


def test_loss_that_is_no_number_is_said(folder: Path) -> None:
    network = _network()
    with torch.no_grad():
        network.head[-1].bias.fill_(torch.nan)
    plan = TrainingPlan(epochs=1, sizes=(24,))
    with pytest.raises(UsageError, match="training diverged"):
        train_network(network, *_images(folder, plan), plan)


def test_bad_images_are_left_out_once(tmp_path: Path) -> None:
    folder = draw_folders(tmp_path / "d", 3)
    bad = spoil(folder)
    images, labels = _images(folder, TrainingPlan(sizes=(24,)))
    assert len(images) == len(labels) == 12
    assert sorted(p.path for p in images.problems) == sorted(map(str, bad))


@pytest.mark.parametrize("wrong", [{"epochs": 0}, {"batch": 0}, {"rate": 0.0}, {"sizes": ()}])
def test_impossible_plans_are_refused(wrong: dict) -> None:
    with pytest.raises(ValueError, match="must be"):
        TrainingPlan(**wrong)


def test_epoch_seeds_differ() -> None:
    seeds = {training.epoch_seed(seed, epoch) for seed in range(30) for epoch in range(30)}
    assert len(seeds) == 900


def test_killed_training_ends_with_the_same_bits(folder: Path, tmp_path: Path) -> None:
    output = subprocess.check_output([sys.executable, SCRIPT, folder, tmp_path], text=True)
    assert json.loads(output)["kills"] >= 2
    models = [tmp_path / run / "model" / "model.safetensors" for run in ("straight", "killed")]
    assert sha256_file(models[0]) == sha256_file(models[1])
