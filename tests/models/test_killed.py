"""Checkpoints and conversions that are killed: what was there stays, and nothing is left over."""

import pytest
import torch
from support.converters import PlainModel
from support.killed import killed_at_every_step

from ondevice.converters import convert
from ondevice.errors import FileFormatError
from ondevice.features import FeatureSpec, Field
from ondevice.models import ClickModel, FullEmbedding
from ondevice.models.checkpoint import load_checkpoint, save_checkpoint
from ondevice.publish import COMMITTED, HIDDEN
from ondevice.temporary import NAME
from ondevice.verify import verify

FEATURES = FeatureSpec((Field("user", "integer", "hash"),))


def model(seed):
    torch.manual_seed(seed)
    return ClickModel({"user": FullEmbedding(20, 4)}, (4,)).eval()


def weight(checkpoint):
    return checkpoint.model.embedding("user").weight


def test_a_checkpoint_is_old_or_new_wherever_its_writer_is_killed(tmp_path):
    target = tmp_path / "checkpoint"
    models = [model(0), model(1)]
    save_checkpoint(target, models[0], FEATURES)
    old = weight(load_checkpoint(target))
    committed = 0
    for _ in killed_at_every_step(tmp_path, lambda: save_checkpoint(target, models[1], FEATURES)):
        committed += (target / COMMITTED).exists()
        loaded = load_checkpoint(target)
        assert list(tmp_path.iterdir()) == [target]
        if not torch.equal(weight(loaded), old):
            assert torch.equal(weight(loaded), models[1].embedding("user").weight)
            save_checkpoint(target, models[0], FEATURES)
    assert committed > 0
    assert not [path for path in target.iterdir() if HIDDEN.fullmatch(path.name)]
    assert torch.equal(weight(load_checkpoint(target)), models[1].embedding("user").weight)


def test_a_killed_first_checkpoint_is_none(tmp_path):
    target = tmp_path / "checkpoint"
    step = next(killed_at_every_step(tmp_path, lambda: save_checkpoint(target, model(0), FEATURES)))
    assert step == 1
    assert not target.exists()
    killed = killed_at_every_step(tmp_path, lambda: save_checkpoint(target, model(0), FEATURES), 4)
    assert next(killed) == 4
    with pytest.raises(FileFormatError, match="is not a checkpoint"):
        load_checkpoint(target)
    save_checkpoint(target, model(0), FEATURES)
    assert {path.name for path in target.iterdir()} == {"config.json", "model.safetensors"}


def test_a_killed_conversion_leaves_nothing_to_the_next(tmp_path):
    module = PlainModel().eval()
    example = {"user": torch.arange(8), "item": torch.arange(8)}

    def write():
        convert(module, example, tmp_path, targets=("odm",))

    write()
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    (tmp_path / "mine.tmp").write_text("mine")
    killed = 0
    for first in (4, 6):  # in the midst of writing, and of verifying
        next(killed_at_every_step(tmp_path, write, first))
        assert sum(NAME.fullmatch(path.name) is not None for path in tmp_path.iterdir()) == 1
        assert {name: (tmp_path / name).read_bytes() for name in before} == before
        killed += 1
    write()
    assert killed == 2
    assert {path.name for path in tmp_path.iterdir()} == {*before, "mine.tmp"}
    assert verify(tmp_path / "model.odm").passed
