"""Every byte of a small file in every other value: refused with a message, or the same outputs."""

import subprocess
from pathlib import Path

from support.engine import COMPILER, INCLUDES, POSIX
from support.runtime import write_small_model
from support.tools import cannot_link, needs

SANITIZERS = ("-fsanitize=undefined", "-fno-sanitize-recover")


@needs(cannot_link(COMPILER, *SANITIZERS))
def test_every_value_of_every_byte(tmp_path):
    model, program = tmp_path / "small.odm", tmp_path / "every_byte"
    write_small_model(model, vectors=False)
    subprocess.run(
        [COMPILER, "-std=c11", "-O2", "-ffp-contract=off", *SANITIZERS, *INCLUDES,
         str(Path(__file__).with_name("every_byte.c")), *POSIX, "-o", program], check=True,
    )  # fmt: skip
    done = subprocess.run([program, model], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    refused, same = map(int, done.stdout.split())
    assert refused + same == 255 * model.stat().st_size
    # a checksum sees every change but those of the zeros that align sections, about 500 bytes here
    assert refused > 0.9 * 255 * model.stat().st_size
