"""Tables 6, 7 and 8: linear SVMs on frozen features, on VOC 2007 and on Caltech-101.

So are the claims of the pyramid, of whole images and of many views, on any class folders.
"""

import time
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from sppnet.classification import (
    COSTS,
    RECIPES,
    Block,
    ClassData,
    Classifier,
    ExtractedFeatures,
    FeatureSet,
    FitResult,
    RecipeExtractor,
    SplitConfig,
    SppNet,
    View,
    ViewPlan,
    VocData,
    build_head,
    draw_sample,
    extract_features,
    fit_splits,
    fit_svm_classifier,
    holdout_split,
    open_class_data,
    open_voc_data,
    predict_files,
    view_plan,
)
from sppnet.classification.views import pool_views
from sppnet.errors import InputError, Problem, count_of
from sppnet.images import load_image, read_class_folders
from sppnet.paper.printed import (
    CLAIM_PYRAMID,
    CLAIM_VIEW_TIME,
    CLAIM_VIEWS,
    CLAIM_WHOLE,
    CROP,
    CUT,
    ON_MAPS,
    ONE_LEVEL,
    PYRAMID,
    TABLE_6,
    TABLE_7,
    TABLE_8,
    WHOLE,
    Printed,
    PrintedClaim,
)
from sppnet.paper.resources import (
    CALTECH,
    NEEDS_HIDDEN,
    VOC07,
    FrozenNetwork,
    ModelSpec,
    Resources,
    describe_machine,
    find_network,
)
from sppnet.paper.tables import (
    Findings,
    Measured,
    NotRun,
    compare,
    join_reasons,
    leave_out,
)
from sppnet.pooling import SpatialPyramidPool
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
# What the claims compare: one extraction has all of it, the cache the rest.
CLAIM_BLOCKS = {
    ONE_LEVEL: Block(pool="6x6"),
    PYRAMID: Block(),
    CROP: Block(view="crop"),
    WHOLE: Block(),
}
CLAIM_IMAGES, VIEW_IMAGES = 800, 60  # most of them, if --limit does not say
FEWEST_OF_CLASS = 2  # on average: one to learn from and one to score
VIEW_SIDE = 128  # instead of 256: a quarter of the time
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
    smallest = min(read_class_folders(root).images_per_class().values())
    return open_class_data(root, _protocol(smallest, resources))


def _protocol(smallest: int, resources: Resources) -> SplitConfig:
    """The Caltech-101 protocol; a small smallest class lowers the images to learn from."""
    train = TRAIN_PER_CLASS if smallest > TRAIN_PER_CLASS else max(1, 2 * smallest // 3)
    train = resources.train_per_class or train
    return SplitConfig(train, TEST_PER_CLASS, resources.splits, resources.seed)


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
        parts.append(f"{root.name if root else ''}: {count_of(len(data.names), 'class')}")
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
    rows: Collection[str] | None = None,
) -> Iterator[tuple[str, FitResult]]:
    """Fit SVMs on each of several layers.

    Args:
        blocks: The block of each row.
        features: From :func:`extract_blocks`, the blocks side by side.
        network: The frozen network.
        data: Images, task and splits.
        seed: Decides what is held out to choose C.
        track: Shows the progress.
        rows: Those that are fitted; all of them if None.

    Yields:
        The row, and its figures.
    """
    task, splits = data.task(features.kept), data.splits(features.kept)
    begin = 0
    for row, block in blocks.items():
        encoder = network.encoder((block,))
        end = begin + encoder.num_features
        if rows is None or row in rows:
            part = replace(features, rows=features.rows[:, begin:end].contiguous())
            extracted = ExtractedFeatures(part, RecipeExtractor(encoder))
            yield row, fit_splits([extracted], task, splits, costs=COSTS, seed=seed, track=track)
        begin = end


def measure_pyramid(resources: Resources, track: Track) -> Findings:
    """Measure the pyramid against its finest level alone, both on whole images."""
    yield from _compare_blocks(CLAIM_PYRAMID, resources, track)


def measure_whole_image(resources: Resources, track: Track) -> Findings:
    """Measure whole images against their central crops, both with the pyramid."""
    yield from _compare_blocks(CLAIM_WHOLE, resources, track)


def _compare_blocks(claim: PrintedClaim, resources: Resources, track: Track) -> Findings:
    """Fit SVMs on the two blocks of a claim, on the same splits."""
    data, network = _claim_parts(resources)
    if isinstance(data, str) or isinstance(network, str):
        yield from leave_out(claim, join_reasons(data, network))
        return
    yield from data.problems
    began = time.perf_counter()
    cache = FeatureCache(resources.out / "cache")
    features = extract_blocks(CLAIM_BLOCKS, network, data, cache, track)
    yield from features.problems
    fits = dict(
        fit_blocks(CLAIM_BLOCKS, features, network, data, resources.seed, track, claim.ways)
    )
    old, new = (
        [100 * split["mean_class_accuracy"] for split in fits[way].per_split] for way in claim.ways
    )
    yield from compare(
        claim,
        old,
        new,
        differs="; ".join([_claim_differs(network, data), "C chosen on validation images"]),
        images=len(features.kept),
        seconds=time.perf_counter() - began,
        network=network.name,
    )


