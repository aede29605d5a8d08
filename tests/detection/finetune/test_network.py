"""Fine-tuning reaches the layers that it shall reach, samples as it says, and learns."""

import functools
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from sppnet.backbones import build_backbone, restore_backbone
from sppnet.detection import Encoder, propose
from sppnet.detection.assign import SamplingConfig
from sppnet.detection.finetune.head import ProposalSampler, split_images
from sppnet.detection.finetune.network import (
    NetworkTask,
    NetworkTuningConfig,
    build_network_optimizer,
    build_region_network,
    choose_trained,
    tune_network,
)
from sppnet.detection.heads.region_head import BoxHead, BoxPredictor
from sppnet.errors import NothingUsableError, UnusableFileError, UsageError
from sppnet.geometry import boxes_to_deltas, deltas_to_boxes, flip_boxes
from sppnet.images import draw_detection_set, open_detection_dataset
from sppnet.pooling import spatial_pyramid_pool
from sppnet.training.checkpoints import Checkpoints, TrainingLog
from sppnet.training.optimizers import OptimizerConfig

CONFIG = NetworkTuningConfig(
    updates=6,
    check_every=3,
    sampling=SamplingConfig(batch=32),
    widths=(16, 16),
    optimizer=OptimizerConfig(0.02),
)


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory):
    folder = draw_detection_set(tmp_path_factory.mktemp("scenes") / "data", 14, seed=0)
    return open_detection_dataset(folder, "train")


@pytest.fixture(scope="module")
def proposals():
    return functools.cache(lambda image: propose(image.load(), "grid", 150))


@pytest.fixture
def encoder() -> Encoder:
    torch.manual_seed(0)
    return Encoder(build_backbone("small5"), (96,), levels=(1, 2))


def _draw(sampler: ProposalSampler, updates: int):
    return [sample for update in range(updates) for sample in sampler.draw(update)]


def test_two_images_share_a_batch_with_a_quarter_of_positives(scenes, proposals) -> None:
    things = [image for image in scenes if len(image.boxes)]
    sampler = ProposalSampler(things, proposals, len(scenes.names), SamplingConfig(batch=32))
    samples = sampler.draw(0)
    assert [len(sample.labels) for sample in samples] == [16, 16]
    shares = [(s.labels < len(scenes.names)).float().mean().item() for s in _draw(sampler, 6)]
    assert max(shares) == 0.25
    assert min(shares) > 0  # the objects themselves are proposals, too


def test_every_image_comes_once_in_a_turn_mirrored_or_not(scenes, proposals) -> None:
    images = scenes.images[:6]
    sampler = ProposalSampler(
        images, proposals, len(scenes.names), SamplingConfig(batch=8), 2, (64, 96)
    )
    sums = sorted(float(sample.image.sum()) for sample in _draw(sampler, 3))
    assert sums == pytest.approx(sorted(float(image.load(compact=True).sum()) for image in images))
    assert {sample.short_side for sample in _draw(sampler, 9)} == {64, 96}


def test_draws_depend_on_the_seed_and_the_update_alone(scenes, proposals) -> None:
    first = ProposalSampler(scenes.images, proposals, len(scenes.names), SamplingConfig(batch=8))
    again = replace(first)
    first.draw(0)
    for one, other in zip(first.draw(3), again.draw(3), strict=True):
        assert torch.equal(one.boxes, other.boxes)
    other = replace(first, seed=1).draw(3)
    assert [s.boxes.tolist() for s in other] != [s.boxes.tolist() for s in first.draw(3)]


def test_mirrored_proposals_show_the_same_thing(scenes, proposals) -> None:
    sampler = ProposalSampler(scenes.images, proposals, len(scenes.names), SamplingConfig(batch=16))
    seen = set()
    for sample in _draw(sampler, 12):
        original = next(
            i
            for i in scenes
            if i.size_hw == tuple(sample.image.shape[1:])
            and any(
                torch.equal(p, sample.image)
                for p in (i.load(compact=True), i.load(compact=True).flip(-1))
            )
        )
        is_mirrored = not torch.equal(original.load(compact=True), sample.image)
        seen.add(is_mirrored)
        found = deltas_to_boxes(sample.boxes, sample.deltas)
        found = flip_boxes(found, original.size_hw[1]) if is_mirrored else found
        for box, label in zip(found, sample.labels.tolist(), strict=True):
            if label < len(scenes.names):
                gaps = (original.boxes[original.labels == label] - box).abs().amax(1)
                assert gaps.min() < 0.01
    assert seen == {False, True}


