"""A head learns pooled proposals, keeps its best weights, and goes on to the same bits.

Pooled proposals are those of the drawn boxes, at drawn scales, mirrored images among them."""

from dataclasses import replace
from itertools import islice
from pathlib import Path

import pytest
import torch
from torch import Tensor

from sppnet.detection import CachedFeatures
from sppnet.detection.assign import SamplingConfig, label_proposals
from sppnet.detection.finetune.head import (
    HeadTuningConfig,
    ProposalPool,
    build_head,
    gather_proposals,
    tune_head,
    tune_on_proposals,
    validation_loss,
)
from sppnet.errors import NothingUsableError, UsageError
from sppnet.geometry import flip_boxes
from sppnet.images import draw_detection_set, open_detection_dataset
from sppnet.progress import no_tracking
from sppnet.storage import FeatureCache
from sppnet.training.checkpoints import Checkpoints
from sppnet.training.optimizers import OptimizerConfig, build_optimizer, set_rate

LENGTH, K = 60, 2


CONFIG = HeadTuningConfig(
    updates=80,
    check_every=20,
    sampling=SamplingConfig(batch=32),
    widths=(16, 8),
    dropout=0.1,
    optimizer=OptimizerConfig(0.05),
)


def _pool(count: int = 600, seed: int = 0, noise: float = 1.0) -> ProposalPool:
    """Two classes and the background around three points, as large as pooled vectors."""
    draw = torch.Generator().manual_seed(seed)
    labels = torch.randint(K + 1, (count,), generator=draw)
    centres = torch.randn(K + 1, LENGTH, generator=torch.Generator().manual_seed(9))
    rows = centres[labels] + noise * torch.randn(count, LENGTH, generator=draw)
    return ProposalPool((30 * rows).half(), labels)


def _tune(pool: ProposalPool, validation: ProposalPool, config: HeadTuningConfig, **more):
    head = build_head(pool, K, config)
    return tune_on_proposals(head, pool, validation, config, **more)


def test_head_learns_what_unseen_proposals_show() -> None:
    validation = _pool(300, seed=1)
    tuned = _tune(_pool(), validation, CONFIG)
    rows, labels = validation.batch(torch.arange(300))
    right = (tuned.head(rows).argmax(1) == labels).float().mean()
    assert float(right) > 0.95
    assert not tuned.head.training
    assert [row["epoch"] for row in tuned.history] == [0, 1, 2, 3]


def test_weights_of_least_validation_loss_are_kept() -> None:
    noisy = _pool(40, noise=4.0)  # learnt by heart: unseen proposals get worse and worse
    config = HeadTuningConfig(
        updates=300,
        check_every=10,
        sampling=CONFIG.sampling,
        widths=(64, 32),
        dropout=0.0,
        optimizer=OptimizerConfig(0.05),
    )
    validation = _pool(300, seed=1, noise=4.0)
    tuned = _tune(noisy, validation, config)
    losses = [row["validation_loss"] for row in tuned.history]
    assert min(losses) < losses[-1]
    assert validation_loss(tuned.head, validation) == pytest.approx(min(losses), rel=1e-5)


def test_stopped_run_goes_on_to_the_same_bits(tmp_path) -> None:
    pool, validation = _pool(), _pool(100, seed=1)
    whole = _tune(pool, validation, CONFIG)

    class Stopped(Exception):
        """What a user's Ctrl-C does here."""

    def stop(iterable, _description, total=None):
        del total
        yield from islice(iterable, 50)
        raise Stopped

    with pytest.raises(Stopped):
        _tune(pool, validation, CONFIG, checkpoints=Checkpoints(tmp_path), track=stop)
    seen = []

    def count(iterable, description, total=None):
        seen.extend(iterable)
        return no_tracking(seen, description, total)

    again = _tune(pool, validation, CONFIG, checkpoints=Checkpoints(tmp_path), track=count)
    assert seen[0] == 40  # two epochs of twenty updates had been saved
    for name, tensor in whole.head.state_dict().items():
        assert torch.equal(tensor, again.head.state_dict()[name]), name
    assert whole.history == again.history


def test_run_that_was_done_is_not_done_again(tmp_path) -> None:
    pool, validation = _pool(), _pool(100, seed=1)
    whole = _tune(pool, validation, CONFIG, checkpoints=Checkpoints(tmp_path))
    again = _tune(pool, validation, CONFIG, checkpoints=Checkpoints(tmp_path))
    assert torch.equal(whole.head.logits.weight, again.head.logits.weight)
    assert whole.history == again.history


def test_without_validation_proposals_the_last_weights_are_kept() -> None:
    tuned = _tune(_pool(), _pool(0), CONFIG)
    rows, labels = _pool(300, seed=1).batch(torch.arange(300))
    assert float((tuned.head(rows).argmax(1) == labels).float().mean()) > 0.9


def test_vectors_come_in_with_a_mean_square_of_one() -> None:
    pool = _pool()
    scaled = pool.rows.float() * build_head(pool, K, CONFIG).scale
    assert float(scaled.square().mean()) == pytest.approx(1.0, rel=0.05)


