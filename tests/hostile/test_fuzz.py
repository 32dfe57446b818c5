"""Runs the libFuzzer harness on 100,000 files; in `make fuzz` for ONDEVICE_FUZZ_SECONDS."""

import re
import shutil
import subprocess
from pathlib import Path

from support.engine import FEATURES, INCLUDES, POSIX
from support.fuzzing import SECONDS, SEED
from support.native import write_described, write_hybrids, write_narrow, write_sections
from support.odm_parts import put_together, stored, take_apart
from support.runtime import write_small_model
from support.tools import FUZZER_PROGRAM, cannot_link, needs

HERE = Path(__file__).parent
GOLDEN = HERE.parent / "golden"
SANITIZERS = ("-fsanitize=fuzzer,address,undefined", "-fno-sanitize-recover=all")
FILES = 100_000


@needs(cannot_link("clang", *SANITIZERS, program=FUZZER_PROGRAM))
def test_fuzz_open_and_run(tmp_path, record_property):
    program, corpus = tmp_path / "fuzz_open", tmp_path / "corpus"
    corpus.mkdir()
    write_small_model(corpus / "small.odm", vectors=False)
    write_narrow(corpus / "narrow.odm")
    write_hybrids(corpus / "hybrids.odm")
    write_sections(corpus / "sections.odm")
    write_described(corpus / "described.odm")
    for path in list(corpus.iterdir()):
        put_together(corpus / f"stored_{path.name}", take_apart(path), stored)
    shutil.copy(GOLDEN / "version2.odm", corpus)
    for fixture in HERE.glob("*.odm"):
        shutil.copy(fixture, corpus)
    # vector kernels without instrumentation: clang takes minutes for their unrolled loops, and the
    # portable ones are the same source
    vectors = [path for path in POSIX if Path(path).name.startswith(("avx", "neon"))]
    sources = [path for path in POSIX if path not in vectors]
    flags = ["-std=c11", "-O1", "-ffp-contract=off", *INCLUDES, "-c"]
    subprocess.run(["clang", *flags, *vectors], check=True, cwd=tmp_path)
    sources += sorted(str(path) for path in tmp_path.glob("*.o"))
    build = subprocess.run(
        ["clang", "-std=c11", "-g", "-O1", *SANITIZERS, *INCLUDES, str(HERE / "fuzz_open.c"),
         *sources, *FEATURES, "-o", program],
        capture_output=True, text=True,
    )  # fmt: skip
    assert build.returncode == 0, build.stderr
    # by count and from one seed, unless time is given: what is tried must not depend on the machine
    long = f"-max_total_time={int(SECONDS)}" if SECONDS else f"-runs={FILES}"
    done = subprocess.run(
        [program, long, f"-seed={SEED + 1}", "-rss_limit_mb=3000", "-timeout=120", "-max_len=65536",
         "-print_final_stats=1", f"-artifact_prefix={tmp_path}/", corpus],
        capture_output=True, text=True, cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-4000:]
    tried = re.search(r"number_of_executed_units: *(\d+)", done.stderr)
    assert tried, done.stderr[-4000:]
    record_property("fuzzed", f"libFuzzer: {tried[1]} files from seed {SEED + 1}, {long[1:]}")
