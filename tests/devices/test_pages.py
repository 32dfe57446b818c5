"""docs/devices: the pages of browsers, servers and Android, their blocks one after the other."""

import functools
import http.server
import re
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from support.browser import CHROMIUM, LACKING
from support.pages import DEVICES, INPUTS, ROOT, blocks, commands, demo_scores, write_demo_model
from support.tools import does_not_run, missing, needs

import ondevice
from ondevice.features import FeatureSpec, Field

pytestmark = needs("" if DEVICES.is_dir() else "no docs beside the package")
ITEMS = {"item": [4, 8, 15], "seller": [1, 1, 2], "category": [3, 3, 5]}


def expected():
    shared = {"user": [1] * 3, "hour": [21] * 3, "device": [0] * 3}
    return demo_scores({**shared, **ITEMS})


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The checkout of the browser's page after its first commands, with the page's own files."""
    folder = tmp_path_factory.mktemp("browser")
    (folder / "web").symlink_to(ROOT / "web")
    (folder / "demo-out").mkdir()
    write_demo_model(folder / "demo-out" / "model.odm")
    (_, first), (_, second) = blocks("browser.md", "sh")
    install, build, copy = commands(first)
    assert install.startswith("sudo apt") and "http.server --directory site" in second
    for line in (build.replace("python3", sys.executable), copy):
        subprocess.run(line.split(), cwd=folder, check=True, capture_output=True, timeout=600)
    ((_, page),) = blocks("browser.md", "html")
    script, program = (text for _, text in blocks("browser.md", "js"))
    (folder / "site" / "index.html").write_text(page)
    (folder / "site" / "rank.js").write_text(script)
    (folder / "score.mjs").write_text(program)
    return folder


@needs(missing("clang", "wasm-ld"), LACKING)
def test_the_browser_s_page_ranks(site, tmp_path):
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=site / "site")
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever).start()
        try:
            command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--dump-dom",
                       "--virtual-time-budget=20000", "--enable-logging=stderr",
                       f"--user-data-dir={tmp_path / 'profile'}",
                       f"http://127.0.0.1:{server.server_port}/"]  # fmt: skip
            done = subprocess.run(command, capture_output=True, text=True, timeout=3000)
        finally:
            server.shutdown()
    lines = re.findall(r"<li>item (\d+): (0\.\d{4})</li>", done.stdout)
    want = sorted(zip(ITEMS["item"], expected(), strict=True), key=lambda pair: -pair[1])
    assert [int(item) for item, _ in lines] == [item for item, _ in want], done.stderr[-2000:]
    np.testing.assert_allclose([float(s) for _, s in lines], [s for _, s in want], atol=6e-5)


@needs(missing("clang", "wasm-ld"), does_not_run("node", "--version"))
def test_the_program_for_node_scores(site):
    done = subprocess.run(
        ["node", "score.mjs"], cwd=site, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr
    ids = dict(zip(INPUTS, [[1], [2], [3], [4], [5], [1]], strict=True))
    assert float(done.stdout) == pytest.approx(demo_scores(ids)[0], abs=1e-6)


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """A folder with demo-out/model.onnx, of a model that takes what the demo's takes."""
    from ondevice.converters import convert
    from ondevice.models import FullEmbedding
    from ondevice.models.networks import ClickModel

    folder = tmp_path_factory.mktemp("server")
    torch.manual_seed(0)
    tables = {name: FullEmbedding(50, 4, std=0.5) for name in INPUTS}
    example = {name: torch.randint(0, 50, (8,)) for name in INPUTS}
    features = FeatureSpec(tuple(Field(name, "integer", "id") for name in INPUTS))
    model = ClickModel(tables, (8,)).eval()
    convert(model, (example,), folder / "demo-out", targets=("onnx", "odm"), features=features)
    return folder


def test_the_server_s_page(server):
    said = {}
    for kind, text in blocks("server.md", "sh", "python")[1:]:  # the first installs
        for line in commands(text) if kind == "sh" else [text]:
            words = ["-c", text] if kind == "python" else None
            command = [sys.executable, *words] if words else [
                "bash", "-c", re.sub(r"(^|\| )ondevice ", rf"\1{sys.executable} -m ondevice ", line)
            ]  # fmt: skip
            done = subprocess.run(command, cwd=server, capture_output=True, text=True, timeout=3000)
            assert done.returncode == 0, f"{line}\n{done.stderr}"
            said[line] = done.stdout
    table = pq.read_table(server / "scores" / "part-00000.parquet")
    rows = pq.read_table(server / "log.parquet").to_pydict()
    model = ondevice.load(server / "demo-out" / "model.odm", engine="numpy")
    want = model.predict(rows, raw=True)
    assert table.column_names[:2] == ["user", "item"]
    np.testing.assert_allclose(table.column(2).to_numpy(), want, atol=1e-5)
    printed = np.array(re.findall(r"0\.\d+", next(iter(said.values()))), float)
    np.testing.assert_allclose(printed, want[:2], atol=1e-5)  # the same two rows
    assert float(list(said.values())[-1].split()[-1]) == pytest.approx(want[0], abs=1e-5)


JAVA = ROOT / "android_demo" / "ondevice-android" / "src" / "main" / "java" / "ondevice" / "ctr"


def test_the_android_page_names_what_there_is():
    """Its versions are those of the Gradle project, its calls those of the library."""
    page = (DEVICES / "android.md").read_text()
    project = (ROOT / "android_demo" / "build.gradle").read_text()
    library = (ROOT / "android_demo" / "ondevice-android" / "build.gradle").read_text()
    cmake = JAVA.parents[2] / "c" / "CMakeLists.txt"
    for pattern, text in (
        (r"com.android.library' version '([\d.]+)'", project),
        (r"ndkVersion '([\d.]+)'", library),
        (r"cmake_minimum_required\(VERSION ([\d.]+)\)", cmake.read_text()),
    ):
        assert re.findall(pattern, text)[0] in page
    (least,), (compiled,) = (re.findall(rf"{n} (\d+)", library) for n in ("minSdk", "compileSdk"))
    assert f"API {least})" in page and f"against API {compiled}" in page
    ((_, kotlin),) = blocks("android.md", "kotlin")
    for name in re.findall(r"import ondevice\.ctr\.(\w+)", kotlin):
        assert (JAVA / f"{name}.java").is_file()
    inputs, model = ((JAVA / f"{name}.java").read_text() for name in ("Inputs", "OnDeviceModel"))
    assert (
        "public Inputs integers(String name, long... values)" in inputs and ".integers(" in kotlin
    )
    assert "public static OnDeviceModel open(AssetManager assets, String name)" in model
    assert "public float[] rank(Inputs context, Inputs candidates)" in model
    assert "public void close()" in model and "model.close()" in kotlin


def test_the_index_names_every_page():
    text = (DEVICES / "README.md").read_text()
    named = {Path(name).name for name in re.findall(r"\]\((\w+\.md)\)", text)}
    assert named == {path.name for path in DEVICES.glob("*.md")} - {"README.md"}
