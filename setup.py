"""The native engine as an optional extension: where it cannot be compiled, numpy runs models."""

import os
import sys
import tempfile
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.errors import CompileError

NATIVE = Path("ondevice/native")


def listed(name: str) -> list[str]:
    """The C files that a list of sources names."""
    lines = (NATIVE / name).read_text("utf-8").splitlines()
    return [str(NATIVE / line) for line in lines if line and not line.startswith("#")]


BINDING = [str(NATIVE / "python" / name) for name in ("module.c", "hashing.c")]
FILES = ("windows.c",) if sys.platform == "win32" else ("posix.c", "mapped.c")
PLATFORM = [str(NATIVE / "platform" / name) for name in (*FILES, "threads.c")]
# The compiled modules: what checks signatures lies beside the engine, which keeps its size.
MODULES = {
    "ondevice._native": [*listed("sources.txt"), *PLATFORM, *BINDING],
    "ondevice._update": [*listed("update/sources.txt"), str(NATIVE / "python" / "update.c")],
}

# Folders of the repository and their import names. Every folder with an __init__.py is a package.
FOLDERS = {
    "ondevice": "ondevice",
    "converters": "ondevice.converters",
    "models": "ondevice.models",
    "web": "ondevice.web",
}
PACKAGES = sorted(
    ".".join([name, *path.parent.relative_to(folder).parts])
    for folder, name in FOLDERS.items()
    for path in Path(folder).rglob("__init__.py")
)

# Flags of GCC and clang. Without contraction, the kernels promise the same rounding on every
# processor. Tables for unwinding the stack take 15 kB, and C raises nothing.
# The extension offers its module only, no functions of the engine: what it does not use goes.
REQUIRED_FLAGS = (
    "-std=c11",
    "-O2",
    "-ffp-contract=off",
    "-pthread",
    "-DOD_OLDEST_GLIBC",
    "-DOD_API=",
)
# Asked for where the compiler knows them: clang has no cost model, for instance.
OPTIONAL_FLAGS = (
    "-ftree-vectorize",
    "-fvect-cost-model=dynamic",
    "-fno-math-errno",
    "-fvisibility=hidden",
    "-ffunction-sections",
    "-fno-align-functions",
    "-fno-align-jumps",
    "-fno-align-labels",
    "-fno-align-loops",
    "-g0",
    "-fno-asynchronous-unwind-tables",
    "-fno-unwind-tables",
)
# What these passes of GCC do makes 5 kB more of code on x86-64 and nothing faster (benchmarks/
# topologies.py); on ARM 1 kB, and without it a batch takes 5 % more instructions (arm_cost.py).
X86_64_FLAGS = (
    "-fvect-cost-model=very-cheap",
    "-fno-tree-pre",
    "-fno-gcse",
    "-fno-code-hoisting",
    "-freorder-blocks-algorithm=simple",
)
# Of the GNU linker and lld: no symbols; the binding calls the engine directly, not by a table that
# others might change. Apple's linker knows neither and needs neither.
LINK_FLAGS = (
    ()
    if sys.platform in ("darwin", "win32")
    else ("-Wl,-s", "-Wl,-Bsymbolic", "-Wl,--gc-sections", "-pthread")
)


class BuildEngine(build_ext):
    """Compiles the engine with the flags that this compiler knows."""

    def build_extension(self, extension: Extension) -> None:
        """Add the flags, then compile."""
        wanted = [*OPTIONAL_FLAGS]
        if self._compiles("#ifndef __x86_64__\n#error only for x86-64\n#endif\n"):
            wanted += X86_64_FLAGS
        known = filter(self._knows, wanted)
        extension.extra_compile_args = [*REQUIRED_FLAGS, *known]
        super().build_extension(extension)

    def _knows(self, flag: str) -> bool:
        """Whether the compiler takes a flag without a warning."""
        return self._compiles("", "-Werror", flag)

    def _compiles(self, text: str, *flags: str) -> bool:
        """Whether the compiler takes a source with such flags."""
        with tempfile.TemporaryDirectory() as folder:
            source = Path(folder, "empty.c")
            source.write_text(f"{text}int ondevice_empty;\n", encoding="utf-8")
            try:
                self.compiler.compile([str(source)], output_dir=folder, extra_postargs=[*flags])
            except CompileError:
                return False
        return True


# ONDEVICE_PURE=1 makes the wheel without a compiled part, for any platform.
PURE = os.environ.get("ONDEVICE_PURE") == "1"

setup(
    packages=PACKAGES,
    package_dir={name: folder for folder, name in FOLDERS.items()},
    ext_modules=[]
    if PURE
    else [
        Extension(
            name,
            sources,
            depends=[
                *map(str, NATIVE.rglob("sources.txt")),
                *sorted(map(str, NATIVE.rglob("*.h"))),
            ],
            include_dirs=[str(NATIVE), str(NATIVE / "include")],
            extra_link_args=list(LINK_FLAGS),
            py_limited_api=True,
            optional=True,
        )
        for name, sources in MODULES.items()
    ],
    cmdclass={"build_ext": BuildEngine},
    options={} if PURE else {"bdist_wheel": {"py_limited_api": "cp311"}},
)
