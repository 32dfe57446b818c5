"""The native engine as an optional extension: where it cannot be compiled, numpy runs models."""

import os
from pathlib import Path

from setuptools import Extension, setup

SOURCES = sorted(str(path) for path in Path("ondevice/native").glob("*.c"))

# ONDEVICE_PURE=1 makes the wheel without a compiled part, for any platform.
PURE = os.environ.get("ONDEVICE_PURE") == "1"

setup(
    ext_modules=[]
    if PURE
    else [
        Extension(
            "ondevice._native",
            SOURCES,
            depends=sorted(str(path) for path in Path("ondevice/native").glob("*.h")),
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
            ],
            extra_link_args=["-Wl,-s"],
            py_limited_api=True,
            optional=True,
        )
    ],
    options={} if PURE else {"bdist_wheel": {"py_limited_api": "cp311"}},
)
