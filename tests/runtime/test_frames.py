"""Requests as data frames and Arrow tables score as the same values given by name."""

from dataclasses import replace

import numpy as np
import pytest
from support.runtime import small_ids, write_one_input_model, write_small_model

import ondevice
from ondevice.cells import Cells
from ondevice.engines.native import is_compiled
from ondevice.errors import InputError
from ondevice.features import Field
from ondevice.hashing import hash_string
from ondevice.info import InputSpec, ModelInfo
from ondevice.odm import write_odm
from ondevice.plan import Node, Plan

pd = pytest.importorskip("pandas", reason="pandas is not installed")
pa = pytest.importorskip("pyarrow", reason="pyarrow is not installed")
pl = pytest.importorskip("polars", reason="polars is not installed")
run_end_encode = pytest.importorskip("pyarrow.compute").run_end_encode

RAW = {
    "user": ["anna", None, "", "bé\N{GRINNING FACE}", "anna"],
    "colour": [12345, None, 7, 7, 12345],
    "slot": [3, 0, 1, 2, 3],
}
KINDS = {
    "pandas": lambda data: pd.DataFrame(data).convert_dtypes(),
    "pandas with Arrow types": lambda data: pd.DataFrame(data).convert_dtypes(
        dtype_backend="pyarrow"
    ),
    "polars": pl.DataFrame,
    "Arrow table": pa.table,
    "record batch": lambda data: pa.table(data).to_batches()[0],
    "table in pieces": lambda data: pa.concat_tables(
        [pa.table(data).slice(0, 2), pa.table(data).slice(2)]
    ),
    "dictionary columns": lambda data: pa.table(
        {
            "user": pa.array(data["user"]).dictionary_encode(),
            **{name: data[name] for name in data if name != "user"},
        }
    ),
}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "small.odm"
    write_small_model(path)
    return ondevice.load(path)


@pytest.mark.parametrize("kind", KINDS)
def test_raw_tables_score_as_lists(model, kind):
    table = KINDS[kind]({**RAW, "clicked": [0, 1, 0, 0, 1]})
    np.testing.assert_array_equal(model.predict(table, raw=True), model.predict(RAW, raw=True))


COLUMNS = {
    "pandas": lambda values: pd.Series(values, dtype=object).convert_dtypes(),
    "pandas with Arrow types": lambda values: pd.Series(values).convert_dtypes(
        dtype_backend="pyarrow"
    ),
    "a category of pandas": lambda values: pd.Series(values, dtype=object).astype("category"),
    "polars": pl.Series,
    "pyarrow": pa.array,
    "in pieces": lambda values: pa.chunked_array([values[:2], values[2:]]),
    "a slice": lambda values: pa.array([values[2], *values, values[0]]).slice(1, len(values)),
    "a dictionary": lambda values: pa.array(values).dictionary_encode(),
    "runs": lambda values: run_end_encode(pa.array(values)),
}


@pytest.mark.parametrize("kind", COLUMNS)
def test_columns_alone_are_read_as_in_a_table(model, kind):
    expected = model.predict(RAW, raw=True)
    columns = {name: COLUMNS[kind](values) for name, values in RAW.items()}
    np.testing.assert_array_equal(model.predict(columns, raw=True), expected)
    if not kind.startswith(("pandas", "a category", "polars")):
        np.testing.assert_array_equal(model.predict(pa.table(columns), raw=True), expected)
    rest = {name: columns[name] for name in ("colour", "slot")}
    ranked = model.rank({"user": ["anna"]}, rest, raw=True)
    whole = model.predict({**RAW, "user": ["anna"] * 5}, raw=True)
    np.testing.assert_allclose(ranked, whole, atol=1e-6)


WORDS = ["anna", None, "b\N{GRINNING FACE}", "anna", "c"]  # as RAW has them, without an empty one


@pytest.mark.parametrize(
    "texts",
    [
        pl.Series(WORDS, dtype=pl.Categorical),
        pl.Series(WORDS, dtype=pl.Enum(sorted(set(filter(None, WORDS))))),
        pa.array(WORDS, pa.string_view()),
        pa.array([word and word.encode() for word in WORDS], pa.binary_view()),
        pa.array([word and word.encode() for word in WORDS]),
    ],
    ids=["categories of polars", "an enumeration", "views", "views of bytes", "bytes"],
)
def test_texts_of_every_arrow_type_are_read(model, texts):
    expected = model.predict({**RAW, "user": WORDS}, raw=True)
    table = pl.DataFrame if isinstance(texts, pl.Series) else pa.table
    for request in ({**RAW, "user": texts}, table({**RAW, "user": texts})):
        np.testing.assert_array_equal(model.predict(request, raw=True), expected)


