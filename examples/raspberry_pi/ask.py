"""Asks rank_service.py for scores: what a program beside it does.

python ask.py SOCKET '{"context": {"user": [1]}, "candidates": {"item": [4, 8]}}'
"""

import json
import socket
import sys


def ask(path: str, request: str) -> str:
    """The service's answer to one request, both as JSON. Raises OSError where none answers."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as service:
        service.settimeout(10)
        service.connect(path)
        service.sendall(json.dumps(json.loads(request)).encode() + b"\n")  # in one line
        with service.makefile("rb") as answers:
            return answers.readline().decode()


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    print(ask(*sys.argv[1:3]), end="")
