"""Which of timm's networks become trunks, and whether their maps are timm's own.

For every family (a module of timm) some networks are built with new weights; a transformer of many
blocks gets two. A network that is taken must give the map of timm's `forward_features`, without
class token and registers, for an image of a size that fits and for one that has to be padded. It
prints a table in Markdown: taken or refused, and why.

    python benchmarks/timm_networks.py                       # one network of every family
    python benchmarks/timm_networks.py --all eva deit        # every network of some families
"""

import argparse
import sys
from collections import defaultdict
from unittest import mock

import timm
import torch
from torch import Tensor, nn

from sppnet.backbones import Backbone, build_backbone

SMALL = ("test_", "zepto", "atto", "femto", "pico", "nano", "xx", "_t0", "tiny")
SMALL = (*SMALL, "extra_small", "_xs", "_s", "b0", "18", "26", "small", "50", "base")
PARAMETERS = 120_000_000
DEPTH = 2
ROUNDING = 1e-5
LONGEST = 160
SIZES = ((64, 96), (75, 50))


def family_of(name: str) -> str:
    """The module of timm that a network is in."""
    return timm.model_entrypoint(name).__module__.rpartition(".")[2]


def choose_small(names: list[str]) -> str:
    """Take the network whose name says that it is the smallest."""
    ranks = {
        name: next((n for n, w in enumerate(SMALL) if w in name), len(SMALL)) for name in names
    }
    return min(names, key=lambda name: (ranks[name], len(name)))


def build_shallow(build, name: str, **options) -> nn.Module:
    """Build a network with two blocks where its class has a plain number of blocks."""
    try:
        model = build(name, depth=DEPTH, **options)
    except (TypeError, ValueError, AssertionError):
        return build(name, **options)
    return model


def largest_difference(backbone: Backbone, model: nn.Module) -> float:
    """Compare the maps with timm's own, in shares of the largest value."""
    worst = 0.0
    for size in SIZES:
        images = torch.rand(1, 3, *size)
        padded = backbone.pad_to_min(backbone.normalise(images))
        expected = as_map(model, model.forward_features(padded), backbone(images))
        apart = (backbone(images) - expected).abs().max() / expected.abs().max()
        worst = max(worst, float(apart))
    return worst


def as_map(model: nn.Module, features: Tensor, like: Tensor) -> Tensor:
    """Lay out what timm gives: tokens (N, L, C), or a map with channels first or last."""
    if features.ndim == 3:
        tokens = features[:, model.num_prefix_tokens :]
        return tokens.transpose(1, 2).reshape(like.shape)
    return features if features.shape == like.shape else features.permute(0, 3, 1, 2)


@torch.no_grad()
def try_network(name: str) -> tuple[str, str]:
    """Say whether a network is taken, and the difference or the reason."""
    plain = timm.create_model

    def build(known, **options):
        return build_shallow(plain, known, **options)

    with mock.patch.object(timm, "create_model", build):
        try:
            with torch.device("meta"):
                size = sum(p.numel() for p in build(name).parameters())
            if size > PARAMETERS:
                return "left out", f"{size / 1e6:.0f} M weights"
            torch.manual_seed(0)
            backbone = build_backbone(f"timm:{name}")
        except ValueError as error:
            return "refused", str(error).replace("backbone must ", "").replace("|", "/")
        model = build(name, **backbone_options(name, backbone)).eval()
        if backbone.attends:
            model.patch_embed.dynamic_img_pad = True
        model.load_state_dict(backbone.trunk.state_dict(), strict=False)
    apart = largest_difference(backbone, model)
    state = "taken" if apart <= ROUNDING else "FAILED"
    return state, f"{backbone.stride} / {backbone.centre:g}, difference {apart:.1e}"


def backbone_options(name: str, backbone: Backbone) -> dict[str, bool]:
    """How timm has to be asked for the same network at every size."""
    if not timm.get_pretrained_cfg(name).fixed_input_size:
        return {}
    return {"strict_img_size": False} if backbone.attends else {"dynamic_img_size": True}


def main() -> int:
    """Print the table; 1 when a network that is taken is not timm's."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("families", nargs="*", help="modules of timm, or networks; all if none")
    parser.add_argument("--all", action="store_true", help="every network of a family")
    options = parser.parse_args()
    families = defaultdict(list)
    for name in timm.list_models():
        families[family_of(name)].append(name)
    print("| family | network | | stride / centre, difference; or why not |")
    print("| --- | --- | --- | --- |")
    wrong = 0
    for family in options.families or sorted(families):
        known = families.get(family, [family])
        chosen = known if options.all else [choose_small(known)]
        for name in chosen:
            try:
                state, text = try_network(name)
            except Exception as error:
                state, text = "FAILED", f"{type(error).__name__}: {error}"
            wrong += state == "FAILED"
            line = " ".join(text.split())[:LONGEST]
            print(f"| {family} | {name} | {state} | {line} |", flush=True)
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