def test_one_step_is_sgd_written_out() -> None:
    config = OptimizerConfig(0.5, momentum=0.9, weight_decay=0.1)
    head = build_head(_pool(), K, HeadTuningConfig(widths=(4, 4)))
    optimizer = build_optimizer([(head.parameters(), 1.0)], config, fast_biases=True)
    before = {name: p.detach().clone() for name, p in head.named_parameters()}
    gradients: dict[str, Tensor] = {}
    for name, parameter in head.named_parameters():
        gradients[name] = parameter.grad = torch.randn_like(parameter)
    set_rate(optimizer, 0.5)
    optimizer.step()
    for name, parameter in head.named_parameters():
        is_bias = name.endswith("bias")
        step = gradients[name] + (0.0 if is_bias else 0.1) * before[name]
        expected = before[name] - (1.0 if is_bias else 0.5) * step
        torch.testing.assert_close(parameter.detach(), expected)


def test_what_cannot_be_learnt_is_refused() -> None:
    background = ProposalPool(_pool(50).rows, torch.full((50,), K))
    with pytest.raises(NothingUsableError, match="no proposal shows an object"):
        _tune(background, _pool(0), CONFIG)
    broken = ProposalPool(torch.full((50, LENGTH), torch.inf).half(), torch.zeros(50).long())
    with pytest.raises(UsageError, match="tuning the head diverged"):
        _tune(broken, _pool(0), CONFIG)


@pytest.mark.parametrize("name", ["updates", "check_every", "per_image"])
def test_impossible_configurations_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name} must be"):
        HeadTuningConfig(**{name: 0})


def test_budget_bounds_the_proposals_whatever_the_number_of_images() -> None:
    config = HeadTuningConfig(budget_bytes=2 * 1000 * 5_000)
    for images in (1, 10, 100, 10_000, 10**6):
        looked_at, each = config.fit_budget(images, length=1000)
        assert looked_at * each <= 5_000
        assert looked_at <= images
        assert 4 <= each <= 64


SMALL = HeadTuningConfig(
    per_image=16, sampling=SamplingConfig(batch=16), updates=20, check_every=10, widths=(8, 8)
)


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory):
    folder = draw_detection_set(tmp_path_factory.mktemp("scenes") / "data", 6, seed=1)
    return open_detection_dataset(folder)


@pytest.fixture
def cached(make_encoder, scenes, tmp_path: Path) -> CachedFeatures:
    encoder = make_encoder((64, 96))
    cache = FeatureCache(tmp_path / "cache")
    return CachedFeatures(scenes.images, encoder, cache, "grid", 60)


def _known(cached: CachedFeatures, flips: tuple[bool, ...], num_classes: int, *, best: bool):
    """All vectors that may be drawn, with their labels, as (vector in float16, label)."""
    encoder, known = cached.encoder, []
    for image in cached.images:
        boxes = torch.cat([image.boxes, cached.propose(image)])
        labels = label_proposals(boxes, image, num_classes)
        for flipped in flips:
            seen = flip_boxes(boxes, image.size_hw[1]) if flipped else boxes
            encoded = cached.encoded(image.mirror() if flipped else image)
            for scale in (None,) if best else (0, 1):
                of = None if scale is None else torch.full((len(seen),), scale)
                rows = encoder.pool(encoded, encoder.assign_regions(encoded, seen, of)).half()
                known.append((rows, labels))
    return torch.cat([rows for rows, _ in known]), torch.cat([labels for _, labels in known])


@pytest.mark.parametrize(
    ("flips", "best"), [((False,), False), ((False, True), False), ((False,), True)]
)
def test_every_gathered_proposal_is_one_of_an_image(cached, scenes, flips, best: bool) -> None:
    num_classes = len(scenes.names)
    config = replace(SMALL, flip=True in flips)
    pool = gather_proposals(cached, scenes.images, num_classes, config, random_scale=not best)
    rows, labels = _known(cached, flips, num_classes, best=best)
    assert len(pool.rows) == len(pool.labels) == 16 * 6 * len(flips)
    for row, label in zip(pool.rows, pool.labels.tolist(), strict=True):
        same = (rows == row).all(1)
        assert label in labels[same].tolist()
    assert int((pool.labels < num_classes).sum()) > 0
    assert int((pool.labels == num_classes).sum()) > 16


def test_both_scales_are_drawn(cached, scenes, monkeypatch) -> None:
    drawn = []
    assign_regions = cached.encoder.assign_regions
    monkeypatch.setattr(
        cached.encoder, "assign_regions", lambda e, b, s: drawn.append(s) or assign_regions(e, b, s)
    )
    gather_proposals(cached, scenes.images, len(scenes.names), SMALL)
    share = torch.cat(drawn).float().mean()
    assert 0.3 < float(share) < 0.7


def test_gathering_twice_gives_the_same_bits_and_the_budget_holds(cached, scenes) -> None:
    num_classes = len(scenes.names)
    first, second = (gather_proposals(cached, scenes.images, num_classes, SMALL) for _ in "ab")
    assert torch.equal(first.rows, second.rows)
    assert torch.equal(first.labels, second.labels)
    tight = replace(SMALL, budget_bytes=2 * cached.encoder.length * 10)
    small = gather_proposals(cached, scenes.images, num_classes, tight)
    assert 0 < len(small.rows) <= 10


def test_head_is_tuned_from_prepared_images(cached, scenes) -> None:
    num_classes = len(scenes.names)
    config = replace(SMALL, validation_fraction=0.3, flip=True)
    tuned = tune_head(cached, num_classes, config)
    assert tuned.head.length == cached.encoder.length
    assert tuned.head.num_classes == num_classes
    assert len(tuned.history) == 2
    assert all(row["validation_loss"] > 0 for row in tuned.history)
