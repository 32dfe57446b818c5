"""Building the core: the example program, the freestanding library, and doing without it."""

import platform
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from support.engine import (
    COMPILER,
    ENGINE,
    FEATURES,
    NATIVE,
    WARNED,
    loaded_bytes,
    needs_compiler,
    needs_sanitizers,
)
from support.runtime import write_small_model
from support.tools import missing, needs

import ondevice
from ondevice.cells import Cells
from ondevice.engines.native import is_compiled


def built_as_it_says(name, folder):
    """The example `name`, built by the command that its first lines give."""
    copy = shutil.copytree(NATIVE, folder / f"{name} copy")
    text = (copy / "examples" / f"{name}.c").read_text()
    command = re.search(rf"^ \*   (cc .*?-o {name})$", text, re.DOTALL | re.MULTILINE)
    words = command[1].replace(" *  ", "").replace("cc ", f"{COMPILER} ", 1)
    subprocess.run(["sh", "-c", words], cwd=copy, check=True)
    return copy / name


@needs_sanitizers
def test_example_program(sanitized, tmp_path):
    """Built by the command that its first lines give, and under the sanitizers."""
    model = tmp_path / "m.odm"
    write_small_model(model)
    scored(built_as_it_says("predict", tmp_path), model)
    sanitized(NATIVE / "examples" / "predict.c", tmp_path / "predict")
    scored(tmp_path / "predict", model)


@needs_sanitizers
def test_example_program_of_raw_values(sanitized, tmp_path):
    """Built both ways, too: it scores what Python scores, and names what is wrong."""
    model = tmp_path / "m.odm"
    write_small_model(model, cells=Cells(("", "NA")))
    sanitized(NATIVE / "examples" / "score_raw.c", tmp_path / "score_raw", *FEATURES)
    for program in (built_as_it_says("score_raw", tmp_path), tmp_path / "score_raw"):
        for words, raw in (
            (["user=anna", "colour=+7", "slot=003"], {"user": "anna", "colour": 7, "slot": 3}),
            (["slot=4", "user=NA"], {"user": None, "colour": None, "slot": 4}),
        ):
            done = subprocess.run([program, model, *words], capture_output=True, text=True)
            loaded = ondevice.load(model, engine="numpy")
            expected = loaded.predict({name: [value] for name, value in raw.items()}, raw=True)[0]
            assert done.stderr == ""
            assert float(done.stdout.rsplit(" ", 1)[1]) == pytest.approx(float(expected), abs=2e-6)
        for words, message in (
            (["slot=x"], "feature 'slot': expected a signed 64-bit integer, got text 'x'"),
            (["slots=1"], "slots=1: expected NAME=VALUE of a feature"),
            (["slot=5"], "slot"),  # beyond the table
        ):
            done = subprocess.run([program, model, *words], capture_output=True, text=True)
            assert done.returncode == 1 and done.stdout == ""
            assert message in done.stderr and done.stderr.count("\n") == 1


def scored(program, model):
    """The program prints what the numpy engine computes, and refuses what is no model."""
    done = subprocess.run([program, model], capture_output=True, text=True, check=True)
    ids = {name: np.array([i + 1]) for i, name in enumerate(("user", "colour", "slot"))}
    expected = ondevice.load(model, engine="numpy").predict(ids)[0]
    assert float(done.stdout.rsplit(" ", 1)[1]) == pytest.approx(float(expected), abs=2e-6)
    damaged = model.with_name("damaged.odm")
    damaged.write_bytes(b"not a model")
    done = subprocess.run([program, damaged], capture_output=True, text=True)
    assert done.returncode == 1 and done.stderr.count("\n") == 1


