"""How a model looks in a notebook: one table of its inputs."""

from __future__ import annotations

from html import escape
from pathlib import Path

from ondevice.features import Field
from ondevice.info import InputSpec, ModelInfo


def model_html(path: Path, runtime: str, info: ModelInfo) -> str:
    """A heading and a table with a line for each input.

    Args:
        path: the model file.
        runtime: what runs it.
        info: its description; names in it are text from outside, so they are escaped.
    """
    fields = {field.name: field for field in info.features.fields}
    lines = "".join(_line(item, fields.get(item.name)) for item in info.inputs)
    header = "".join(f"<th>{title}</th>" for title in ("input", "shape", "type", "raw values"))
    return (
        f"<b>{escape(path.name)}</b> on {escape(runtime)}, "
        f"output {escape(', '.join(info.outputs))}"
        f"<table><thead><tr>{header}</tr></thead><tbody>{lines}</tbody></table>"
    )


def _line(item: InputSpec, field: Field | None) -> str:
    shape = ", ".join(map(str, item.shape))
    raw = "-" if field is None else f"{field.kind}, {field.encoding}"
    cells = "".join(f"<td>{escape(text)}</td>" for text in (item.name, shape, item.dtype, raw))
    return f"<tr>{cells}</tr>"
