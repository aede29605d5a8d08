"""Tables 6, 7 and 8: linear SVMs on frozen features, on VOC 2007 and on Caltech-101."""

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from sppnet.classification import (
    COSTS,
    RECIPES,
    Block,
    ClassData,
    ExtractedFeatures,
    FeatureSet,
    FitResult,
    RecipeExtractor,
    SplitConfig,
    VocData,
    fit_splits,
    open_class_data,
    open_voc_data,
)
from sppnet.images import read_class_folders
from sppnet.paper.printed import TABLE_6, TABLE_7, TABLE_8, Printed
from sppnet.paper.resources import (
    CALTECH,
    NEEDS_HIDDEN,
    VOC07,
    FrozenNetwork,
    ModelSpec,
    Resources,
    find_network,
)
from sppnet.paper.tables import Findings, Measured, NotRun, join_reasons
from sppnet.progress import Track
from sppnet.storage import FeatureCache

TransferData = ClassData | VocData

NEEDS_CONV4 = "a stand-in has no fourth of five convolution layers"
TRAIN_PER_CLASS, TEST_PER_CLASS, SPLITS = 30, 50, 10
FLATTENED = ("conv4", "conv5")  # whole maps: so wide that they are extracted one at a time
VIEWS = (
    ("ZF-5", "no-spp", "crop", 224),
    ("ZF-5", "multi", "crop", 224),
    ("ZF-5", "multi", "full", 224),
)
COLUMNS_6 = (*VIEWS, ("ZF-5", "multi", "full", 392), ("Overfeat-7", "multi", "full", 364))
COLUMNS_7 = (*VIEWS, ("Overfeat-7", "multi", "full", 224))


@dataclass(frozen=True)
class Column:
    """One column of tables 6 and 7: a network and what it sees of an image.

    Args:
        name: As printed.
        network: The paper's network.
        kind: How it was trained.
        view: ``"crop"`` or ``"full"``.
        short_side: Short side of the image in pixels.
    """

    name: str
    network: str
    kind: str
    view: str
    short_side: int

    @property
    def spec(self) -> ModelSpec:
        """The trained network."""
        return ModelSpec(self.network, self.kind)


def measure_table_6(resources: Resources, track: Track) -> Findings:
    """Measure mean average precision on VOC 2007, or on a VOC folder in its place."""
    columns = [Column(n, *v) for n, v in zip(TABLE_6.columns, COLUMNS_6, strict=True)]
    yield from _measure(TABLE_6, columns, VOC07, resources, track)


def measure_table_7(resources: Resources, track: Track) -> Findings:
    """Measure mean class accuracy on Caltech-101, or on class folders in its place."""
    columns = [Column(n, *v) for n, v in zip(TABLE_7.columns, COLUMNS_7, strict=True)]
    yield from _measure(TABLE_7, columns, CALTECH, resources, track)


def measure_table_8(resources: Resources, track: Track) -> Findings:
    """Measure the row of SPP-net: the best layer of the best network on either data set."""
    best = (
        (TABLE_8.columns[0], VOC07, TABLE_6.columns[-1], COLUMNS_6[-1], "fc7/9"),
        (TABLE_8.columns[1], CALTECH, TABLE_7.columns[-1], COLUMNS_7[-1], "SPP pool5/7"),
    )
    for column, place, name, values, row in best:
        source = Column(name, *values)
        data, network = open_data(place, resources), find_network(source.spec, resources)
        if isinstance(data, str) or isinstance(network, str):
            yield NotRun("SPP-net", column, join_reasons(data, network))
            continue
        block = row_blocks(source, network)[row]
        if isinstance(block, str) or network.is_stand_in:
            block = RECIPES["paper"].blocks[0]
        for cell in _fit_cells({"SPP-net": block}, network, data, place, resources, track):
            yield replace(cell, column=column) if isinstance(cell, Measured) else cell


def open_data(place: str, resources: Resources) -> TransferData | str:
    """Open the images of a protocol, or say what is missing.

    Classes of fewer than 31 images lower the number of training images; the result says so.
    """
    root = resources.find_data(place)
    if root is None:
        return resources.missing_data(place)
    if place == VOC07:
        return open_voc_data(root)
    return _open_classes(root, resources.splits, resources.seed)


