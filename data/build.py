"""Builds the files of data/ from their sources: city_services/families/*.md, judgements.tsv and handbook/.

python data/build.py            write city_services/{en,zh,training}, facts.jsonl, city_handbook/ and SHA256SUMS
python data/build.py --check    say which of them differ from what would be written, and fail if any does
python data/build.py --full DIR write the training files of every format in full to DIR
"""

import argparse
import csv
import hashlib
import json
import re
import sys
from pathlib import Path

DATA = Path(__file__).parent
CITY = DATA / "city_services"
LANGUAGES = ("en", "zh")
SPLITS = ("train", "dev", "test")
LICENCE = "CC BY 4.0"
QUERY_FIELDS = ("type", "en", "zh", "grades", "nicknames")
SAMPLE = 40  # queries in the committed sample of the larger training files


class SourceError(ValueError):
    """A family file breaks the format; the message names file and line."""


def read_family(path: Path) -> dict:
    """A family file as {name, title: {lang}, split, facts: [{}], queries: [{}], passages: {lang: {item: (title, text)}}}."""
    family = {"facts": [], "queries": [], "passages": {lang: {} for lang in LANGUAGES}}
    section = passage = None
    places: dict[str, str] = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").split("\n"), 1):
        where = f"{path.name}:{number}"
        if line.startswith("# "):
            family["name"], *titles = fields(line[2:], 3, where)
            family["title"] = dict(zip(LANGUAGES, titles, strict=True))
        elif line.startswith("split:"):
            family["split"] = line.removeprefix("split:").strip()
            if family["split"] not in SPLITS:
                raise SourceError(f"{where}: split {family['split']!r}; expected one of {', '.join(SPLITS)}")
        elif line.startswith("## "):
            section, passage = open_section(line[3:].strip(), family, where)
            places[line[3:].split("|")[0].strip()] = where
        elif passage is not None:
            passage.append(line)
        elif section and line.startswith("- "):
            family[section].append(read_bullet(section, line[2:], where))
        elif line.strip():
            raise SourceError(f"{where}: {line[:60]!r} stands outside a section")
    for part in ("name", "split"):
        if part not in family:
            raise SourceError(
                f"{path.name}:1: no {part}; a family begins with '# NAME | TITLE | 标题' and 'split: train'"
            )
    return finish_family(family, places, path)


def open_section(heading: str, family: dict, where: str):
    """(section, None) for facts and queries; (None, list that collects lines) for a passage."""
    if heading in ("facts", "queries"):
        return heading, None
    match = re.fullmatch(r"(en|zh) ([a-z0-9-]+) \| (.+)", heading)
    if not match:
        raise SourceError(f"{where}: heading {heading!r}; expected 'facts', 'queries' or 'en ITEM | TITLE'")
    lang, item, title = match.groups()
    if item in family["passages"][lang]:
        raise SourceError(f"{where}: passage {lang} {item} stands twice")
    lines: list[str] = []
    family["passages"][lang][item] = (title, lines)
    return None, lines


def fields(text: str, count: int, where: str) -> list[str]:
    parts = [part.strip() for part in text.split("|")]
    if len(parts) != count:
        raise SourceError(f"{where}: {len(parts)} fields between '|', expected {count}")
    return parts


def read_bullet(section: str, text: str, where: str) -> dict:
    if section == "facts":
        item, *rest = [part.strip() for part in text.split("|")]
        notes = [part for part in rest if "=" not in part]
        return (
            {"item": item}
            | dict(part.split("=", 1) for part in rest if "=" in part)
            | ({"notes": notes} if notes else {})
        )
    query = dict(zip(QUERY_FIELDS, fields(text, 5, where), strict=True))
    pairs = [part.strip().rsplit(" ", 1) for part in query["grades"].split(",") if part.strip()]
    if bad := [pair for pair in pairs if len(pair) != 2 or pair[1] not in ("0", "1", "2", "3")]:
        raise SourceError(f"{where}: grade {' '.join(bad[0])!r}; expected 'ITEM GRADE', the grade from 0 to 3")
    query["grades"] = {item.strip(): int(grade) for item, grade in pairs}
    query["where"] = where
    query["nicknames"] = query["nicknames"].split()
    return query


def finish_family(family: dict, places: dict[str, str], path: Path) -> dict:
    items = [fact["item"] for fact in family["facts"]]
    for lang, passages in family["passages"].items():
        if list(passages) != items:
            wrong = next(
                (item for item, fact in zip(passages, [*items, *passages], strict=False) if item != fact), None
            )
            where = places.get(f"{lang} {wrong}") or places.get("facts") or f"{path.name}:1"
            raise SourceError(
                f"{where}: the {lang} passages are {list(passages)}, the facts {items}; same items, same order"
            )
        family["passages"][lang] = {
            item: (title, "\n".join(lines).strip()) for item, (title, lines) in passages.items()
        }
    return family


