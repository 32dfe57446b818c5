"""Builds and checks the Android library and demo app with Debian's tools: `make android`.

    python android_demo/build_apk.py --assets FOLDER [--stock FOLDER] [--out FOLDER]

Writes the JNI libraries of three processors, ondevice-android.aar and demo.apk, which is signed
with a throw-away debug key. No Android SDK or NDK is used. Steps whose tools cannot be had are
skipped, and say so; with CI=true in the environment that is a failure.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import shutil
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

import debian
import jni_library
from archive import Entry, entries_of, write_archive
from tool import ToolError, UnavailableError
from tool import run_tool as run

from ondevice import __version__

HERE = Path(__file__).resolve().parent
LIBRARY, DEMO = HERE / "ondevice-android", HERE / "demo"
OUT = HERE.parent / "build" / "android"
PACKAGE = "ondevice.demo"
LEAST_SDK, TARGET_SDK = "24", "34"
ANDROID = "http://schemas.android.com/apk/res/android"  # the name of an XML namespace
# The last Debian suite with an Android platform to compile against, and with dx.
SUITE, SDK_PACKAGES = "bullseye", ("libandroid-23-java", "dalvik-exchange")
TOOLS = ("java", "javac", "aapt", "apksigner", "keytool")
# A class of each stock runtime, by the flavour of the demo app that compares with it.
STOCK = {
    "onnxruntime": "ai/onnxruntime/OrtSession.class",
    "litert": "org/tensorflow/lite/Interpreter.class",
}
KEY_PASSWORD = "android"  # noqa: S105 - of a key that protects nothing, as Android's own debug key
LARGEST_APK = 1_500_000


@dataclass(frozen=True)
class Sdk:
    """What stands in for an Android SDK: the platform's classes, and the dex compiler."""

    platform: Path
    dx: Path


def find_sdk(out: Path) -> Sdk:
    """Fetch (once) what compiles for Android. Raises UnavailableError."""
    for tool in TOOLS:
        if shutil.which(tool) is None:
            raise UnavailableError(f"not installed: {tool}")
    # packages for all processors: the architecture does not matter
    root = debian.unpack(
        SDK_PACKAGES, out / "sdk", architecture="amd64", suite=SUITE, dependencies=False
    )
    jars = root / "usr" / "share" / "java"
    return Sdk(jars / "com.android.android-23.jar", jars / "com.android.dx.jar")


def compile_java(sources: list[Path], classpath: list[Path], sdk: Sdk, folder: Path) -> Path:
    """Compile for Android, as Java 8; warnings are errors. Returns the folder of classes."""
    folder.mkdir(parents=True)
    files = [str(path) for source in sources for path in sorted(source.rglob("*.java"))]
    run([
        *("javac", "-encoding", "UTF-8", "-source", "8", "-target", "8", "-g:source,lines"),
        *("-Xlint:all,-options,-serial,-deprecation,-processing", "-Werror"),
        *("-bootclasspath", str(sdk.platform)),
        *("-classpath", os.pathsep.join(map(str, classpath)), "-d", str(folder), *files),
    ])  # fmt: skip
    return folder


def build_aar(classes: Path, libraries: dict[str, Path], path: Path) -> None:
    """Write the library as an AAR."""
    jar = path.with_suffix(".jar")
    write_archive(_files(classes), jar)
    entries = [
        Entry("AndroidManifest.xml", _manifest(LIBRARY, "ondevice.ctr", full=False)),
        Entry("classes.jar", jar.read_bytes()),
        Entry("R.txt", b""),
        Entry("proguard.txt", (LIBRARY / "consumer-rules.pro").read_bytes()),
    ]
    entries += [Entry(f"jni/{abi}/{so.name}", so.read_bytes()) for abi, so in libraries.items()]
    write_archive(entries, path)
    jar.unlink()


def stock_runtimes(folder: Path | None) -> dict[str, list[Path]]:
    """Classes of stock runtimes in JARs and AARs of a folder, by the flavour that uses them."""
    by_flavour: dict[str, list[Path]] = {flavour: [] for flavour in STOCK}
    for path in sorted(folder.iterdir()) if folder is not None else []:
        jar = path
        if path.suffix == ".aar":
            jar = path.with_suffix(".classes.jar")
            jar.write_bytes(zipfile.ZipFile(path).read("classes.jar"))
        if jar.suffix == ".jar":
            names = zipfile.ZipFile(jar).namelist()
            for flavour, name in STOCK.items():
                if name in names:
                    by_flavour[flavour].append(jar)
    for flavour, jars in by_flavour.items():
        if not jars:
            _say(f"skipped: flavour {flavour} (no --stock folder with its JAR or AAR)")
    return {flavour: jars for flavour, jars in by_flavour.items() if jars}


def build_apk(
    classes: Path,
    libraries: dict[str, Path],
    assets: Path,
    sdk: Sdk,
    work: Path,
    path: Path,
    stock: dict[str, list[Path]] | None = None,
) -> None:
    """Compile the demo app against the library's classes and package it, unsigned.

    The flavours in `stock` are compiled too, to see that they can be.
    """
    manifest, generated = work / "AndroidManifest.xml", work / "generated"
    manifest.write_bytes(_manifest(DEMO, PACKAGE, full=True))
    generated.mkdir()
    aapt = ["aapt", "package", "-f", "-M", str(manifest), "-S", str(DEMO / "src/main/res")]
    aapt += ["-I", str(sdk.platform)]
    run([*aapt, "-m", "-J", str(generated)])
    sources = [generated, DEMO / "src/main/java", DEMO / "src/plain/java"]
    app = compile_java(sources, [classes], sdk, work / "app")
    for flavour, jars in (stock or {}).items():
        sources[-1] = DEMO / f"src/{flavour}/java"
        compile_java(sources, [classes, *jars], sdk, work / flavour)
        _say(f"flavour {flavour}: compiles")
    dex, resources = work / "classes.dex", work / "resources.apk"
    run(["java", "-jar", str(sdk.dx), "--dex", f"--min-sdk-version={LEAST_SDK}",
         f"--output={dex}", str(classes), str(app)])  # fmt: skip
    run([*aapt, "-A", str(assets), "-0", "odm", "-F", str(resources)])
    entries = [*entries_of(resources), Entry("classes.dex", dex.read_bytes())]
    entries += [
        Entry(f"lib/{abi}/{library.name}", library.read_bytes(), stored=True)
        for abi, library in libraries.items()
    ]
    write_archive(entries, path)


