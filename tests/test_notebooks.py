"""The notebooks of examples/ run from their first cell to their last."""

import tempfile
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parent.parent / "examples"
NOTEBOOKS = sorted(EXAMPLES.glob("*.ipynb"))


def test_there_are_two():
    assert [path.stem for path in NOTEBOOKS] == ["convert", "measure"]


@pytest.fixture
def kernel():
    """A manager whose kernel is reached by sockets in a folder: a port may be taken meanwhile."""
    jupyter = pytest.importorskip("jupyter_client", reason="jupyter_client is not installed")
    with tempfile.TemporaryDirectory(prefix="nb") as folder:  # its path is short, as for sockets
        yield jupyter.AsyncKernelManager(
            kernel_name="python3", transport="ipc", connection_file=f"{folder}/k.json"
        )


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs(path, kernel):
    client = pytest.importorskip("nbclient", reason="nbclient is not installed")
    nbformat = pytest.importorskip("nbformat", reason="nbformat is not installed")
    pytest.importorskip("ipykernel", reason="ipykernel is not installed")
    book = nbformat.read(path, as_version=4)
    nbformat.validate(book)
    # it builds a cache when it is first imported, and says so on stderr where that takes 5 seconds
    pytest.importorskip("matplotlib.font_manager")
    client.NotebookClient(book, km=kernel, timeout=1800, startup_timeout=600).execute()
    shown = [output for cell in book.cells for output in cell.get("outputs", [])]
    assert any("image/png" in output.get("data", {}) for output in shown)
    assert not any(output.get("name") == "stderr" for output in shown)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_outputs_that_are_kept_name_no_folder_of_a_machine(path):
    text = path.read_text(encoding="utf-8")
    for folder in ("tmp", "home", "Users"):
        assert f"/{folder}/" not in text