def test_gradient_goes_through_the_pooling_to_the_first_layer_that_learns_and_no_further(
    scenes, proposals, encoder
) -> None:
    config = replace(CONFIG, trainable_from="conv3")
    network = build_region_network(encoder, len(scenes.names), config)
    sampler = ProposalSampler(
        scenes.images, proposals, len(scenes.names), config.sampling, 2, (96,)
    )
    network.losses(sampler.draw(0))[0].backward()
    reached = {
        name.split(".")[1] for name, p in network.backbone.named_parameters() if p.grad is not None
    }
    assert reached == {"conv3", "conv4", "conv5"}
    for name, parameter in network.backbone.named_parameters():
        assert parameter.grad is None or parameter.grad.abs().sum() > 0, name


def test_gradient_equals_that_of_crops_pooled_one_by_one(scenes, proposals, encoder) -> None:
    network = build_region_network(encoder, len(scenes.names), CONFIG)
    sampler = ProposalSampler(
        scenes.images, proposals, len(scenes.names), SamplingConfig(batch=8), 2, (96,)
    )
    samples = sampler.draw(1)
    direction = torch.randn(8, encoder.length, generator=torch.manual_seed(2))
    (network.pool(samples) * direction).sum().backward()
    found = network.backbone.get_parameter("trunk.conv2.weight").grad.clone()
    network.zero_grad()
    rows = []
    for sample in samples:
        image = network._encode(sample)
        regions = encoder.assign_regions(image, sample.boxes)
        rows += [
            spatial_pyramid_pool(image.maps[0][:, :, y0:y1, x0:x1], encoder.levels)
            for _, x0, y0, x1, y1 in regions.tolist()
        ]
    (torch.cat(rows) * direction).sum().backward()
    expected = network.backbone.get_parameter("trunk.conv2.weight").grad
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("layer", "first"), [("", "conv1"), ("conv4", "conv4"), ("relu3", "conv4"), (None, None)]
)
def test_trunk_learns_from_a_layer_on(layer: str | None, first: str | None) -> None:
    backbone = build_backbone("small5")
    names = [f"conv{i}" for i in range(1, 6)]
    expected = names[names.index(first) :] if first else []
    trained = choose_trained(backbone, layer)
    assert sorted({name.split(".")[1] for name in trained}) == expected
    assert [n for n, p in backbone.named_parameters() if p.requires_grad] == trained


@pytest.mark.parametrize(
    ("name", "layer", "inside", "outside"),
    [  # blocks that are one layer, and weights that lie in no layer
        ("timm:test_vit2", "blocks.5", "blocks.5.attn.qkv.weight", "blocks.4.attn.qkv.weight"),
        ("timm:test_vit2", "", "pos_embed", None),
        ("swin_t", "features.5", "features.5.1.attn.qkv.weight", "features.3.1.attn.qkv.weight"),
        ("convnext_tiny", "features.5", "features.5.1.layer_scale", "features.3.1.layer_scale"),
    ],
)
def test_all_weights_behind_a_layer_learn(
    name: str, layer: str, inside: str, outside: str | None
) -> None:
    with torch.device("meta"):
        backbone = build_backbone(name)
    trained = choose_trained(backbone, layer)
    assert f"trunk.{inside}" in trained
    assert f"trunk.{outside}" not in trained
    if not layer:
        assert trained == [name for name, _ in backbone.named_parameters()]


def test_layer_that_does_not_exist_is_refused() -> None:
    with pytest.raises(ValueError, match="trainable_from must be a layer"):
        choose_trained(build_backbone("small5"), "conv9")


def test_batch_normalisation_stays_as_it_is() -> None:
    backbone = build_backbone("resnet18", layer="layer1")
    trained = choose_trained(backbone, "layer1")
    norms = {n for n, m in backbone.named_modules() if isinstance(m, nn.BatchNorm2d)}
    assert trained
    assert all(name.startswith("trunk.layer1") for name in trained)
    assert not {name.rpartition(".")[0] for name in trained} & norms