def test_texts_of_polars_keep_what_numpy_strips():
    texts = ["a\0b", "\0", " a", "a\0"]
    for kind in (pl.Series, pa.array, pd.Series):
        np.testing.assert_array_equal(
            Field("word").encode(kind(texts)), list(map(hash_string, texts))
        )


def test_lists_of_every_arrow_type_are_read():
    field = Field("words", length=2)
    rows = [["a", "b"], None, [], ["a", None], ["x", "y", "z"]]
    last = [["a", "b"], [], [], ["a", None], ["y", "z"]]
    expected = [[0 if text is None else hash_string(text) for text in row] for row in last]
    expected = [row + [0] * (2 - len(row)) for row in expected]
    texts = pa.list_(pa.string()), pa.large_list(pa.string()), pa.list_view(pa.string())
    for column in (pl.Series(rows), pd.Series(rows), *(pa.array(rows, kind) for kind in texts)):
        np.testing.assert_array_equal(field.encode(column), expected)


def test_rows_of_unsigned_ids_keep_their_bits():
    field = Field("seen", "integer", "id", length=2)
    for rows in ([np.array([2**63 + 5, 7], np.uint64)], np.array([[2**63 + 5, 7]], ">u8")):
        np.testing.assert_array_equal(field.encode(rows), [[5 - 2**63, 7]])


def test_a_fault_in_a_column_names_its_row():
    column = pa.array([1, 2, None, 2.5, 2])
    with pytest.raises(InputError, match=r"^row 1: field 'slot': expected integers, got float64"):
        Field("slot", "integer", "id").encode(column)
    with pytest.raises(InputError, match=r"^input 'slot': columns of type struct"):
        Field("slot", "integer", "id").encode(pa.array([{"a": 1}]))


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "dictionary columns"])
@pytest.mark.parametrize("engine", ["native", "numpy"])
def test_tables_of_ids_score_as_arrays(model, kind, engine):
    if engine == "native" and not is_compiled():
        pytest.skip("the native engine is not compiled")
    ids = small_ids(5)
    other = ondevice.load(model.path, engine=engine)
    table = KINDS[kind]({**ids, "clicked": [0, 1, 0, 0, 1]})
    np.testing.assert_array_equal(other.predict(table), other.predict(ids))


def test_missing_values_of_dictionaries_stay_missing(tmp_path):
    """pyarrow's own way to numpy gives them the last value."""
    nodes = (Node("Add", ("price", "zero"), ("score",), {}),)
    plan = Plan(("price",), ("score",), nodes, ("zero",), {})
    info = ModelInfo((InputSpec("price", dtype="float32"),), ("score",))
    write_odm(tmp_path / "price.odm", plan, info, {"zero": np.zeros(1, np.float32)}, {})
    model = ondevice.load(tmp_path / "price.odm")
    column = pa.chunked_array([pa.array([1.0, None, 2.0]).dictionary_encode()])
    for kind in (column, pa.table({"price": column}), pd.DataFrame({"price": column.to_pandas()})):
        np.testing.assert_array_equal(model.predict(kind), [1, np.nan, 2])


def test_unsigned_dictionaries_keep_their_bits(model):
    for values in (pa.array([2**63 + 5, 7], pa.uint64()), pa.array([5 - 2**63, 7])):
        table = pa.table({**RAW, "slot": pa.array([0, 1, 0, 1, 0])}).set_column(
            1, "colour", pa.DictionaryArray.from_arrays(pa.array([0, 1, 0, 1, 1]), values)
        )
        expected = model.predict(
            {**RAW, "slot": [0, 1, 0, 1, 0], "colour": [5 - 2**63, 7] * 2 + [7]}, raw=True
        )
        np.testing.assert_array_equal(model.predict(table, raw=True), expected)


def test_bytes_that_are_no_text_are_refused(model):
    table = pa.table({**RAW, "user": pa.array([b"anna", b"\xff", None, b"", b"x"])})
    with pytest.raises(InputError, match=r"'user': .*UTF"):
        model.predict(table, raw=True)


@pytest.mark.parametrize("raw", [False, True])
def test_rank_takes_tables_on_either_side(model, raw):
    values = RAW if raw else small_ids(5)
    context = {"user": values["user"][:1]}
    rest = {name: values[name] for name in ("colour", "slot")}
    expected = model.rank(context, rest, raw=raw)
    for first in (context, pd.DataFrame(context)):
        for second in (rest, pl.DataFrame(rest), pa.table(rest)):
            np.testing.assert_array_equal(model.rank(first, second, raw=raw), expected)


