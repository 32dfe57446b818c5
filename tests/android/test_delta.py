"""Java applies deltas as Python and C do: golden ones, and mutants, in this machine's JVM."""

import subprocess
from pathlib import Path

from support.delta_programs import check_program
from support.tools import missing, needs

HERE = Path(__file__).parent
SOURCES = HERE.parents[1] / "android_demo/ondevice-android/src/main/java"
pytestmark = needs(missing("javac", "java"))


def test_goldens_and_mutants(tmp_path):
    classes = tmp_path / "classes"
    command = ["javac", "-encoding", "UTF-8", "--release", "8", "-Xlint:all,-options", "-Werror"]
    paths = ["-sourcepath", SOURCES, "-d", classes, HERE / "DeltaCheck.java"]
    subprocess.run([*command, *paths], check=True)
    check_program(["java", "-cp", classes, "DeltaCheck"], tmp_path)
