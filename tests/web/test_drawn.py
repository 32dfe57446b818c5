"""The page of a model without a catalogue: rows drawn from its file, ranked as in Python."""

import re

import numpy as np
import pytest
from support import web
from support.attention import write_attention
from support.browser import LACKING as CHROMIUM_LACKING
from support.devtools import chromium
from support.native import random_table, write_model
from support.random_plans import random_plan
from support.tools import needs

import ondevice
from ondevice.bench.serve import serving
from ondevice.features import FeatureSpec, Field
from ondevice.odm import open_odm
from ondevice.ranking import named_scores
from ondevice.spec import full_spec, hashing_spec
from ondevice.web.drawn import drawn_rows, varied_inputs
from ondevice.web.live import page_of

READY = "document.getElementById('list').children.length"
LINES = "Array.from(document.querySelectorAll('#list li'), (line) => line.textContent)"
TITLES = "Array.from(document.querySelectorAll('#list li'), (line) => line.children[1].textContent)"
SCORES = "Array.from(document.querySelectorAll('#list li'), (line) => line.children[2].textContent)"
UNLABELLED = (
    "Array.from(document.querySelectorAll('main input, main select'))"
    ".filter((x) => x.type !== 'file' && !x.labels.length).length"
)
SAID = "document.getElementById('status').textContent"


def write_fields(path):
    """A model of a field of every kind, without test vectors; one vocabulary is not inside."""
    rng = np.random.default_rng(1)
    vocabulary = np.sort(rng.integers(-(2**63), 2**63, 30))
    fields = (
        Field("user", "string"),
        Field("history", "string", "hash", length=4),
        Field("item", "string", "vocabulary", vocabulary=vocabulary),
        Field("category", "string", "vocabulary"),
        Field("shops", "integer", "vocabulary", vocabulary=vocabulary, length=3),
        Field("price", "number", "bucket", boundaries=np.array([1.0, 5.0, 20.0])),
    )
    specs = {
        "user": hashing_spec(11, 4), "history": hashing_spec(11, 4),
        "item": full_spec(32, 4, oov_row=1), "category": full_spec(9, 4, oov_row=1),
        "shops": full_spec(32, 4, oov_row=1), "price": full_spec(6, 4, oov_row=1),
        "place": full_spec(7, 4),
    }  # fmt: skip
    tables = {name: random_table(spec, "q8", rng, truncated=False, axis="row")
              for name, spec in specs.items()}  # fmt: skip
    shapes = {"history": ("batch", 4), "shops": ("batch", 3)}
    outputs = [f"{name}.vector" for name in ("item", "category", "price", "place")]
    return write_model(path, specs, tables, [], {}, outputs, shapes=shapes,
                       features=FeatureSpec(fields))  # fmt: skip


def write_free(path):
    """A model whose list has any length."""
    write_attention(path)
    return path


def rows_in_python(path):
    """The numpy engine's model, the drawn rows as its inputs, and what was drawn."""
    model = ondevice.load(path, engine="numpy")
    drawn = drawn_rows(open_odm(path))
    inputs = {}
    for spec in model.inputs:
        values = [row[spec.name] for row in drawn["rows"]]
        if spec.name in drawn["raw"]:
            inputs[spec.name] = model.features[spec.name].encode(values)
        else:
            inputs[spec.name] = np.array(values).astype(spec.dtype)
    return model, inputs, drawn


def expected_columns(path, shared_row=0):
    """Scores of all drawn candidates for a row's context: by output and column, [rows]."""
    model, inputs, drawn = rows_in_python(path)
    given = {
        name: ids
        if name in drawn["varied"]
        else np.repeat(ids[shared_row : shared_row + 1], len(ids), 0)
        for name, ids in inputs.items()
    }
    columns = {}
    for name, scores in named_scores(model, model.predict(given)).items():
        flat = scores.reshape(len(scores), -1)
        for i in range(flat.shape[1]):
            columns[f"{name}[{i}]" if flat.shape[1] > 1 else name] = flat[:, i]
    return columns


WRITERS = {
    "fields": write_fields,
    "free": write_free,
    **{
        str(seed): lambda path, seed=seed: random_plan(seed, "f32").write(path) for seed in range(6)
    },
}


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    with chromium(tmp_path_factory.mktemp("chromium")) as page:
        yield page


def served(path):
    """The page of a model, on a server of its own."""
    reports = path.parent / "reports"
    return serving(page_of(path), "127.0.0.1", 0, reports, lambda line: None)


