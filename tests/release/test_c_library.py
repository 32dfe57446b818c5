"""release/c_library.py and its page: libraries for Apple, and a program without a system."""

import plistlib
import re
import shlex
import shutil
import subprocess
import sys

import numpy as np
import pytest
from support.mach_o import ARM64, IOS, IOS_SIMULATOR, MACOS, built_for, load_commands, members
from support.pages import INPUTS, ROOT, blocks, commands, demo_scores, write_demo_model
from support.tools import missing, needs
from support.zig import zig_environment

SCRIPT = ROOT / "release" / "c_library.py"
pytestmark = needs("" if SCRIPT.is_file() else "no release tools beside the package")


@pytest.fixture(scope="module")
def checkout(tmp_path_factory):
    """What the page's commands find: the repository's folders, and the demo's model."""
    folder = tmp_path_factory.mktemp("checkout")
    for name in ("release", "ondevice"):
        (folder / name).symlink_to(ROOT / name)
    (folder / "demo-out").mkdir()
    write_demo_model(folder / "demo-out" / "model.odm")
    return folder


def run(command, checkout):
    """Run a command of the page; its output."""
    words = shlex.split(command)
    words[0] = {"python": sys.executable}.get(words[0], words[0])
    done = subprocess.run(
        words, cwd=checkout, env=zig_environment(), capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout + done.stderr


APPLE, BARE = (
    commands(text) for _, text in blocks("ios_and_embedded.md", "sh")[1:]
) if SCRIPT.is_file() else ([], [])  # fmt: skip


@pytest.fixture(scope="module")
def framework(checkout):
    run(APPLE[0], checkout)
    return checkout / "dist" / "OnDevice.xcframework"


def test_the_framework_is_what_it_says(framework):
    entries = plistlib.loads((framework / "Info.plist").read_bytes())["AvailableLibraries"]
    systems = {}
    for entry in entries:
        folder = framework / entry["LibraryIdentifier"]
        found = members((folder / entry["LibraryPath"]).read_bytes())
        assert len(found) > 40
        seen = set()
        for name, data in found:
            kind, load = load_commands(data)
            assert kind == ARM64, name
            seen.add(built_for(load))
        (systems[entry["SupportedPlatform"], entry.get("SupportedPlatformVariant")],) = seen
        assert (folder / entry["HeadersPath"] / "module.modulemap").is_file()
    assert systems == {
        ("macos", None): (MACOS, 11, 0),
        ("ios", None): (IOS, 13, 0),
        ("ios", "simulator"): (IOS_SIMULATOR, 14, 0),
    }


def test_a_program_links_for_macos(framework, tmp_path):
    """Nothing is missing in the library: files, threads, raw values."""
    program = tmp_path / "program.c"
    program.write_text(
        '#include "ondevice.h"\n#include "ondevice_features.h"\n#include "ondevice_live.h"\n'
        "int main(int count, char **words) {\n"
        "  od_model *model; od_pool *pool; od_live *live; od_features *features; od_error error;\n"
        "  size_t size;\n"
        "  return count < 2 || od_open_path(words[1], NULL, &model, &error) ||\n"
        "         od_pool_open(model, 2, &pool, &error) ||\n"
        "         od_live_open(words[1], NULL, &live, &error) ||\n"
        "         od_features_open(od_info(model, &size), size, NULL, &features, &error);\n}\n"
    )
    folder = framework / "macos-arm64"
    command = [sys.executable, "-m", "ziglang", "cc", "-target", "aarch64-macos.11.0"]
    command += [f"-I{folder / 'include'}", program, folder / "libondevice.a"]
    command += ["-o", tmp_path / "program"]
    subprocess.run(command, env=zig_environment(), check=True)
    assert load_commands((tmp_path / "program").read_bytes())[0] == ARM64


@needs(missing("clang"))
def test_the_module_map_imports(framework, tmp_path):
    """As Swift's compiler, which is clang there, reads it."""
    source = tmp_path / "import.m"
    source.write_text("@import OnDevice;\nod_status open(void) { return OD_E_FORMAT; }\n")
    command = ["clang", "-fsyntax-only", "-fmodules", f"-fmodules-cache-path={tmp_path}"]
    headers = framework / "ios-arm64" / "include"
    subprocess.run([*command, f"-I{headers}", source], check=True)
    absent = subprocess.run([*command, source], capture_output=True)
    assert b"module 'OnDevice' not found" in absent.stderr


@needs(missing("qemu-system-arm"))
def test_a_program_without_an_operating_system_scores_as_the_host_does(checkout):
    library, program, emulator = BARE
    run(library, checkout)
    run(program, checkout)
    said = run(emulator, checkout)
    assert re.fullmatch(r"(\d+\n){4}memory \d+\n", said), said
    got = np.array(said.split()[:4], float) / 1e6
    ids = {name: [index + row for row in range(4)] for index, name in enumerate(INPUTS)}
    np.testing.assert_allclose(got, demo_scores(ids), atol=1.5e-6)
    taken = int(said.split()[-1])
    run(f"{program} -DMEMORY_BYTES={taken}", checkout)  # so much and no more
    assert run(emulator, checkout) == said
    run(f"{program} -DMEMORY_BYTES={taken - 16}", checkout)
    assert "memory" in refused(emulator, checkout)
    damaged = checkout / "demo-out" / "model.odm"
    good = damaged.read_bytes()
    damaged.write_bytes(good[:500] + bytes([good[500] ^ 1]) + good[501:])
    run(program, checkout)
    assert "is damaged" in refused(emulator, checkout)
    damaged.write_bytes(good)


def refused(emulator, checkout):
    """What a program says that ends badly."""
    done = subprocess.run(
        shlex.split(emulator), cwd=checkout, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 1
    return done.stderr + done.stdout


def test_the_table_of_sizes_is_that_of_the_command():
    """Within a tenth: the sources change."""
    done = subprocess.run(
        [sys.executable, SCRIPT, "sizes"], env=zig_environment(), capture_output=True, text=True,
        check=True,
    )  # fmt: skip
    page = (ROOT / "docs" / "devices" / "ios_and_embedded.md").read_text()
    rows = re.findall(r"^([a-z0-9-]+) +([\d,]+) +([\d,]+) +([\d,]+)$", done.stdout, re.MULTILINE)
    assert len(rows) == 5
    stated = re.findall(r"^\| ([a-z0-9-]+) \(-O.\) \| ([\d,]+) \|", page, re.MULTILINE)
    measured = {name: int(engine.replace(",", "")) for name, engine, *_ in rows}
    assert len(stated) == 4
    for name, engine in stated:
        assert int(engine.replace(",", "")) == pytest.approx(measured[name], rel=0.1)


def test_a_word_that_is_no_target():
    done = subprocess.run([sys.executable, SCRIPT, "plan9", "x"], capture_output=True, text=True)
    assert done.returncode == 2 and "TARGET is" in done.stderr
    assert not shutil.os.path.exists("x")
