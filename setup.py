"""The native engine as an optional extension: where it cannot be compiled, numpy runs models."""

import os
from pathlib import Path

from setuptools import Extension, setup

NATIVE = Path("ondevice/native")
ENGINE = [
    str(NATIVE / line)
    for line in (NATIVE / "sources.txt").read_text("utf-8").splitlines()
    if line and not line.startswith("#")
]
BINDING = [str(NATIVE / "python" / name) for name in ("module.c", "hashing.c")]
SOURCES = [*ENGINE, str(NATIVE / "platform/posix.c"), *BINDING]

# Folders of the repository and their import names. Every folder with an __init__.py is a package.
FOLDERS = {"ondevice": "ondevice", "converters": "ondevice.converters", "models": "ondevice.models"}
PACKAGES = sorted(
    ".".join([name, *path.parent.relative_to(folder).parts])
    for folder, name in FOLDERS.items()
    for path in Path(folder).rglob("__init__.py")
)

# ONDEVICE_PURE=1 makes the wheel without a compiled part, for any platform.
PURE = os.environ.get("ONDEVICE_PURE") == "1"

setup(
    packages=PACKAGES,
    package_dir={name: folder for folder, name in FOLDERS.items()},
    ext_modules=[]
    if PURE
    else [
        Extension(
            "ondevice._native",
            SOURCES,
            depends=[str(NATIVE / "sources.txt"), *sorted(map(str, NATIVE.rglob("*.h")))],
            include_dirs=[str(NATIVE), str(NATIVE / "include")],
            # no contraction: the kernels promise the same rounding on every processor
            extra_compile_args=[
                *(
                    "-std=c11",
                    "-O2",
                    "-ftree-vectorize",
                    "-fvect-cost-model=dynamic",
                    "-ffp-contract=off",
                    "-fno-math-errno",
                ),
                *("-fvisibility=hidden", "-g0"),
                # no tables for unwinding the stack: C raises nothing, and they take 15 kB
                *("-fno-asynchronous-unwind-tables", "-fno-unwind-tables"),
            ],
            # the binding calls the engine directly, not by a table that others might change
            extra_link_args=["-Wl,-s", "-Wl,-Bsymbolic"],
            py_limited_api=True,
            optional=True,
        )
    ],
    options={} if PURE else {"bdist_wheel": {"py_limited_api": "cp311"}},
)