def read_all() -> list[dict]:
    families = [read_family(path) for path in sorted((CITY / "families").glob("*.md"))]
    return sorted(families, key=lambda family: (SPLITS.index(family["split"]), family["name"]))


def query_id(family: dict, number: int) -> str:
    return f"{family['name']}.q{number:02d}"


def full_id(family: dict, item: str) -> str:
    return item if "." in item else f"{family['name']}.{item}"


def grades(families: list[dict]) -> dict[str, dict[str, int]]:
    """Grades by query id: the writers', and over them those of judgements.tsv (pooled results, read by judges)."""
    table = {
        query_id(family, n): {full_id(family, item): grade for item, grade in query["grades"].items()}
        for family in families
        for n, query in enumerate(family["queries"], 1)
    }
    known = {full_id(family, item) for family in families for item in family["passages"]["en"]}
    for family in families:
        for n, query in enumerate(family["queries"], 1):
            if unknown := [doc for doc in table[query_id(family, n)] if doc not in known]:
                raise SourceError(f"{query['where']}: the grades name {unknown[0]!r}, which is no passage")
    path = CITY / "judgements.tsv"
    if path.is_file():
        with open(path, encoding="utf-8", newline="") as file:
            for number, row in enumerate(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE), 2):
                if (
                    row["query-id"] not in table
                    or row["corpus-id"] not in known
                    or row["grade"] not in ("0", "1", "2", "3")
                ):
                    raise SourceError(
                        f"{path.name}:{number}: {row}: unknown query, unknown passage, or a grade that is not 0 to 3"
                    )
                table[row["query-id"]][row["corpus-id"]] = int(row["grade"])
    return {query: judged for query, judged in table.items() if judged}


def jsonl(rows: list[dict]) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def collection_files(families: list[dict], judged: dict, lang: str) -> dict[str, str]:
    """The BEIR folder of one language: file name -> content."""
    corpus, queries = [], []
    for family in families:
        for item, (title, text) in family["passages"][lang].items():
            row = {"_id": full_id(family, item), "title": title, "text": text}
            corpus.append(row | {"family": family["name"], "split": family["split"]})
        for n, query in enumerate(family["queries"], 1):
            row = {"_id": query_id(family, n), "text": query[lang], "type": query["type"], "family": family["name"]}
            queries.append(row | {"split": family["split"], "nicknames": query["nicknames"]})
    split_of = {row["_id"]: row["split"] for row in queries}
    qrels = {split: {q: docs for q, docs in judged.items() if split_of[q] == split} for split in SPLITS}
    return beir_files("city_services", lang, corpus, queries, qrels)


def beir_files(name: str, lang: str, corpus: list[dict], queries: list[dict], qrels: dict) -> dict[str, str]:
    folder = f"{name}/{lang}"
    card = {"name": name, "lang": lang, "licence": LICENCE, "relevant": 2}
    files = {f"{folder}/corpus.jsonl": jsonl(corpus), f"{folder}/queries.jsonl": jsonl(queries)}
    files[f"{folder}/card.json"] = json.dumps(card) + "\n"
    for split, judged in qrels.items():
        lines = [f"{query}\t{doc}\t{grade}\n" for query, docs in judged.items() for doc, grade in docs.items()]
        files[f"{folder}/qrels/{split}.tsv"] = "query-id\tcorpus-id\tscore\n" + "".join(lines)
    return files


def handbook_files(lang: str) -> dict[str, str]:
    """The twelve long chapters as a collection of their own; each query names the section and the words that answer it."""
    corpus, queries, judged = [], [], {}
    for path in sorted((CITY / "handbook" / lang).glob("*.md")):
        title, text = path.read_text(encoding="utf-8").removeprefix("# ").split("\n", 1)
        corpus.append({"_id": path.stem, "title": title.strip(), "text": text.strip()})
        with open(CITY / "handbook" / f"queries-{path.stem}.tsv", encoding="utf-8", newline="") as file:
            for row in csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE):
                if row[f"quote_{lang}"] not in text:
                    raise SourceError(
                        f"queries-{path.stem}.tsv: {row['id']}: the {lang} quote does not stand in the chapter"
                    )
                details = {"section": int(row["section"]), "quote": row[f"quote_{lang}"]}
                queries.append({"_id": row["id"], "text": row[lang]} | details)
                judged[row["id"]] = {path.stem: 3}
    return beir_files("city_handbook", lang, corpus, queries, {"test": judged})


