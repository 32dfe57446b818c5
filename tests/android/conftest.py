"""The library in this machine's JVM, with faults that programs of the tests ask for."""

import os
import shutil
import subprocess
from pathlib import Path

import build_apk
import jni_library
import pytest
from java_fixtures import JUNIT
from support.crash.shim import compiled_shim
from support.tools import require
from tool import UnavailableError

HERE = Path(__file__).parent
TESTS = build_apk.LIBRARY / "src/test/java/ondevice/ctr"
PROGRAMS = [TESTS / f"{name}.java" for name in ("Faults", "FaultyCalls", "Fixtures", "UpdateFile")]
DEFINITION = "long od_system_call(long number, long a, long b, long c, long d, long e, long f) {"


@pytest.fixture(scope="session")
def faulty_library(tmp_path_factory):
    """The folder of a JNI library whose system calls come through jni_faults.c."""
    folder = tmp_path_factory.mktemp("faulty")
    shutil.copytree(jni_library.JNI, folder / "c")
    system = folder / "c" / "system.c"
    text = system.read_text("utf-8")
    assert text.count(DEFINITION) == 1
    renamed = DEFINITION.replace("od_system_call", "od_plain_system_call")
    declared = renamed.replace(" {", ";\n")
    system.write_text(text.replace(DEFINITION, declared + renamed), "utf-8")
    shutil.copy(HERE / "jni_faults.c", folder / "c")
    (abi,) = (abi for abi in jni_library.ABIS if abi.name == "x86_64")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jni_library, "JNI", folder / "c")
        patch.setattr(jni_library, "check", lambda library: None)  # it needs the C library
        return jni_library.build(abi, folder / "jni").parent


@pytest.fixture(scope="session")
def shim(tmp_path_factory):
    return compiled_shim(tmp_path_factory.mktemp("shim"))


@pytest.fixture(scope="session")
def classes(tmp_path_factory):
    """A class path of the library and the programs."""
    try:
        sdk = build_apk.find_sdk(build_apk.OUT)
    except UnavailableError as error:
        require(str(error))
    folder = tmp_path_factory.mktemp("classes")
    main = build_apk.compile_java([build_apk.LIBRARY / "src/main/java"], [], sdk, folder / "main")
    path = os.pathsep.join(map(str, [folder / "test", main, JUNIT, sdk.platform]))
    subprocess.run(["javac", "-encoding", "UTF-8", "--release", "8", "-Xlint:-options",
                    "-d", folder / "test", "-classpath", path, *PROGRAMS], check=True)  # fmt: skip
    return path
