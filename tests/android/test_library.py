"""The Android library: JNI libraries of three processors, and its JUnit tests on this machine."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import build_apk
import java_fixtures
import jni_library
import pytest
from java_fixtures import VERIFIED, no_jni_headers, write_fixtures
from support.faulty import copy_with_wrong_rank
from support.pages import DEVICES, blocks
from support.tools import absent, missing, needs, require
from tool import UnavailableError, run_tool

from ondevice import __version__
from ondevice.bench.report import read_report
from ondevice.verify import verify

JUNIT = [java_fixtures.JUNIT, Path("/usr/share/java/hamcrest-core.jar")]
pytestmark = needs(missing(*jni_library.TOOLS, "java"), absent(*JUNIT), no_jni_headers())
LIBRARY, DEMO = build_apk.LIBRARY, build_apk.DEMO
# A heap that takes the same memory whatever is allocated, so that growth is of native memory.
HEAP = ("-Xms256m", "-Xmx256m", "-XX:+AlwaysPreTouch", "-XX:+UseSerialGC")
# What the app does apart from Android.
WITHOUT_ANDROID = ("Catalogue", "ModelFiles", "Ranking", "ReportText")


@pytest.fixture(scope="session")
def libraries():
    """The JNI library of every processor; building checks what it needs and exports."""
    folder = build_apk.OUT / "jni"
    return {abi.name: jni_library.build(abi, folder / abi.name) for abi in jni_library.ABIS}


@pytest.fixture(scope="session")
def wrong_library(tmp_path_factory):
    """The folder of this machine's JNI library, of an engine whose rank is wrong."""
    folder = tmp_path_factory.mktemp("wrong")
    (abi,) = (abi for abi in jni_library.ABIS if abi.name == "x86_64")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jni_library, "ENGINE", copy_with_wrong_rank(folder))
        return jni_library.build(abi, folder / "jni").parent


@pytest.fixture(scope="session")
def sdk():
    try:
        return build_apk.find_sdk(build_apk.OUT)
    except UnavailableError as error:
        require(str(error))


@pytest.fixture(scope="session")
def fixtures(tmp_path_factory):
    folder = tmp_path_factory.mktemp("fixtures")
    write_fixtures(folder)
    return folder


@pytest.fixture(scope="session")
def junit(libraries, sdk, fixtures, tmp_path_factory):
    """The finished JUnit run; -Xcheck:jni checks every call between Java and C."""
    tmp_path = tmp_path_factory.mktemp("junit")
    classes = build_apk.compile_java([LIBRARY / "src/main/java"], [], sdk, tmp_path / "main")
    tests = tmp_path / "test"
    sources = [DEMO / f"src/main/java/ondevice/demo/{name}.java" for name in WITHOUT_ANDROID]
    sources_by_class = {}
    for folder in (LIBRARY / "src/host/java", LIBRARY / "src/test/java", DEMO / "src/test/java"):
        for source in sorted(folder.rglob("*.java")):
            sources_by_class[
                source.relative_to(folder).with_suffix("").as_posix().replace("/", ".")
            ] = source
    path = [classes, *JUNIT, sdk.platform]  # the platform last: this machine's Java has its own
    run_tool(["javac", "-encoding", "UTF-8", "--release", "8", "-Xlint:-options", "-d", str(tests),
              "-classpath", os.pathsep.join(map(str, path)),
              *map(str, [*sources, *sources_by_class.values()])])  # fmt: skip
    names = [name for name in sources_by_class if name.endswith("Test")]
    return subprocess.run(
        ["java", "-Xcheck:jni", *HEAP, f"-Djava.library.path={libraries['x86_64'].parent}",
         f"-Dondevice.switches={os.environ.get('ONDEVICE_SWITCHES', '500')}",
         f"-Dondevice.fixtures={fixtures}", "--add-opens=java.base/java.io=ALL-UNNAMED",
         "-classpath", os.pathsep.join(map(str, [tests, *path])),
         "org.junit.runner.JUnitCore", *names],
        capture_output=True, text=True, timeout=3000,
    )  # fmt: skip


# not an `apt` package that CI installs; `npm install kotlin-compiler` brings it
@pytest.mark.skipif(shutil.which("kotlinc") is None, reason="not installed: kotlinc")
@pytest.mark.skipif(not DEVICES.is_dir(), reason="no docs beside the package")
def test_the_kotlin_of_the_page_compiles(sdk, tmp_path):
    classes = build_apk.compile_java([LIBRARY / "src/main/java"], [], sdk, tmp_path / "java")
    ((_, sample),) = blocks("android.md", "kotlin")
    (tmp_path / "Ranker.kt").write_text(sample)
    run_tool(["kotlinc", "-Werror", "-no-jdk", "-cp", f"{sdk.platform}{os.pathsep}{classes}",
              str(tmp_path / "Ranker.kt"), "-d", str(tmp_path / "out")])  # fmt: skip
    assert (tmp_path / "out" / "Ranker.class").is_file()