def _claim_parts(resources: Resources) -> tuple[ClassData | str, FrozenNetwork | str]:
    """Class folders and a frozen network, or what is missing."""
    root, most = resources.find_classes(), resources.most(CLAIM_IMAGES)
    network = find_network(ModelSpec("ZF-5", "multi"), resources.with_trunk())
    if isinstance(root, str):
        return root, network
    every = read_class_folders(root)
    most = max(most, FEWEST_OF_CLASS * len(every.names))
    share = most / len(every)  # of every class, so that none is too small
    chosen = torch.arange(len(every))
    if share < 1:
        chosen = holdout_split(every.labels, share, resources.seed).test
    labels = every.labels[chosen]
    smallest = int(torch.bincount(labels)[labels.unique()].min())
    paths = tuple(every.paths[index] for index in chosen.tolist())
    protocol = _protocol(smallest, resources)
    return ClassData(paths, labels, every.names, every.problems, None, protocol), network


def _claim_differs(network: FrozenNetwork, data: ClassData) -> str:
    """Say what is not as in the paper."""
    seen = f"{count_of(len(data.paths), 'image')} of {count_of(len(data.names), 'class')}"
    return "; ".join(filter(None, [network.differs, seen, data.describe_split()]))


def measure_views(resources: Resources, track: Track) -> Findings:
    """Measure the errors of 96 views from the maps and of the same 96 cut out."""
    data, network = _claim_parts(resources)
    if isinstance(data, str) or isinstance(network, str):
        yield from leave_out(CLAIM_VIEWS, join_reasons(data, network))
        return
    began, view = time.perf_counter(), View("full", VIEW_SIDE)
    cache, pool = FeatureCache(resources.out / "cache"), SpatialPyramidPool()
    features = extract_features(data.paths, network.backbone, pool, view, cache=cache, track=track)
    yield from features.problems
    labels, splits = data.labels[features.kept], data.splits(features.kept)
    about = (features, labels, data.names, network.backbone, pool, view)
    fits = (fit_svm_classifier(*about, [split], track=track).classifier for split in splits)
    together = _several_heads([each for each in fits if isinstance(each, Classifier)])
    chosen = draw_sample(len(labels), resources.most(VIEW_IMAGES), resources.seed)
    paths = [data.paths[index] for index in features.kept[chosen].tolist()]
    errors = {}
    for way, plan in view_ways().items():
        scores = predict_files(together, paths, plan, cache=cache, track=track).rows
        of_split = scores.reshape(len(paths), len(splits), -1).argmax(2).T  # (S, N)
        errors[way] = [
            _error_of(best, labels[chosen], torch.isin(chosen, split.test))
            for best, split in zip(of_split, splits, strict=True)
        ]
    scored = f"{len(paths)} of them scored"
    differs = [_claim_differs(network, data), scored, _view_sizes(), "SVMs, C 1"]
    yield from compare(
        CLAIM_VIEWS,
        errors[CUT],
        errors[ON_MAPS],
        differs="; ".join(differs),
        images=len(paths),
        seconds=time.perf_counter() - began,
        network=network.name,
    )


def view_ways() -> dict[str, ViewPlan]:
    """The same 96 views, cut out of the image and pooled from its maps.

    Example:
        >>> [plan.cut for plan in view_ways().values()]
        [True, False]
    """
    plan = view_plan("96", VIEW_SIDE)
    return {CUT: replace(plan, cut=True), ON_MAPS: plan}


def _view_sizes() -> str:
    """Say at which scales the views are taken."""
    return f"short sides {','.join(map(str, view_plan('96', VIEW_SIDE).short_sides))}"


def _several_heads(classifiers: list[Classifier]) -> Classifier:
    """Put the SVMs of several splits on one trunk, so that an image is convolved once for all."""
    first = classifiers[0]
    layers = [list(each.network.head.children())[-1] for each in classifiers]
    weight, bias = (torch.cat([getattr(each, n) for each in layers]) for n in ("weight", "bias"))
    head = build_head(weight.shape[1], len(weight), feature_norm=1.0)
    head[-1].load_state_dict({"weight": weight, "bias": bias})
    names = [f"{name}, split {n}" for n, each in enumerate(classifiers) for name in each.names]
    network = SppNet(first.network.backbone, first.network.pool, head.to(first.device))
    return Classifier(network, first.view, names, score_kind="margin")


def _error_of(best: Tensor, labels: Tensor, is_test: Tensor) -> float:
    """Top-1 error in percent over the images that a split scores; each (N,)."""
    return 100 * float((best != labels)[is_test].float().mean())


def measure_view_time(resources: Resources, track: Track) -> Findings:
    """Time 96 views from the maps and the same 96 cut out; reading and the head are left out."""
    data, network = _claim_parts(resources)
    if isinstance(data, str) or isinstance(network, str):
        yield from leave_out(CLAIM_VIEW_TIME, join_reasons(data, network))
        return
    began, seconds = time.perf_counter(), {way: list[float]() for way in view_ways()}
    whole = SppNet(network.backbone, SpatialPyramidPool(), torch.nn.Identity()).eval()
    chosen = draw_sample(len(data.paths), resources.budget.timed, resources.seed)
    paths = [data.paths[index] for index in chosen.tolist()]
    for place, path in enumerate(track([paths[0], *paths], "timing views")):
        try:
            image = load_image(path)
        except InputError as error:
            yield Problem.of(error, "image left out")
            continue
        for way, plan in view_ways().items():
            start = time.perf_counter()
            pool_views(whole, image, plan)
            if place:  # the first is to warm up
                seconds[way].append(time.perf_counter() - start)
    if not seconds[CUT]:
        yield from leave_out(CLAIM_VIEW_TIME, "no image could be read")
        return
    images = count_of(len(paths), "image")
    differs = [network.differs, describe_machine(resources.device), images]
    yield from compare(
        CLAIM_VIEW_TIME,
        seconds[CUT],
        seconds[ON_MAPS],
        differs="; ".join(filter(None, [*differs, _view_sizes()])),
        images=len(paths),
        seconds=time.perf_counter() - began,
        network=network.name,
    )
