"""Reports, devices and boards that lie: one typed error in one printable line, bounded memory."""

import copy
import json
import subprocess
import sys
import time

import pytest
from support.runtime import write_small_model

from ondevice.bench.measure.device import DEVICE_FILES, STATE_FILES, describe, state
from ondevice.bench.measure.plan import Plan
from ondevice.bench.measure.rounds import run_plan
from ondevice.bench.report import MAX_BYTES, Report, parse_report
from ondevice.bench.show.compare import compare
from ondevice.bench.show.page import page
from ondevice.bench.show.tables import csv_text, markdown, text
from ondevice.bench.strict import one_line, parse_json
from ondevice.bench.targets import pipes
from ondevice.bench.targets.local import LocalMachine, parse_answer, raise_answered
from ondevice.errors import FileFormatError, InputError, OnDeviceError

ESCAPE = "\x1b]0;pwned\x07\x1b[31m"
DIGITS = 4000  # below the limit of Python's own parser, beyond every float
OBSERVATION = {"engine": "native", "runtime": "native avx2", "emulated": None, "affinity": [0],
               "workers": [{"times_ns": [5, 6], "counts": [2], "walls_ns": [12]}],
               "cpu_ns": 9, "overhead_ns": [1]}  # fmt: skip


def deep(levels):
    return json.loads("[" * levels + "]" * levels)


HOSTILE = {
    "escape": ESCAPE,
    "bidirectional": "a\u202eb",
    "long": "x" * 100_000,
    "huge": 10**DIGITS,
    "negative": -(10**DIGITS),
    "large": 1e18,
    "tiny": 5e-324,
    "infinite": float("inf"),
    "nan": float("nan"),
    "deep": deep(900),
    "list": [[]] * 200_000,
}


def assert_shows(message):
    """One printable line of a length that a terminal can take."""
    assert message.isprintable()
    assert 0 < len(message) < 5000


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    path = tmp_path_factory.mktemp("untrusted") / "small.odm"
    write_small_model(path)
    return path


@pytest.fixture(scope="module")
def data(model):
    """A real report, as JSON."""
    plan = Plan((model,), rows=(1,), gaps_ms=(0.0,), seconds=0.05, processes=2, profile=True,
                accuracy={"small.odm": {"AUC": 0.7}})  # fmt: skip
    return run_plan(plan, LocalMachine()).to_json()


def members(value, path=()):
    """Paths of the members of a JSON document: of a list, the first item stands for all."""
    pairs = value.items() if isinstance(value, dict) else list(enumerate(value))[:1]
    for key, item in pairs:
        yield (*path, key)
        if isinstance(item, dict | list):
            yield from members(item, (*path, key))


@pytest.mark.parametrize("name", HOSTILE)
def test_every_member_of_a_report_may_be_hostile(data, name):
    """A typed error, or a report that every form can show and compare."""
    base, refused = Report.from_json(data, "base"), 0
    for path in members(data):
        changed = copy.deepcopy(data)
        at = changed
        for key in path[:-1]:
            at = at[key]
        at[path[-1]] = HOSTILE[name]
        try:
            report = Report.from_json(changed, "here")
        except FileFormatError as error:
            assert_shows(str(error))
            refused += 1
            continue
        shown = [text(report), markdown(report), csv_text(report), page([report, base])]
        try:
            shown.append(compare(base, report).text())
        except InputError as error:
            assert_shows(str(error))
        for part in shown:
            assert part.replace("\n", "").isprintable()
    assert refused > (10 if name in ("large",) else 50)


@pytest.mark.parametrize(
    "raw",
    [
        b'{"format": "ondevice-bench", "version": 1, "version": 2}',
        b'{"format": "ondevice-bench", "\\u001b[31m": 1, "\\u001b[31m": 2}',
        b'{"format": "ondevice-bench", "version": "\\u001b[31m"}',
        b'{"format": "ondevice-bench", "version": true}',
        b'{"format": "ondevice-bench", "version": NaN}',
        b'{"format": "ondevice-bench", "version": ' + b"9" * 5000 + b"}",
        b'{"format": "ondevice-bench", "version": ' + b"[" * 500 + b"]" * 500 + b"}",
        b'{"format": "ondevice-bench", "version": 1, "created": "\xff"}',
        b"[" * 1_000_000,
        b'{"a":' * 100_000,
        b" " * (MAX_BYTES + 1),
    ],
    ids=["twice", "escape-twice", "escape", "bool", "nan", "digits", "deep", "utf-8", "brackets",
         "braces", "size"],
)  # fmt: skip
def test_documents_that_are_no_report(raw):
    with pytest.raises(FileFormatError, match=r"^here") as caught:
        parse_report(raw, "here")
    assert_shows(str(caught.value))


