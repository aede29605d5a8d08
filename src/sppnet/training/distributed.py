"""One training in several processes: who has which shard, and how gradients become one."""

import gc
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor, nn

from sppnet.errors import UsageError

# A process that dies is noticed at once; this only has to be longer than the longest stage that
# one process does alone, such as scoring the images held back.
LONGEST_WAIT = timedelta(hours=12)


@dataclass(frozen=True)
class Processes:
    """The processes that train one network together; by default this one alone.

    Args:
        rank: Number of this process, from 0; the first writes and speaks.
        count: Processes in all, on any number of machines.
        device: Where tensors are exchanged.

    Example:
        >>> Processes(rank=1, count=2).shard(torch.arange(5))
        tensor([3, 4])
    """

    rank: int = 0
    count: int = 1
    device: str = "cpu"

    @property
    def is_first(self) -> bool:
        """Whether this process writes and speaks for all."""
        return self.rank == 0

    def shard(self, indices: Tensor) -> Tensor:
        """This process's part of a batch; a small batch leaves the last processes none."""
        return indices.tensor_split(self.count)[self.rank]

    def all_reduce(self, tensors: Sequence[Tensor]) -> None:
        """Replace tensors of one dtype by their sums over all processes, in one exchange."""
        if self.count == 1:
            return
        flat = torch.cat([tensor.reshape(-1) for tensor in tensors])
        with _lost_processes_named():
            dist.all_reduce(flat)
        sums = flat.split([tensor.numel() for tensor in tensors])
        for tensor, total in zip(tensors, sums, strict=True):
            tensor.copy_(total.view_as(tensor))

    def broadcast_weights(self, module: nn.Module) -> None:
        """Give all processes the first one's weights and buffers."""
        if self.count == 1:
            return
        with torch.no_grad(), _lost_processes_named():
            for tensor in module.state_dict().values():
                whole = tensor.to(self.device).contiguous()
                dist.broadcast(whole, src=0)
                tensor.copy_(whole)

    def broadcast_bytes(self, data: bytes) -> bytes:
        """Give all processes the first one's bytes."""
        if self.count == 1:
            return data
        with _lost_processes_named():
            length = torch.tensor([len(data)], device=self.device)
            dist.broadcast(length, src=0)
            content = torch.zeros(int(length), dtype=torch.uint8, device=self.device)
            if self.is_first and data:
                content.copy_(torch.frombuffer(bytearray(data), dtype=torch.uint8))
            dist.broadcast(content, src=0)
        return content.cpu().numpy().tobytes()


@contextmanager
def join_processes(device: torch.device) -> Iterator[Processes]:
    """Meet the processes that ``torchrun`` started, and part from them at the end.

    Args:
        device: Where this process computes: a GPU exchanges by nccl, everything else by gloo.

    Yields:
        The processes; this one alone if ``torchrun`` did not start it.

    Example:
        >>> with join_processes(torch.device("cpu")) as processes:
        ...     processes.count
        1
    """
    count = int(os.environ.get("WORLD_SIZE", "1"))
    if count == 1:
        yield Processes()
        return
    on_gpu = device.type == "cuda"
    dist.init_process_group("nccl" if on_gpu else "gloo", timeout=LONGEST_WAIT)
    try:
        yield Processes(dist.get_rank(), count, str(device) if on_gpu else "cpu")
    finally:
        dist.destroy_process_group()
        # the group lies in a cycle: its threads would drop their last tensors while Python ends
        gc.collect()


def local_device(device: torch.device) -> torch.device:
    """The GPU of this process where ``torchrun`` started one for each GPU of a machine.

    Example:
        >>> local_device(torch.device("cpu"))
        device(type='cpu')
    """
    number = os.environ.get("LOCAL_RANK")
    if number is None or device.type != "cuda":
        return device
    torch.cuda.set_device(int(number))
    return torch.device("cuda", int(number))


@contextmanager
def _lost_processes_named() -> Iterator[None]:
    """Say that another process ended: its own line says why."""
    try:
        yield
    except RuntimeError as error:
        rule = "another process of this training has ended; its own line says why"
        raise UsageError(rule, code="E_PROCESS") from error
