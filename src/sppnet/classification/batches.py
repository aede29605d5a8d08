"""What a batch is: which images in which order, in groups of one size, prepared ahead of time."""

from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor

from sppnet.classification.training_images import TrainingImages
from sppnet.classification.training_plan import TrainingPlan
from sppnet.images import group_equal_sizes
from sppnet.training.seeds import seed_of

S = TypeVar("S")
T = TypeVar("T")


@dataclass(frozen=True)
class Part:
    """Images that go through the network together, without padding.

    Args:
        groups: (n_i, 3, h_i, w_i) of one size each.
        labels: (sum of n_i,) in the order of the groups.
    """

    groups: list[Tensor]
    labels: Tensor


class Epoch:
    """One pass over all images: order, size and what is drawn follow from the seed and its number.

    Args:
        images: N images.
        labels: (N,) int64.
        plan: What the training does.
        number: 0 for the first epoch.

    Attributes:
        size: Side, or short side, of the input.
        batches: Positions of the images of each update; every image once.
    """

    def __init__(
        self, images: TrainingImages, labels: Tensor, plan: TrainingPlan, number: int
    ) -> None:
        self._images, self._labels, self._plan = images, labels, plan
        self.size = plan.sizes.of_epoch(number, plan.seed)
        square = (self.size, self.size)
        natural = plan.sizes.natural
        self._sizes_hw = images.natural_sizes(self.size) if natural else [square] * len(images)
        self._draws = plan.augmentation.draw(len(images), seed_of(plan.seed, "images", number))
        order = torch.Generator().manual_seed(seed_of(plan.seed, "order", number))
        self.batches = equal_size_batches(self._sizes_hw, plan.batch, order)

    def parts(self, share: Tensor) -> list[Part]:
        """Prepare what one process shows of one batch, in as many parts as the plan says."""
        pieces = share.tensor_split(self._plan.accumulate)
        return [self._part(piece) for piece in pieces if len(piece)]

    def _part(self, indices: Tensor) -> Part:
        sizes = [self._sizes_hw[index] for index in indices.tolist()]
        groups = [indices[group] for group in group_equal_sizes(sizes, len(indices))]
        return Part([self._group(group) for group in groups], self._labels[torch.cat(groups)])

    def _group(self, indices: Tensor) -> Tensor:
        draws = self._draws[indices]
        if self._plan.sizes.natural:
            return self._images.naturals(indices, draws, self.size)
        return self._images.crops(indices, draws, self._plan.crop, self.size)


def equal_size_batches(
    sizes_hw: Sequence[tuple[int, int]], batch: int, generator: torch.Generator
) -> list[Tensor]:
    """Shuffle images and put those of one size together; what is left over makes mixed batches.

    Every size fills as many whole batches as it can. The rest, less than a batch of each size,
    shares batches in which equal sizes lie beside each other. Nothing is padded or left out.

    Args:
        sizes_hw: (height, width) of each of N images.
        batch: Images in a batch.
        generator: Decides the order of images and of batches.

    Returns:
        ceil(N / batch) batches of positions, every position once.

    Example:
        >>> sizes = [(2, 2)] * 5 + [(2, 3)] * 4
        >>> batches = equal_size_batches(sizes, 4, torch.Generator().manual_seed(0))
        >>> sorted(len({sizes[index] for index in each.tolist()}) for each in batches)
        [1, 1, 1]
    """
    of_size: dict[tuple[int, int], list[int]] = defaultdict(list)
    for index in torch.randperm(len(sizes_hw), generator=generator).tolist():
        of_size[sizes_hw[index]].append(index)
    batches: list[Tensor] = []
    rest: list[int] = []
    for members in of_size.values():
        whole = len(members) // batch * batch
        batches += [torch.tensor(members[i : i + batch]) for i in range(0, whole, batch)]
        rest += members[whole:]
    if rest:
        batches += torch.tensor(rest).tensor_split(-(-len(rest) // batch))
    return [batches[i] for i in torch.randperm(len(batches), generator=generator).tolist()]


def prepare_ahead(prepare: Callable[[S], T], jobs: Iterable[S], workers: int) -> Iterator[T]:
    """Prepare what comes next in threads while what came before is being used.

    Args:
        prepare: Does one job; its result must not depend on other jobs.
        jobs: In the order of the results.
        workers: Threads, each at most one job ahead; 0 prepares each job when it is asked for.

    Yields:
        The results, in order, the same for any number of threads.

    Example:
        >>> list(prepare_ahead(abs, [-3, 2, -1], workers=2))
        [3, 2, 1]
    """
    if not workers:
        yield from map(prepare, jobs)
        return
    threads = ThreadPoolExecutor(workers, thread_name_prefix="batches")
    waiting: deque[Future[T]] = deque()
    try:
        for job in jobs:
            waiting.append(threads.submit(prepare, job))
            if len(waiting) > workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        threads.shutdown(cancel_futures=True)
