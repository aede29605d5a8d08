"""Training learns, alternates sizes, and goes on after any kill with the same bits."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from small_photos import draw_folders, spoil
from sppnet.classification import (
    Checkpoints,
    Classifier,
    InputSizes,
    SplitConfig,
    SppNet,
    TrainerConfig,
    TrainingImages,
    View,
    build_classifier,
    open_class_data,
    predict_files,
    score_predictions,
    train_network,
)
from sppnet.errors import UnusableFileError, UsageError
from sppnet.training.optimizers import OptimizerConfig

pytestmark = pytest.mark.usefixtures("one_thread")
KILLS = Path(__file__).parents[3] / "benchmarks" / "kill_training.py"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw_folders(tmp_path_factory.mktemp("train") / "data", 6)


def _network(seed: int = 0) -> SppNet:
    torch.manual_seed(seed)
    return build_classifier("small5", 4, dropout=0.5, feature_norm=20.0)


def _images(folder: Path, config: TrainerConfig) -> tuple[TrainingImages, torch.Tensor]:
    data = open_class_data(folder, SplitConfig())
    images = TrainingImages(data.paths, config.short_side)
    return images, data.labels[images.kept]


def _same(a: torch.nn.Module, b: torch.nn.Module) -> bool:
    pairs = zip(a.state_dict().values(), b.state_dict().values(), strict=True)
    return all(torch.equal(x, y) for x, y in pairs)


def test_training_from_scratch_beats_chance_and_an_untrained_trunk(tmp_path: Path) -> None:
    data = open_class_data(draw_folders(tmp_path / "d", 40), SplitConfig(train_per_class=24))
    (split,) = data.splits()
    test_paths = [data.paths[i] for i in split.test.tolist()]
    figures = {}
    for name, share in (("trained", 1.0), ("untrained trunk", 0.0)):
        config = TrainerConfig(
            epochs=12,
            sizes=InputSizes((40, 48)),
            batch=16,
            optimizer=OptimizerConfig(0.05),
            trunk_rate=share,
        )
        images = TrainingImages([data.paths[i] for i in split.train.tolist()], config.short_side)
        network = _network()
        train_network(network, images, data.labels[split.train], config)
        found = predict_files(Classifier(network, View("full", 55), data.names), test_paths)
        labels = data.labels[split.test]
        figures[name] = score_predictions(found.rows, labels, data.names)["top1"]
    assert figures["trained"] > 0.75  # chance is 0.25
    assert figures["trained"] > figures["untrained trunk"]


@pytest.mark.parametrize("text", ["24,32", "24-32", "natural:32"])
def test_every_image_is_shown_once_an_epoch(folder: Path, monkeypatch, text: str) -> None:
    config = TrainerConfig(epochs=3, sizes=InputSizes.parse(text), batch=10)
    images, labels = _images(folder, config)
    method = "naturals" if config.sizes.natural else "crops"
    shown: list[tuple[int, list[int]]] = []
    prepare = getattr(images, method)

    def watch(indices, draws, *sides):
        batch = prepare(indices, draws, *sides)
        shown.append((min(batch.shape[2:]), indices.tolist()))
        return batch

    monkeypatch.setattr(images, method, watch)
    history = train_network(_network(), images, labels, config, workers=0)
    sizes = [config.sizes.of_epoch(epoch, config.seed) for epoch in range(3)]
    assert [epoch["size"] for epoch in history] == sizes
    assert {size for size, _ in shown} == set(sizes)
    seen = [index for _, part in shown for index in part]
    for epoch in range(3):
        assert sorted(seen[epoch * len(images) : (epoch + 1) * len(images)]) == [*range(24)]


def test_frozen_trunk_keeps_every_bit(folder: Path) -> None:
    config = TrainerConfig(epochs=1, sizes=InputSizes((32,)), trunk_rate=0.0)
    network, before = _network(), _network()
    train_network(network, *_images(folder, config), config)
    assert _same(network.backbone, before.backbone)
    assert not _same(network.head, before.head)


def test_images_outside_the_memory_limit_train_to_the_same_bits(folder: Path) -> None:
    config = TrainerConfig(epochs=2, sizes=InputSizes((32,)), batch=8)
    data = open_class_data(folder, SplitConfig())
    networks = []
    for limit in (1 << 30, 20_000):
        images = TrainingImages(data.paths, config.short_side, memory_limit=limit)
        network = _network()
        train_network(network, images, data.labels, config)
        networks.append(network)
    assert _same(*networks)


def test_global_random_numbers_are_left_alone(folder: Path) -> None:
    config = TrainerConfig(epochs=1, sizes=InputSizes((24,)))
    network, (images, labels) = _network(), _images(folder, config)
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    train_network(network, images, labels, config)
    assert torch.equal(torch.rand(3), expected)


class Stop(Exception):
    pass


def stop_at(step: int):
    """A progress that ends the run before its update of this number, 0 for its first."""

    def track(iterable, description, total=None):
        for count, number in enumerate(iterable):
            if count == step:
                raise Stop
            yield number

    return track


EVERYTHING = {"averaging": 0.9, "label_smoothing": 0.1, "accumulate": 2}


@pytest.mark.parametrize(
    "more",
    [
        {"sizes": InputSizes((24, 32))},
        {"sizes": InputSizes.parse("24-32"), "schedule": "cosine"},
        {"sizes": InputSizes.parse("natural:24"), "optimizer": OptimizerConfig(1e-3, "adamw")},
        {"sizes": InputSizes((24,)), "patience": 1, "mixed_precision": True},
    ],
    ids=["turns", "range", "natural", "bfloat16"],
)
def test_stopped_training_goes_on_with_the_same_bits(
    folder: Path, tmp_path: Path, more: dict
) -> None:
    """Stopped inside epochs and between them; the state is saved after every update."""
    config = TrainerConfig(epochs=4, batch=8, **{**EVERYTHING, **more})
    images, labels = _images(folder, config)
    straight = _network()
    whole = train_network(straight, images, labels, config)
    states = Checkpoints(tmp_path / "states", every_seconds=0)
    for step in (2, 4, 5):
        network = _network(0 if states.newest() is None else 9)  # 9: its weights are replaced
        with pytest.raises(Stop):
            train_network(network, images, labels, config, checkpoints=states, track=stop_at(step))
    resumed = _network(9)
    history = train_network(resumed, images, labels, config, checkpoints=states, workers=2)
    assert _same(straight, resumed)
    figures = ("epoch", "size", "rate", "loss", "accuracy")
    assert [[row[n] for n in figures] for row in history] == [
        [row[n] for n in figures] for row in whole
    ]
    assert len(list((tmp_path / "states").glob("epoch-*"))) == 2
    again = _network(9)  # nothing is left to do, and the average is still what is returned
    train_network(again, images, labels, config, checkpoints=states)
    assert _same(straight, again)


def test_states_inside_an_epoch_come_as_often_as_asked(folder: Path, tmp_path: Path) -> None:
    config = TrainerConfig(epochs=1, sizes=InputSizes((24,)), batch=8)
    images, labels = _images(folder, config)
    for name, seconds in (("often", 0), ("seldom", 1000)):
        states = Checkpoints(tmp_path / name, every_seconds=seconds)
        with pytest.raises(Stop):
            train_network(_network(), images, labels, config, checkpoints=states, track=stop_at(2))
    assert [p.name for p in sorted((tmp_path / "often").iterdir()) if p.name[0] != "."] == [
        "epoch-00000-update-0000001",
        "epoch-00000-update-0000002",
    ]
    assert not (tmp_path / "seldom").exists()


def test_run_goes_on_with_the_threads_that_it_began_with(folder: Path, tmp_path: Path) -> None:
    config = TrainerConfig(epochs=2, sizes=InputSizes((24,)), batch=8)
    images, labels = _images(folder, config)
    states = Checkpoints(tmp_path)
    with pytest.raises(Stop):
        train_network(_network(), images, labels, config, checkpoints=states, track=stop_at(4))
    torch.set_num_threads(2)
    used = []

    def track(iterable, description, total=None):
        for number in iterable:
            used.append(torch.get_num_threads())
            yield number

    with pytest.warns(UserWarning, match="goes on with 1 thread,"):
        train_network(_network(), images, labels, config, checkpoints=states, track=track)
    assert set(used) == {1}
    assert torch.get_num_threads() == 2
    torch.set_num_threads(1)


def test_average_is_what_the_training_leaves(folder: Path) -> None:
    config = TrainerConfig(
        epochs=2, sizes=InputSizes((24,)), batch=8, optimizer=OptimizerConfig(0.1)
    )
    networks = []
    for averaging in (0.0, 0.5):
        images, labels = _images(folder, config)
        networks.append(_network())
        train_network(networks[-1], images, labels, replace(config, averaging=averaging))
    assert not _same(*networks)
    gap = networks[0].head[-1].weight - networks[1].head[-1].weight
    moved = networks[0].head[-1].weight - _network().head[-1].weight
    assert 0 < gap.norm() < moved.norm()


@pytest.mark.parametrize("workers", [1, 2])
def test_workers_do_not_change_the_result(folder: Path, workers: int) -> None:
    config = TrainerConfig(epochs=2, sizes=InputSizes((24, 32)), batch=8)
    networks = []
    for count in (0, workers):
        networks.append(_network())
        train_network(networks[-1], *_images(folder, config), config, workers=count)
    assert _same(*networks)


def test_rate_of_the_history_follows_the_plateau(folder: Path) -> None:
    config = TrainerConfig(
        epochs=10, sizes=InputSizes((24,)), optimizer=OptimizerConfig(0.01), trunk_rate=0.0
    )
    history = train_network(_network(), *_images(folder, config), config)
    assert [row["rate"] for row in history] == pytest.approx([0.01] * 6 + [0.001] * 2 + [1e-4] * 2)


def test_torn_newest_state_falls_back_to_the_one_before(folder: Path, tmp_path: Path) -> None:
    config = TrainerConfig(epochs=3, sizes=InputSizes((24,)), batch=8)
    images, labels = _images(folder, config)
    states = Checkpoints(tmp_path / "states")
    straight = _network()
    train_network(straight, images, labels, config, checkpoints=states)
    torn = tmp_path / "states" / "epoch-00003" / "model.safetensors"
    torn.write_bytes(torn.read_bytes()[:-9])
    resumed = _network(9)
    train_network(resumed, images, labels, config, checkpoints=states)
    assert [path.name for path in states.damaged] == ["epoch-00003"]
    assert _same(straight, resumed)
    assert states.newest() is not None
    assert states.damaged == []


def test_state_of_another_network_is_refused(folder: Path, tmp_path: Path) -> None:
    config = TrainerConfig(epochs=1, sizes=InputSizes((24,)))
    states = Checkpoints(tmp_path)
    train_network(_network(), *_images(folder, config), config, checkpoints=states)
    other = build_classifier("small5", 5)
    with pytest.raises(UnusableFileError, match="not of this network"):
        train_network(other, *_images(folder, config), config, checkpoints=states)


def test_loss_that_is_no_number_is_said(folder: Path) -> None:
    network = _network()
    with torch.no_grad():
        network.head[-1].bias.fill_(torch.nan)
    before = {name: weight.detach().clone() for name, weight in network.named_parameters()}
    config = TrainerConfig(epochs=1, sizes=InputSizes((24,)))
    with pytest.raises(UsageError, match="training diverged"):
        train_network(network, *_images(folder, config), config)
    for name, weight in network.named_parameters():
        torch.testing.assert_close(weight, before[name], rtol=0, atol=0, equal_nan=True)


def test_bad_images_are_left_out_once(tmp_path: Path) -> None:
    folder = draw_folders(tmp_path / "d", 3)
    bad = spoil(folder)
    images, labels = _images(folder, TrainerConfig(sizes=InputSizes((24,))))
    assert len(images) == len(labels) == 12
    assert sorted(p.path for p in images.problems) == sorted(map(str, bad))


@pytest.mark.parametrize(
    "wrong",
    [
        {"epochs": 0},
        {"batch": 0},
        {"batch": -1},
        {"schedule": "step"},
        {"averaging": 1.0},
        {"label_smoothing": -0.1},
        {"trunk_rate": -1.0},
        {"accumulate": 0},
    ],
)
def test_impossible_configurations_are_refused(wrong: dict) -> None:
    with pytest.raises(ValueError, match="must be"):
        TrainerConfig(**wrong)


def test_sizes_of_none_are_refused() -> None:
    with pytest.raises(ValueError, match="imgsz must be"):
        InputSizes(())


def test_killed_trainings_end_with_the_same_bits() -> None:
    """The benchmark, with fewer kills: its kinds of kills and states are the same."""
    done = subprocess.run(
        [sys.executable, KILLS, "--runs", "4"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("4 of 4 runs end bit-identical to the run without a kill")
