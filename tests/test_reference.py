"""The reference of the Python interface is written from docstrings, and covers what is promised."""

import inspect
import warnings
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import pytest

import ondevice
import ondevice.converters
import ondevice.models

SCRIPT = Path(__file__).parent.parent / "docs" / "make_reference.py"


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    pytest.importorskip("pdoc", reason="pdoc is not installed")
    spec = spec_from_file_location("make_reference", SCRIPT)
    script = module_from_spec(spec)
    spec.loader.exec_module(script)
    folder = tmp_path_factory.mktemp("reference")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        script.write_reference(folder)
    return {
        path.relative_to(folder).with_suffix("").as_posix().replace("/", "."): path.read_text()
        for path in folder.rglob("*.html")
    }


def test_the_promised_modules_have_pages_and_no_others(pages):
    assert set(pages) == {
        *("index", "ondevice", "ondevice.errors", "ondevice.verify", "ondevice.inspection"),
        *("ondevice.converters", "ondevice.models"),
    }


@pytest.mark.parametrize("module", [ondevice, ondevice.converters, ondevice.models])
def test_all_names_of_a_module_stand_on_its_page(pages, module):
    for name in module.__all__:
        assert f'id="{name}"' in pages[module.__name__], name
    for name in ("predict", "rank", "close"):
        assert f'id="Model.{name}"' in pages["ondevice"]


@pytest.mark.parametrize("module", [ondevice, ondevice.converters, ondevice.models])
def test_every_promised_function_and_class_is_described(module):
    for name in module.__all__:
        item = getattr(module, name)
        if inspect.isclass(item) or inspect.isfunction(item):
            assert inspect.getdoc(item), name