def test_a_member_that_comes_twice_is_refused(data):
    raw = json.dumps(data).encode()
    parse_report(raw, "here")
    with pytest.raises(FileFormatError, match="'interrupted' comes twice"):
        parse_report(b'{"interrupted": true, ' + raw[1:], "here")


def test_every_truncation_of_a_report_is_refused(data):
    raw = json.dumps(data).encode()
    for end in range(0, len(raw), 97):
        with pytest.raises(FileFormatError):
            parse_report(raw[:end], "here")


def test_the_command_prints_one_line(data, tmp_path):
    data = {**data, "tool": ESCAPE}
    (tmp_path / "r.json").write_text(json.dumps(data))
    done = subprocess.run([sys.executable, "-m", "ondevice", "bench", "r.json"], cwd=tmp_path,
                          capture_output=True, text=True, timeout=600)  # fmt: skip
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.startswith("ondevice: r.json.tool: ")
    assert done.stderr.count("\n") == 1
    assert_shows(done.stderr.strip())


@pytest.mark.parametrize("name", HOSTILE)
def test_every_member_of_an_observation_may_be_hostile(name):
    parse_answer(json.dumps(OBSERVATION), "", 0, "m.odm")
    for path in members(OBSERVATION):
        changed = copy.deepcopy(OBSERVATION)
        at = changed
        for key in path[:-1]:
            at = at[key]
        at[path[-1]] = HOSTILE[name]
        try:
            parse_answer(json.dumps(changed), "", 0, "m.odm")
        except OnDeviceError as error:
            assert_shows(str(error))


@pytest.mark.parametrize(
    ("out", "err"),
    [("", ESCAPE), (ESCAPE, ""), ("", "x" * 10**6), ("[" * 10**6, ""), ("9" * 5000, ""),
     ('{"workers": NaN}', ""), ("[]", ""), ('{"error": 5}', ""), ('{"error": [[[]]]}', ""),
     ('{"error": "needs_extra", "message": "x"}', ""), ('{"error": "__file__"}', "")],
)  # fmt: skip
def test_answers_of_a_measuring_process_that_say_nothing(out, err):
    with pytest.raises(OnDeviceError) as caught:
        parse_answer(out, err, 1, "m.odm")
    assert_shows(str(caught.value))


@pytest.mark.parametrize(
    "message",
    [ESCAPE, "a\nb\r\n\tc", "x" * 10**6, None, 10**DIGITS, deep(900)],
    ids=["escape", "lines", "long", "none", "digits", "deep"],
)
def test_an_error_of_another_process_is_one_line(message):
    with pytest.raises(InputError) as caught:
        raise_answered({"error": "InputError", "message": message})
    assert_shows(str(caught.value))


@pytest.mark.parametrize(
    "content",
    [ESCAPE, "9" * 5000, "²", "1.2.3", "-", "", "0x" + "f" * 5000, "a: b\n" * 5000,
     "MemTotal: " + "9" * 5000 + " kB", "cpu MHz\t: 1.2.3", "CPU part\t: 0x" + "f" * 5000,
     "PRETTY_NAME=\"\x1b[31m\"", "model name\t: " + "x" * 60_000],
)  # fmt: skip
def test_every_file_of_a_device_may_be_hostile(data, content):
    """What a device says of itself makes a report that can be written and shown."""
    names = [name.replace("*", "1") for name in (*DEVICE_FILES, *STATE_FILES)]
    texts = dict.fromkeys(names, content)
    texts[f"sys/devices/system/cpu/cpufreq/policy{'9' * 5000}/affected_cpus"] = content
    device = describe(texts, architecture=content, kernel=content, cores=1, emulated=None,
                      versions={})  # fmt: skip
    report = copy.deepcopy(data)
    report["device"] = json.loads(json.dumps(vars(device)))
    at = state(texts)
    for clock in at.clocks:
        assert clock.governor is None or clock.governor.isprintable()
    for item in at.temperatures:
        assert item.sensor.isprintable()
    assert text(Report.from_json(report, "here")).replace("\n", "").isprintable()


