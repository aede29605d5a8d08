"""Cached features: maps and proposals are made once, bit for bit; bad images are named once."""

import dataclasses
from pathlib import Path

import pytest
import torch

from sppnet.detection import CachedFeatures, propose
from sppnet.detection.assign import Views
from sppnet.detection.proposals.anchors import AnchorProposer
from sppnet.errors import MissingPackageError
from sppnet.images import draw_detection_set, load_image, open_detection_dataset
from sppnet.images.decode import decode_content
from sppnet.storage import FeatureCache


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory):
    folder = draw_detection_set(tmp_path_factory.mktemp("scenes") / "data", 6, seed=1)
    return open_detection_dataset(folder)


@pytest.fixture
def prepare(make_encoder, scenes, tmp_path: Path):
    def build(short_sides=(64, 96), images=None, **options) -> CachedFeatures:
        encoder = make_encoder(short_sides)
        cache = FeatureCache(tmp_path / "cache")
        options = {"method": "grid", "max_proposals": 40, **options}
        return CachedFeatures(
            scenes.images if images is None else images, encoder, cache, **options
        )

    return build


def test_cached_maps_and_proposals_are_bit_equal_to_fresh_ones(prepare, scenes) -> None:
    cached = prepare()
    cached.propose_all()
    cached.encode_all()
    again = prepare()
    for image, encoded, proposals in again:
        pixels = load_image(image.path)
        fresh = again.encoder.encode(pixels)
        assert encoded.zooms_xy == fresh.zooms_xy
        assert encoded.image_size_hw == fresh.image_size_hw == tuple(pixels.shape[1:])
        assert all(torch.equal(*pair) for pair in zip(encoded.maps, fresh.maps, strict=True))
        assert torch.equal(proposals, propose(pixels, "grid", 40))
        boxes = again.encoder.describe(encoded, proposals)
        assert torch.equal(boxes, again.encoder.describe(fresh, proposals))
    assert again.cache.misses == 0
    assert again.cache.hits == 3 * len(scenes)


def test_second_pass_neither_convolves_nor_proposes(prepare, scenes, monkeypatch) -> None:
    first = [(e.maps, w) for _, e, w in prepare()]

    def refuse(*args):
        raise AssertionError("computed again")

    cached = prepare()
    monkeypatch.setattr(cached.encoder, "encode_scale", refuse)
    monkeypatch.setattr("sppnet.detection.feature_set.propose", refuse)
    monkeypatch.setattr("sppnet.detection.feature_set.decode_content", refuse)
    second = [(e.maps, w) for _, e, w in cached]
    assert len(second) == len(first) == len(scenes)
    for (maps, proposals), (maps_again, proposals_again) in zip(first, second, strict=True):
        assert torch.equal(proposals, proposals_again)
        assert all(torch.equal(*pair) for pair in zip(maps, maps_again, strict=True))


@pytest.mark.parametrize(
    ("change", "recomputed"),
    [
        ({"seed": 1}, 1),
        ({"max_proposals": 41}, 1),
        ({"short_sides": (64, 97)}, 1),
        ({"search_side": 80}, 1),
        ({"least_side": 30}, 1),
    ],
)
def test_other_settings_meet_other_records(prepare, scenes, change: dict, recomputed: int) -> None:
    list(prepare(images=scenes.images[:1]))
    other = prepare(images=scenes.images[:1], **change)
    list(other)
    assert other.cache.misses == recomputed


@pytest.mark.parametrize("learns", [True, False])
def test_another_process_has_the_same_images_and_proposals(prepare, scenes, learns: bool) -> None:
    images = [*scenes.images]
    images[2] = dataclasses.replace(images[2], path=images[2].path.with_name("gone.jpg"))
    first = prepare(images=images)
    first.encode_all()
    if learns:
        maps = first.maps("learning")
        first.use_anchors(AnchorProposer.of(first.encoder).fit(maps))
        first.propose_learnt()
    first.propose_all()
    other = prepare(images=images)
    other.take(first.to_bytes())
    assert other.usable == first.usable == [*images[:2], *images[3:]]
    for image in other.usable:
        mirrored = image.mirror()
        assert torch.equal(other.propose(image), first.propose(image))
        assert torch.equal(other.propose(mirrored), first.propose(mirrored))
    assert other.cache.misses == 0  # all of it was there


def test_other_weights_meet_other_maps(prepare, scenes) -> None:
    (image,) = images = scenes.images[:1]
    before = prepare(images=images).encoded(image)
    other = prepare(images=images)
    with torch.no_grad():
        next(other.encoder.backbone.parameters()).mul_(1.5)
    other = CachedFeatures(images, other.encoder, other.cache, "grid", 40)
    assert not torch.equal(other.encoded(image).maps[0], before.maps[0])
    assert other.cache.hits == 0


