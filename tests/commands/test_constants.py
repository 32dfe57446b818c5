"""The bench's constants and the words of its JSON: Python, C and Java compared by their source."""

import dataclasses
import re
from pathlib import Path

import pytest

from ondevice.bench import report, strict
from ondevice.bench.measure import constants, memory, observation

ROOT = Path(__file__).parents[2]
RUNNER = [ROOT / "ondevice" / "native" / "runner" / name for name in ("runner.c", "posix.c")]
JAVA = ROOT / "android_demo/ondevice-android/src/main/java/ondevice/ctr/bench"

PYTHON = {name: value for name, value in vars(constants).items() if name.isupper()}
PYTHON |= {"FORMAT": report.FORMAT, "FORMAT_VERSION": report.FORMAT_VERSION}

NOT_IN_C = {
    "RANK_TOLERANCE": "adb.py says how far rank may be from predict",
    **dict.fromkeys(
        ["REQUESTS", "RANDOM_ROWS"], "adb.py draws the requests and ships them as a file"
    ),
    **dict.fromkeys(
        ["DEFAULT_ROWS", "DEFAULT_GAPS_MS", "DEFAULT_SECONDS", "DEFAULT_PROCESSES", "PACED_BUDGET",
         "MAX_SECONDS"], "the plan is Python's: the runner does one task"
    ),
    **dict.fromkeys(
        ["FORMAT", "FORMAT_VERSION", "REPORT_DIGITS", "MAX_SENSORS", "MAX_SYSTEM_FILE"],
        "Python writes the report, and reads the device's files through adb",
    ),
}  # fmt: skip
NOT_IN_JAVA = {
    "RANK_TOLERANCE": "the library verifies the file, which holds the tolerance",
    "PROFILE_REQUESTS": "the library has no profile by operator",
}
ONLY_IN_C: dict[str, str] = {}
ONLY_IN_JAVA = {"VERSION": "the library's; tests/android/test_library.py compares it with Python's"}


def without_comments(path):
    return re.sub(r"/\*.*?\*/|//[^\n]*", "", path.read_text(encoding="utf-8"), flags=re.DOTALL)


def value_of(text):
    """The value of a C or Java literal: a number, a shift, a text, or a list of such in braces."""
    text = text.strip()
    if text.startswith("{"):
        return tuple(value_of(item) for item in text.strip("{}").split(","))
    if text.startswith('"'):
        return text.strip('"')
    if shift := re.fullmatch(r"(\d+) << (\d+)", text):
        return int(shift[1]) << int(shift[2])
    assert re.fullmatch(r"[\d.]+", text), text
    return float(text) if "." in text else int(text)


def constants_of_c():
    source = "".join(map(without_comments, RUNNER))
    pairs = [pair.split("=") for block in re.findall(r"\benum \{(.*?)\}", source, re.DOTALL)
             for pair in block.split(",")]  # fmt: skip
    pairs += re.findall(r"^static const [\w *]+?([A-Z]\w*)\[\] = (\{[^{}]*\});", source, re.M)
    return {name.strip(): value.strip() for name, value in pairs}


def constants_of_java():
    found = {}
    for path in sorted(JAVA.glob("*.java")):
        for name, value in re.findall(
            r"\bstatic final [\w\[\]]+ ([A-Z]\w*) = ([^;]+);", without_comments(path)
        ):
            assert found.setdefault(name, value) == value, f"{name} has two values in Java"
    return found


@pytest.mark.parametrize(
    ("found", "missing", "extra"),
    [
        (constants_of_c(), NOT_IN_C, ONLY_IN_C),
        (constants_of_java(), NOT_IN_JAVA, ONLY_IN_JAVA),
    ],
    ids=["C", "Java"],
)
def test_every_constant_has_one_value(found, missing, extra):
    """By name and value; what one language lacks, or has beyond Python, is listed with a reason."""
    assert set(PYTHON) - set(found) == set(missing)
    assert set(found) - set(PYTHON) == set(extra)
    differ = {name: (PYTHON[name], value_of(found[name])) for name in set(PYTHON) & set(found)
              if value_of(found[name]) != PYTHON[name]}  # fmt: skip
    assert differ == {}


def test_no_constant_is_declared_twice():
    """What constants.py has, no other module of the bench assigns again."""
    for path in sorted((ROOT / "ondevice" / "bench").rglob("*.py")):
        if path.name != "constants.py":
            assigned = set(re.findall(r"^([A-Z]\w+)(?:: [^=\n]+)? = ", path.read_text(), re.M))
            assert not assigned & set(vars(constants)), path


def test_an_answer_of_the_most_requests_can_be_read():
    assert constants.MAX_REQUESTS <= strict.MAX_ITEMS
    assert constants.PROFILE_REQUESTS <= strict.MAX_ITEMS


# Words of an observation, as ondevice/bench/measure/observation.py reads them.
WORDS = {
    field.name
    for kind in (observation.Observation, observation.Bursts, observation.OperatorTimes)
    for field in dataclasses.fields(kind)
}
MEMORY_WORDS = {"process", "growth", "faults", "minor", "major"} | set(memory.FIELDS)
NO_METER = {"energy_uj", "energy_meter"}  # of C and Java: neither reads an energy meter
NO_PROFILE = {"operators", "node", "bytes"}  # of Java
OTHER_ANSWERS = {"error", "message", "note"}  # of C: an error, and the answer of "drop"


def test_the_runner_writes_the_words_that_python_reads():
    source = "".join(map(without_comments, RUNNER))
    words = set(re.findall(r'\\"(\w+)\\"', source))
    words |= set(re.findall(r'json_numbers\("(\w+)"', source))
    (memories,) = re.findall(r"MEMORY\[OD_SYSTEM_MEMORIES\] = \{([^{}]*)\};", source)
    words |= set(re.findall(r'"(\w+)"', memories))
    words -= {"native"}  # the engine's name, a value
    assert words == (WORDS | MEMORY_WORDS | OTHER_ANSWERS) - NO_METER


def test_the_java_worker_writes_the_words_that_python_reads():
    source = without_comments(JAVA / "Worker.java")
    words = set(re.findall(r'\.put\("(\w+)"', source))
    (fields,) = re.findall(r"String\[\]\[\] fields = \{(.*?)\};", source, re.DOTALL)
    words |= set(re.findall(r'\{"(\w+)"', "{" + fields.strip()))
    assert words == (WORDS | MEMORY_WORDS) - NO_METER - NO_PROFILE
