"""Workers of a real Ray cluster of two nodes: the results of one process, whatever dies."""

import importlib
import importlib.util
import os
import sys
from pathlib import Path

import pytest
from support.logs_in_parts import (
    COLUMNS_TOML,
    DESCRIPTION,
    ROWS,
    DiesAlways,
    DiesOnce,
    convert_model,
    write_parts,
)
from support.tools import needs

from ondevice.cli import main
from ondevice.errors import DataError
from ondevice.models.data.log_source import log_files
from ondevice.models.scale.counts import summed
from ondevice.models.scale.engines import RayEngine, WorkerError, run_locally
from ondevice.models.scale.tasks import CountTask

pytestmark = needs("" if importlib.util.find_spec("ray") else "not installed: ray")


@pytest.fixture(scope="module")
def cluster():
    """Two nodes of one CPU each, joined by this process."""
    import ray
    from ray.cluster_utils import Cluster

    tests = str(Path(__file__).parents[2])
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("PYTHONPATH", os.pathsep.join([tests, *filter(None, sys.path)]))
        nodes = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
        nodes.add_node(num_cpus=1)
        ray.init(address=nodes.address, log_to_driver=False)
        yield nodes
        ray.shutdown()
        nodes.shutdown()


@pytest.fixture(scope="module")
def paths(tmp_path_factory):
    return write_parts(tmp_path_factory.mktemp("log"), 7)


@pytest.fixture(scope="module")
def model(paths, tmp_path_factory):
    return convert_model(paths, tmp_path_factory.mktemp("model"))


def test_commands_give_what_one_process_gives(cluster, paths, model, tmp_path, capsys):
    columns = tmp_path / "columns.toml"
    columns.write_text(COLUMNS_TOML)
    log = [*map(str, paths), "--columns", str(columns)]
    written = []
    for engine in ([], ["--engine", "ray"]):
        out = tmp_path / f"out{len(engine)}"
        assert main(["stats", *log, "--json", f"{out}.json", *engine]) == 0
        assert main(["encode", *log, "--out", str(out), *engine]) == 0
        scores = ["score", str(model), *map(str, paths), "--keep", "request"]
        assert main([*scores, "--out", str(out / "scores"), *engine]) == 0
        files = sorted(path for path in out.rglob("*") if path.is_file())
        assert len(files) == 1 + 7
        contents = {path.relative_to(out): path.read_bytes() for path in files}
        written.append((Path(f"{out}.json").read_bytes(), contents))
    assert written[0] == written[1]
    assert capsys.readouterr().out.count("700 rows scored") == 2


def test_a_killed_worker_costs_no_result(cluster, paths, tmp_path):
    files = log_files(paths)
    expected = summed(result.table for result in run_locally(CountTask(DESCRIPTION), files))
    mark = tmp_path / "killed"
    results = RayEngine(workers=1)(DiesOnce(CountTask(DESCRIPTION), mark), files)
    tables = [result.table for result in results]
    assert mark.exists() and len(tables) == 7
    assert summed(tables).equals(expected)
    assert expected.column("count").to_pylist()[0] == ROWS


def test_a_task_without_a_living_worker_ends(cluster, paths):
    with pytest.raises(WorkerError, match="1 retries"):
        list(RayEngine(retries=1)(DiesAlways(), log_files(paths[:1])))


def test_errors_of_tasks_are_their_own(cluster, tmp_path):
    (path,) = write_parts(tmp_path, 1, {"click": [1], "user": ["a"]})
    with pytest.raises(DataError, match="no column 'item', 'price', 'tags'"):
        list(RayEngine()(CountTask(DESCRIPTION), log_files(path)))


def test_a_worker_that_lacks_the_code_is_named(cluster, paths, tmp_path, monkeypatch):
    (tmp_path / "only_here.py").write_text("def task(fragment): ...")
    monkeypatch.syspath_prepend(tmp_path)
    task = importlib.import_module("only_here").task
    with pytest.raises(
        WorkerError, match=r"No module named 'only_here'.* every node needs ondevice"
    ):
        list(RayEngine()(task, log_files(paths[:1])))
