"""Callbacks of epochs, and the trackers they feed: TensorBoard and MLflow themselves."""

import importlib.util
import json

import pytest
import torch
from support.torch import planted_log

from ondevice.cli import main
from ondevice.models import ClickModel, FullEmbedding, TrainConfig, train
from ondevice.models.click_log import Splits
from ondevice.models.training.phases import FitConfig, fit
from ondevice.models.training.tracking import Tracker
from ondevice.models.training.widths import Widths

LOG, VALIDATION = planted_log(600, 1), planted_log(300, 2)


def fresh():
    torch.manual_seed(0)
    return ClickModel({"user": FullEmbedding(52, 4), "item": FullEmbedding(42, 4)}, (8,))


def test_every_epoch_is_heard_of_and_the_callback_changes_nothing():
    heard, settings = [], TrainConfig(epochs=3, batch=64)

    def hear(epoch):
        heard.append(epoch)
        torch.rand(7)

    models = fresh(), fresh()
    history = train(models[0], LOG, VALIDATION, settings, progress=False, on_epoch=hear)
    train(models[1], LOG, VALIDATION, settings, progress=False)
    assert heard == history.epochs
    for first, second in zip(models[0].parameters(), models[1].parameters(), strict=True):
        assert torch.equal(first, second)


def test_what_the_callback_raises_ends_training():
    def stop(epoch):
        raise ValueError(f"after {epoch.number}")

    with pytest.raises(ValueError, match="after 1"):
        train(fresh(), LOG, VALIDATION, TrainConfig(epochs=3), progress=False, on_epoch=stop)


def test_the_phases_of_a_fit_are_named():
    heard = []
    config = FitConfig(TrainConfig(epochs=2, batch=64), Widths(epochs=1))
    splits = Splits(LOG, VALIDATION, VALIDATION)
    fitted = fit(fresh(), splits, config, progress=False,
                 on_epoch=lambda phase, epoch: heard.append((phase, epoch)))  # fmt: skip
    expected = [(name, e) for name, history in fitted.phases.items() for e in history.epochs]
    assert heard == expected
    assert {phase for phase, _ in heard} == {"train", "widths"}


def run_train(folder, target):
    command = ["train", "--max-rows", "4000", "--epochs", "2", "--widths", "whole", "--out",
               str(folder / "checkpoint"), "--log-to", target, "--json",
               str(folder / "metrics.json")]  # fmt: skip
    code = main(command)
    return code, json.loads((folder / "metrics.json").read_text()) if code == 0 else None


def expected_of(data):
    """Validation AUCs of the epochs, and the test AUC, from the command's own JSON."""
    epochs = [item for phase in data["phases"] for item in phase["epochs"]]
    return [item["validation"]["auc"] for item in epochs], data["test"]["label"]["auc"]


def test_tensorboard_holds_every_epoch(tmp_path):
    pytest.importorskip("tensorboard", reason="not installed: tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    code, data = run_train(tmp_path, f"tensorboard:{tmp_path / 'runs'}")
    assert code == 0
    events = EventAccumulator(str(tmp_path / "runs"))
    events.Reload()
    aucs, test = expected_of(data)
    points = events.Scalars("validation/auc")
    assert [point.step for point in points] == list(range(1, len(aucs) + 1))
    assert [point.value for point in points] == pytest.approx(aucs, abs=1e-6)
    assert events.Scalars("test/auc")[0].value == pytest.approx(test, abs=1e-6)


def test_mlflow_holds_every_epoch(tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    mlflow = pytest.importorskip("mlflow", reason="not installed: mlflow")
    mlflow.set_tracking_uri((tmp_path / "mlruns").as_uri())
    code, data = run_train(tmp_path, "mlflow:clicks")
    assert code == 0
    client = mlflow.MlflowClient()
    experiment = client.get_experiment_by_name("clicks")
    (run,) = client.search_runs([experiment.experiment_id])
    aucs, test = expected_of(data)
    history = client.get_metric_history(run.info.run_id, "validation/auc")
    assert [point.value for point in history] == pytest.approx(aucs)
    assert run.data.metrics["test/auc"] == pytest.approx(test)
    assert run.data.params["training.epochs"] == "2"
    assert run.info.status == "FINISHED"


def test_a_server_that_cannot_be_reached_is_an_error_before_training(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    mlflow = pytest.importorskip("mlflow", reason="not installed: mlflow")
    mlflow.set_tracking_uri("http://127.0.0.1:9")
    assert run_train(tmp_path, "mlflow:clicks")[0] == 1
    assert "--log-to mlflow:clicks: no run can begin:" in capsys.readouterr().err
    assert not (tmp_path / "checkpoint").exists()


def test_a_training_outlives_its_tracker(capsys):
    """A send that fails, as of a server that has gone, ends the sending and not the training."""
    calls = []

    def send(values, epoch):
        calls.append(epoch)
        if epoch == 2:
            raise OSError("the server has gone")

    tracker = Tracker(send)
    settings = TrainConfig(epochs=3, batch=64, patience=3)
    history = train(
        fresh(), LOG, VALIDATION, settings, False, lambda epoch: tracker.on_epoch("train", epoch)
    )
    assert len(history.epochs) == 3
    assert calls == [1, 2]
    assert capsys.readouterr().err == "metrics are sent no more: the server has gone\n"


@pytest.mark.parametrize("package", ["tensorboard", "mlflow"])
def test_a_library_that_is_not_installed_is_named_before_training(package, tmp_path, capsys):
    if importlib.util.find_spec(package) is not None:
        pytest.skip(f"installed: {package}")
    assert run_train(tmp_path, package)[0] == 1
    error = capsys.readouterr().err
    assert f"--log-to {package} needs the package '{package}': pip install {package}" in error
    assert not (tmp_path / "checkpoint").exists()


def test_another_tracker_is_refused(tmp_path, capsys):
    assert run_train(tmp_path, "carrier-pigeon")[0] == 1
    assert "expected tensorboard or mlflow, got 'carrier-pigeon'" in capsys.readouterr().err
