"""Vision transformers of timm: their rows of tokens, laid out as the map of patches that they are.

A transformer cuts the image into patches and goes on with a row of tokens: the class token and
registers first, then a token for each patch, row by row. Behind every block the graph gets a step
that takes the patches' tokens and lays them out as a map (N, C, h, w). A token stays on its patch;
attention weighs others and moves none.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, fx, nn

from sppnet.backbones.tracing.propagate import is_one_layer
from sppnet.backbones.tracing.receptive_field import NoReceptiveFieldError

EMBEDDING, BLOCKS, NORM = "patch_embed", "blocks", "norm"
RESAMPLING = "resample_abs_pos_embed"  # timm's function; it looks at sizes, so it is one step


def has_tokens(model: nn.Module) -> bool:
    """Tell whether a network is a vision transformer of timm that takes every size.

    Example:
        >>> has_tokens(nn.Sequential())
        False
    """
    parts = (EMBEDDING, BLOCKS, NORM, "num_prefix_tokens")
    return bool(getattr(model, "dynamic_img_size", False)) and all(
        hasattr(model, part) for part in parts
    )


class TokenTracer(fx.Tracer):
    """Follows `forward_features` of a vision transformer, each block as one layer.

    Args:
        model: A network of which :func:`has_tokens` is true.
    """

    def __init__(self, model: nn.Module) -> None:
        modules = [sys.modules[kind.__module__] for kind in type(model).__mro__]
        found = {id(step): step for step in (vars(m).get(RESAMPLING) for m in modules) if step}
        super().__init__(autowrap_functions=tuple(found.values()))
        self._autowrap_search += modules
        self.traced_func_name = "forward_features"

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        """Tell whether a module is one step: all but the row of blocks, and what cuts patches."""
        if module_qualified_name.split(".")[0] == EMBEDDING:
            return is_one_layer(m) or super().is_leaf_module(m, module_qualified_name)
        return module_qualified_name != BLOCKS


@contextmanager
def rotations_as_layer(model: nn.Module) -> Iterator[None]:
    """Let a tracer see the table of rotary positions, which depends on the grid, as one layer.

    Afterwards the layer, called with a grid (h, w), gives the table for it.
    """
    layer: Any = getattr(model, "rope", None)
    if layer is None:
        yield
        return
    layer.forward = layer.get_embed
    layer.get_embed = lambda shape: layer(shape=shape)
    try:
        yield
    finally:
        del layer.get_embed


def lay_out_tokens(tokens: Tensor, patches: Tensor, prefix: int) -> Tensor:
    """Lay the tokens of patches out as a map.

    Args:
        tokens: (N, prefix + h * w, C).
        patches: (N, h, w, D).
        prefix: Tokens before the first patch's.

    Returns:
        (N, C, h, w), a view.

    Example:
        >>> import torch
        >>> lay_out_tokens(torch.rand(2, 1 + 3 * 5, 8), torch.rand(2, 3, 5, 4), 1).shape
        torch.Size([2, 8, 3, 5])
    """
    return tokens[:, prefix:].unflatten(1, patches.shape[1:3]).permute(0, 3, 1, 2)


def as_tokens(patches: Tensor) -> Tensor:
    """Mark where patches become tokens, which lie nowhere until they are laid out again."""
    return patches


def is_layout(node: fx.Node) -> bool:
    """Tell whether a node lays tokens out; it is kept although the next block does not read it."""
    return node.target is lay_out_tokens


def lay_out_blocks(graph: fx.Graph, names: dict[fx.Node, str], prefix: int) -> dict[fx.Node, str]:
    """Give a graph of tokens its maps: one behind every block, and the normalised one at the end.

    Args:
        graph: Of `forward_features`, followed by a :class:`TokenTracer`; it is changed.
        names: Its nodes by their full names.
        prefix: Tokens before the first patch's.

    Returns:
        The names of the nodes up to the patches, and of the maps.

    Raises:
        NoReceptiveFieldError: The network does not end in its norm.
    """
    embedded = [node for node, name in names.items() if name.split(".")[0] == EMBEDDING]
    patches = embedded[-1]
    kept = {node: name for node, name in names.items() if node in embedded}
    with graph.inserting_after(patches):
        start = graph.call_function(as_tokens, (patches,))
    patches.replace_all_uses_with(start, delete_user_cb=lambda user: user is not start)
    for node, name in names.items():
        if node.op == "call_module" and (name == NORM or name.split(".")[0] == BLOCKS):
            with graph.inserting_after(node):
                kept[graph.call_function(lay_out_tokens, (node, patches, prefix))] = name
    output = next(node for node in reversed(graph.nodes) if node.op == "output")
    last = list(kept)[-1]
    if kept[last] != NORM or output.all_input_nodes != last.all_input_nodes[:1]:
        raise NoReceptiveFieldError("it does not end in the norm of its tokens")
    output.args = (last,)
    return kept