def test_box_loss_counts_positives_only_and_is_the_plain_sum() -> None:
    torch.manual_seed(0)
    layer = BoxPredictor(width=5, num_classes=3)
    nn.init.normal_(layer.linear.weight)
    fc7, deltas = torch.randn(6, 5), torch.randn(6, 4)
    labels = torch.tensor([0, 3, 2, 3, 1, 3])
    layer.standardise(torch.randn(50, 4) * 0.3 + 0.1)
    expected = 0.0
    for row in (0, 2, 4):
        found = layer(fc7)[row, labels[row]]
        wanted = (deltas[row] - layer.mean) / layer.spread
        for gap in (found - wanted).abs().tolist():
            expected += 0.5 * gap**2 if gap < 1 else gap - 0.5
    assert layer.loss(fc7, labels, deltas).item() == pytest.approx(expected / 6, rel=1e-5)
    assert layer.loss(fc7, torch.full((6,), 3), deltas).item() == 0


def test_loss_falls_and_trunk_head_and_boxes_have_learnt(scenes, proposals, encoder) -> None:
    config = replace(CONFIG, updates=60, check_every=15, widths=(32, 32))
    before = {k: v.clone() for k, v in encoder.backbone.state_dict().items()}
    tuned = tune_network(scenes.images, encoder, len(scenes.names), config, proposals)
    losses = [row["validation_loss"] for row in tuned.history]
    assert len(losses) == 4
    assert min(losses) < 0.85 * losses[0]
    assert all(torch.equal(v, before[k]) for k, v in encoder.backbone.state_dict().items())
    after = tuned.encoder.backbone.state_dict()
    assert not torch.equal(after["trunk.conv1.weight"], before["trunk.conv1.weight"])
    again = restore_backbone(tuned.encoder.backbone.config(), after)
    picture = torch.rand(1, 3, 60, 60, generator=torch.manual_seed(0))
    assert torch.equal(again(picture), tuned.encoder.backbone(picture))


def test_boxes_are_moved_by_the_deltas_of_their_class(scenes, proposals, encoder) -> None:
    tuned = tune_network(scenes.images, encoder, len(scenes.names), CONFIG, proposals)
    picture = torch.rand(3, 200, 200, generator=torch.manual_seed(0))
    encoded = tuned.encoder.encode(picture)
    boxes, labels = torch.tensor([[80.0, 80, 110, 120]]).expand(4, 4), torch.tensor([0, 1, 1, 0])
    features = tuned.encoder.describe(encoded, boxes)
    moved = boxes_to_deltas(boxes, tuned.boxes.apply(tuned.encoder, encoded, labels, boxes))
    again = BoxHead.from_config(tuned.boxes.config(), tuned.boxes.tensors())
    same = again.apply(tuned.encoder, encoded, labels, boxes)
    assert torch.equal(same, tuned.boxes.apply(tuned.encoder, encoded, labels, boxes))
    layer = tuned.boxes.layer
    for row, label in enumerate(labels.tolist()):
        deltas = layer(tuned.head.describe(features[row : row + 1]))[0, label]
        expected = deltas * layer.spread + layer.mean
        torch.testing.assert_close(moved[row], expected, rtol=1e-4, atol=1e-5)


def test_stopped_run_goes_on_to_the_same_bits(scenes, proposals, encoder, tmp_path: Path) -> None:
    arguments = (scenes.images, encoder, len(scenes.names))
    whole = tune_network(*arguments, CONFIG, proposals)

    class StoppedError(Exception):
        pass

    def stop(steps, description, total=None):
        for number in steps:
            if number == 4:
                raise StoppedError
            yield number

    with pytest.raises(StoppedError):
        tune_network(
            *arguments, CONFIG, proposals, checkpoints=Checkpoints(tmp_path / "a"), track=stop
        )
    (tmp_path / "log").mkdir()
    log = TrainingLog(tmp_path / "log")
    states = Checkpoints(tmp_path / "a")
    rest = tune_network(*arguments, CONFIG, proposals, checkpoints=states, log=log)
    for name, tensor in whole.encoder.backbone.state_dict().items():
        assert torch.equal(tensor, rest.encoder.backbone.state_dict()[name]), name
    assert torch.equal(whole.boxes.layer.linear.weight, rest.boxes.layer.linear.weight)
    assert [row["loss"] for row in whole.history] == [row["loss"] for row in rest.history]
    assert len((tmp_path / "log" / "log.csv").read_text().splitlines()) == 3
    wider = replace(CONFIG, widths=(8, 8))
    with pytest.raises(UnusableFileError):
        tune_network(*arguments, wider, proposals, checkpoints=Checkpoints(tmp_path / "a"))