class Liar(LocalMachine):
    """This machine, whose observations are replaced."""

    def __init__(self, change):
        self.change = change

    def observe(self, model, task):
        found = super().observe(model, task)
        return self.change(found) if task.kind in ("latency", "profile") else found


def shorter_each_time():
    """A different number of operators in every process."""
    calls = []

    def change(found):
        calls.append(0)
        replaced = {"operators": found[0].operators[: len(calls)]}
        return [type(found[0])(**{**vars(found[0]), **replaced})] if found[0].operators else found

    return change


@pytest.mark.parametrize(
    "change",
    [
        lambda found: [],
        lambda found: [type(one)(**{**vars(one), "workers": ()}) for one in found],
        shorter_each_time(),
    ],
    ids=["no process", "no request", "other operators"],
)
def test_observations_that_do_not_fit_are_refused(model, change):
    plan = Plan((model,), rows=(1,), gaps_ms=(0.0,), seconds=0.02, processes=2, profile=True)
    with pytest.raises(FileFormatError) as caught:
        run_plan(plan, Liar(change))
    assert_shows(str(caught.value))


def program(code):
    return [sys.executable, "-c", code]


def test_an_endless_answer_is_cut():
    code = "import sys\nwhile True: sys.stdout.write('x' * 65536)"
    with pytest.raises(OnDeviceError, match="longer than 1000000 bytes"):
        pipes.run(program(code), 1_000_000, 60)
    process = subprocess.Popen(program(code), stdout=subprocess.PIPE, start_new_session=True)
    with process, pytest.raises(OnDeviceError, match="longer than 1000000 bytes"):
        pipes.read_line(process, 1_000_000, 60)
    assert process.returncode != 0


@pytest.mark.parametrize(
    "code",
    ["import time; time.sleep(600)",
     "import subprocess, sys, time; subprocess.run([sys.executable, '-c', "
     "'import time; time.sleep(600)'])",
     "import sys, time; sys.stdout.close(); time.sleep(600)"],
    ids=["silent", "a child holds the pipe", "closed"],
)  # fmt: skip
def test_an_answer_that_never_comes_is_given_up(code):
    begun = time.monotonic()
    with pytest.raises(OnDeviceError, match="no answer for 1 s"):
        pipes.run(program(code), 1000, 1)
    assert time.monotonic() - begun < 300  # they sleep for 600


def test_endless_complaints_are_not_kept():
    code = (
        "import sys\nfor _ in range(2000): sys.stderr.write('x' * 65536)\nsys.stderr.write('end')"
    )
    done = pipes.run(program(code), 1000, 120)
    assert done.returncode == 0
    assert done.stderr.endswith("end")
    assert len(done.stderr) == pipes.MAX_TAIL


def test_a_line_is_printable_and_keeps_its_end():
    assert one_line(" a \n\n\tb\x1b[31m ") == "a; b\\x1b[31m"
    assert one_line("x" * 1000 + "end", 10) == "...xxxxxxxend"
    assert one_line("Zürich 世界") == "Zürich 世界"
    assert parse_json('{"a": [1, 2.5, null]}', "here") == {"a": [1, 2.5, None]}


@pytest.mark.parametrize(
    "options",
    [{"requests": 500_000, "processes": 1}, {"gaps_ms": (1e-6,)}, {"gaps_ms": (float("nan"),)},
     {"gaps_ms": (1e300,)}, {"seconds": 1e300}, {"seconds": float("nan")}, {"rows": (10**30,)},
     {"workers": (10**9,)}, {"threads": (10**9,)}, {"processes": 0}, {"requests": -1}],
)  # fmt: skip
def test_plans_that_no_device_can_do_are_refused(model, options):
    with pytest.raises(InputError) as caught:
        Plan((model,), **options)
    assert_shows(str(caught.value))
