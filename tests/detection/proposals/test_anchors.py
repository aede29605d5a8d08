"""Learnt anchors: normal equations against numpy's least squares, proposals on made-up scenes."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from sppnet.detection.encoder import EncodedImage
from sppnet.detection.proposals.anchor_boxes import NormalEquations, PrincipalComponents
from sppnet.detection.proposals.anchors import AnchorConfig, AnchorProposer, MapGeometry
from sppnet.errors import NothingUsableError
from sppnet.geometry import box_iou
from sppnet.progress import using_threads

GEOMETRY = MapGeometry(stride=8.0, centre=4.0, short_sides=(160,), target_side=64.0)


def _scene(seed: int, count: int = 3, size_hw: tuple[int, int] = (160, 200)):
    """An image whose first channel is 1 on the cells of its objects, the others noise."""
    draw = torch.Generator().manual_seed(seed)
    height, width = size_hw
    side = 24 + torch.randint(0, 24, (count, 2), generator=draw).float()
    corner = torch.rand(count, 2, generator=draw) * (torch.tensor([width // 3, height]) - side)
    corner[:, 0] += torch.arange(count) * (width // 3)  # each in a column of its own
    boxes = torch.cat([corner, corner + side], 1)
    features = 0.2 * torch.rand(1, 6, height // 8, width // 8, generator=draw)
    for x0, y0, x1, y1 in (boxes / 8).round().long().tolist():
        features[0, 0, y0:y1, x0:x1] += 1
    flags = torch.zeros(count, dtype=torch.bool)
    labels = torch.zeros(count, dtype=torch.int64)
    image = SimpleNamespace(
        boxes=boxes, labels=labels, crowd=flags, difficult=flags.clone(), size_hw=size_hw
    )
    return image, EncodedImage((features,), ((1.0, 1.0),), size_hw)


def _fitted(**config) -> AnchorProposer:
    return AnchorProposer(GEOMETRY, AnchorConfig(**config)).fit([_scene(i) for i in range(30)])


def test_equations_give_weighted_ridge_regression() -> None:
    rng = np.random.default_rng(0)
    positives, negatives = (np.c_[rng.normal(m, 1, (40, 5)), np.ones(40)] for m in (0.5, 0))
    deltas, weights = rng.normal(size=(40, 4)), rng.uniform(0.2, 2, 40)
    equations = NormalEquations(6)
    rows, moves, heavy = (torch.tensor(a).float() for a in (positives, deltas, weights))
    for part in (slice(0, 15), slice(15, 40)):
        equations.add_positives(rows[part], moves[part], heavy[part])
        equations.add_negatives(torch.tensor(negatives[part]).float())
    share = np.sqrt(weights / weights.sum())
    ridge = np.diag(np.sqrt([0.1] * 5 + [1e-6]))
    even = np.sqrt(np.full(40, 1 / 80))[:, None]
    both = np.r_[positives * share[:, None] / 2**0.5, negatives * even, ridge]
    goals = np.r_[share / 2**0.5, -even[:, 0], np.zeros(6)]
    score = np.linalg.lstsq(both, goals, rcond=None)[0]
    moved = np.linalg.lstsq(
        np.r_[positives * share[:, None], ridge],
        np.r_[deltas * share[:, None], np.zeros((6, 4))],
        rcond=None,
    )[0]
    assert np.allclose(equations.solve(0.1).numpy(), np.c_[score, moved], atol=1e-4)


def test_equations_without_examples_say_no() -> None:
    equations = NormalEquations(3)
    equations.add_negatives(torch.tensor([[0.2, -0.1, 1.0], [-0.2, 0.1, 1.0]]))
    weights = equations.solve(0.1)
    assert torch.allclose(weights[:, 0], torch.tensor([0.0, 0.0, -1.0]), atol=1e-4)
    assert torch.equal(weights[:, 1:], torch.zeros(3, 4))


def test_axes_are_principal_components() -> None:
    cells = np.random.default_rng(0).normal(size=(500, 4)) @ np.diag([5.0, 1, 3, 0.1]) + 7
    axes = PrincipalComponents(4)
    for part in np.split(cells, 5):
        axes.add(torch.tensor(part.T).float())
    rotation, shift = axes.solve(2)
    found = cells @ rotation.numpy().T + shift.numpy()
    assert np.allclose(found.mean(0), 0, atol=1e-4)
    assert np.allclose(np.cov(found.T, bias=True).trace() / 2, 1, atol=1e-4)
    centred = cells - cells.mean(0)
    _, _, directions = np.linalg.svd(centred, full_matrices=False)
    expected = np.abs(centred @ directions[1::-1].T)
    assert np.allclose(np.abs(found) / np.abs(found).max(0), expected / expected.max(0), atol=1e-3)


def test_finds_the_objects_of_new_scenes_in_few_proposals() -> None:
    proposer = _fitted()
    overlaps = []
    for seed in range(100, 110):
        image, encoded = _scene(seed)
        boxes, scores = proposer.propose(encoded, 30)
        assert len(boxes) == len(scores) <= 30
        assert bool((scores.diff() <= 0).all())
        overlaps.append(box_iou(image.boxes, boxes).amax(1))
    assert float(torch.cat(overlaps).min()) >= 0.6


def test_proposals_differ_and_stay_inside_the_image() -> None:
    _, encoded = _scene(100)
    boxes, _ = _fitted().propose(encoded, 500)
    overlaps = box_iou(boxes, boxes).fill_diagonal_(0)
    assert float(overlaps.max()) <= 0.7
    assert float(boxes.min()) >= 0
    assert bool((boxes.amax(0)[2:] <= torch.tensor([200.0, 160.0])).all())
    assert bool(((boxes[:, 2:] - boxes[:, :2]) >= 1).all())


@pytest.mark.parametrize("bins", [1, 3])
def test_threads_change_no_bit(bins: int) -> None:
    proposer, (_, encoded) = _fitted(bins=bins), _scene(102)
    with using_threads(1):
        alone = proposer.propose(encoded, 200)
    for count in (2, 3, 4):
        with using_threads(count):
            found = proposer.propose(encoded, 200)
        assert all(torch.equal(*pair) for pair in zip(found, alone, strict=True))


def test_proposals_are_in_pixels_of_the_original_image() -> None:
    proposer = _fitted()
    _, encoded = _scene(101)
    once, scores = proposer.propose(encoded, 50)
    halved = EncodedImage(encoded.maps, ((2.0, 2.0),), (80, 100))
    twice, same = proposer.propose(halved, 50)
    assert torch.allclose(once, 2 * twice, atol=1e-3)
    assert torch.allclose(scores, same)


def test_two_scales_share_the_objects_by_size() -> None:
    geometry = MapGeometry(8.0, 4.0, (160, 320), 64.0)
    samples = []
    for seed in range(10):
        image, encoded = _scene(seed)
        fine = torch.nn.functional.interpolate(encoded.maps[0], scale_factor=2)
        maps, zooms = (encoded.maps[0], fine), ((1.0, 1.0), (2.0, 2.0))
        image.boxes[0] = torch.tensor([5.0, 5.0, 155.0, 155.0])  # wants the smaller scale
        samples.append((image, EncodedImage(maps, zooms, image.size_hw)))
    proposer = AnchorProposer(geometry).fit(samples)
    shapes = proposer.learnt_.shapes
    assert set(shapes[:, 0].tolist()) == {0.0, 1.0}
    assert torch.allclose(shapes[shapes[:, 0] == 0, 1:], torch.tensor([150.0, 150.0]))
    assert float(shapes[shapes[:, 0] == 1, 1:].max()) <= 2 * 48
    assert len(proposer.propose(samples[0][1], 20)[0]) == 20


def test_same_samples_same_proposer_and_restored_the_same() -> None:
    proposer, again = _fitted(channels=4), _fitted(channels=4)
    tensors = proposer.tensors()
    assert set(tensors) == {"rotation", "shift", "shapes", "weights"}
    for name, values in again.tensors().items():
        assert torch.equal(values, tensors[name]), name
    restored = AnchorProposer.from_config(proposer.config(), tensors)
    _, encoded = _scene(7)
    for found, expected in zip(
        restored.propose(encoded, 40), proposer.propose(encoded, 40), strict=True
    ):
        assert torch.equal(found, expected)


def test_crowds_and_difficult_objects_are_neither_examples_nor_counterexamples() -> None:
    marked = [_scene(i) for i in range(20)]
    for image, _ in marked:
        image.crowd[0] = image.difficult[1] = True
    clean = [_scene(i) for i in range(20)]
    for image, _ in clean:  # the marked ones are not even known to be there
        image.boxes, image.labels = image.boxes[2:], image.labels[2:]
        image.crowd, image.difficult = image.crowd[2:], image.difficult[2:]
    hidden = AnchorProposer(GEOMETRY).fit(marked)
    unknown = AnchorProposer(GEOMETRY).fit(clean)
    assert torch.equal(hidden.learnt_.shapes, unknown.learnt_.shapes)
    assert not torch.allclose(hidden.learnt_.weights, unknown.learnt_.weights, atol=0.05)
    image, encoded = _scene(200)
    # two of three objects were never an example; had they been counterexamples, few would be found
    boxes, _ = hidden.propose(encoded, 30)
    assert float(box_iou(image.boxes, boxes).amax(1).min()) > 0.5


def test_needs_objects_and_samples_that_last() -> None:
    with pytest.raises(NothingUsableError, match="no image has an object"):
        AnchorProposer(GEOMETRY).fit([])
    with pytest.raises(NothingUsableError, match="no image has an object"):
        AnchorProposer(GEOMETRY).fit([_scene(0, count=0)])
    with pytest.raises(TypeError, match="more than once"):
        AnchorProposer(GEOMETRY).fit(iter([_scene(0)]))