def test_changed_file_meets_other_records(prepare, scenes, tmp_path: Path) -> None:
    copy = tmp_path / "copy.jpg"
    copy.write_bytes(scenes[0].path.read_bytes())
    image = dataclasses.replace(scenes[0], path=copy)
    list(prepare(images=[image]))
    moved = tmp_path / "moved.jpg"
    moved.write_bytes(copy.read_bytes())
    same = prepare(images=[dataclasses.replace(image, path=moved)])
    list(same)
    assert same.cache.misses == 0  # the name of a file does not matter, its bytes do
    copy.write_bytes(scenes[1].path.read_bytes())
    other = prepare(images=[dataclasses.replace(image, size_hw=scenes[1].size_hw)])
    list(other)
    assert other.cache.misses == 3


def test_file_exchanged_during_the_run_is_left_out(prepare, scenes, tmp_path: Path) -> None:
    """Neither another photo's maps under this one's hash, nor this one's boxes on another photo."""
    copy = tmp_path / "copy.jpg"
    copy.write_bytes(scenes[0].path.read_bytes())
    image = dataclasses.replace(scenes[0], path=copy)
    cached = prepare(images=[image])
    cached.propose(image)
    copy.write_bytes(scenes[1].path.read_bytes())
    cached.encode_all()
    (problem,) = cached.problems
    assert "changed while the run worked on it" in problem.rule
    copy.write_bytes(scenes[0].path.read_bytes())
    again = prepare(images=[image])
    assert torch.equal(again.encoded(image).maps[0], prepare().encoded(scenes[0]).maps[0])


def test_maps_of_one_trunk_have_no_proposals_of_another(prepare, scenes) -> None:
    anchors = AnchorProposer.of(prepare().encoder).fit(prepare().maps(""))
    cached = prepare(images=scenes.images[:1], anchors=anchors)
    cached.propose(scenes[0])
    other = prepare(images=scenes.images[:1])
    with torch.no_grad():
        next(other.encoder.backbone.parameters()).mul_(-1.5)
    other = CachedFeatures(other.images, other.encoder, other.cache, "grid", 40, anchors=anchors)
    fresh = CachedFeatures(
        other.images, other.encoder, FeatureCache(other.cache.folder / "x"), "grid", 40
    )
    fresh.use_anchors(anchors)
    assert torch.equal(other.propose(scenes[0]), fresh.propose(scenes[0]))


def test_damaged_record_is_computed_again(prepare, scenes, tmp_path: Path) -> None:
    before = [e.maps for _, e, _ in prepare()]
    records = sorted(p for p in (tmp_path / "cache").rglob("*.record"))
    assert len(records) == 3 * len(scenes)
    for record in records[::2]:
        data = bytearray(record.read_bytes())
        data[-3] ^= 4
        record.write_bytes(data)
    cached = prepare()
    after = [e.maps for _, e, _ in cached]
    assert cached.cache.damaged == len(records[::2])
    for maps, again in zip(before, after, strict=True):
        assert all(torch.equal(*pair) for pair in zip(maps, again, strict=True))


def _spoiled(scenes, tmp_path: Path):
    cut, text, gone = (tmp_path / f"{name}.jpg" for name in ("cut", "text", "gone"))
    cut.write_bytes(scenes[0].path.read_bytes()[:2000])
    text.write_text("no image")
    bad = [dataclasses.replace(scenes[0], path=path) for path in (cut, text, gone)]
    return [bad[0], scenes[1], bad[1], scenes[2], bad[2]]


@pytest.mark.parametrize("workers", [0, 1, 4])
def test_bad_images_are_recorded_once_and_left_out(
    prepare, scenes, tmp_path: Path, workers: int
) -> None:
    images = _spoiled(scenes, tmp_path)
    cached = prepare(images=images)
    cached.propose_all(workers)
    cached.encode_all()
    for _ in range(2):
        assert [image.image_id for image, _, _ in cached] == ["scene_0001", "scene_0002"]
    named = sorted(Path(problem.path).name for problem in cached.problems)
    assert named == ["cut.jpg", "gone.jpg", "text.jpg"]
    assert all(problem.action == "image left out" for problem in cached.problems)
    assert cached.usable == [images[1], images[3]]


def test_image_that_goes_bad_while_training_is_left_out_then(prepare, scenes, tmp_path) -> None:
    copy = tmp_path / "copy.jpg"
    copy.write_bytes(scenes[0].path.read_bytes())
    cached = prepare(images=[dataclasses.replace(scenes[0], path=copy), scenes[1]])
    cached.propose_all()
    assert len(cached.usable) == 2
    copy.write_text("overwritten")
    cached.encode_all()  # its bytes were read before; the map cannot be made now
    assert [image.image_id for image, _, _ in cached] == ["scene_0001"]
    assert len(cached.problems) == 1


def test_progress_counts_the_usable_images(prepare, scenes, tmp_path: Path) -> None:
    seen = []

    def track(iterable, description, total=None):
        items = list(iterable)
        seen.append((description, total, len(items)))
        return items

    cached = prepare(images=_spoiled(scenes, tmp_path))
    cached.propose_all(2, track)
    cached.encode_all(track)
    list(cached.samples("looking", track))
    assert [total for _, total, _ in seen] == [5, 2, 2]
    assert [count for _, _, count in seen] == [5, 2, 2]


