"""What a wheel contains, what importing the runtime loads, and which package imports which."""

import ast
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest
from support.wheels import build_wheel

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    path = build_wheel(tmp_path_factory.mktemp("wheel"))
    with zipfile.ZipFile(path) as archive:
        yield path, archive


def test_the_only_top_level_name_is_ondevice(wheel):
    path, archive = wheel
    assert path.name.startswith("ondevice_ctr-0.1.0-")
    tops = {name.split("/")[0] for name in archive.namelist()}
    assert tops == {"ondevice", "ondevice_ctr-0.1.0.dist-info"}


def test_every_module_is_in_the_wheel(wheel):
    _, archive = wheel
    packed = {name for name in archive.namelist() if name.endswith(".py")}
    expected = set()
    for folder, target in (
        ("ondevice", "ondevice"),
        ("converters", "ondevice/converters"),
        ("models", "ondevice/models"),
        ("web", "ondevice/web"),
    ):
        for file in (ROOT / folder).rglob("*.py"):
            expected.add(f"{target}/{file.relative_to(ROOT / folder)}")
    assert packed == expected
    assert "ondevice/py.typed" in archive.namelist()
    assert "ondevice/web/live.html" in archive.namelist()


def test_numpy_is_the_only_base_dependency(wheel):
    _, archive = wheel
    metadata = archive.read("ondevice_ctr-0.1.0.dist-info/METADATA").decode()
    needed = re.findall(r"^Requires-Dist: (.*)$", metadata, re.MULTILINE)
    base = [line for line in needed if "extra ==" not in line]
    assert base == ["numpy>=1.26"]
    assert "Requires-Python: >=3.11" in metadata


def installed(folder, variables):
    """Build a wheel and unpack it: its path, its packages' folder, an environment for them."""
    path = build_wheel(folder, variables)
    site = folder / "site"
    pip = [sys.executable, "-m", "pip", "--quiet", "install", "--no-deps"]
    subprocess.run([*pip, "--target", str(site), str(path)], check=True)
    # with python -S: an editable install of this project would lend its compiled engine
    packages = sysconfig.get_path("purelib")
    return path, site, os.environ | {"PYTHONPATH": f"{site}{os.pathsep}{packages}"}


def python(folder, environment, *words):
    """What Python without an editable install says; its exit code must be zero."""
    command = [sys.executable, "-P", "-S", *words]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=folder)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


RUNTIME_TESTS = ("-m", "pytest", "-q", "-c", str(ROOT / "pyproject.toml"), "-p", "no:cacheprovider",
                 str(ROOT / "tests" / "runtime"))  # fmt: skip
WHICH = (
    "import ondevice; from ondevice.engines.native import is_compiled;"
    "print(ondevice.__file__, is_compiled())"
)


def test_the_pure_wheel_runs_models_with_numpy(tmp_path):
    """The wheel for devices without a compiler, and the runtime's own tests on it."""
    path, site, environment = installed(tmp_path, {"ONDEVICE_PURE": "1"})
    assert path.name == "ondevice_ctr-0.1.0-py3-none-any.whl"
    assert not list(site.rglob("*.so"))
    said = python(tmp_path, environment, "-c", WHICH)
    assert said.split() == [str(site / "ondevice" / "__init__.py"), "False"]
    said = python(tmp_path, environment, "-m", "ondevice", "--version")
    assert said.startswith("ondevice 0.1.0 (without the native engine, which was not compiled")
    python(tmp_path, environment, *RUNTIME_TESTS)


def test_clang_compiles_the_engine(tmp_path):
    """clang refuses flags that GCC takes; such an install once had no engine and did not say so."""
    if shutil.which("clang") is None:
        assert "CI" not in os.environ, "CI installs clang"
        pytest.skip("clang is not installed")
    _, site, environment = installed(tmp_path, {"CC": "clang"})
    assert b"clang version" in (site / "ondevice" / "_native.abi3.so").read_bytes()
    said = python(tmp_path, environment, "-c", WHICH)
    assert said.split() == [str(site / "ondevice" / "__init__.py"), "True"]
    python(tmp_path, environment, *RUNTIME_TESTS)


