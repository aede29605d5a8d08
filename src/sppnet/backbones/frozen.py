"""Runs a frozen trunk of convolutions in onnxruntime: about half of the time of torch on a CPU.

Its maps are those of torch to a few 1e-6 of the largest value, and the same bits for any number of
threads, alone and in any batch (docs/trunks.md has the figures).
"""

import importlib.util
import os
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, fx

from sppnet.backbones.tracing.onnx_graph import IMAGES, UnknownLayerError, write_trunk
from sppnet.backbones.tracing.receptive_field import join_maps
from sppnet.config.fields import ENGINES
from sppnet.errors import MissingPackageError

AUTO, ONNXRUNTIME, TORCH = ENGINES
PACKAGES = ("onnx", "onnxruntime")
Fingerprint = tuple[tuple[int, int], ...]


class FrozenTrunk:
    """The onnxruntime sessions of one trunk; each is opened when it is first needed.

    There is one for every process, number of torch's threads and choice of maps. Weights that
    change are noticed, and all sessions are opened anew. A copy, or what a pickle brings back,
    begins without sessions.

    Example:
        >>> from sppnet.backbones import build_backbone
        >>> backbone, images = build_backbone("squeezenet1_1"), torch.rand(1, 3, 64, 90)
        >>> frozen = FrozenTrunk().run(backbone.trunk, images)
        >>> torch.allclose(frozen, backbone.trunk(images), atol=1e-5)
        True
    """

    def __init__(self) -> None:
        self._sessions: dict[tuple[Any, ...], Any] = {}
        self._weights: Fingerprint = ()

    def __getstate__(self) -> dict[str, Any]:
        return FrozenTrunk().__dict__

    def run(self, trunk: fx.GraphModule, images: Tensor) -> Tensor:
        """Compute what the trunk gives.

        Args:
            trunk: On the CPU, float32, in evaluation mode; :func:`check_trunk` accepts it.
            images: (N, 3, H, W) float32, normalised and padded.

        Returns:
            (N, C, h, w) in the memory format of the images.
        """
        wanted, places = split_output(trunk)
        maps = self._compute(trunk, images, wanted, as_made=False)
        return join_maps(maps, places) if places else maps[0]

    def tap(self, trunk: fx.GraphModule, images: Tensor, nodes: Sequence[str]) -> list[Tensor]:
        """Compute the maps of some nodes of the graph, as they are when they are made.

        Args:
            trunk: As for :meth:`run`.
            images: As for :meth:`run`.
            nodes: Names in the trunk's graph.
        """
        distinct = tuple(dict.fromkeys(nodes))
        found = self._compute(trunk, images, distinct, as_made=True)
        maps = dict(zip(distinct, found, strict=True))
        return [maps[node] for node in nodes]

    def _compute(
        self, trunk: fx.GraphModule, images: Tensor, wanted: tuple[str, ...], *, as_made: bool
    ) -> list[Tensor]:
        session, names = self._open(trunk, wanted, as_made)
        results = session.run(None, {IMAGES: images.contiguous().numpy()})
        by_name = dict(zip([each.name for each in session.get_outputs()], results, strict=True))
        return [_as_images(torch.from_numpy(by_name[name]), images) for name in names]

    def _open(
        self, trunk: fx.GraphModule, wanted: tuple[str, ...], as_made: bool
    ) -> tuple[Any, list[str]]:
        """Find the session of this process for some maps; a thread that loses a race opens two."""
        weights = _fingerprint(trunk)
        if weights != self._weights:
            self._sessions, self._weights = {}, weights
        # a forked process has the sessions of its parent, but not their threads
        key = (os.getpid(), torch.get_num_threads(), wanted, as_made)
        found = self._sessions.get(key)
        if found is None:
            graph = write_trunk(trunk, wanted, as_made=as_made)
            found = _open_session(graph.to_bytes()), [graph.outputs[name] for name in wanted]
            self._sessions[key] = found
        return found


