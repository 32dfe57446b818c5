"""Calls of the JNI library for memory, and into Java, fail in turn in this machine's JVM."""

import shutil
import subprocess

import jni_library
from java_fixtures import no_jni_headers, write_signed
from support.tools import missing, needs

pytestmark = needs(missing(*jni_library.TOOLS, "java"), no_jni_headers())


def test_every_call_for_memory_and_into_java_may_fail(faulty_library, classes, tmp_path):
    """An exception or right scores, nothing lost, and the next attempt works."""
    write_signed(tmp_path)
    shutil.copy(tmp_path / "version5.json", tmp_path / "models" / "manifest.json")
    done = subprocess.run(
        ["java", "-Xcheck:jni", f"-Djava.library.path={faulty_library}", "-classpath", classes,
         "ondevice.ctr.FaultyCalls", tmp_path],
        capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-3000:]
    assert "WARNING" not in done.stdout + done.stderr
    plain, signed, roots = map(int, done.stdout.split())
    assert plain > 30
    assert signed > plain
    assert roots > 3
