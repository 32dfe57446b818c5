"""Every byte of a small file in every other value: refused with a message, or the same outputs."""

import shutil
import subprocess
from pathlib import Path

import pytest
from runtime_helpers import write_small_model

import ondevice

NATIVE = Path(ondevice.__file__).parent / "native"
COMPILER = shutil.which("gcc") or shutil.which("clang")


@pytest.mark.skipif(COMPILER is None, reason="not installed: a C compiler")
def test_every_value_of_every_byte(tmp_path):
    model, program = tmp_path / "small.odm", tmp_path / "every_byte"
    write_small_model(model, vectors=False)
    sources = sorted(str(path) for path in NATIVE.glob("*.c") if path.name != "module.c")
    subprocess.run(
        [COMPILER, "-std=c11", "-O2", "-ffp-contract=off", "-fsanitize=undefined",
         "-fno-sanitize-recover", f"-I{NATIVE}",
         str(Path(__file__).with_name("every_byte.c")), *sources, "-o", program], check=True,
    )  # fmt: skip
    done = subprocess.run([program, model], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    refused, same = map(int, done.stdout.split())
    assert refused + same == 255 * model.stat().st_size
    # a checksum sees every change but those of the zeros that align sections, about 500 bytes here
    assert refused > 0.9 * 255 * model.stat().st_size
