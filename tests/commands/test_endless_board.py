"""A board that never ends, never reads or steers the terminal: `bench` ends in one line."""

import os
import sys
import time

import pytest
from support.runtime import write_small_model

import ondevice
from ondevice.bench.targets import ssh
from ondevice.cli import main

READ = "size = int(sys.stdin.buffer.read(20)); sys.stdin.buffer.read(size)"
GREET = "out(json.dumps(HELLO) + '\\n')"
HELLO = {"ondevice": ondevice.__version__, "compiled": True, "folder": "/somewhere"}
# What stands for the program `ssh` does, once Python has started.
BOARDS = {
    "prints for ever": f"{READ}\nwhile True: out('x' * 65536)",
    "prints lines for ever": f"{READ}\n{GREET}\nwhile True: out('{{}}\\n' * 9999)",
    "prints answers for ever": (f"{READ}\n{GREET}\nwhile True: out('{{\"result\": 1}}\\n' * 9999)"),
    "a byte at a time": f"{READ}\nwhile True: out(' '); time.sleep(0.05)",
    "sleeps": f"{READ}\ntime.sleep(600)",
    "sleeps after its greeting": f"{READ}\n{GREET}\ntime.sleep(600)",
    "does not read": "time.sleep(600)",
    "does not read, and prints": "while True: out('x' * 65536)",
    "floods its errors": f"{READ}\nwhile True: sys.stderr.write('\\x1b[2J' * 9999)",
    "closes its output and stays": f"{READ}\nos.close(1)\ntime.sleep(600)",
    "leaves a child": (
        f"{READ}\nsubprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])\n"
        "time.sleep(600)"
    ),
    "escapes": f"{READ}\nout('\\x1b]0;owned\\x07\\x1b[2J\\x9b31m\\n')",
    "escapes as errors": f"{READ}\nsys.stderr.write('\\x1b[2Jno\\x07 route\\u202e\\n')",
    "escapes in an answer": (
        f"{READ}\nerror = {{'error': 'InputError', 'message': '\\x1b[2J\\x07\\u202ex'}}\n"
        "out(json.dumps(error) + '\\n')"
    ),
}


@pytest.mark.skipif(sys.platform == "win32", reason="a program without suffix stands for ssh")
@pytest.mark.parametrize("board", BOARDS)
def test_bench_ends_in_time_in_one_printable_line(board, tmp_path, monkeypatch, capsys):
    program = tmp_path / "ssh"
    pid = str(tmp_path / "pid")
    program.write_text(
        f"#!{sys.executable}\nimport json, os, subprocess, sys, time\nHELLO = {HELLO!r}\n"
        "def out(text):\n    sys.stdout.write(text)\n    sys.stdout.flush()\n"
        f"open({pid + '.new'!r}, 'w').write(str(os.getpid()))\n"
        f"os.rename({pid + '.new'!r}, {pid!r})\n{BOARDS[board]}\n"
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setattr(ssh, "MIN_SPEED", 1e9)
    write_small_model(tmp_path / "m.odm")
    begun = time.monotonic()
    for limit in (3, 60):  # on a busy machine the board may not even have started in 3 seconds
        for name in ("HELLO", "SHORT", "PATIENCE"):
            monkeypatch.setattr(ssh, name, limit)
        monkeypatch.setattr(ssh, "CLEAN_UP", limit / 3)
        assert main(["bench", "--target", "ssh://board", str(tmp_path / "m.odm")]) == 1
        said = capsys.readouterr()
        if (tmp_path / "pid").exists():
            break
    assert time.monotonic() - begun < 500  # what sleeps does so for 600 seconds
    assert said.err.count("\n") == 1 and said.err.rstrip("\n").isprintable()
    assert "Traceback" not in said.err
    assert 10 < len(said.err) < 600
    assert all(line.isprintable() for line in said.out.splitlines())
    with pytest.raises(ProcessLookupError):  # nothing of it goes on
        os.kill(int((tmp_path / "pid").read_text()), 0)