def test_importing_ondevice_loads_nothing_heavy():
    program = (
        "import sys, ondevice; from ondevice import cli, verify, inspection;"
        "from ondevice.commands import bench;"
        "print(*sorted({name.split('.')[0] for name in sys.modules}));"
        "print(*[name for name in sys.modules if name.startswith('ondevice.')])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    tops, own = (set(line.split()) for line in done.stdout.splitlines())
    heavy = {"torch", "onnx", "onnx_ir", "onnxruntime", "ai_edge_litert", "tflite", "sklearn"}
    assert not tops & heavy
    assert not {name for name in own if name.startswith(("ondevice.converters", "ondevice.models"))}


def imported_modules(path):
    """The full names of all modules that a file imports, wherever in the file."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module or ""  # ruff refuses relative imports
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@pytest.mark.parametrize(
    ("folder", "refused"),
    [
        ("ondevice", ("ondevice.converters", "ondevice.models", "ondevice.web")),
        ("converters", ("ondevice.models", "ondevice.web")),
    ],
)
def test_packages_import_in_one_direction(folder, refused):
    files = sorted((ROOT / folder).rglob("*.py"))
    modules = {path: set(imported_modules(path)) for path in files}
    assert any("ondevice.errors" in names for names in modules.values())
    wrong = [
        f"{path.relative_to(ROOT)}: {name}"
        for path, names in modules.items()
        for name in sorted(names)
        if any(f"{name}.".startswith(f"{other}.") for other in refused)
    ]
    assert not wrong


def test_version_is_the_same_everywhere():
    done = subprocess.run(
        [sys.executable, "-m", "ondevice", "--version"], capture_output=True, text=True, check=True
    )
    assert re.fullmatch(r"ondevice 0\.1\.0 \(native engine: \w+\)\n", done.stdout)
    assert 'version = "0.1.0"' in (ROOT / "pyproject.toml").read_text()
    assert "## 0.1.0" in (ROOT / "CHANGELOG.md").read_text()


def load_code_map():
    """The script that writes docs/code_map.md, as a module."""
    spec = importlib.util.spec_from_file_location("make_code_map", ROOT / "docs/make_code_map.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_code_map_is_that_of_the_files():
    """A newcomer finds the way by the code map, so it must not go stale."""
    page = (ROOT / "docs/code_map.md").read_text(encoding="utf-8")
    assert page == load_code_map().code_map(), "run `python docs/make_code_map.py`"


def test_every_source_file_opens_with_a_sentence():
    script = load_code_map()
    files = [path for _, paths in script.source_files() for path in paths]
    lacking = [
        path.relative_to(ROOT).as_posix()
        for path in files
        if len(script.first_sentence(path).split()) < 3
    ]
    assert len(files) > 250
    assert not lacking, "these files do not open with a sentence that says what they are for"


def test_a_sentence_does_not_end_at_three_dots(tmp_path):
    page = tmp_path / "page.py"
    page.write_text('"""Scores IDs 1, 2, ... and prints the result. More."""\n')
    assert load_code_map().first_sentence(page) == "Scores IDs 1, 2, ... and prints the result"


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="not a git checkout")
def test_the_code_map_misses_no_source_file():
    """Every tracked source file below a folder; setup.py and the like lie beside them."""
    script = load_code_map()
    command = ["git", "ls-files", *(f"*/*{suffix}" for suffix in script.SUFFIXES)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    files = [path for _, paths in script.source_files() for path in paths]
    mapped = {path.relative_to(ROOT).as_posix() for path in files}
    assert {name for name in done.stdout.split() if (ROOT / name).exists()} <= mapped
