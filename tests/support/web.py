"""Runs web/ondevice.js in Node and in Chromium: tasks in, answers out."""

import functools
import http.server
import importlib.util
import json
import queue
import shutil
import subprocess
import threading
from pathlib import Path

from support.browser import CHROMIUM
from support.tools import does_not_run, missing

ROOT = Path(__file__).parents[2]
HERE = ROOT / "tests" / "web"
NODE_LACKING = does_not_run("node", "--version")
CLANG_LACKING = missing("clang", "wasm-ld")


def builder():
    """web/build.py as a module."""
    spec = importlib.util.spec_from_file_location("web_build", ROOT / "web" / "build.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def in_node(dist, tasks):
    """The answers of a fresh Node process."""
    command = ["node", str(HERE / "in_node.js"), str(dist / "ondevice.js")]
    done = subprocess.run(command, input=json.dumps(tasks), capture_output=True, text=True,
                          timeout=600)  # fmt: skip
    assert done.returncode == 0, done.stderr[-4000:]
    return json.loads(done.stdout)


class _Quiet(http.server.SimpleHTTPRequestHandler):
    extensions_map = http.server.SimpleHTTPRequestHandler.extensions_map | {
        ".wasm": "application/wasm",
        ".js": "text/javascript",
    }

    def log_message(self, *_):
        """Say nothing."""

    def do_POST(self):
        """Take the page's answers."""
        self.server.answers.put(self.rfile.read(int(self.headers["Content-Length"])))
        self.send_response(204)
        self.end_headers()


def posted(folder, address):
    """What a page of `folder`, served on loopback, posts to "answers"; and Chromium's console."""
    handler = functools.partial(_Quiet, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        server.answers = queue.Queue()
        threading.Thread(target=server.serve_forever, daemon=True).start()
        command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu",
                   "--enable-logging=stderr", f"--user-data-dir={folder / 'profile'}",
                   "--remote-debugging-port=0",  # or it would end once the page is loaded
                   f"http://127.0.0.1:{server.server_port}/{address}"]  # fmt: skip
        with (folder / "console").open("wb") as said, subprocess.Popen(command, stderr=said) as run:
            try:
                answers = json.loads(server.answers.get(timeout=600))
            finally:
                run.terminate()
        server.shutdown()
    lines = (folder / "console").read_text(errors="replace").splitlines()
    return answers, [line for line in lines if "CONSOLE" in line]


def in_chromium(dist, tasks, folder):
    """The answers of a page and of a Worker in it, and what the browser said on its console.

    Args:
        dist: what web/build.py wrote.
        tasks: whose models are files of `folder`, named relative to it.
        folder: is served.
    """
    shutil.copytree(dist, folder / "dist", dirs_exist_ok=True)
    for name in ("tasks.js", "in_page.js", "page.html"):
        shutil.copy(HERE / name, folder / name)
    (folder / "tasks.json").write_text(json.dumps(tasks))
    answers, console = posted(folder, "page.html")
    return answers["page"], answers["worker"], console
