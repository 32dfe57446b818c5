"""Writes docs/code_map.md: every source file with the first sentence of its opening comment.

python docs/make_code_map.py
"""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "code_map.md"

# Top folders in the order of the page, and what each is for.
ROOMS = {
    "ondevice": "the runtime that ships to a device; Python with numpy only, never torch",
    "ondevice/native": "the C engine: C11 without dependencies, in `sources.txt`'s order",
    "converters": "imported as `ondevice.converters`: torch or ONNX to .odm, .onnx and .tflite",
    "models": "imported as `ondevice.models`: layers, networks, data, training, search",
    "android_demo": "the Java library over the C engine, the demo app, and a build without an SDK",
    "web": "the engine for browsers and Node, and what builds it",
    "release": "wheels for systems that are not at hand",
    ".ci": "what continuous integration runs",
    "examples": "short scripts to start from",
    "benchmarks": "what makes the figures in docs/",
    "docs": "what makes pages",
    "tests": "mirrors the packages; beside them ARM, Android, hostile files, the zoo",
}
SUFFIXES = (".py", ".pyi", ".c", ".h", ".java", ".js")
INTRODUCTION = """# Code map

Every source file, grouped by folder, with the sentence it opens with. Written by
`python docs/make_code_map.py`; a test compares. How folders map to import names is in
[CONTRIBUTING.md](../CONTRIBUTING.md).
"""

# The comment in front of the first declaration of a Java file.
JAVADOC = re.compile(
    r"/\*\*((?:(?!\*/).)*)\*/\s*(?:@\w+(?:\([^)]*\))?\s*)*"
    r"(?:(?:public|final|abstract|strictfp)\s+)*(?:class|interface|enum|package)\b",
    re.DOTALL,
)
BLOCK_COMMENT = re.compile(r"/\*\*?((?:(?!\*/).)*)\*/", re.DOTALL)
LINE_COMMENT = re.compile(r"((?://.*\n?)+)")


def opening_comment(path: Path) -> str:
    """The text of a file's docstring or opening comment without its marks; empty: there is none."""
    text = path.read_text(encoding="utf-8")
    if path.suffix in (".py", ".pyi"):
        return ast.get_docstring(ast.parse(text)) or ""
    if path.suffix == ".java":
        match = JAVADOC.search(text)
    else:
        match = BLOCK_COMMENT.match(text) or LINE_COMMENT.match(text)
    if match is None:
        return ""
    lines = [re.sub(r"^\s*(?:\*|//)? ?", "", line) for line in match[1].strip().splitlines()]
    comment = "\n".join(lines).removeprefix(f"{path.name}: ")
    comment = re.sub(r"\{@\w+ ([^}]*)\}", r"`\1`", comment)
    return re.sub(r"</?\w[^>]*>", "", comment)


def first_sentence(path: Path) -> str:
    """The first sentence of a file's opening comment, on one line, without its full stop."""
    paragraph = " ".join(opening_comment(path).split("\n\n")[0].split())
    return re.split(r"(?<!\.\.)(?<=[.!?])\s", paragraph)[0].rstrip(".")


def source_files() -> Iterator[tuple[str, list[Path]]]:
    """Each room with its source files, ordered by folder and name; a file is in one room."""
    for room in ROOMS:
        nested = [ROOT / other for other in ROOMS if other.startswith(f"{room}/")]
        files = [
            path
            for path in (ROOT / room).rglob("*")
            if path.suffix in SUFFIXES
            and not any(
                part.startswith(".") or part == "dist"
                for part in path.relative_to(ROOT / room).parts
            )
            and not any(path.is_relative_to(folder) for folder in nested)
        ]
        if files:
            yield room, sorted(files, key=lambda path: (path.parent, path.name))


def code_map() -> str:
    """The page as text."""
    parts = [INTRODUCTION]
    for room, files in source_files():
        parts.append(f"\n## {room}/\n\n{ROOMS[room][0].upper()}{ROOMS[room][1:]}.\n")
        folder = None
        for path in files:
            name = path.relative_to(ROOT).as_posix()
            if path.parent != folder:
                folder = path.parent
                parts.append(f"\n**{folder.relative_to(ROOT).as_posix()}/**\n\n")
            parts.append(f"- [{path.name}](../{name}): {first_sentence(path)}\n")
    return "".join(parts)


if __name__ == "__main__":
    PAGE.write_text(code_map(), encoding="utf-8")
