"""A module named on the command line: whatever the user's code does is one line and status 1."""

import os
import subprocess
import sys

import numpy as np
import onnx
import pytest

from ondevice.cli import main
from ondevice.converters.source.user_module import load_module

CODE = """
import sys
from torch import nn

class Unprintable(Exception):
    def __str__(self):
        raise ValueError("no text")

def prints():
    print("hello")
    return nn.Embedding(4, 2)
def ends(): sys.exit(0)
def raises(): raise RuntimeError("first line\\nsecond line")
def unprintable(): raise Unprintable
def nothing(): return None
def takes(size): return nn.Embedding(size, 2)
"""
# Python runs it at each start, that of a command's child too: names in BLOCKED are not installed.
BLOCKING = """
import os
from importlib.machinery import PathFinder
blocked, find = os.environ["BLOCKED"].split(","), PathFinder.find_spec
PathFinder.find_spec = lambda name, *rest: (
    None if name.split(".")[0] in blocked else find(name, *rest)
)
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A working directory with a module that nothing else has on its path."""
    (tmp_path / "factories_of_a_user.py").write_text(CODE)
    np.savez(tmp_path / "rows.npz", user=np.arange(4), item=np.arange(4))
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "factories_of_a_user", raising=False)
    return tmp_path


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("sys:exit", "SystemExit: it ends the program instead of returning a module"),
        ("os:getcwd", "expected a torch.nn.Module, got str"),
        ("factories_of_a_user:ends", "SystemExit: it ends the program (0) instead of"),
        ("factories_of_a_user:raises", "RuntimeError: first line second line"),
        ("factories_of_a_user:unprintable", "Unprintable"),
        ("factories_of_a_user:nothing", "expected a torch.nn.Module, got NoneType"),
        ("factories_of_a_user:takes", "TypeError: takes() missing 1 required positional"),
        ("factories_of_a_user:lacking", "AttributeError: module"),
        ("no_such_package:make", "ModuleNotFoundError: No module named 'no_such_package'"),
        ("factories_of_a_user:", "expected package.module:attribute"),
        (":make", "expected package.module:attribute"),
        ("..net:make", "expected package.module:attribute"),
    ],
)
def test_what_is_no_module_is_one_line(folder, capsys, name, reason):
    assert main(["convert", name, "--example", "rows.npz", "--out", "models"]) == 1
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and lines[0].startswith(f"ondevice: {name}: {reason}")
    assert not (folder / "models").exists()


def test_a_factory_may_print_and_lies_in_the_working_directory(folder, capsys):
    before = list(sys.path)
    assert load_module("factories_of_a_user:prints").weight.shape == (4, 2)
    assert sys.path == before
    assert capsys.readouterr().out == "hello\n"


@pytest.mark.parametrize(
    ("blocked", "words", "expected"),
    [
        ("torch", ["demo"], "needs the package 'torch': pip install 'ondevice-ctr[train]'"),
        (
            "onnxruntime",
            ["convert", "mine.onnx", "--out", "models"],
            "not installed: 'onnxruntime' for .onnx: pip install 'ondevice-ctr[onnx]', "
            "or choose --targets odm tflite",
        ),
        (
            "ai_edge_litert,tflite_runtime",
            [
                *("convert", "support.converters:PlainModel", "--targets", "tflite"),
                *("--example", "rows.npz", "--out", "models"),
            ],
            "every converted file is verified in its runtime; not installed: 'ai-edge-litert' "
            "for .tflite: pip install 'ondevice-ctr[tflite]'",
        ),
    ],
)
def test_a_missing_package_is_one_line_with_the_pip_command(folder, blocked, words, expected):
    values = [onnx.helper.make_tensor_value_info(name, 1, [None, 2]) for name in "xy"]
    node = onnx.helper.make_node("Identity", ["x"], ["y"])
    graph = onnx.helper.make_graph([node], "identity", values[:1], values[1:])
    onnx.save(onnx.helper.make_model(graph), folder / "mine.onnx")
    (folder / "support").symlink_to(__file__.rsplit("/converters/", 1)[0] + "/support")
    (folder / "start").mkdir()
    (folder / "start" / "sitecustomize.py").write_text(BLOCKING)
    path = os.pathsep.join([str(folder / "start"), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, "-m", "ondevice", *words],
        env=os.environ | {"PYTHONPATH": path, "BLOCKED": blocked},
        capture_output=True,
        text=True,
        timeout=3000,
    )
    lines = done.stderr.strip().splitlines()
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert lines[-1].startswith("ondevice: ") and lines[-1].endswith(expected)
    assert not list(folder.glob("models/*"))


@pytest.mark.parametrize(("package", "extra"), [("converters", "convert"), ("models", "train")])
def test_importing_without_torch_says_what_to_install(package, extra):
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "from ondevice.errors import MissingDependencyError\n"
        f"try: import ondevice.{package}\n"
        "except MissingDependencyError as error: print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=600)
    expected = f"ondevice.{package} needs the package 'torch': pip install 'ondevice-ctr[{extra}]'"
    assert done.stdout.strip() == expected, done.stderr