def _open_session(data: bytes) -> Any:
    """Open a trunk in onnxruntime, with as many threads as torch has."""
    import onnxruntime  # here, so that --help stays quick

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 4  # what goes wrong is raised; nothing is printed past the console
    # threads that wait must not keep processors from the code that runs in between
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.enable_mem_pattern = False  # it keeps a plan for every size that was ever seen
    return onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])


def _fingerprint(trunk: fx.GraphModule) -> Fingerprint:
    """Tell the weights by where they lie and how often they were written."""
    tensors = (*trunk.parameters(), *trunk.buffers())
    return tuple((tensor.data_ptr(), tensor._version) for tensor in tensors)


def split_output(trunk: fx.GraphModule) -> tuple[tuple[str, ...], Any]:
    """Name the maps that a trunk ends in, and say where the cells of joined ones lie.

    Args:
        trunk: As :func:`sppnet.backbones.tracing.cut.cut_model` makes it.

    Returns:
        Names of nodes, and the places for :func:`join_maps`; None where there is one map.
    """
    last = list(trunk.graph.nodes)[-1].all_input_nodes[0]
    if last.op == "call_function" and last.target is join_maps:
        return tuple(node.name for node in last.all_input_nodes), last.args[1]
    return (last.name,), None


def _as_images(maps: Tensor, images: Tensor) -> Tensor:
    """Bring maps (N, C, h, w) to the memory format of the images."""
    if images.is_contiguous():
        return maps
    return maps.contiguous(memory_format=torch.channels_last)


def can_run(trunk: fx.GraphModule, images: Tensor) -> bool:
    """Tell whether a call may go to onnxruntime: no gradient, no transformation, float32, CPU.

    Weights that were made in inference mode do not count their changes, and stay with torch.

    Args:
        trunk: The trunk.
        images: (N, 3, H, W) that it is given.

    Example:
        >>> from sppnet.backbones import build_backbone
        >>> trunk = build_backbone("small5").trunk
        >>> with torch.no_grad():
        ...     can_run(trunk, torch.rand(1, 3, 64, 64)), can_run(trunk, torch.empty(0, 3, 64, 64))
        (True, False)
    """
    return (
        not trunk.training
        and not torch.is_grad_enabled()
        and not torch.is_autocast_enabled("cpu")
        and not torch.compiler.is_compiling()
        and not torch._C._are_functorch_transforms_active()
        and type(images) is Tensor
        and images.numel() > 0
        and all(map(_is_plain, (images, *trunk.parameters())))
        and not any(weights.is_inference() for weights in trunk.parameters())
    )


def _is_plain(tensor: Tensor) -> bool:
    return tensor.device.type == "cpu" and tensor.dtype == torch.float32


def choose_engine(trunk: fx.GraphModule, name: str, wish: str = AUTO) -> str:
    """Say what runs a frozen trunk on a CPU.

    Args:
        trunk: The trunk.
        name: What it is called, for errors.
        wish: ``auto`` takes onnxruntime where it is installed and knows all layers of the trunk.

    Returns:
        ``onnxruntime`` or ``torch``.

    Raises:
        ValueError: There is no such engine, or onnxruntime is wished for and cannot run the trunk.
        MissingPackageError: onnxruntime is wished for and not installed.

    Example:
        >>> from sppnet.backbones import build_backbone
        >>> choose_engine(build_backbone("alexnet").trunk, "alexnet")
        'onnxruntime'
    """
    if wish not in ENGINES:
        raise ValueError(f"engine must be one of {', '.join(ENGINES)}, got {wish!r}")
    if wish == TORCH:
        return TORCH
    try:
        _check_packages(name)
        write_trunk(trunk, split_output(trunk)[0])
    except (MissingPackageError, UnknownLayerError) as error:
        if wish == AUTO:
            return TORCH
        if isinstance(error, MissingPackageError):
            raise
        raise ValueError(f"engine of {name} must be torch, got {wish!r}: {error}") from error
    return ONNXRUNTIME


def _check_packages(name: str) -> None:
    missing = [each for each in PACKAGES if importlib.util.find_spec(each) is None]
    if missing:
        raise MissingPackageError(
            f"the trunk {name} runs in onnxruntime: pip install {' '.join(missing)}"
        )
