"""Every image once per epoch, equal sizes together, nothing padded, any number of workers."""

import itertools
import threading
import time
from collections import Counter
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from small_photos import draw_folders
from sppnet.classification import (
    InputSizes,
    Processes,
    SplitConfig,
    TrainerConfig,
    TrainingImages,
    open_class_data,
)
from sppnet.classification.train.loader import Epoch, equal_size_batches, prepare_ahead
from sppnet.errors import InputError

pytestmark = pytest.mark.usefixtures("one_thread")
NATURAL = InputSizes((48,), natural=True)


def _order(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def pile(tmp_path_factory: pytest.TempPathFactory) -> tuple[TrainingImages, torch.Tensor]:
    data = open_class_data(draw_folders(tmp_path_factory.mktemp("b") / "data", 12), SplitConfig())
    return TrainingImages(data.paths, 48), data.labels


@given(
    st.lists(st.sampled_from([(2, 2), (2, 3), (3, 2), (2, 4)]), max_size=60),
    st.integers(1, 9),
    st.integers(0, 99),
)
def test_batches_hold_every_image_once_in_groups(
    sizes: list[tuple[int, int]], batch: int, seed: int
) -> None:
    batches = equal_size_batches(sizes, batch, _order(seed))
    shown = [index for each in batches for index in each.tolist()]
    assert sorted(shown) == list(range(len(sizes)))
    assert len(batches) == -(-len(sizes) // batch)
    assert all(1 <= len(each) <= batch for each in batches)
    pure = sum(len({sizes[i] for i in each.tolist()}) == 1 for each in batches)
    assert pure >= sum(count // batch for count in Counter(sizes).values())
    for each in batches:  # equal sizes lie beside each other: a change of size never comes back
        row = [sizes[index] for index in each.tolist()]
        changes = sum(a != b for a, b in itertools.pairwise(row))
        assert changes == len(set(row)) - 1


def test_order_follows_the_seed() -> None:
    sizes = [(2, 2)] * 20
    first, again, other = (equal_size_batches(sizes, 7, _order(seed)) for seed in (0, 0, 1))
    assert [each.tolist() for each in first] == [each.tolist() for each in again]
    assert [each.tolist() for each in first] != [each.tolist() for each in other]
    assert sorted(map(len, first)) == [6, 7, 7]


def test_natural_groups_are_whole_images_of_one_size(pile) -> None:
    images, labels = pile
    epoch = Epoch(images, labels, TrainerConfig(sizes=NATURAL, batch=8), 0)
    shown: list[int] = []
    for batch in epoch.batches:
        (shown_together,) = epoch.micro_batches(batch)
        assert sum(map(len, shown_together.groups)) == len(batch) == len(shown_together.labels)
        for group in shown_together.groups:
            assert min(group.shape[2:]) == 48
            assert group.is_contiguous(memory_format=torch.channels_last)
        shown += batch.tolist()
    assert sorted(shown) == list(range(len(images)))


def test_labels_follow_their_images_into_the_groups(pile) -> None:
    images, _ = pile
    numbers = torch.arange(len(images))
    epoch = Epoch(images, numbers, TrainerConfig(sizes=NATURAL, batch=16, accumulate=3), 0)
    expected = images.natural_sizes(48)
    for batch in epoch.batches:
        for each in epoch.micro_batches(batch):
            shapes = [tuple(group.shape[2:]) for group in each.groups for _ in group]
            assert shapes == [expected[number] for number in each.labels.tolist()]


def test_smaller_input_is_the_same_crop_resized(pile) -> None:
    images, _ = pile
    draws = TrainerConfig().augmentation.draw(2, seed=0)
    draws[:, 3:] = 0
    large = images.crops(torch.tensor([0, 1]), draws, 40, 40)
    small = images.crops(torch.tensor([0, 1]), draws, 40, 24)
    again = torch.nn.functional.interpolate(large, (24, 24), mode="bilinear", antialias=True)
    assert torch.allclose(small, again, atol=1e-5)


def test_shards_of_processes_are_whole_batches_without_overlap(pile) -> None:
    images, labels = pile
    epoch = Epoch(images, labels, TrainerConfig(sizes=NATURAL, batch=7), 0)
    for batch in epoch.batches:
        shards = [Processes(rank, 10).shard(batch) for rank in range(10)]
        assert torch.equal(torch.cat(shards), batch)
        assert shards[-1].numel() == 0
        assert epoch.micro_batches(shards[-1]) == []


def test_workers_change_nothing_but_the_thread(pile) -> None:
    images, labels = pile
    epoch = Epoch(images, labels, TrainerConfig(sizes=NATURAL, batch=8), 1)
    runs = [
        list(prepare_ahead(epoch.micro_batches, epoch.batches, workers)) for workers in (0, 1, 2)
    ]
    for ways in zip(*runs, strict=True):
        for (first,), other in zip([ways[0]] * 2, ways[1:], strict=True):
            assert torch.equal(first.labels, other[0].labels)
            assert all(map(torch.equal, first.groups, other[0].groups))


def test_next_job_is_done_while_the_last_result_is_used() -> None:
    done: list[tuple[int, bool]] = []

    def prepare(job: int) -> int:
        done.append((job, threading.current_thread() is threading.main_thread()))
        return job

    results = prepare_ahead(prepare, range(50), workers=2)
    assert next(results) == 0
    deadline = time.monotonic() + 10
    while len(done) < 3 and time.monotonic() < deadline:
        time.sleep(0.001)
    assert sorted(done) == [(0, False), (1, False), (2, False)]  # two ahead, no more
    results.close()
    assert threading.active_count() == 1 or all(
        not thread.name.startswith("batches") for thread in threading.enumerate()
    )


def test_error_of_a_job_comes_out_in_its_place() -> None:
    def prepare(job: int) -> float:
        return 1 / (job - 2)

    results = prepare_ahead(prepare, range(5), workers=2)
    assert [next(results), next(results)] == [-0.5, -1.0]
    with pytest.raises(ZeroDivisionError):
        next(results)


def test_image_outside_memory_is_read_again(tmp_path: Path) -> None:
    data = open_class_data(draw_folders(tmp_path / "d", 2), SplitConfig())
    kept, read = (TrainingImages(data.paths, 32, memory_limit=limit) for limit in (1 << 30, 0))
    assert all(torch.equal(kept.photo(i), read.photo(i)) for i in range(8))
    assert kept.sizes_hw == read.sizes_hw == [tuple(kept.photo(i).shape[1:]) for i in range(8)]


def test_image_exchanged_during_the_training_is_noticed(tmp_path: Path) -> None:
    data = open_class_data(draw_folders(tmp_path / "d", 2), SplitConfig())
    images = TrainingImages(data.paths, 32, memory_limit=0)
    data.paths[0].write_bytes(data.paths[1].read_bytes())
    with pytest.raises(InputError, match="changed while the training read it"):
        images.photo(0)