def debug_key(folder: Path) -> Path:
    """The throw-away debug key of a folder; generated where there is none."""
    key = folder / "debug.keystore"
    if not key.exists():
        run(["keytool", "-genkeypair", "-keystore", str(key), "-storepass", KEY_PASSWORD,
             "-keypass", KEY_PASSWORD, "-alias", "debug", "-keyalg", "RSA", "-keysize", "2048",
             "-validity", "10000", "-dname", "CN=throw-away debug key"])  # fmt: skip
    return key


def sign(unsigned: Path, key: Path, path: Path) -> None:
    """Sign and verify; RSA signatures repeat exactly."""
    secret = f"pass:{KEY_PASSWORD}"
    run(["apksigner", "sign", "--ks", str(key), "--ks-pass", secret, "--ks-key-alias", "debug",
         "--min-sdk-version", LEAST_SDK, "--v4-signing-enabled", "false",
         "--out", str(path), str(unsigned)])  # fmt: skip
    run(["apksigner", "verify", "--min-sdk-version", LEAST_SDK, "-Werr", str(path)])


def sha256(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _manifest(module: Path, package: str, *, full: bool) -> bytes:
    """A module's manifest with what Gradle would add to it."""
    ElementTree.register_namespace("android", ANDROID)
    path = module / "src/main/AndroidManifest.xml"
    root = ElementTree.parse(path).getroot()  # noqa: S314 - a file of this project
    root.set("package", package)
    sdk = ElementTree.Element("uses-sdk", {f"{{{ANDROID}}}minSdkVersion": LEAST_SDK})
    root.insert(0, sdk)
    if full:
        root.set(f"{{{ANDROID}}}versionCode", "1")
        root.set(f"{{{ANDROID}}}versionName", __version__)
        sdk.set(f"{{{ANDROID}}}targetSdkVersion", TARGET_SDK)
        for application in root.iter("application"):
            application.set(f"{{{ANDROID}}}extractNativeLibs", "false")
    return ElementTree.tostring(root, encoding="utf-8", xml_declaration=True)


def _files(folder: Path) -> list[Entry]:
    return [
        Entry(path.relative_to(folder).as_posix(), path.read_bytes())
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    ]


def build_all(
    out: Path,
    assets: Path | None,
    *,
    key: Path | None = None,
    jni: Path | None = None,
    stock: Path | None = None,
) -> None:
    """Build everything into `out`; an APK when there are assets, signed with `key` or a new one.

    Args:
        out: folder for what is built.
        assets: what `ondevice export-android` wrote.
        key: a keystore; None: one in `out`, generated if it is missing.
        jni: folder of the JNI libraries, which are built where they are not up to date.
        stock: folder with JARs or AARs of stock runtimes.

    Raises:
        UnavailableError: a tool or a package is missing; what came before it is built.
        ToolError: something does not compile, or Android would not take it.
    """
    out.mkdir(parents=True, exist_ok=True)
    for tool in jni_library.TOOLS:
        if shutil.which(tool) is None:
            raise UnavailableError(f"not installed: {tool}")
    libraries = {}
    for abi in jni_library.ABIS:
        libraries[abi.name] = library = jni_library.build(abi, (jni or out / "jni") / abi.name)
        _say(f"{abi.name}/{library.name}: {library.stat().st_size:,} bytes; nothing needed, "
             "nothing undefined, 16 KB segments")  # fmt: skip
    sdk = find_sdk(OUT)
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        classes = compile_java([LIBRARY / "src/main/java"], [], sdk, work / "library")
        aar = out / "ondevice-android.aar"
        build_aar(classes, libraries, aar)
        _say(f"{aar.name}: {aar.stat().st_size:,} bytes")
        if assets is None:
            return
        unsigned, apk = out / "demo-unsigned.apk", out / "demo.apk"
        build_apk(classes, libraries, assets, sdk, work, unsigned, stock_runtimes(stock))
        sign(unsigned, key or debug_key(out), apk)
    size = apk.stat().st_size
    _say(f"{apk.name}: {size:,} bytes with the model, signature verified")
    _say(f"unsigned {sha256(unsigned)}\nsigned   {sha256(apk)}")
    if size > LARGEST_APK:
        _say(f"warning: larger than {LARGEST_APK:,} bytes")


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def main() -> int:
    """Build, and print what was built, or what was skipped and why."""
    parser = argparse.ArgumentParser(description="Build the Android library and demo app.")
    parser.add_argument("--assets", type=Path, help="folder that ondevice export-android wrote")
    parser.add_argument("--stock", type=Path, help="folder with JARs or AARs of stock runtimes")
    parser.add_argument("--out", type=Path, default=OUT)
    args = parser.parse_args()
    try:
        build_all(args.out, args.assets, stock=args.stock)
    except UnavailableError as error:
        _say(f"skipped: the rest of the Android build ({error})")
        return 1 if os.environ.get("CI") else 0
    except ToolError as error:
        _say(str(error))
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
