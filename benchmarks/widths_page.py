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


def main() -> None:
    """Rewrite the tables between `<!-- widths -->` or `<!-- cuts NAME -->` and `<!-- end -->`."""
    page = EVIDENCE / "compression.md"
    text = page.read_text(encoding="utf-8")
    table = HEAD + "".join(map(lines_of, sorted(EVIDENCE.glob("widths_*.csv"))))
    pattern = r"(<!-- widths -->\n).*?(<!-- end -->)"
    text = re.sub(pattern, lambda match: match[1] + table + match[2], text, flags=re.DOTALL)
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
