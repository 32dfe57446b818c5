"""The frame of a page without network and script: document, cards, folded tables, style."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape


def document(title: str, body: Iterable[str]) -> str:
    """A whole HTML document of these parts, empty ones left out; readable in light and dark."""
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<link rel="icon" href="data:,">\n'  # a browser would ask a server for one
        f"<title>{escape(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n<main>\n"
        + "\n".join(part for part in body if part)
        + "\n</main>\n</body>\n</html>\n"
    )


def folded(title: str, tables: Sequence[tuple[str, Sequence[str], Sequence[Sequence[str]]]]) -> str:
    """Tables (title, header, rows) that a click unfolds."""
    parts = []
    for name, header, rows in tables:
        head = "".join(f"<th>{escape(cell)}</th>" for cell in header)
        body = "".join(
            "<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows
        )
        caption = f"<h3>{escape(name)}</h3>" if name else ""
        parts.append(f'{caption}<div class="scroll"><table><thead><tr>{head}</tr></thead>'
                     f"<tbody>{body}</tbody></table></div>")  # fmt: skip
    return f"<details><summary>{escape(title)}</summary>{''.join(parts)}</details>"


def card(title: str, chart: str, note: str = "") -> str:
    """A titled box with a chart and a note below it."""
    foot = f'<p class="note">{escape(note)}</p>' if note else ""
    return f'<section class="card"><h3>{escape(title)}</h3>{chart}{foot}</section>'


STYLE = """
:root{--bg:#f6f7f9;--card:#fff;--ink:#1b2430;--soft:#5d6878;--line:#e3e7ed;--track:#eef1f5;
--c0:#2f6fde;--c1:#e07a1f;--c2:#1f9d78;--c3:#b0479f;--c4:#c23b3b;--c5:#6a58c9;--c6:#8a7a12;--c7:#3b8ea5;
--good:#1f9d78;--bad:#c23b3b;--same:#7d8796}
@media(prefers-color-scheme:dark){:root{--bg:#12161c;--card:#1b212a;--ink:#e8ecf2;--soft:#9aa6b6;
--line:#2c343f;--track:#262d37;--c0:#6da0ff;--c1:#f2a45c;--c2:#4ecba4;--c3:#d98acb;--c4:#ef7f7f;
--c5:#a497f0;--c6:#cdbd55;--c7:#78c0d3;--good:#4ecba4;--bad:#ef7f7f;--same:#98a2b0}}
*{box-sizing:border-box}
body{margin:0;background:var(--bg);color:var(--ink);
font:15px/1.45 system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue",Arial,sans-serif}
main{max-width:1180px;margin:0 auto;padding:20px 14px 60px}
h1{font-size:26px;margin:0 0 6px}h2{font-size:19px;margin:34px 0 6px}
h3{font-size:15px;margin:0 0 8px}
h4{font-size:12.5px;margin:12px 0 4px;color:var(--soft);font-weight:600}
p{margin:6px 0}header p{color:var(--soft)}header b{color:var(--ink)}
.note{color:var(--soft);font-size:13px;margin:6px 0 10px}.card .note{margin:8px 0 0}
header .lead{font-size:17px;color:var(--ink);max-width:62em}
.warning{background:#fff3cd;color:#5c4700;padding:10px 12px;border-radius:8px}
.grid{display:grid;gap:14px;grid-template-columns:repeat(auto-fill,minmax(min(100%,330px),1fr))}
.grid.wide{grid-template-columns:repeat(auto-fit,minmax(min(100%,440px),1fr));margin:14px 0}
.card{background:var(--card);border:1px solid var(--line);border-radius:12px;padding:14px;
min-width:0}
.card ul{margin:0;padding-left:18px}.card li{margin:3px 0;overflow-wrap:anywhere}
.key h3{display:flex;align-items:center;gap:8px;margin:0;overflow-wrap:anywhere}
.key i{width:12px;height:12px;border-radius:4px;background:var(--s);flex:none}
.key p{color:var(--soft);font-size:13px;margin:2px 0 8px}
dl{display:grid;grid-template-columns:1fr auto;gap:4px 14px;margin:0}
dt{color:var(--soft);overflow-wrap:anywhere}dd{margin:0;text-align:right;font-weight:600;
font-variant-numeric:tabular-nums}
.facts{grid-template-columns:minmax(90px,auto) 1fr}.facts dd{text-align:left;
font-weight:400;overflow-wrap:anywhere}
svg{display:block;width:100%;height:auto;max-width:560px}
svg text{font-size:12.5px;fill:var(--ink);paint-order:stroke;stroke:var(--card);stroke-width:3px}
svg .tick{font-size:10.5px;fill:var(--soft)}
svg .value{font-weight:600}svg .grid{stroke:var(--line);stroke-width:1}
.s0{--s:var(--c0)}.s1{--s:var(--c1)}.s2{--s:var(--c2)}.s3{--s:var(--c3)}.s4{--s:var(--c4)}
.s5{--s:var(--c5)}.s6{--s:var(--c6)}.s7{--s:var(--c7)}
.better{--s:var(--good)}.worse{--s:var(--bad)}.same{--s:var(--same)}
svg .fill{fill:var(--s)}svg .stroke{stroke:var(--s);stroke-width:2;fill:none}
svg .light .fill{opacity:.45}svg .light .stroke{opacity:.6}
svg .light.fill{opacity:.45}
svg .curve{stroke:var(--s);stroke-width:2.2;fill:none;stroke-linejoin:round}
svg .light .curve{stroke-dasharray:5 4;opacity:.75}
svg .median{stroke:var(--card);stroke-width:2.5}svg .track{fill:var(--track)}
svg .whisker{stroke:var(--ink);stroke-width:1.3;fill:none;opacity:.7}
svg .frontier{stroke:var(--soft);stroke-width:1.5;stroke-dasharray:4 4;fill:none}
svg .one{stroke:var(--ink);stroke-width:1.5}
details{margin:16px 0;background:var(--card);border:1px solid var(--line);border-radius:12px;
padding:12px 14px}
summary{cursor:pointer;font-weight:600}details h3{margin:18px 0 6px}
.scroll{overflow-x:auto}table{border-collapse:collapse;font-size:13px;
font-variant-numeric:tabular-nums;margin-top:8px}
th,td{padding:4px 10px;border-bottom:1px solid var(--line);text-align:right;white-space:nowrap}
th:first-child,td:first-child{text-align:left;padding-left:0}th{color:var(--soft);font-weight:600}
@media print{body{background:#fff}.card,details{break-inside:avoid}}
"""
