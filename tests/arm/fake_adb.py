"""A fake adb for tests: a folder is the device, its shell is this machine's, the protocol is kept.

It records every call in FAKE_ADB_LOG and runs ARM programs under qemu. It is not a device: it shows
that the right commands are sent in the right order, not that Android takes them.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

DEVICE = Path(os.environ["FAKE_ADB_DEVICE"])
PROPERTIES = {
    "ro.product.cpu.abi": os.environ.get("FAKE_ADB_ABI", "arm64-v8a"),
    "ro.product.manufacturer": "Example",
    "ro.product.model": "Phone 1",
    "ro.build.version.release": "14",
}
EMULATORS = {"arm64-v8a": "qemu-aarch64-static", "armeabi-v7a": "qemu-arm-static", "x86_64": ""}
PLACE = "/data/local/tmp/"
# What a lying device answers instead: a text and how often, by a part of its shell's program.
LIES = json.loads(os.environ.get("FAKE_ADB_LIES", "{}"))


def shell(program):
    for part, (lie, times) in LIES.items():
        if part in program:
            sys.stdout.write(lie * times)
            return 0
    if found := re.fullmatch(r"getprop ([\w.]+)", program):
        sys.stdout.write(PROPERTIES[found[1]] + "\n")
        return 0
    local = program.replace(PLACE, f"{DEVICE}/")
    if re.match(rf"{re.escape(str(DEVICE))}/ondevice-bench-\w+/runner ", local):
        emulator = EMULATORS[PROPERTIES["ro.product.cpu.abi"]]
        local = f"{emulator} {local}".strip()
    return subprocess.run(["sh", "-c", local], check=False).returncode


def main(words):
    with Path(os.environ["FAKE_ADB_LOG"]).open("a") as log:
        log.write(json.dumps(words) + "\n")
    if words[:1] == ["-s"]:
        if words[1] != "serial-1":
            sys.stderr.write(f"adb: device '{words[1]}' not found" + "\n")
            return 1
        words = words[2:]
    if words[0] == "push":
        shutil.copy(words[1], words[2].replace(PLACE, f"{DEVICE}/"))
        return 0
    if words[0] == "shell":
        return shell(" ".join(words[1:]))
    sys.stderr.write(f"adb: unknown command {words[0]}" + "\n")
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