@needs(CHROMIUM_LACKING, web.CLANG_LACKING)
@pytest.mark.parametrize("name", WRITERS)
def test_drawn_candidates_are_ranked_as_in_python(page, tmp_path, name):
    path = WRITERS[name](tmp_path / "model.odm")
    with served(path) as server:
        page.open(server.url, 390, dark=True)
        page.until(READY)
        assert page.value("document.documentElement.scrollWidth") <= 390
        assert not page.value("document.getElementById('drawn').hidden")
        options = page.value(
            "Array.from(document.querySelectorAll('#output option'), (o) => o.textContent)"
        )
        columns = expected_columns(path)
        assert options == list(columns)[:50]
        output = options[int(page.value("document.getElementById('output').value"))]
        differ = [np.ptp(scores) > 0 for scores in columns.values()]
        assert np.ptp(columns[output]) > 0 or not any(differ)
        titles = page.value(TITLES)
        assert len(set(titles)) > 1
        got = np.array(page.value(SCORES), float)
        assert (np.diff(got) <= 1e-9).all()
        # each drawn row once: the scores of all of them, without the repeated ones
        want = columns[output]
        np.testing.assert_allclose(
            [got.max(), got.min()], [want.max(), want.min()], rtol=1e-3, atol=1e-5
        )
        nearest = np.abs(want[:, None] - got).min(1)
        assert (nearest <= 1e-3 * np.abs(want) + 1e-5).all()
        assert page.value(UNLABELLED) == 0
        assert page.said == []


@needs(CHROMIUM_LACKING, web.CLANG_LACKING)
def test_what_somebody_types_and_ticks(page, tmp_path):
    with served(write_fields(tmp_path / "model.odm")) as server:
        page.open(server.url, 1100)
        page.until(READY)

        def typed(name, text):
            box = f"document.getElementById('value-{name}')"
            page.value(f"{box}.value = {text!r}, {box}.dispatchEvent(new Event('input'))")
            return page.value(SAID), page.value(f"{box}.getAttribute('aria-invalid')")

        assert page.value("document.getElementById('value-shops').placeholder").startswith("ID [")
        assert typed("user", "somebody")[1] == "false"
        said, invalid = typed("shops", "no number")
        assert invalid == "true"
        assert "integer" in said
        assert typed("shops", "12, 13")[1] == "false"
        assert typed("shops", "")[1] == "false"  # what was drawn counts again
        assert page.value(READY) > 1
        said, invalid = typed("place", "6")
        assert invalid == "false"
        assert "place" in typed("place", "6.5")[0]
        assert "7" in typed("place", "7")[0]  # beyond the table: the engine says so
        typed("place", "6")
        before = page.value(LINES)
        for name in ("user", "item", "category", "price"):
            page.click(f"[data-name={name}] [type=checkbox]")
        assert page.value("document.activeElement.type") == "checkbox"
        assert all(title.startswith("user ") for title in page.value(TITLES))
        assert page.value(LINES) != before
        # the last input that differs cannot be taken away
        assert page.value("document.querySelector('[data-name=user] [type=checkbox]').disabled")
        assert page.said == []


def test_rows_are_what_the_model_takes(tmp_path):
    for name, write in WRITERS.items():
        model, inputs, drawn = rows_in_python(write(tmp_path / f"{name}.odm"))
        scores = named_scores(model, model.predict(inputs))
        assert all(np.isfinite(array).all() for array in scores.values())
        assert len(drawn["rows"]) == 100


def test_ids_of_a_vocabulary_are_those_of_its_values(tmp_path):
    _, inputs, drawn = rows_in_python(write_fields(tmp_path / "model.odm"))
    assert drawn["raw"] == ["user", "history", "price"]
    assert inputs["item"].min() >= 2
    assert inputs["item"].max() <= 31
    assert inputs["category"].max() <= 8  # the table's rows: the vocabulary is not inside
    assert set(inputs["price"]) == {2, 3, 4, 5}
    assert (inputs["shops"][:, 0] >= 2).all()
    assert (inputs["shops"] == 0).any()


def test_a_large_input_gives_fewer_rows(tmp_path):
    specs = {"history": full_spec(9, 1)}
    table = random_table(
        specs["history"], "q8", np.random.default_rng(0), truncated=False, axis="row"
    )
    path = write_model(tmp_path / "m.odm", specs, {"history": table}, [], {}, ["history.vector"],
                       shapes={"history": ("batch", 50_000)})  # fmt: skip
    assert len(drawn_rows(open_odm(path))["rows"]) == 5


@pytest.mark.parametrize(("names", "varied"), [
    (["user", "item", "seller", "category", "hour"], ["item", "seller", "category"]),
    (["userId", "movieId", "hist_movie_id", "movieGenre"], ["movieId", "movieGenre"]),
    (["C1", "C2", "C3"], ["C2", "C3"]),
    (["x"], ["x"]),
    (["item_id"], ["item_id"]),
])  # fmt: skip
def test_inputs_that_differ_between_candidates_are_told_by_their_names(names, varied):
    assert varied_inputs(names) == varied


@needs(CHROMIUM_LACKING, web.CLANG_LACKING)
def test_a_model_that_the_browser_cannot_open_says_so(page, tmp_path):
    text = page_of(write_fields(tmp_path / "model.odm"))
    damaged = tmp_path / "live.html"
    # "AAAA" in base64 are three zero bytes, in the place of the file's first three
    damaged.write_text(re.sub(r'"model": "....', '"model": "AAAA', text, count=1), "utf-8")
    with served(damaged) as server:
        page.open(server.url, 390)
        page.until("!document.getElementById('failed').hidden")
        said = page.value("document.getElementById('failed').textContent")
        assert said.startswith("This browser cannot run the model: ")
        page.heard()  # the error stands on the console too
