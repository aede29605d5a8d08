"""Ray gives the rows that one process gives, once each, also where a machine dies in the middle.

The machines are ``ray.cluster_utils.Cluster``'s: a process group each on this one, with two cores
in name. ``-m slow`` runs them; the seconds and rows that they print are in docs/scale.md.
"""

import os
import shutil
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from pyarrow import parquet

from small_photos import PATTERNS
from sppnet import RidgeSums
from sppnet.app.main import main
from sppnet.bulk.cluster import PATIENCE, ParquetRows, Workers, look_at_all
from sppnet.bulk.rows import Describing, Detecting, Look, Naming, look_at

pytestmark = [
    pytest.mark.slow,
    pytest.mark.usefixtures("one_thread", "quiet_ray"),
    # of Ray and of what it brings
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]
STORE = 200_000_000
COPIES = 8  # of the twelve good photos and the three bad ones
SHARDS = 8  # of the sums
NUMBERS = 600  # of each vector that are summed: all 4,800 take 0.2 GB a shard


@pytest.fixture(scope="module")
def quiet_ray() -> Iterator[None]:
    """Tell nobody that Ray is used here, and let its workers find these tests' modules."""
    before = dict(os.environ)
    folders = [str(Path(__file__).parents[1]), str(Path(__file__).parents[2] / "src")]
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    os.environ.update(PATIENCE)
    os.environ["PYTHONPATH"] = os.pathsep.join([*folders, os.environ.get("PYTHONPATH", "")])
    yield
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture(scope="module")
def many(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The photos in several copies, under names of their own."""
    folder = tmp_path_factory.mktemp("many")
    for path in sorted(photos.glob("*/*")):
        for copy in range(COPIES):
            shutil.copy(path, folder / f"{copy}-{path.parent.name}-{path.name}")
    return folder


@pytest.fixture
def cluster(quiet_ray: None) -> Iterator[object]:
    """Two machines of two cores; the first is the head, where this process is."""
    import ray
    from ray.cluster_utils import Cluster

    machines = Cluster(
        initialize_head=True,
        head_node_args={"num_cpus": 2, "object_store_memory": STORE, "include_dashboard": False},
    )
    machines.add_node(num_cpus=2, object_store_memory=STORE)
    machines.wait_for_nodes()
    yield machines
    ray.shutdown()
    machines.shutdown()


def _rows(out: Path) -> dict[str, dict]:
    """All rows by their paths; no path may be there twice."""
    files = sorted((out / "rows").glob("part-*.parquet"))
    rows = [row for file in files for row in parquet.read_table(file).to_pylist()]
    assert len({row["path"] for row in rows}) == len(rows)
    return {row["path"]: row for row in rows}


def _paths(folder: Path) -> list[str]:
    return sorted(str(path) for path in folder.iterdir())


def _here(work: object, folder: Path) -> dict[str, dict]:
    """The rows that this process alone gives."""
    return {row["path"]: row for row in look_at(work.open("cpu"), _paths(folder)).to_pylist()}


def test_without_a_cluster_ray_starts_on_this_machine(models, photos, tmp_path, capfd):
    begin = time.monotonic()
    words = ["--engine", "ray", "--concurrency", "2", "--batch", "4", "--out", str(tmp_path)]
    assert main(["classify", "predict", str(models.classifier), str(photos), *words]) == 3
    seconds = time.monotonic() - begin
    paths = sorted(map(str, photos.glob("*/*")))
    wanted = look_at(Naming(models.classifier).open("cpu"), paths)
    assert _rows(tmp_path) == {row["path"]: row for row in wanted.to_pylist()}
    print(f"\none machine, started here: {len(wanted)} rows in {seconds:.0f} s")


def test_two_machines_give_the_rows_of_one_process(models, many, cluster, tmp_path):
    wanted = _here(Detecting((models.detector,)), many)
    words = ["--engine", "ray", "--address", cluster.address, "--batch", "8"]
    begin = time.monotonic()
    source = [str(models.detector), str(many), *words, "--out", str(tmp_path)]
    assert main(["detect", "predict", *source]) == 3
    seconds = time.monotonic() - begin
    rows = _rows(tmp_path)
    assert rows == wanted
    failed = sum(row["error"] is not None for row in rows.values())
    assert failed == 3 * COPIES
    print(f"\ntwo machines: {len(rows)} rows, {failed} of errors, in {seconds:.0f} s")


def test_a_machine_that_dies_in_the_middle_costs_no_row_and_doubles_none(
    models, many, cluster, tmp_path
):
    wanted = _here(Detecting((models.detector,)), many)
    import ray

    ray.init(address=cluster.address, logging_level="error", log_to_driver=False)
    lost = [node for node in cluster.list_all_nodes() if node is not cluster.head_node]
    died_at: list[int] = []
    came: list[dict] = []
    begin = time.monotonic()
    work, paths = Detecting((models.detector,)), _paths(many)
    for table in look_at_all(work, work.open("cpu"), paths, Workers("ray", batch=4)):
        came += table.to_pylist()
        if not died_at and len(came) >= len(paths) // 4:
            cluster.remove_node(lost[0], allow_graceful=False)
            died_at.append(len(came))
    seconds = time.monotonic() - begin
    assert died_at
    assert died_at[0] < len(paths) // 2
    assert len(came) == len(paths)
    assert {row["path"]: row for row in came} == wanted
    print(f"\none of two machines died after {died_at[0]} of {len(came)} rows: {seconds:.0f} s")


def _sums(vectors: list[list[float]], labels: list[int]) -> tuple[str, RidgeSums]:
    """What one machine adds to a head, and which machine it is."""
    import ray

    rows = torch.nn.functional.normalize(torch.tensor(vectors))
    sums = RidgeSums(rows.shape[1], len(PATTERNS)).partial_fit(rows, torch.tensor(labels))
    return ray.get_runtime_context().get_node_id(), sums


def _labelled(rows: dict[str, dict]) -> tuple[list[list[float]], list[int]]:
    """Vectors of the good photos in the order of their paths, and their classes."""
    good = [rows[path] for path in sorted(rows) if rows[path]["error"] is None]
    labels = [PATTERNS.index(Path(row["path"]).name.split("-")[1]) for row in good]
    return [row["vector"][:NUMBERS] for row in good], labels


def test_features_and_sums_of_two_machines_give_the_head_of_one_pass(
    models, many, cluster, tmp_path
):
    wanted = _here(Describing(models.classifier), many)
    here, labels = _labelled(wanted)
    rows = torch.nn.functional.normalize(torch.tensor(here))
    sums = RidgeSums(rows.shape[1], len(PATTERNS)).partial_fit(rows, torch.tensor(labels))
    begin = time.monotonic()
    words = ["--engine", "ray", "--address", cluster.address, "--batch", "8"]
    assert main(["embed", str(models.classifier), str(many), *words, "--out", str(tmp_path)]) == 3
    found = _rows(tmp_path)
    assert found == wanted
    vectors, labels = _labelled(found)
    import ray

    ray.init(address=cluster.address, logging_level="error", log_to_driver=False)
    there = ray.remote(_sums).options(scheduling_strategy="SPREAD")
    step = -(-len(vectors) // SHARDS)
    jobs = [
        there.remote(vectors[first : first + step], labels[first : first + step])
        for first in range(0, len(vectors), step)
    ]
    done = ray.get(jobs)  # in their order
    whole = RidgeSums(rows.shape[1], len(PATTERNS))
    for _, part in done:
        whole.merge(part)
    seconds = time.monotonic() - begin
    assert len(done) == SHARDS
    assert len({machine for machine, _ in done}) == 2
    one, two = sums.solve(10.0), whole.solve(10.0)
    assert torch.equal(one.weights_, two.weights_)
    assert torch.equal(one.bias_, two.bias_)
    assert len(set(labels)) == len(PATTERNS)
    print(f"\nfeatures and sums of {len(vectors)} photos on two machines: {seconds:.0f} s")


def test_a_command_that_was_killed_goes_on_with_what_is_missing(models, many, tmp_path, capfd):
    wanted = _here(Naming(models.classifier), many)
    words = ["--engine", "ray", "--concurrency", "1", "--batch", "4", "--out", str(tmp_path)]
    source = ["classify", "predict", str(models.classifier)]
    assert main([*source, *_paths(many)[:50], *words]) == 3
    assert main([*source, str(many), *words]) == 3
    assert "have rows already" in capfd.readouterr().err
    assert _rows(tmp_path) == wanted


class _Deadly:
    """A work that ends its process at photos of one name, and waits a little at the others."""

    files: tuple[Path, ...] = ()

    def moved(self, _: list[Path]) -> "_Deadly":
        return self

    def open(self, _: str) -> Look:
        def row(path: str, pixels: torch.Tensor) -> dict:
            if "0-disc-001" in path:
                os.kill(os.getpid(), signal.SIGKILL)
            return {"sum": float(pixels.sum())}

        return Look({"kind": "deadly"}, (), {"sum": "float32"}, row)


def test_a_photo_that_kills_each_process_is_a_row_and_takes_no_other_with_it(many, cluster):
    work, paths = _Deadly(), _paths(many)[:40]
    workers = Workers("ray", address=cluster.address, concurrency=2, batch=8)
    begin = time.monotonic()
    rows = [
        row
        for table in look_at_all(work, work.open("cpu"), paths, workers)
        for row in table.to_pylist()
    ]
    assert sorted(row["path"] for row in rows) == paths
    crashed = [row for row in rows if row["code"] == "E_CRASHED"]
    assert [Path(row["path"]).name for row in crashed] == ["0-disc-001.png"]
    assert all(row["sum"] is not None for row in rows if row["error"] is None)
    print(f"\na deadly photo among {len(rows)}: {time.monotonic() - begin:.0f} s")


class _Unloadable(_Deadly):
    """A work whose model loads on this machine only."""

    def open(self, _: str) -> Look:
        raise RuntimeError("the model does not load here")


def test_a_model_that_loads_nowhere_ends_the_command(many):
    workers = Workers("ray", concurrency=1, batch=4)
    with pytest.raises(Exception, match="does not load here"):
        list(look_at_all(_Unloadable(), _Deadly().open("cpu"), _paths(many)[:8], workers))


def test_an_address_without_a_cluster_is_a_usage_error(models, photos, tmp_path, capfd):
    words = ["--engine", "ray", "--address", "127.0.0.1:1", "--out", str(tmp_path)]
    assert main(["classify", "predict", str(models.classifier), str(photos), *words]) == 2
    assert "no cluster of Ray answers at 127.0.0.1:1" in capfd.readouterr().err


def test_stopping_keeps_what_is_finished(models, many, cluster, tmp_path):
    import ray

    ray.init(address=cluster.address, logging_level="error", log_to_driver=False)
    work = Naming(models.classifier)
    look = work.open("cpu")
    paths = _paths(many)
    with ParquetRows(tmp_path, look) as store:
        tables = look_at_all(work, look, paths, Workers("ray", batch=4))
        store.add(next(tables))
        tables.close()  # as an interrupt does
    before = _rows(tmp_path)
    assert 0 < len(before) < len(paths)
    with ParquetRows(tmp_path, look) as store:
        finished = store.finished()
        missing = [path for path in paths if path not in finished]
        for table in look_at_all(work, look, missing, Workers("ray", batch=16)):
            store.add(table)
    assert _rows(tmp_path) == _here(work, many)