def test_junit_on_this_machine(junit, record_property):
    """Hashes, parity with Python, bad files, closed models, 8 threads, replaced files."""
    assert junit.returncode == 0, junit.stdout[-6000:] + junit.stderr[-2000:]
    assert "OK (" in junit.stdout
    record_property("live", re.findall(r"^LiveModel: .*|\.LiveModel: .*", junit.stdout))
    assert "WARNING" not in junit.stdout + junit.stderr  # what -Xcheck:jni would say


@pytest.mark.parametrize("name", VERIFIED)
def test_both_engines_of_python_give_the_rank_difference_that_java_must_give(fixtures, name):
    """JUnit compares Java's with the numpy engine's."""
    expected = verify(fixtures / f"{name}.odm", engine="numpy")
    found = verify(fixtures / f"{name}.odm", engine="native")
    assert found.rank_difference == pytest.approx(expected.rank_difference, abs=1e-6, nan_ok=True)
    assert found.passed is expected.passed is (name in ("small", "ranked", "sampled", "mixed"))


@pytest.mark.parametrize("name", ["small", "sampled"])
def test_an_engine_whose_rank_is_wrong_does_not_pass(junit, fixtures, wrong_library, name):
    """The files hold no ranked scores: rank is compared with predict."""

    def verified(folder):
        done = subprocess.run(
            ["java", f"-Djava.library.path={folder}",
             "-classpath", junit.args[junit.args.index("-classpath") + 1],
             "ondevice.ctr.VerifyFile", str(fixtures / f"{name}.odm")],
            capture_output=True, text=True, timeout=600, check=True,
        )  # fmt: skip
        passed, predicted, ranked = done.stdout.split()
        assert float(predicted) < 1e-5
        return passed, float(ranked)

    assert verified(build_apk.OUT / "jni" / "x86_64") == ("true", pytest.approx(0, abs=1e-6))
    passed, difference = verified(wrong_library)
    assert passed == "false"
    assert difference > 0.01


def test_a_wrong_rank_is_not_measured(junit, fixtures, wrong_library):
    """The benchmark's process of the library measures predict, and refuses to measure rank."""

    def measured(context):
        task = {"kind": "latency", "rows": 1, "context": context, "gap_ms": 0, "seconds": 0.01,
                "drop_pages": False}  # fmt: skip
        return subprocess.run(
            ["java", f"-Djava.library.path={wrong_library}",
             "-classpath", junit.args[junit.args.index("-classpath") + 1],
             "ondevice.ctr.bench.WorkerProcess", str(fixtures / "small.odm"), "0",
             json.dumps(task)],
            capture_output=True, text=True, timeout=600,
        )  # fmt: skip

    assert measured([]).returncode == 0
    refused = measured(["user"])
    assert refused.returncode == 1
    assert "rank differs from predict: by 0." in refused.stderr


def test_a_processor_without_a_library_is_told_so(junit, fixtures):
    """As on a phone whose processor the app was not built for."""
    done = subprocess.run(
        ["java", "-classpath", junit.args[junit.args.index("-classpath") + 1],
         "ondevice.ctr.bench.WorkerProcess", str(fixtures / "small.odm"), "0",
         '{"kind": "start", "rows": 1, "context": [], "gap_ms": 0, "seconds": 0,'
         ' "drop_pages": false}'],
        capture_output=True, text=True, timeout=600,
    )  # fmt: skip
    assert done.returncode == 1
    assert "libondevice.so for this processor" in done.stderr


def test_the_benchmark_writes_a_report_that_ondevice_bench_reads(junit, fixtures):
    assert junit.returncode == 0
    report = read_report(fixtures / "report.json")
    assert report.tool == f"ondevice test {__version__}"  # the library's version is Python's
    assert [item.page_cache for item in report.starts][1:] == ["warm"]
    assert [(item.call, item.rows, item.gap_ms) for item in report.latencies] == [
        (call, rows, gap) for call, rows in (("predict", 1), ("predict", 16), ("rank", 8))
        for gap in (0, 5)
    ]  # fmt: skip
    for item in report.latencies:
        assert item.latency_us.count == item.requests > 3
        assert 0 < item.latency_us.p50 < 1e5
        assert len(item.bursts_us) == 2
        assert item.cpu_us.mean > 0
    assert report.latencies[4].context == ("user",)
    assert report.memories[0].process["rss"].p50 > 1e7
    assert report.starts[0].start_us.min > report.starts[0].load_us.min > 0
    both = [fixtures / "report.json"] * 2
    compared = subprocess.run([sys.executable, "-m", "ondevice", "bench", "compare", *both],
                              capture_output=True, text=True)  # fmt: skip
    assert compared.returncode == 0, compared.stderr
    assert "predict 16" in compared.stdout