def test_maps_and_samples_can_be_gone_through_again(prepare, scenes) -> None:
    cached = prepare()
    for passes in (cached.maps("maps"), cached.samples("samples", views=Views(mirror=True))):
        first, second = ([image.image_id for image, *_ in passes] for _ in range(2))
        assert first == second
        assert len(first) >= len(scenes)
    with pytest.raises(TypeError):
        next(cached.maps("maps"))  # no iterator, which would be used up


def test_missing_package_stops_at_once(prepare, monkeypatch) -> None:
    def refuse(*args, **options):
        raise MissingPackageError("run `pip install it`")

    monkeypatch.setattr("sppnet.detection.feature_set.propose", refuse)
    with pytest.raises(MissingPackageError, match="pip install"):
        prepare().propose_all()


def test_stop_does_not_wait_for_the_images_in_line(prepare, scenes, monkeypatch) -> None:
    started = []

    def slow(*args, **options):
        started.append(1)
        return torch.zeros(1, 4)

    def stopping(iterable, description, total=None):
        yield next(iter(iterable))
        raise KeyboardInterrupt

    monkeypatch.setattr("sppnet.detection.feature_set.propose", slow)
    many = [
        dataclasses.replace(scenes[0], path=path) for path in [image.path for image in scenes] * 20
    ]
    cached = prepare(images=many, seed=7)
    jobs = []
    attempt = cached.propose_from_pixels

    def count(image):
        jobs.append(image)
        import time

        time.sleep(0.01)
        return attempt(image)

    monkeypatch.setattr(cached, "propose_from_pixels", count)
    with pytest.raises(KeyboardInterrupt):
        cached.propose_all(2, stopping)
    assert len(jobs) < len(many) // 2


def test_mirror_images_have_the_maps_of_mirrored_pixels_and_mirrored_proposals(
    prepare, scenes
) -> None:
    cached = prepare()
    cached.encode_all(views=Views(mirror=True))
    seen = list(cached.samples("", views=Views(mirror=True)))
    assert [view.path for view, *_ in seen] == [i.path for i in scenes for _ in range(2)]
    for (image, _, proposals), (mirror, encoded, mirrored) in zip(
        seen[::2], seen[1::2], strict=True
    ):
        width = image.size_hw[1]
        assert (image.is_mirrored, mirror.is_mirrored) == (False, True)
        assert torch.equal(mirror.load(), image.load().flip(-1))
        fresh = cached.encoder.encode(load_image(image.path).flip(-1))
        assert all(torch.equal(*pair) for pair in zip(encoded.maps, fresh.maps, strict=True))
        for there, here in ((mirrored, proposals), (mirror.boxes, image.boxes)):
            assert torch.equal(there[:, [1, 3]], here[:, [1, 3]])
            assert torch.equal(there[:, [2, 0]], width - here[:, [0, 2]])
    cached.encode_all(views=Views(mirror=True))
    assert cached.cache.misses == 5 * len(scenes)  # 2 scales of 2 views, and the proposals


def test_parts_have_the_maps_of_their_pixels_and_proposals_of_which_half_is_seen(
    prepare, scenes
) -> None:
    cached, views = prepare(), Views(mirror=True, crops=True)
    cached.encode_all(views=views)
    seen = list(cached.samples("", views=views))
    assert [view.path for view, *_ in seen] == [i.path for i in scenes for _ in range(4)]
    for number in range(0, len(seen), 4):
        (image, _, proposals), _, (part, encoded, inside), (mirror, _, mirrored) = seen[
            number : number + 4
        ]
        (left, top), (height, width) = part.corner_xy, part.size_hw
        pixels = load_image(image.path)[:, top : top + height, left : left + width]
        assert torch.equal(part.load(), pixels)
        assert torch.equal(mirror.load(), pixels.flip(-1))
        fresh = cached.encoder.encode(pixels)
        assert all(torch.equal(*pair) for pair in zip(encoded.maps, fresh.maps, strict=True))
        expected = []
        for x1, y1, x2, y2 in proposals.tolist():
            box = [
                max(x1 - left, 0),
                max(y1 - top, 0),
                min(x2 - left, width),
                min(y2 - top, height),
            ]
            across, down = box[2] - box[0], box[3] - box[1]
            if min(across, down) > 0 and across * down >= (x2 - x1) * (y2 - y1) / 2:
                expected.append(box)
        assert inside.tolist() == expected
        assert torch.equal(mirrored[:, [2, 0]], width - inside[:, [0, 2]])
    recomputed = cached.cache.misses
    cached.encode_all(views=views)
    assert cached.cache.misses == recomputed == 9 * len(scenes)  # 2 scales of 4 views, proposals


def test_a_photo_is_decoded_once_for_all_that_is_seen_of_it(prepare, scenes, monkeypatch) -> None:
    cached, decoded = prepare(short_sides=(64, 96)), []

    def count(data: bytes, path: Path) -> torch.Tensor:
        decoded.append(path)
        return decode_content(data, path)

    monkeypatch.setattr("sppnet.detection.feature_set.decode_content", count)
    cached.encode_all(views=Views(mirror=True, crops=True))
    assert sorted(decoded) == sorted(image.path for image in scenes)
