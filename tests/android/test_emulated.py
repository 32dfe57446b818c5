"""The JNI libraries for ARM, loaded and called under emulation of the processors phones have."""

import shutil
import struct
import subprocess
from pathlib import Path

import build_apk
import jni_library
import numpy as np
import pytest
from java_fixtures import SPECS, features, no_jni_headers, raw_rows, write_features_model
from support.arm import PROCESSORS
from support.runtime import expected_probabilities, small_ids, write_small_model
from support.tools import cannot_link, missing, needs

import ondevice

HERE = Path(__file__).parent
COMPILERS = {"aarch64": "aarch64-linux-gnu-gcc", "arm": "arm-linux-gnueabihf-gcc"}
ROOTS = {"aarch64": "/usr/aarch64-linux-gnu", "arm": "/usr/arm-linux-gnueabihf"}
ABI_OF = {"aarch64": "arm64-v8a", "arm": "armeabi-v7a"}
TOOLS = [*jni_library.TOOLS, *COMPILERS.values(), *(f"qemu-{name}-static" for name in COMPILERS)]
pytestmark = needs(missing(*TOOLS), *map(cannot_link, COMPILERS.values()), no_jni_headers())
FLOAT_ABI, SOFT, HARD = 36, 0x200, 0x400  # e_flags of a 32-bit ELF header
OFFSET = 70004  # of the model in a larger file: a multiple of 4, as in a package


@pytest.fixture(scope="session")
def callers(tmp_path_factory):
    """By architecture: the program that calls a library, and the library."""
    folder = tmp_path_factory.mktemp("emulated")
    headers = [f"-I{path}" for path in jni_library.jni_headers()]
    found = {}
    for name, compiler in COMPILERS.items():
        program = folder / name
        subprocess.run(
            [compiler, "-std=c11", "-O1", "-Wall", "-Wextra", "-Werror", *headers,
             str(HERE / "fake_jvm.c"), "-ldl", "-o", program], check=True,
        )  # fmt: skip
        (abi,) = (abi for abi in jni_library.ABIS if abi.name == ABI_OF[name])
        library = jni_library.build(abi, build_apk.OUT / "jni" / abi.name)
        if name == "arm":
            library = _hard_float(library, folder / "libondevice.so")
        found[name] = program, library
    return found


def _hard_float(library, copy):
    """The same library for the C library of armhf, which looks at a flag of the header.

    Android passes floats in integer registers, armhf does not; no JNI function here takes or
    returns one.
    """
    data = bytearray(library.read_bytes())
    (flags,) = struct.unpack_from("<I", data, FLOAT_ABI)
    assert flags & (SOFT | HARD) == SOFT
    struct.pack_into("<I", data, FLOAT_ABI, flags ^ SOFT ^ HARD)
    copy.write_bytes(data)
    return copy


@pytest.fixture(scope="session")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    write_small_model(folder / "small.odm")
    write_features_model(folder / "features.odm")
    return folder


def score(callers, processor, model, ids, context=(), *, cut=0):
    """Scores of a model inside a larger file, and the kernels that were chosen."""
    architecture, _ = PROCESSORS[processor]
    program, library = callers[architecture]
    folder = model.parent
    holder, requests, scores = (folder / f"{processor}.{name}" for name in ("apk", "ids", "out"))
    data = model.read_bytes()
    holder.write_bytes(bytes(OFFSET) + data + b"after")
    rows = max(len(array) for array in ids.values())
    parts = [array[:1] if name in context else array for name, array in ids.items()]
    requests.write_bytes(b"".join(part.astype("<i8").tobytes() for part in parts))
    flags = "".join("1" if name in context else "0" for name in ids) if context else "-"
    command = [f"qemu-{architecture}-static", "-cpu", processor, "-L", ROOTS[architecture], program,
               library, holder, OFFSET, len(data) - cut, rows, flags, requests, scores]  # fmt: skip
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=600)
    if cut:
        return done
    assert done.returncode == 0, done.stderr
    return np.fromfile(scores, dtype="<f4"), done.stdout.strip()


@pytest.mark.parametrize("processor", PROCESSORS)
def test_predict_and_rank(callers, models, processor):
    ids = small_ids(32)
    got, kernels = score(callers, processor, models / "small.odm", ids)
    assert kernels == PROCESSORS[processor][1]
    np.testing.assert_allclose(got, expected_probabilities(ids), atol=1e-6)
    model = ondevice.load(models / "features.odm", engine="numpy")
    ids = features().encode(raw_rows())
    assert list(ids) == list(SPECS)
    got, _ = score(callers, processor, models / "features.odm", ids)
    np.testing.assert_allclose(got, model.predict(ids), atol=1e-6)
    context = ("user", "seen")
    one = {name: ids[name][:1] for name in context}
    many = {name: array for name, array in ids.items() if name not in context}
    got, _ = score(callers, processor, models / "features.odm", ids, context)
    np.testing.assert_allclose(got, model.rank(one, many), atol=1e-6)


@pytest.mark.parametrize("processor", ["cortex-a72", "cortex-a7"])
def test_a_file_that_is_cut_off_is_refused(callers, models, processor):
    done = score(callers, processor, models / "small.odm", small_ids(4), cut=100)
    assert done.returncode == 1
    assert done.stderr.startswith("status 2:")


@pytest.mark.parametrize("architecture", ["here", *COMPILERS])
def test_system_calls_on_files(architecture, tmp_path):
    """Locks, links, times and owners as the C library of the system sees them."""
    cc = COMPILERS.get(architecture, shutil.which("gcc") or "clang")
    sources = [jni_library.JNI / name for name in ("files.c", "system.c", "guard.c")]
    includes = [f"-I{path}" for path in (jni_library.JNI, jni_library.ENGINE / "include")]
    subprocess.run(
        [cc, "-std=gnu11", "-O1", "-Wall", "-Wextra", "-Werror", "-D_FILE_OFFSET_BITS=64",
         "-static", *includes, HERE / "files_check.c", *sources, "-o", tmp_path / "program"],
        check=True,
    )  # fmt: skip
    (tmp_path / "folder").mkdir()
    emulator = [] if architecture == "here" else [f"qemu-{architecture}-static"]
    done = subprocess.run([*emulator, tmp_path / "program", tmp_path / "folder"])
    assert done.returncode == 0


def test_what_compilers_call_on_32_bit_arm(tmp_path):
    """arm_helpers.c against the host's own arithmetic: division, conversions."""
    source = jni_library.JNI / "arm_helpers.c"
    program, here, there = HERE / "arithmetic.c", tmp_path / "here", tmp_path / "there"
    cc = shutil.which("gcc") or "clang"
    subprocess.run([cc, "-O1", program, "-o", here], check=True)
    subprocess.run([COMPILERS["arm"], "-std=c11", "-O2", "-marm", "-fno-builtin", "-Wall",
                    "-Wextra", "-Werror", "-c", source, "-o", tmp_path / "helpers.o"],
                   check=True)  # fmt: skip
    subprocess.run([COMPILERS["arm"], "-O1", "-static", program, tmp_path / "helpers.o", "-o",
                    there], check=True)  # fmt: skip
    expected = subprocess.run([here], capture_output=True, check=True).stdout
    got = subprocess.run(["qemu-arm-static", there], capture_output=True, check=True).stdout
    assert expected.count(b"\n") == 20000
    assert got == expected
