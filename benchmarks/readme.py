"""Writes the measured tables of both READMEs, from what runs left behind: never typed by hand.

python benchmarks/readme.py            demo: benchmarks/demo.LANG.csv; the others: the committed notebooks' own output
python benchmarks/readme.py --check    says which region is out of date, writes nothing
"""

import argparse
import csv
import json
import re
import sys
from pathlib import Path

from retrieval_lab import training_faq

HERE = Path(__file__).parent
ROOT = HERE.parent
READMES = {"en": ROOT / "README.md", "zh": ROOT / "README_zh.md"}
# region: (notebook, slug of the cell whose last output is the table)
LESSONS = {
    "embedding": ("01_embedding", "after"),
    "colbert_lesson": ("02_colbert", "after"),
    "reranker": ("03_reranker", "table"),
    "llm": ("04_llm_reranker", "table"),
    "rag": ("05_rag", "evaluate"),
}
ENGLISH = "（英文语料上的结果，来自英文 notebook。）\n\n"
GAIN = {"en": "gain over the row above, 95 % interval", "zh": "比上一行的提升（95 % 置信区间）"}
WORDS = {
    "zh": {
        "system": "系统",
        "ms/query": "毫秒/查询",
        "95 % interval": "95 % 置信区间",
        "95 % interval against zero-shot": "相对 zero-shot 的 95 % 置信区间",
    }
}


def demo_table(lang: str) -> list[list[str]]:
    """Header and rows of the demo; the difference and its interval share a column."""
    with open(HERE / f"demo.{lang}.csv", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    metrics = [name for name in rows[0] if "@" in name and not name.startswith("Δ")]
    head = ["system", *metrics, "ms/query", GAIN[lang]]
    body = []
    for row in rows:
        gain = f"{row['Δ nDCG@10']} ({row['95 % interval']})" if row["Δ nDCG@10"] else ""
        numbers = [f"{float(row[name]):.3f}" for name in metrics] + [f"{float(row['ms/query']):.1f}"]
        body.append([row["system"], *numbers, gain])
    return [[WORDS.get(lang, {}).get(name, name) for name in head], *body]


def lesson_table(file: str, slug: str, lang: str) -> list[list[str]]:
    """The table that a cell of a committed notebook shows; no rows where the notebook has not been run."""
    from bs4 import BeautifulSoup

    notebook = json.loads((ROOT / "notebooks" / lang / f"{file}.ipynb").read_text(encoding="utf-8"))
    cell = next(cell for cell in notebook["cells"] if cell["metadata"].get("slug") == slug)
    pages = [output["data"]["text/html"] for output in cell["outputs"] if "text/html" in output.get("data", {})]
    if not pages:
        return []
    table = BeautifulSoup("".join(pages[-1]), "html.parser").find("table")
    rows = [[cell.get_text(strip=True) for cell in row.find_all(["th", "td"])] for row in table.find_all("tr")]
    head, *body = [row for row in rows if len(row) > 2]
    body = [row for row in body if any(row[1:])]  # pandas puts the index's name on a line of its own
    words = WORDS.get(lang, {})
    return [[words.get(name, name) for name in [words.get("system", "system"), *head[1:]]], *body]


def markdown(rows: list[list[str]]) -> str:
    if not rows:
        return ""
    lines = [f"| {' | '.join(row)} |" for row in rows]
    return "\n".join([lines[0], "|" + "---|" * len(rows[0]), *lines[1:]])


def filled(text: str, lang: str) -> str:
    """The README with every region that it has written anew."""
    for name in re.findall(r"<!-- (\w+):begin -->", text):
        if name == "demo":
            table = markdown(demo_table(lang))
        elif name in LESSONS:
            own = lesson_table(*LESSONS[name], lang)
            table = ("" if own else ENGLISH) + markdown(own or lesson_table(*LESSONS[name], "en"))
        elif name == "faq":
            table = training_faq.markdown(lang).strip()
        elif name in ("recipes", "rerankers", "colbert"):
            table = section(name, lang).split("\n\n**")[0 if lang == "en" else 1].split("**\n\n")[1]
        elif (HERE / f"{name}.md").is_file():
            table = section(name, lang)
        else:
            continue
        begin, end = f"<!-- {name}:begin -->", f"<!-- {name}:end -->"
        text = re.sub(
            f"({begin}\n).*?({end})", lambda found, t=table: f"{found[1]}{t}\n{found[2]}", text, flags=re.DOTALL
        )
    return text


def section(name: str, lang: str) -> str:
    """The tables of a file of this folder, each under its name; captions stay there."""
    lines = (HERE / f"{name}.md").read_text(encoding="utf-8").splitlines()
    text = "\n".join(f"\n**{line[3:]}**\n" if line.startswith("## ") else line for line in lines if line[:3] != "# ")
    kept = [line for line in text.splitlines() if line.startswith(("|", "**")) or not line]
    for word, translation in WORDS.get(lang, {}).items():
        kept = [line.replace(f"| {word} |", f"| {translation} |") for line in kept]
    return re.sub(r"\n{3,}", "\n\n", "\n".join(kept)).strip()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true")
    check, stale = parser.parse_args().check, []
    for lang, path in READMES.items():
        old = path.read_text(encoding="utf-8")
        if (new := filled(old, lang)) != old:
            stale.append(path.name)
            if not check:
                path.write_text(new, encoding="utf-8")
    if check and stale:
        print(f"{', '.join(stale)}: a measured table is out of date; run python benchmarks/readme.py", file=sys.stderr)
    return int(check and bool(stale))


if __name__ == "__main__":
    sys.exit(main())
