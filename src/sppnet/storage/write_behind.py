"""Writing records to a cache from a thread, so that the next one is computed meanwhile."""

from collections import deque
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType

from torch import Tensor

from sppnet.storage.feature_cache import FeatureCache


class WriteBehind:
    """Puts records into a cache in the background; leaving the context waits for all of them.

    At most ``waiting`` records are held, so that memory stays bounded where the disk is slow.

    Args:
        cache: Where the records go.
        waiting: Records that may wait to be written.

    Raises:
        OutputError: From ``put`` or at the end, if an earlier record could not be written.

    Example:
        >>> import tempfile, torch
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     cache = FeatureCache(folder)
        ...     key = cache.make_key(number=1)
        ...     with WriteBehind(cache) as later:
        ...         later.put(key, {"map": torch.ones(2)})
        ...     cache.get(key)
        {'map': tensor([1., 1.])}
    """

    def __init__(self, cache: FeatureCache, waiting: int = 4) -> None:
        self.cache = cache
        self.waiting = waiting
        self._executor = ThreadPoolExecutor(1)
        self._pending: deque[Future[None]] = deque()

    def put(self, key: str, tensors: Mapping[str, Tensor]) -> None:
        """Have a record written soon; waits for the oldest if too many are waiting."""
        while len(self._pending) >= self.waiting or (self._pending and self._pending[0].done()):
            self._pending.popleft().result()
        self._pending.append(self._executor.submit(self.cache.put, key, tensors))

    def __enter__(self) -> "WriteBehind":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Wait for the records; a failure to write is raised unless another error is under way."""
        self._executor.shutdown()
        while self._pending and error is None:
            self._pending.popleft().result()