def _open_classes(root: Path, splits: int, seed: int) -> TransferData:
    """Open class folders for the Caltech-101 protocol; small classes lower the training images."""
    smallest = min(read_class_folders(root).images_per_class().values())
    train = TRAIN_PER_CLASS if smallest > TRAIN_PER_CLASS else max(1, 2 * smallest // 3)
    return open_class_data(root, SplitConfig(train, TEST_PER_CLASS, splits, seed))


def _measure(
    printed: Printed, columns: list[Column], place: str, resources: Resources, track: Track
) -> Findings:
    """Measure the printed cells of some columns."""
    data = open_data(place, resources)
    for column in columns:
        rows = [row for row in printed.rows if printed.value(row, column.name) is not None]
        if not resources.wants(column.network):
            continue
        network = find_network(column.spec, resources)
        if isinstance(data, str) or isinstance(network, str):
            reason = join_reasons(data, network)
            yield from (NotRun(row, column.name, reason) for row in rows)
            continue
        blocks = {row: block for row, block in row_blocks(column, network).items() if row in rows}
        for row, block in blocks.items():
            if isinstance(block, str):
                yield NotRun(row, column.name, block)
        usable = {row: block for row, block in blocks.items() if isinstance(block, Block)}
        for cell in _fit_cells(usable, network, data, place, resources, track):
            yield replace(cell, column=column.name) if isinstance(cell, Measured) else cell


def _fit_cells(
    blocks: Mapping[str, Block],
    network: FrozenNetwork,
    data: TransferData,
    place: str,
    resources: Resources,
    track: Track,
) -> Findings:
    """Fit every block; the column is filled in by the caller."""
    yield from data.problems
    parts = [{row: blocks[row]} for row in blocks if row in FLATTENED]
    parts.append({row: block for row, block in blocks.items() if row not in FLATTENED})
    key = "mean_ap" if place == VOC07 else "mean_class_accuracy"
    differs = what_differs(network, data, place, resources)
    cache = FeatureCache(resources.out / "cache")
    for part in filter(None, parts):
        began = time.perf_counter()
        features = extract_blocks(part, network, data, cache, track)
        yield from features.problems
        for row, result in fit_blocks(part, features, network, data, resources.seed, track):
            seconds, began = time.perf_counter() - began, time.perf_counter()
            cell = _cell(row, result, key, differs, len(data.paths), seconds)
            yield replace(cell, network=network.name)


def _cell(
    row: str, result: FitResult, key: str, differs: str, images: int, seconds: float
) -> Measured:
    """One number in percent."""
    deviation = None if result.summary is None else 100 * result.summary["std"][key]
    value = 100 * float(result.figures[key])
    return Measured(row, "", value, differs, deviation, images, seconds)


def what_differs(
    network: FrozenNetwork, data: TransferData, place: str, resources: Resources
) -> str:
    """Say what is not as in the paper."""
    parts = [network.differs] if network.differs else []
    if resources.is_stand_in(place):
        root = resources.find_data(place)
        parts.append(f"{root.name if root else ''}: {len(data.names)} classes")
    if place == CALTECH:
        parts += [data.describe_split()] if resources.splits != SPLITS or parts else []
    parts.append("C chosen on validation images")
    return "; ".join(parts)


def row_blocks(column: Column, network: FrozenNetwork) -> dict[str, Block | str]:
    """Say which block of features each row of the tables asks for, or why there is none."""
    side = network.backbone.grid_hw((column.short_side, column.short_side))[0]
    seen = Block(view=column.view, short_side=column.short_side)
    whole_map = replace(seen, levels=(side,))  # as many bins as cells: the map itself
    conv4: Block | str = NEEDS_CONV4 if network.is_stand_in else replace(whole_map, layer="relu4")
    hidden = NEEDS_HIDDEN if network.head is None else ""
    return {
        "conv4": conv4,
        "conv5": whole_map,
        "pool5/7 (6x6)": replace(seen, pool="6x6"),
        "SPP pool5/7": seen,
        "fc6/8": hidden or replace(seen, layer="fc6"),
        "fc7/9": hidden or replace(seen, layer="fc7"),
    }


def extract_blocks(
    blocks: Mapping[str, Block],
    network: FrozenNetwork,
    data: TransferData,
    cache: FeatureCache,
    track: Track,
) -> FeatureSet:
    """Extract several layers of all images; each image goes through the trunk once for all."""
    encoder = network.encoder(tuple(blocks.values()))
    return encoder.extract(data.paths, cache=cache, track=track)


def fit_blocks(
    blocks: Mapping[str, Block],
    features: FeatureSet,
    network: FrozenNetwork,
    data: TransferData,
    seed: int,
    track: Track,
) -> Iterator[tuple[str, FitResult]]:
    """Fit SVMs on each of several layers.

    Args:
        blocks: The block of each row.
        features: From :func:`extract_blocks`, the blocks side by side.
        network: The frozen network.
        data: Images, task and splits.
        seed: Decides what is held out to choose C.
        track: Shows the progress.

    Yields:
        The row, and its figures.
    """
    task, splits = data.task(features.kept), data.splits(features.kept)
    begin = 0
    for row, block in blocks.items():
        encoder = network.encoder((block,))
        end = begin + encoder.num_features
        part = replace(features, rows=features.rows[:, begin:end].contiguous())
        extracted = ExtractedFeatures(part, RecipeExtractor(encoder))
        yield row, fit_splits([extracted], task, splits, costs=COSTS, seed=seed, track=track)
        begin = end
