"""Two ranks of torchrun train what one process trains, and end together."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from support.torch import make_log

from ondevice.errors import SpecError
from ondevice.models import ClickModel, FullEmbedding, NetworkConfig, load_checkpoint
from ondevice.models.training.distributed import Ranks

sys.path.insert(0, str(Path(__file__).parent))
from train_ranks import CASES, train_all

TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
# Not --widths amtl: it turns the vectors to their principal axes, which tiny differences move.
TRAIN = ["train", "dnn", "--max-rows", "6000", "--batch", "500", "--epochs", "2"]
TRAIN += ["--widths", "frequency", "--round", "q8"]
ENVIRONMENT = os.environ | {
    "PYTHONPATH": str(Path(__file__).parents[2]),
    "OMP_NUM_THREADS": "1",  # as torchrun sets it, without saying so
}


def start(*command):
    return subprocess.Popen(
        [*TORCHRUN, *map(str, command)],
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def together(*command):
    process = start(*command)
    output, errors = process.communicate(timeout=3000)
    assert process.returncode == 0, errors
    return output


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """What two ranks and what one process left."""
    two, one = (tmp_path_factory.mktemp(name) for name in ("two", "one"))
    together(Path(__file__).with_name("train_ranks.py"), two)
    threads = torch.get_num_threads()
    train_all(one, Ranks())
    torch.set_num_threads(threads)
    return two, one


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="no names of threads")
def test_no_thread_of_the_group_is_left(folders):
    """Else a rank may abort while Python ends: "terminate called without an active exception"."""
    for rank in (0, 1):
        names = (folders[0] / f"threads {rank}").read_text().split()
        assert names and not [name for name in names if "gloo" in name]


@pytest.mark.parametrize("case", CASES)
def test_two_ranks_end_with_the_weights_of_one_process(folders, case):
    two, one = folders
    first, second, single = (
        np.load(folder / f"{case} {rank}.npz") for folder, rank in ((two, 0), (two, 1), (one, 0))
    )
    assert first.files == second.files == single.files
    for name in single.files:
        np.testing.assert_array_equal(first[name], second[name], err_msg=name)
        np.testing.assert_allclose(first[name], single[name], rtol=0, atol=1e-4, err_msg=name)
    texts = [(two / f"{case} {rank}.json").read_text() for rank in (0, 1)]
    assert texts[0] == texts[1]  # all ranks know the metrics
    expected = json.loads((one / f"{case} 0.json").read_text())
    for phase, epochs in json.loads(texts[0]).items():
        for epoch, single_epoch in zip(epochs, expected.pop(phase), strict=True):
            assert epoch[:2] == pytest.approx(single_epoch[:2], abs=1e-4)
            assert epoch[2] == single_epoch[2]  # the mean width
    assert not expected


def test_ranks_with_different_logs_do_not_train(folders):
    (text,) = (path.read_text() for path in folders[0].glob("error *"))
    assert text == (
        "rank 1 and rank 0 differ in: rows of the training split, labels of the training split"
    )


def test_the_command_trains_and_writes_once(tmp_path):
    output = together("-m", "ondevice", *TRAIN, "--out", tmp_path / "two")
    assert output.count("saved in") == output.count("impressions") == 1
    single = subprocess.run(
        [sys.executable, "-m", "ondevice", *TRAIN, "--out", tmp_path / "one"],
        env=ENVIRONMENT,
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    scores = [line for line in single.splitlines() if "test AUC" in line]
    assert scores and scores[0] in output
    states = [load_checkpoint(tmp_path / name).model.state_dict() for name in ("one", "two")]
    # Products of rows make small gradients, and Adam scales them up with their rounding: a few
    # weights differ by several 1e-4, where sums of rows stay below one.
    for name, value in states[0].items():
        torch.testing.assert_close(states[1][name], value, rtol=0, atol=2e-3)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one", "two"]


def test_a_killed_rank_ends_all_and_leaves_nothing(tmp_path):
    out = tmp_path / "checkpoint"
    process = start(
        "-m", "ondevice", *TRAIN, "--epochs", "1000", "--patience", "1000", "--out", out
    )
    children = []
    deadline = time.monotonic() + 600
    while len(children) < 2 or not all(map(has_threads_of_gloo, children)):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.2)
        text = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text()
        children = [int(number) for number in text.split()]
    time.sleep(3)
    os.kill(children[1], signal.SIGKILL)
    output, errors = process.communicate(timeout=600)
    assert process.returncode != 0
    assert "saved" not in output and "Signal 9" in errors
    assert list(tmp_path.iterdir()) == []


def has_threads_of_gloo(process):
    for thread in Path(f"/proc/{process}/task").iterdir():
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # it ended meanwhile
            if "gloo" in (thread / "comm").read_text():
                return True
    return False


@pytest.mark.parametrize("world", [1, 2, 3, 5])
@pytest.mark.parametrize("rows", [1, 7, 12, 13])
def test_ranks_part_every_batch(world, rows):
    order = torch.randperm(rows)
    parts = [Ranks(rank, world).batches(order, 4) for rank in range(world)]
    starts = range(0, rows, 4)
    for number, start in enumerate(starts):
        batch = order[start : start + 4]
        for rank, (chosen, slices) in enumerate(parts):
            place, size = slices[number]
            assert size == len(batch)
            assert chosen[place].tolist() == batch[rank::world].tolist()
    assert all(len(slices) == len(starts) for _, slices in parts)


def test_what_several_ranks_cannot_train_is_refused():
    log = make_log({"item": [2, 3]}, [0, 1])
    big = ClickModel({"item": FullEmbedding(2_000_001, 1)}, (2,))
    with pytest.raises(SpecError, match=r"2,000,001 rows of 1 has dense gradients.* 8 MB"):
        Ranks(0, 2).check(big, log, None)
    Ranks(0, 1).check(big, log, None)
    normed = ClickModel({"item": FullEmbedding(5, 1)}, NetworkConfig(hidden=(2,), batch_norm=True))
    with pytest.raises(SpecError, match="batch_norm"):
        Ranks(0, 2).check(normed, log, None)