def test_a_frame_that_has_the_context_too_is_refused(model):
    with pytest.raises(InputError, match="given as context and as candidates: user"):
        model.rank(pa.table({"user": ["anna"]}), pa.table(RAW), raw=True)


def test_lists_are_inputs_of_a_fixed_length(tmp_path):
    model = ondevice.load(write_one_input_model(tmp_path / "history.odm", length=3))
    frame = {"item": [[1, 2, 3], [0, 0, 7]]}
    for kind in (pd.DataFrame, pl.DataFrame, pa.table):
        np.testing.assert_array_equal(model.predict(kind(frame)), [6, 7])
    with pytest.raises(InputError, match="lists of one length"):
        model.predict(pa.table({"item": [[1], [1, 2], []]}))
    with pytest.raises(InputError, match="expected size 3, got 2"):
        model.predict(pa.table({"item": [[1, 2]]}))


@pytest.mark.parametrize(
    ("table", "raw", "fault"),
    [
        (pd.DataFrame({"user": ["a"], "slot": [1]}), True, "missing inputs: colour"),
        (pd.DataFrame({"user": [1], "slot": [1]}), False, "missing inputs: colour"),
        (pd.DataFrame([["a", "b"]], columns=["user", "user"]), True, "Arrow table"),
        (pa.table([[1], [2], [3], [4]], names=["user", "user", "colour", "slot"]), True, "user"),
        (pa.table([[1], [2], [3], [4]], names=["user", "user", "colour", "slot"]), False, "user"),
        (pd.DataFrame({"user": [1, None], "colour": 1, "slot": 1}), False, "row 2: input 'user'"),
        (pd.DataFrame({"user": ["a", "b"], "colour": 1, "slot": [1, "x"]}), True, "slot"),
        (pa.table({"user": ["a", "b"], "colour": [1, 2], "slot": ["1", "x"]}), True, "row 1"),
        (pd.DataFrame({"user": [], "colour": [], "slot": []}), False, "empty"),
        (pd.DataFrame({"user": ["a"], "colour": [1], "slot": [0.5]}), True, "row 1"),
        (pd.Series([1, 2]), False, "expected a mapping of input names, or a table; got Series"),
        ([1, 2], False, "got list; the model takes: user, colour, slot"),
        ("user", False, "got str"),
        (None, True, "got NoneType"),
    ],
)
def test_wrong_tables_are_refused_by_name(model, table, raw, fault):
    with pytest.raises(InputError, match=fault):
        model.predict(table, raw=raw)


def test_a_model_with_one_input_takes_its_values(tmp_path):
    model = ondevice.load(write_one_input_model(tmp_path / "one.odm"))
    for values in ([1, 2, 3], np.array([1, 2, 3]), pd.Series([1, 2, 3]), pl.Series([1, 2, 3])):
        np.testing.assert_array_equal(model.predict(values), [1, 2, 3])
    with pytest.raises(InputError, match="got str"):
        model.predict("123")


def test_columns_may_be_called_as_in_the_log(model):
    fields = tuple(
        replace(field, cells=Cells(column=f"log_{field.name}")) for field in model.features.fields
    )
    info = replace(model.info, features=replace(model.features, fields=fields))
    renamed = replace(model, info=info)
    log = {f"log_{name}": values for name, values in RAW.items()}
    expected = renamed.predict(RAW, raw=True)
    for table in (pa.table(log), pa.table(RAW), pl.DataFrame({**log, **RAW})):
        np.testing.assert_array_equal(renamed.predict(table, raw=True), expected)


@pytest.mark.parametrize("raw", [False, True])
def test_other_columns_may_hold_anything(model, raw):
    values = RAW if raw else {name: list(ids) for name, ids in small_ids(5).items()}
    frame = pd.DataFrame({name: pd.Series(column, dtype=object) for name, column in values.items()})
    frame["note"] = [object(), 1, "x", None, {}]
    np.testing.assert_array_equal(model.predict(frame, raw=raw), model.predict(values, raw=raw))


def test_tables_that_pandas_and_polars_make_say_what_to_do(model):
    """Integers with gaps, which pandas turns into floats; a row; a query that has not run."""
    frame = pd.DataFrame(RAW)
    with pytest.raises(
        InputError, match=r"expected integers, got .*; pandas makes floats .* Int64"
    ):
        model.predict(frame, raw=True)
    with pytest.raises(InputError, match=r"got Series \(one row of a data frame: frame.iloc"):
        model.predict(frame.iloc[0], raw=True)
    with pytest.raises(InputError, match=r"got LazyFrame \(collect it first\)"):
        model.predict(pl.LazyFrame(RAW), raw=True)
