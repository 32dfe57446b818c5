"""Drives Chromium as a person does, by its DevTools protocol over a pipe."""

import contextlib
import fcntl
import json
import os
import select
import subprocess
import time

from support.browser import CHROMIUM

SECONDS = 300  # that anything may take, on a machine that does other things
READ_FD, WRITE_FD = 3, 4  # of Chromium's ends of the pipe


class Page:
    """A page in a fresh headless Chromium."""

    def __init__(self, process, to, back):
        self._process, self._to, self._back = process, to, back
        self._number = 0
        self._rest = b""
        self.said = []  # on the console, and exceptions, since the page was opened
        self._loaded = set()  # the numbers of documents that are complete
        self._session = None
        target = self._call("Target.createTarget", url="about:blank")["targetId"]
        attached = self._call("Target.attachToTarget", targetId=target, flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Accessibility", "DOM", "Log", "Network"):
            self._call(f"{domain}.enable")
        self._call("Page.setLifecycleEventsEnabled", enabled=True)

    def open(self, url, width=1100, height=900, dark=False):
        """Load a page at a width in CSS pixels, and forget what the page before has said."""
        self._call("Emulation.setDeviceMetricsOverride", width=width, height=height,
                   deviceScaleFactor=1, mobile=width < 600)  # fmt: skip
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self._call("Emulation.setEmulatedMedia", features=[scheme])
        document = self._call("Page.navigate", url=url)["loaderId"]
        while document not in self._loaded:  # the page before is complete, too
            self._note(self._message())

    def value(self, expression):
        """What an expression is in the page; of a promise, what it becomes."""
        answer = self._call("Runtime.evaluate", expression=expression, returnByValue=True,
                            awaitPromise=True)  # fmt: skip
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def until(self, condition):
        """Wait for an expression to hold."""
        end = time.monotonic() + SECONDS
        while not self.value(f"Boolean({condition})"):
            assert time.monotonic() < end, f"waited in vain for {condition}; {self.said}"
            time.sleep(0.05)

    def click(self, selector):
        """Click on an element, once it is there and takes clicks."""
        element = f"document.querySelector({json.dumps(selector)})"
        self.until(f"{element} && !{element}.disabled")
        self.value(f"{element}.click()")

    def press(self, *keys):
        """Press keys by their names, such as Tab, Enter, or a letter."""
        codes = {"Tab": 9, "Enter": 13, " ": 32, "ArrowDown": 40, "Backspace": 8}
        for key in keys:
            text = {"Enter": "\r"}.get(key, key if len(key) == 1 else None)
            event = {"key": key, "windowsVirtualKeyCode": codes.get(key, 0),
                     **({"text": text} if text else {})}  # fmt: skip
            kind = "keyDown" if text else "rawKeyDown"
            self._call("Input.dispatchKeyEvent", type=kind, **event)
            self._call("Input.dispatchKeyEvent", type="keyUp", key=key)

    def focused(self):
        """The id of the element that has the keyboard, or its text."""
        return self.value("document.activeElement.id || document.activeElement.textContent")

    def give_file(self, selector, path):
        """Choose a file in a file input."""
        root = self._call("DOM.getDocument")["root"]["nodeId"]
        node = self._call("DOM.querySelector", nodeId=root, selector=selector)["nodeId"]
        self._call("DOM.setFileInputFiles", nodeId=node, files=[str(path)])

    def read_out(self):
        """What a screen reader is told: (role, name) of all that it does not skip."""
        nodes = self._call("Accessibility.getFullAXTree")["nodes"]
        return [(node["role"]["value"], node.get("name", {}).get("value", ""))
                for node in nodes if not node["ignored"]]  # fmt: skip

    def heard(self):
        """Wait until the page has said something on its console, and forget that."""
        end = time.monotonic() + SECONDS
        while not self.said:
            assert time.monotonic() < end, "nothing came on the console"
            self._note(self._message())
        self.said.clear()

    def _call(self, method, **parameters):
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._to, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._message()
            if answer.get("id") == self._number:
                assert "error" not in answer, (method, answer["error"])
                return answer["result"]
            self._note(answer)

    def _note(self, event):
        method, what = event.get("method"), event.get("params", {})
        if method == "Page.frameNavigated" and "parentId" not in what["frame"]:
            self.said.clear()
        elif method == "Page.lifecycleEvent" and what["name"] == "load":
            self._loaded.add(what["loaderId"])
        elif method == "Runtime.consoleAPICalled":
            self.said.append(str(what["args"]))
        elif method == "Runtime.exceptionThrown":
            self.said.append(str(what["exceptionDetails"]))
        elif method == "Log.entryAdded":
            self.said.append(what["entry"]["text"])

    def _message(self):
        while b"\0" not in self._rest:
            ready, _, _ = select.select([self._back], [], [], SECONDS)
            piece = os.read(self._back, 1 << 20) if ready else b""
            assert piece, "Chromium has gone, or says nothing"
            self._rest += piece
        message, self._rest = self._rest.split(b"\0", 1)
        return json.loads(message)


@contextlib.contextmanager
def chromium(folder):
    """A page of a fresh Chromium, whose profile is in `folder`."""
    command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--remote-debugging-pipe",
               f"--user-data-dir={folder / 'profile'}", "about:blank"]  # fmt: skip
    # above the numbers that Chromium wants
    pipes = (*os.pipe(), *os.pipe())
    theirs, to, back, answers = (fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, 10) for end in pipes)
    for end in pipes:
        os.close(end)

    def ends():
        os.dup2(theirs, READ_FD)
        os.dup2(answers, WRITE_FD)

    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                               preexec_fn=ends, pass_fds=(READ_FD, WRITE_FD))  # fmt: skip
    try:
        yield Page(process, to, back)
    finally:
        process.terminate()
        process.wait(SECONDS)
        for end in (theirs, to, back, answers):
            os.close(end)
