"""The package: built twice with the same bytes, aligned, signed, small, and asking for nothing."""

import re
import zipfile

import build_apk
import jni_library
import pytest
from archive import Entry, write_archive
from java_fixtures import no_jni_headers, write_app_fixtures
from support.runtime import write_small_model
from support.tools import missing, needs, require
from tool import ToolError, UnavailableError, run_tool

import ondevice

TOOLS = {*jni_library.TOOLS, *build_apk.TOOLS}
pytestmark = needs(missing(*sorted(TOOLS)), no_jni_headers())


@pytest.fixture(scope="module")
def builds(tmp_path_factory):
    """Two builds of everything, with one debug key."""
    folder = tmp_path_factory.mktemp("builds")
    write_small_model(folder / "small.odm")
    write_app_fixtures(folder)
    key = build_apk.debug_key(folder)
    # the first takes the libraries of the other tests' build, the second compiles its own
    for name, jni in (("one", build_apk.OUT / "jni"), ("two", None)):
        try:
            build_apk.build_all(folder / name, folder / "assets", key=key, jni=jni)
        except UnavailableError as error:
            require(str(error))
    return folder / "one", folder / "two", folder / "assets"


def test_two_builds_have_the_same_bytes(builds):
    first, second, _ = builds
    names = sorted(path.relative_to(first) for path in first.iterdir() if path.is_file())
    packages = [name for name in names if name.suffix in (".aar", ".apk")]
    assert len(packages) == 3  # the libraries are inside
    for name in packages:
        assert (first / name).read_bytes() == (second / name).read_bytes(), name


def test_the_package(builds):
    apk = builds[0] / "demo.apk"
    assert apk.stat().st_size < 1_000_000  # with 8 kB of model; the goal with 200 kB: 1.5 MB
    with zipfile.ZipFile(apk) as archive:
        assert archive.testzip() is None
        entries = {item.filename: item for item in archive.infolist()}
        model = entries["assets/model.odm"]
        assert model.compress_type == zipfile.ZIP_STORED
        assert archive.read(model) == (builds[2] / "model.odm").read_bytes()
        libraries = [name for name in entries if name.startswith("lib/")]
        assert sorted(libraries) == [
            f"lib/{abi}/libondevice.so" for abi in ("arm64-v8a", "armeabi-v7a", "x86_64")
        ]
        data = apk.read_bytes()
        for name, alignment in [*((name, 16384) for name in libraries), ("assets/model.odm", 4096)]:
            item = entries[name]
            assert item.compress_type == zipfile.ZIP_STORED
            start = item.header_offset + 30
            start += int.from_bytes(data[start - 4 : start - 2], "little")
            start += int.from_bytes(data[start - 2 - len(name) : start - len(name)], "little")
            assert start % alignment == 0
            assert data[start : start + 16] == archive.read(item)[:16]
    # an intact signature is required: one flipped byte must be seen
    broken = builds[0] / "broken.apk"
    flipped = bytearray(data)
    flipped[data.index(b"classes.dex") + 5000] ^= 1
    broken.write_bytes(flipped)
    with pytest.raises(ToolError):
        run_tool(["apksigner", "verify", "--min-sdk-version", "24", str(broken)])


def test_what_the_package_asks_for(builds):
    badging = run_tool(["aapt", "dump", "badging", str(builds[0] / "demo.apk")])
    assert "uses-permission" not in badging
    assert f"versionName='{ondevice.__version__}'" in badging
    gradle = (build_apk.DEMO / "build.gradle").read_text(encoding="utf-8")
    assert f"versionName '{ondevice.__version__}'" in gradle
    assert f"minSdk {build_apk.LEAST_SDK}\n" in gradle
    assert f"targetSdk {build_apk.TARGET_SDK}\n" in gradle
    assert re.search(r"sdkVersion:'24'", badging)
    assert re.search(r"targetSdkVersion:'34'", badging)
    assert "launchable-activity: name='ondevice.demo.MainActivity'" in badging
    assert "native-code: 'arm64-v8a' 'armeabi-v7a' 'x86_64'" in badging
    tree = run_tool(["aapt", "dump", "xmltree", str(builds[0] / "demo.apk"), "AndroidManifest.xml"])
    assert re.search(r"extractNativeLibs.*0x0", tree)
    assert re.search(r"supportsRtl.*0xffffffff", tree)


def test_the_library_package(builds):
    with zipfile.ZipFile(builds[0] / "ondevice-android.aar") as archive:
        names = archive.namelist()
        assert {"AndroidManifest.xml", "classes.jar", "R.txt", "proguard.txt"} < set(names)
        assert b"native <methods>" in archive.read("proguard.txt")
        assert sum(name.startswith("jni/") for name in names) == 3
        assert b'package="ondevice.ctr"' in archive.read("AndroidManifest.xml")


def test_a_library_that_android_would_not_load_is_refused(tmp_path):
    source, library = tmp_path / "x.c", tmp_path / "libx.so"
    source.write_text('int puts(const char *); int Java_x(void) { return puts(""); }')
    for flags, message in (
        ([], "needs libc"),
        (["-nostdlib", "-Wl,-z,max-page-size=4096"], "aligned"),
        (["-nostdlib", "-Wl,-z,max-page-size=16384"], "puts"),
    ):
        run_tool(["clang", "-shared", "-fPIC", "-fuse-ld=lld", *flags, str(source), "-o",
                  str(library)])  # fmt: skip
        with pytest.raises(ToolError, match=message):
            jni_library.check(library)


def test_entries_are_aligned_whatever_is_before_them(tmp_path):
    path = tmp_path / "a.zip"
    for size in range(70):
        write_archive([Entry("a", b"x" * size, stored=True), Entry("b.odm", b"model", stored=True),
                       Entry("c.txt", b"text" * 9)], path)  # fmt: skip
        with zipfile.ZipFile(path) as archive:
            assert archive.read("a") == b"x" * size and archive.read("c.txt") == b"text" * 9
        assert path.read_bytes().index(b"model") % 4096 == 0