def test_best_weights_on_the_validation_images_are_kept(
    scenes, proposals, encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    losses = iter([3.0, 1.0, 2.0, 3.0, 1.0])
    monkeypatch.setattr(NetworkTask, "validation_loss", lambda _: next(losses))
    arguments = (scenes.images, encoder, len(scenes.names))
    config = replace(CONFIG, updates=9, drop_at=(1.0,))
    kept = tune_network(*arguments, config, proposals)
    # with the same rate throughout, a shorter run is the beginning of a longer one
    short = tune_network(*arguments, replace(config, updates=6), proposals)
    assert [row["validation_loss"] for row in kept.history] == [3.0, 1.0, 2.0]
    assert torch.equal(kept.head.logits.weight, short.head.logits.weight)


def test_mixed_precision_changes_the_last_bits_only(scenes, proposals, encoder) -> None:
    sampler = ProposalSampler(scenes.images, proposals, len(scenes.names), SamplingConfig(batch=8))
    exact, rounded = (
        build_region_network(encoder, len(scenes.names), replace(CONFIG, mixed_precision=mixed))
        for mixed in (False, True)
    )
    with torch.no_grad():
        expected, found = exact.pool(sampler.draw(0)), rounded.pool(sampler.draw(0))
    assert not torch.equal(found, expected)
    assert (found - expected).norm() < 0.02 * expected.norm()
    rounded.losses(sampler.draw(0))[0].backward()
    weight = rounded.backbone.get_parameter("trunk.conv1.weight")
    assert weight.dtype == torch.float32
    assert weight.grad.abs().sum() > 0


def test_validation_images_are_not_learnt_from(scenes) -> None:
    learnt, validation = split_images(scenes.images, 0.3, seed=0)
    assert len(validation) == round(0.3 * len(scenes))
    assert {id(image) for image in learnt} | {id(image) for image in validation} == set(
        map(id, scenes.images)
    )
    assert len(learnt) + len(validation) == len(scenes)
    assert split_images(scenes.images[:1], 0.5, seed=0)[1] == []


def test_biases_learn_twice_as_fast_and_do_not_decay(scenes, encoder) -> None:
    network = build_region_network(encoder, len(scenes.names), CONFIG)
    names = {id(p): name for name, p in network.named_parameters()}
    for group in build_network_optimizer(network, CONFIG).param_groups:
        for parameter in group["params"]:
            name = names[id(parameter)]
            part = CONFIG.trunk_rate if name.startswith("backbone.") else 1.0
            assert group["factor"] == part * (2 if name.endswith("bias") else 1)
            assert group["weight_decay"] == (
                0 if name.endswith("bias") else CONFIG.optimizer.weight_decay
            )


def test_diverging_is_said(scenes, proposals, encoder) -> None:
    wild = replace(CONFIG, optimizer=OptimizerConfig(1e18))
    with pytest.raises(UsageError, match="diverged"):
        tune_network(scenes.images, encoder, len(scenes.names), wild, proposals)


def test_no_object_is_said(scenes, proposals, encoder) -> None:
    parts = ("boxes", "labels", "difficult", "crowd", "truncated")
    empty = [
        replace(image, **{name: getattr(image, name)[:0] for name in parts}) for image in scenes
    ]
    difficult = [replace(image, difficult=torch.ones_like(image.crowd)) for image in scenes]
    for images in (empty, difficult):
        with pytest.raises(NothingUsableError, match="no image has an object"):
            tune_network(images, encoder, len(scenes.names), CONFIG, proposals)


@pytest.mark.parametrize(
    ("wrong", "rule"),
    [
        ({"updates": 0}, "updates must be at least 1"),
        ({"trunk_rate": -1.0}, "trunk_rate must be 0 or more"),
        ({"box_weight": float("nan")}, "box_weight must be 0 or more"),
        ({"validation_fraction": 1.0}, "validation_fraction must lie in 0..1"),
        ({"drop_at": (1.5,)}, "drop_at must lie in 0..1"),
    ],
)
def test_impossible_configurations_are_refused(wrong: dict, rule: str) -> None:
    with pytest.raises(ValueError, match=rule):
        NetworkTuningConfig(**wrong)
