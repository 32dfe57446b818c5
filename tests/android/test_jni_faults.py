"""Calls of the JNI library for memory, and into Java, fail in turn in this machine's JVM."""

import shutil
import subprocess

import jni_library
from java_fixtures import JUNIT, no_jni_headers, write_signed
from support.tools import absent, missing, needs

pytestmark = needs(missing(*jni_library.TOOLS, "java"), absent(JUNIT), no_jni_headers())


def test_every_call_may_fail(faulty_library, classes, tmp_path, record_property):
    """An exception or right scores, nothing lost, and the next attempt works."""
    write_signed(tmp_path)
    shutil.copy(tmp_path / "version5.json", tmp_path / "models" / "manifest.json")
    done = subprocess.run(
        ["java", "-Xcheck:jni", f"-Djava.library.path={faulty_library}", "-classpath", classes,
         "ondevice.ctr.FaultyCalls", tmp_path],
        capture_output=True, text=True, timeout=3000,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-3000:]
    assert "WARNING" not in done.stdout + done.stderr
    plain, signed, roots = map(int, done.stdout.split())
    record_property("faults", done.stdout)
    assert plain > 30
    assert signed > plain
    assert roots > 3
