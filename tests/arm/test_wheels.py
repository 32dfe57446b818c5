"""ARM wheels: tagged, installed in a Debian ARM userland, tested there beside stock runtimes."""

import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from support import arm
from support.engine import loaded_bytes

TESTS = Path(__file__).parents[1]
RELEASE = TESTS.parent / "release"
BUILD = TESTS.parent / "build" / "arm"
PIP = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]


def _module(name):
    spec = importlib.util.spec_from_file_location(name, RELEASE / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


userland, wheels = _module("userland"), _module("arm_wheels")

# architecture: Debian's name, the emulator, the machine and size limit of its library
ARCHITECTURES = {
    "aarch64": ("arm64", "qemu-aarch64-static", "AArch64"),
    "armv7l": ("armhf", "qemu-arm-static", "ARM"),
}
SIZE_LIMIT = 220_000  # docs/native.md
# what the tests need, in releases without compiled parts (hypothesis has some since 6.150)
PURE = ("pytest==9.2.0", "pluggy==1.7.0", "iniconfig==2.3.1", "packaging==26.3", "attrs==26.1.0",
        "hypothesis==6.135.0", "sortedcontainers==2.4.0", "Pygments==2.21.0",
        "flatbuffers==25.12.19", "backports.strenum==1.2.8",
        "typing_extensions==4.16.0")  # fmt: skip
# the newest releases that run under the emulator of Debian 12 (qemu 7.2)
STOCK = {
    "current": ("aarch64", ("onnxruntime==1.26.0", "ai-edge-litert==2.1.2"), "manylinux_2_28"),
    "legacy": ("aarch64", ("tflite-runtime==2.14.0",), "manylinux_2_34"),
    "legacy-armv7l": ("armv7l", ("tflite-runtime==2.14.0",), "manylinux_2_34"),
}


def unavailable(reason):
    """Skip where a tool is missing; in CI, which installs the tools, fail."""
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)


def pip_install(target, packages, *options):
    if (target / ".installed").exists():
        return target
    command = [*PIP, "install", "--no-deps", "--upgrade", "--target", str(target), *options]
    done = subprocess.run([*command, *map(str, packages)], capture_output=True, text=True)
    if done.returncode:
        unavailable(f"pip cannot install {', '.join(map(str, packages))}: {done.stderr[-300:]}")
    (target / ".installed").touch()
    return target


def for_arm(architecture, platform):
    return ("--python-version=3.11", "--only-binary=:all:",
            *(f"--platform={platform}_{architecture}" for platform in platform))  # fmt: skip


class Board:
    """A userland with the wheel installed, and an emulator to run its Python in."""

    def __init__(self, architecture, root, wheel, site):
        self.architecture, self.root, self.wheel, self.site = architecture, root, wheel, site
        self.emulator = ARCHITECTURES[architecture][1]

    def python(self, processor, *arguments, beside=()):
        triplet = wheels.TRIPLETS[self.architecture]
        libraries = self.root / "usr" / "lib" / triplet
        paths = [f"{libraries}/{name}" for name in ("blas", "lapack", "")]
        modules = [*map(str, beside), str(self.site), str(BUILD / "pure")]
        command = [self.emulator, "-cpu", processor, "-L", str(self.root),
                   "-E", f"LD_LIBRARY_PATH={':'.join(paths)}", "-E", "PYTHONDONTWRITEBYTECODE=1",
                   "-E", f"PYTHONPATH={':'.join(modules)}",
                   str(self.root / "usr" / "bin" / "python3.11"), "-P"]  # fmt: skip
        return subprocess.Popen(
            [*command, *map(str, arguments)], text=True, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, cwd=BUILD,
        )  # fmt: skip


@pytest.fixture(scope="module")
def boards():
    made = {}
    for architecture, (debian, emulator, _) in ARCHITECTURES.items():
        compiler = f"{wheels.TRIPLETS[architecture]}-gcc"
        missing = [tool for tool in (compiler, emulator, "apt-get") if shutil.which(tool) is None]
        if missing:
            unavailable(f"not installed: {', '.join(missing)}")
        try:
            root = userland.unpack(debian, BUILD / debian)
        except userland.UserlandError as error:
            unavailable(str(error))
        site = BUILD / f"site-{architecture}"
        for folder in (site, BUILD / f"wheel-{architecture}"):
            shutil.rmtree(folder, ignore_errors=True)
        wheel = wheels.build(architecture, root, BUILD / f"wheel-{architecture}")
        pip_install(site, [wheel], *for_arm(architecture, ["manylinux_2_17"]))
        made[architecture] = Board(architecture, root, wheel, site)
    pip_install(BUILD / "pure", PURE)
    return made


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_library_is_what_the_tag_says(boards, architecture, tmp_path):
    wheel = boards[architecture].wheel
    library = wheels.extract_library(wheel, tmp_path)
    assert ARCHITECTURES[architecture][2] in wheels.machine(library)
    major, minor = wheels.glibc_needed(library)
    assert wheel.name.endswith(f"cp311-abi3-manylinux_{major}_{minor}_{architecture}.whl")
    assert (major, minor) == (2, 17)  # nothing newer than what the oldest tag promises
    assert set(wheels.libraries_needed(library)) <= {"libc.so.6"}
    assert loaded_bytes(library) < SIZE_LIMIT


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_userland_accepts_the_tag(boards, architecture):
    """What its own pip would decide, on the processor that is emulated."""
    code = (
        "import sys; from packaging import tags, utils;"
        "print(bool(utils.parse_wheel_filename(sys.argv[1])[3] & set(tags.sys_tags())))"
    )
    board = boards[architecture]
    processor = "cortex-a7" if architecture == "armv7l" else "cortex-a72"
    output, _ = board.python(processor, "-c", code, board.wheel.name).communicate(timeout=3000)
    assert output.strip() == "True", output


