"""A training that was killed goes on and ends with the very weights of one that was not."""

import json
import signal
import subprocess
import sys

import pytest
import torch
from support.killed import killed_at_every_step

from ondevice.cli import main
from ondevice.models.training.history import History
from ondevice.models.training.training_state import TrainingState

# trains, learns widths, refits and rounds: a phase of each kind
RECIPE = """
[network]
kind = "wide_deep"
hidden = [8]
dropout = 0.2
[tables]
dim = 4
small = 60
[widths]
method = "{widths}"
epochs = 2
[refit]
penalties = [1.0]
epochs = 2
[rounding]
codec = "q4"
[training]
epochs = 3
patience = 3
batch = 256
table_optimizer = "{optimizer}"
[data]
max_rows = 1500
"""
# Sends itself the signal argv[2] right after it has saved its epoch number argv[1].
KILLED = """
import os, sys
from ondevice.cli import main
from ondevice.models.training.training_state import PhaseState

save, left = PhaseState.save, [int(sys.argv[1])]

def save_and_signal(self, *arguments):
    save(self, *arguments)
    left[0] -= 1
    if not left[0]:
        os.kill(os.getpid(), int(sys.argv[2]))

PhaseState.save = save_and_signal
sys.exit(main(sys.argv[3:]))
"""


def recipe(folder, widths="amtl", optimizer="adam"):
    path = folder / "recipe.toml"
    path.write_text(RECIPE.format(widths=widths, optimizer=optimizer))
    return str(path)


def signalled(epoch, number, *arguments):
    """A `train` command that gets a signal after so many epochs of all phases."""
    command = [sys.executable, "-c", KILLED, str(epoch), str(int(number)), "train"]
    return subprocess.run(
        [*command, *map(str, arguments)], capture_output=True, text=True, timeout=3000
    )


def killed(epoch, *arguments):
    """A `train` command that is killed, as the system does it."""
    done = signalled(epoch, signal.SIGKILL, *arguments)
    assert done.returncode == -signal.SIGKILL, done.stderr


def weights(checkpoint):
    return [(checkpoint / f"{name}.safetensors").read_bytes() for name in ("model", "counts")]


@pytest.mark.parametrize(
    ("widths", "optimizer", "epochs"),
    [("amtl", "adam", (1, 6)), ("prune", "adam", (4,)), ("amtl", "sparse_adam", (2,))],
)
def test_a_killed_training_ends_with_the_same_bytes(widths, optimizer, epochs, tmp_path, capsys):
    settings = recipe(tmp_path, widths, optimizer)
    assert main(["train", settings, "--out", str(tmp_path / "whole")]) == 0
    for epoch in epochs:
        out = tmp_path / f"killed after {epoch}"
        state = tmp_path / f".killed after {epoch}.training"
        killed(epoch, settings, "--out", out)
        assert not out.exists() and state.is_dir()
        capsys.readouterr()
        assert main(["train", settings, "--out", str(out), "--resume"]) == 0
        assert f"going on from {state}" in capsys.readouterr().err
        assert weights(out) == weights(tmp_path / "whole")
        assert not state.exists()
        phases = [
            json.loads((folder / "config.json").read_text())["extra"]["epochs"]
            for folder in (out, tmp_path / "whole")
        ]
        assert phases[0] == phases[1]


def test_an_unfinished_training_is_neither_dropped_nor_mixed(tmp_path, capsys):
    settings, out = recipe(tmp_path), tmp_path / "checkpoint"
    command = ["train", settings, "--out", str(out)]
    killed(1, *command[1:])
    state = tmp_path / ".checkpoint.training"
    before = {path: path.read_bytes() for path in state.iterdir()}
    capsys.readouterr()
    assert main(command) == 1
    assert "add --resume to go on, or --force to start anew" in capsys.readouterr().err
    for options, reason in (
        (("--seed", "7"), "experiment.training.seed was 0 and is 7"),
        (("--max-rows", "1400"), "data was '"),
        (("--threads", "2"), "threads was 1 and is 2"),
        (("--full",), "compressed was True and is False"),
    ):
        assert main([*command, "--resume", *options]) == 1
        assert reason in capsys.readouterr().err
    assert {path: path.read_bytes() for path in state.iterdir()} == before
    damaged = next(path for path in before if path.suffix == ".safetensors")
    damaged.write_bytes(before[damaged][:-100])
    assert main([*command, "--resume"]) == 1
    assert "no state of this training" in capsys.readouterr().err
    assert main([*command, "--force"]) == 0
    assert not state.exists()


def test_what_is_left_of_a_removed_state_is_of_no_training(tmp_path):
    """A new training took the weights of a phase whose settings were gone."""
    state = tmp_path / ".checkpoint.training"
    names = ["settings.json", "1-training.safetensors", "2-refit.safetensors", "teachers-0/0-0.npy"]

    def fill(names):
        for name in names:
            (state / name).parent.mkdir(parents=True, exist_ok=True)
            (state / name).write_text("{}")

    fill(names)
    steps = 0
    for step in killed_at_every_step(state, lambda: TrainingState.remove(state)):
        steps = step
        assert TrainingState.exists(state) or not list(state.glob("*.safetensors"))
        fill(names)
    assert steps >= 3 and not state.exists()
    fill(names[1:])  # what an earlier release may have left
    begun = TrainingState(state, {"seed": 1})
    nothing = History([])
    assert begun.phase("training").restore(torch.nn.Linear(1, 1), [], nothing, None) is None
    begun.write_settings()
    assert [path.name for path in state.iterdir()] == ["settings.json"]


def test_resume_without_a_state_starts(tmp_path, capsys):
    command = ["train", recipe(tmp_path, "whole"), "--out", str(tmp_path / "checkpoint")]
    assert main([*command, "--resume"]) == 0
    assert "nothing to go on from" in capsys.readouterr().err
    assert not TrainingState.exists(tmp_path / ".checkpoint.training")


def test_a_continued_training_resumes_too(tmp_path, capsys):
    settings = recipe(tmp_path, "whole")
    first = str(tmp_path / "first")
    assert main(["train", settings, "--out", first]) == 0
    command = [settings, "--from", first, "--max-rows", "1000"]
    assert main(["train", *command, "--out", str(tmp_path / "whole")]) == 0
    killed(2, *command, "--out", tmp_path / "next")
    assert main(["train", *command, "--out", str(tmp_path / "next"), "--resume"]) == 0
    assert weights(tmp_path / "next") == weights(tmp_path / "whole")


def test_a_training_that_ctrl_c_ended_goes_on(tmp_path):
    settings, out = recipe(tmp_path, "whole"), tmp_path / "checkpoint"
    assert main(["train", settings, "--out", str(tmp_path / "whole")]) == 0
    done = signalled(1, signal.SIGINT, settings, "--out", out)
    assert done.returncode == 0 and "add --resume --force" in done.stderr
    assert weights(out) != weights(tmp_path / "whole")  # the best so far
    assert main(["train", settings, "--out", str(out), "--resume"]) == 1  # nothing is replaced
    assert main(["train", settings, "--out", str(out), "--resume", "--force"]) == 0
    assert weights(out) == weights(tmp_path / "whole")
