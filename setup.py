"""The native engine as an optional extension: where it cannot be compiled, numpy runs models."""

from pathlib import Path

from setuptools import Extension, setup

SOURCES = sorted(str(path) for path in Path("ondevice/native").glob("*.c"))

setup(
    ext_modules=[
        Extension(
            "ondevice._native",
            SOURCES,
            depends=sorted(str(path) for path in Path("ondevice/native").glob("*.h")),
            # no contraction: the kernels promise the same rounding on every processor
            extra_compile_args=[
                *("-std=c11", "-O2", "-ftree-vectorize", "-fvect-cost-model=dynamic", "-ffp-contract=off", "-fno-math-errno"),
                *("-fvisibility=hidden", "-g0"),
            ],
            extra_link_args=["-Wl,-s"],
            py_limited_api=True,
            optional=True,
        )
    ],
    options={"bdist_wheel": {"py_limited_api": "cp311"}},
)