# The whole runtime is tested once per architecture, the kernels on every processor.
RUNS = {
    "cortex-a76": ("native/test_parity.py", "runtime"),
    "cortex-a7": ("native/test_parity.py", "runtime"),
    "cortex-a72": ("native/test_parity.py",),
    "max": ("native/test_parity.py",),
}


def test_engine_tests_pass_on_every_processor(boards):
    running = {}
    options = ["-m", "pytest", "-q", "-p", "no:cacheprovider", "--import-mode=importlib", "-c",
               "/dev/null", "--rootdir", TESTS, "-o", f"pythonpath={TESTS}"]  # fmt: skip
    waiting, failed = list(RUNS), {}
    while waiting or running:
        while waiting and len(running) < 2:
            processor = waiting.pop(0)
            architecture = "armv7l" if arm.PROCESSORS[processor][0] == "arm" else "aarch64"
            files = [TESTS / name for name in RUNS[processor]]
            running[processor] = boards[architecture].python(processor, *options, *files)
        processor, process = next(iter(running.items()))
        output, _ = process.communicate(timeout=3000)
        del running[processor]
        if process.returncode:
            failed[processor] = output[-3000:]
        assert " passed" in output, output[-3000:]
    assert not failed, "\n".join(f"{name}:\n{text}" for name, text in failed.items())


@pytest.mark.parametrize("processor", arm.PROCESSORS)
def test_the_wheel_chooses_the_right_kernels(boards, processor):
    architecture = "armv7l" if arm.PROCESSORS[processor][0] == "arm" else "aarch64"
    code = "from ondevice import _native; print(_native.kernels_available()[0])"
    process = boards[architecture].python(processor, "-c", code)
    output, _ = process.communicate(timeout=3000)
    assert output.strip() == arm.PROCESSORS[processor][1]


@pytest.fixture(scope="module")
def converted(tmp_path_factory):
    """The files of one converted model, with the test vectors that torch computed."""
    import torch

    from ondevice.converters import convert
    from ondevice.models import BinaryCodeEmbedding, FullEmbedding
    from ondevice.models.networks import ClickModel

    torch.manual_seed(0)
    tables = {"user": BinaryCodeEmbedding(8, 40, 5, std=0.5),
              "item": FullEmbedding(100, 8, std=0.5)}  # fmt: skip
    example = {name: torch.randint(0, 90, (8,)) for name in tables}
    folder = tmp_path_factory.mktemp("converted")
    convert(ClickModel(tables, (16,)).eval(), (example,), folder, tables="q4")
    return folder


@pytest.mark.parametrize(
    ("stock", "processor", "files", "engines"),
    [
        ("current", "cortex-a76", ("model.odm", "model.onnx", "model.tflite"),
         ("native neon-dotprod", "onnxruntime 1.26.0", "ai-edge-litert 2.1.2")),
        ("legacy", "cortex-a72", ("model.odm", "model.tflite"),
         ("native neon", "tflite-runtime 2.14.0")),
        ("legacy-armv7l", "cortex-a7", ("model.odm", "model.tflite"),
         ("native neon", "tflite-runtime 2.14.0")),
    ],
)  # fmt: skip
def test_converted_files_run_in_stock_runtimes(boards, converted, stock, processor, files, engines):
    architecture, packages, platform = STOCK[stock]
    older = ["manylinux_2_27"] if stock == "current" else []
    beside = pip_install(
        BUILD / f"stock-{stock}", packages, *for_arm(architecture, [platform, *older])
    )
    process = boards[architecture].python(
        processor, "-m", "ondevice", "verify", *(converted / name for name in files),
        beside=[beside],
    )  # fmt: skip
    output, _ = process.communicate(timeout=3000)
    assert process.returncode == 0, output
    for name, engine in zip(files, engines, strict=True):
        (line,) = [line for line in output.splitlines() if f"{name}: ok" in line]
        assert f"in {engine}, " in line