@needs_sanitizers
def test_a_model_may_lie_at_any_multiple_of_4_bytes(sanitized, tmp_path):
    """As an asset does inside an Android package; the sanitizer sees loads at wrong places."""
    model, program = tmp_path / "m.odm", tmp_path / "open"
    write_small_model(model)
    sanitized(Path(__file__).with_name("open_anywhere.c"), program)
    done = subprocess.run([program, model, *["0", "4", "8", "20", "60", "2"]], capture_output=True,
                          text=True, check=True)  # fmt: skip
    *scores, refused = done.stdout.splitlines()
    ids = {name: np.array([i + 1]) for i, name in enumerate(("user", "colour", "slot"))}
    expected = float(ondevice.load(model, engine="numpy").predict(ids)[0])
    assert float(scores[0]) == pytest.approx(expected, abs=2e-6)
    assert scores == [scores[0]] * 5
    assert "aligned" in refused


@needs_sanitizers
def test_features_of_processors_that_hide_their_vector(sanitized, tmp_path):
    """Android keeps /proc/self/auxv from released apps, /proc/cpuinfo not."""
    program = tmp_path / "lists"
    sanitized(Path(__file__).with_name("cpu_lists.c"), program)
    for text, listed in (
        ("processor\t: 0\nFeatures\t: fp asimd asimddp i8mm\nCPU part\t: 0xd46\n", "1110"),
        ("Features\t: fp asimd asimddpx xi8mm\n\nFeatures\t: i8mm\n", "1000"),
        ("model name\t: x\nFeatures\t: half neon vfpv4 i8mm", "0011"),
        ("flags\t\t: asimd i8mm\nNo Features\t: neon\n", "0000"),
        ("Features", "0000"),
        ("", "0000"),
    ):
        done = subprocess.run([program, "asimd", "asimddp", "i8mm", "neon"], input=text,
                              capture_output=True, text=True, check=True)  # fmt: skip
        assert done.stdout == listed, text


@needs_compiler
@needs(missing("readelf"))
@pytest.mark.parametrize("more", [[], FEATURES], ids=["engine", "with features"])
def test_freestanding_library_needs_nothing(tmp_path, more):
    library = tmp_path / "libondevice.so"
    subprocess.run(
        [COMPILER, *WARNED, "-DONDEVICE_FREESTANDING", "-ffreestanding", "-fPIC", "-shared",
         "-nostdlib", "-fno-stack-protector", "-Wl,--no-undefined", "-Wl,-z,defs", *ENGINE, *more,
         "-o", library, "-lgcc"], check=True,
    )  # fmt: skip
    needed = subprocess.run(["readelf", "-d", library], capture_output=True, text=True, check=True)
    assert "NEEDED" not in needed.stdout


@pytest.mark.skipif(platform.machine() != "x86_64", reason="the limit is that of x86-64")
@pytest.mark.skipif(not is_compiled(), reason="the native engine is not compiled")
def test_the_extension_is_small():
    """The limit of docs/native.md; tests/arm has that of the other architectures."""
    from ondevice import _native

    assert loaded_bytes(_native.__file__) <= 250_000


def test_without_the_extension_numpy_runs_and_says_so(tmp_path):
    write_small_model(tmp_path / "m.odm")
    code = (
        "import sys, warnings; sys.modules['ondevice._native'] = None\n"
        "import numpy as np, ondevice\n"
        "with warnings.catch_warnings(record=True) as seen:\n"
        "    warnings.simplefilter('always')\n"
        "    for _ in range(3):\n"
        "        model = ondevice.load(sys.argv[1])\n"
        "    model = ondevice.load(sys.argv[1])\n"
        "assert len(seen) == 1 and 'not compiled' in str(seen[0].message), seen\n"
        "assert model.engine == 'numpy'\n"
        "ids = {n: np.array([1, 2]) for n in ('user', 'colour', 'slot')}\n"
        "assert model.predict(ids).shape == (2,)\n"
        "try: ondevice.load(sys.argv[1], engine='native')\n"
        "except ondevice.OnDeviceError as error: assert 'not compiled' in str(error)\n"
        "else: raise SystemExit('no error')\n"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "m.odm")], check=True)