def training_rows(families: list[dict], judged: dict, lang: str, n_negatives: int = 4) -> list[dict]:
    """One row a training query: its text, the texts that answer it (grade 3), mined negatives, and every graded text."""
    train = [family for family in families if family["split"] == "train"]
    texts = {full_id(f, i): "\n".join(passage) for f in train for i, passage in f["passages"][lang].items()}
    questions = {query_id(f, n): q[lang] for f in train for n, q in enumerate(f["queries"], 1) if q["grades"]}
    ranked = bm25_order(texts, questions)
    rows = []
    for query, text in questions.items():
        found = {doc: grade for doc, grade in judged[query].items() if doc in texts}
        negatives = [doc for doc in ranked[query] if found.get(doc, 0) <= 1]
        rows.append(
            {
                "query": text,
                "pos": [texts[doc] for doc, grade in found.items() if grade == 3],
                "neg": [texts[doc] for doc in negatives[:n_negatives]],
                "graded": [(texts[doc], grade) for doc, grade in found.items()],
            }
        )
    return rows


def bm25_order(texts: dict[str, str], questions: dict[str, str]) -> dict[str, list[str]]:
    """Hard negatives: BM25's order of the query's own family (the near-twins), then its best passages of other families."""
    from retrieval_lab.corpora import Collection
    from retrieval_lab.lexical import BM25

    run = BM25(Collection("train", "", "train", LICENCE, texts, questions, {})).search(questions, len(texts))
    order = {}
    for query, scores in run.items():
        twins = [doc for doc in texts if doc.startswith(query.rsplit(".", 1)[0] + ".")]
        others = [doc for doc in scores if doc not in twins]  # a paraphrase may share no word with any passage
        order[query] = sorted(twins, key=lambda doc: -scores.get(doc, 0.0)) + others
    return order


def training_files(rows: list[dict], lang: str, sample: int | None = SAMPLE) -> dict[str, str]:
    """The same training rows in every documented format; only pair and triplet are whole unless ``sample`` is None."""
    pair = [{"query": row["query"], "pos": row["pos"]} for row in rows]
    triplet = [one | {"neg": row["neg"]} for one, row in zip(pair, rows, strict=True)]
    few = rows[::21][:sample] if sample else rows  # every 21st: all families take part
    scored = [
        {"query": r["query"], "pos": [t for t, _ in r["graded"]], "scores": [g / 3 for _, g in r["graded"]]}
        for r in few
    ]
    graded = [
        {"query": r["query"], "pos": [t for t, _ in r["graded"]], "pos_scores": [g for _, g in r["graded"]]}
        for r in few
    ]
    graded = [
        one | {"neg": row["neg"], "neg_scores": [0] * len(row["neg"])} for one, row in zip(graded, few, strict=True)
    ]
    graded = [drop_repeats(row) for row in graded]
    flat = [{"query": r["query"], "content": text, "score": g / 3} for r in few for text, g in r["graded"]]
    named = {"pair": pair, "triplet": triplet, "scored": scored, "graded": graded, "flat": flat}
    return {f"city_services/training/{name}.{lang}.jsonl": jsonl(table) for name, table in named.items()}


def drop_repeats(row: dict) -> dict:
    """A graded text is not a negative as well."""
    keep = [i for i, text in enumerate(row["neg"]) if text not in row["pos"]]
    if not keep:
        return {key: value for key, value in row.items() if key not in ("neg", "neg_scores")}
    return row | {key: [row[key][i] for i in keep] for key in ("neg", "neg_scores")}


def build() -> dict[str, str]:
    """Every generated file: path below city_services -> content."""
    families = read_all()
    judged = grades(families)
    facts = [{"family": f["name"], "split": f["split"]} | fact for f in families for fact in f["facts"]]
    files = {"city_services/facts.jsonl": jsonl(facts)}
    for lang in LANGUAGES:
        files |= collection_files(families, judged, lang)
        files |= training_files(training_rows(families, judged, lang), lang) | handbook_files(lang)
    lines = [f"{hashlib.sha256(text.encode()).hexdigest()}  {name}\n" for name, text in sorted(files.items())]
    return files | {"SHA256SUMS": "".join(lines)}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--full", type=Path, metavar="DIR")
    options = parser.parse_args()
    if options.full:
        families = read_all()
        for lang in LANGUAGES:
            rows = training_rows(families, grades(families), lang)
            write(training_files(rows, lang, sample=None), options.full)
        return 0
    files = build()
    if not options.check:
        write(files, DATA)
        return 0
    stale = [
        n for n, text in files.items() if not (DATA / n).is_file() or (DATA / n).read_text(encoding="utf-8") != text
    ]
    for name in stale:
        print(f"data/{name} differs from its sources; run `python data/build.py`", file=sys.stderr)
    return 1 if stale else 0


def write(files: dict[str, str], folder: Path) -> None:
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8", newline="\n")
    print(f"wrote {len(files)} files to {folder}")


if __name__ == "__main__":
    sys.exit(main())
