"""The tables of docs/evidence/compression.md on widths: at equal bytes, and what each field needs.

python benchmarks/widths_page.py

They are made from docs/evidence/widths_*.csv, which benchmarks/mask_saving.py writes, and
cuts_*.csv of benchmarks/field_cuts.py.
"""

import csv
import re
import statistics
from pathlib import Path

EVIDENCE = Path(__file__).resolve().parent.parent / "docs" / "evidence"
LABELS = {
    "full": "full",
    "full_on": "full, trained on",
    "masks": "masks (ATML)",
    "rule": "rule, before training",
    "rule_after": "rule, after training",
    "prune": "PEP",
}
HEAD = (
    "| data | network | seeds | widths | bytes | dimensions removed | AUC | of full |\n"
    "|---|---|---|---|---|---|---|---|\n"
)
MASKS_HEAD = (
    "| log | network | seeds | removed | AUC | less full model | less full model, trained on "
    "| less rule, after training | less PEP |\n"
    "|---|---|---|---|---|---|---|---|---|\n"
)


def main() -> None:
    """Rewrite what stands between `<!-- masks -->`, `<!-- widths -->` or `<!-- cuts NAME -->` and
    `<!-- end -->`.
    """
    page = EVIDENCE / "compression.md"
    text = page.read_text(encoding="utf-8")
    paths = sorted(EVIDENCE.glob("widths_*.csv"))
    for kind, head, lines in (("masks", MASKS_HEAD, mask_lines), ("widths", HEAD, lines_of)):
        table = head + "".join(map(lines, paths))
        pattern = rf"(<!-- {kind} -->\n).*?(<!-- end -->)"
        text = re.sub(pattern, rf"\g<1>{table}\g<2>", text, flags=re.DOTALL)
    pattern = r"(<!-- cuts (\w+) -->\n).*?(<!-- end -->)"
    text = re.sub(
        pattern, lambda match: match[1] + cuts_table(match[2]) + match[3], text, flags=re.DOTALL
    )
    page.write_text(text, encoding="utf-8")


def cuts_table(name: str) -> str:
    """Markdown: the validation AUC that each field's cut costs, a line for each field."""
    with (EVIDENCE / f"cuts_{name}.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    kept = sorted({int(row["kept"]) for row in rows})
    heads = " | ".join(f"{number}" for number in kept[:-1])
    lines = [f"| field | rows | reads of a row (5, 50, 95 %) | {heads} |\n"]
    lines.append("|---" * (3 + len(kept[:-1])) + "|\n")
    for field in dict.fromkeys(row["field"] for row in rows):
        auc = {
            number: statistics.mean(
                float(row["validation_auc"])
                for row in rows
                if (row["field"], int(row["kept"])) == (field, number)
            )
            for number in kept
        }
        first = next(row for row in rows if row["field"] == field)
        reads = ", ".join(f"{int(first[key]):,}" for key in first if key.startswith("reads_"))
        costs = " | ".join(f"{auc[kept[-1]] - auc[number]:.4f}" for number in kept[:-1])
        lines.append(f"| {field} | {int(first['rows']):,} | {reads} | {costs} |\n")
    return "".join(lines)


def mask_lines(path: Path) -> str:
    """Markdown: what masks reach with each network of a CSV file, and how far above the others,
    seed by seed.
    """
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    lines = []
    for network in dict.fromkeys(row["network"] for row in rows):
        auc: dict[str, dict[str, float]] = {}
        for row in rows:
            if row["network"] == network:
                auc.setdefault(row["method"], {})[row["seed"]] = float(row["auc"])
        masks = auc["masks"]
        removed = statistics.mean(
            float(row["removed"])
            for row in rows
            if (row["network"], row["method"]) == (network, "masks")
        )
        cells = [rows[0]["data"], network, f"{len(masks)}", f"{100 * removed:.1f} %"]
        cells.append(f"{statistics.mean(masks.values()):.4f}")
        for method in ("full", "full_on", "rule_after", "prune"):
            gains = [masks[s] - value for s, value in auc.get(method, {}).items() if s in masks]
            note = f" ({len(gains)})" if 0 < len(gains) < len(masks) else ""
            cells.append(f"{statistics.mean(gains):+.4f}{note}" if gains else "-")
        lines.append("| " + " | ".join(cells) + " |\n")
    return "".join(lines)


def lines_of(path: Path) -> str:
    """Markdown: a line for each network and method of a CSV file, seeds averaged."""
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    lines = []
    for network in dict.fromkeys(row["network"] for row in rows):
        of_network = [row for row in rows if row["network"] == network]
        full = {row["seed"]: float(row["auc"]) for row in of_network if row["method"] == "full"}
        for method, label in LABELS.items():
            chosen = [row for row in of_network if row["method"] == method]
            if not chosen:
                continue
            auc = [float(row["auc"]) for row in chosen]
            change = statistics.mean(float(row["auc"]) - full[row["seed"]] for row in chosen)
            spread = f" ± {statistics.stdev(auc):.4f}" if len(auc) > 1 else ""
            size = statistics.mean(float(row["table_bytes"]) for row in chosen)
            removed = statistics.mean(float(row["removed"]) for row in chosen)
            lines.append(
                f"| {chosen[0]['data']} | {network} | {len(chosen)} | {label} | {size:,.0f} "
                f"| {100 * removed:.1f} % | {statistics.mean(auc):.4f}{spread} | {change:+.4f} |\n"
            )
    return "".join(lines)


if __name__ == "__main__":
    main()
