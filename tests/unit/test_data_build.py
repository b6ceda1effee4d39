"""The build of the shipped corpus: what a family file must be, and what is made of a good one."""

import importlib.util
import json
from pathlib import Path

import pytest

DATA = Path(__file__).parents[2] / "data"
spec = importlib.util.spec_from_file_location("data_build", DATA / "build.py")
build = importlib.util.module_from_spec(spec)
spec.loader.exec_module(build)

GOOD = """\
# tram | City trams | 城市电车
split: train

## facts
- adult | price=2.00 | where=all lines
- child | price=1.00

## queries
- plain | How much is the adult ticket? | 成人票多少钱？ | adult 3, child 1 |
- keyword | child tram fare | 儿童 电车 票价 | child 3 | the-stub sprat
- unanswerable | Who drives the tram? | 谁开电车？ | |

## en adult | Adult ticket
An adult pays two crowns for one ride on the tram.

The ticket is good on all lines.
## en child | Child ticket
A child pays one crown.

## zh adult | 成人票
成人乘电车一次两元。
## zh child | 儿童票
儿童乘电车一次一元。
"""
OTHER = (
    GOOD.replace("# tram", "# ferry")
    .replace("split: train", "split: test")
    .replace("tram", "ferry")
    .replace("电车", "渡轮")
)


@pytest.fixture
def city(tmp_path, monkeypatch):
    """An empty city; tests write families into it."""
    monkeypatch.setattr(build, "DATA", tmp_path)
    monkeypatch.setattr(build, "CITY", tmp_path / "city_services")
    (tmp_path / "city_services" / "families").mkdir(parents=True)
    return tmp_path / "city_services"


def family_file(city: Path, text: str = GOOD, name: str = "tram") -> Path:
    path = city / "families" / f"{name}.md"
    path.write_text(text, encoding="utf-8")
    return path


def rows(text: str) -> list[dict]:
    return [json.loads(line) for line in text.splitlines()]


def line_of(text: str, start: str) -> int:
    return next(number for number, line in enumerate(text.split("\n"), 1) if line.startswith(start))


def test_good_family_is_read(city):
    family = build.read_family(family_file(city))
    assert (family["name"], family["title"], family["split"]) == (
        "tram",
        {"en": "City trams", "zh": "城市电车"},
        "train",
    )
    assert family["facts"] == [
        {"item": "adult", "price": "2.00", "where": "all lines"},
        {"item": "child", "price": "1.00"},
    ]
    assert [query["grades"] for query in family["queries"]] == [{"adult": 3, "child": 1}, {"child": 3}, {}]
    assert family["queries"][1]["nicknames"] == ["the-stub", "sprat"]
    title, text = family["passages"]["en"]["adult"]
    assert title == "Adult ticket"
    assert text == "An adult pays two crowns for one ride on the tram.\n\nThe ticket is good on all lines."
    assert family["passages"]["zh"]["child"] == ("儿童票", "儿童乘电车一次一元。")


# case: (text to replace, replacement, start of the line that the message must name, part of the message)
MALFORMED = {
    "one title": (
        "# tram | City trams | 城市电车",
        "# tram | City trams",
        "# tram",
        "2 fields between '|', expected 3",
    ),
    "no name": ("# tram | City trams | 城市电车\n", "", "split", "no name; a family begins with"),
    "no split": ("split: train\n", "", "#", "no split; a family begins with"),
    "unknown split": ("split: train", "split: trian", "split", "split 'trian'; expected one of train, dev, test"),
    "text outside": ("split: train\n", "split: train\nHello\n", "Hello", "'Hello' stands outside a section"),
    "no bullet": (
        "- child | price=1.00\n",
        "- child | price=1.00\nchild\n",
        "child",
        "'child' stands outside a section",
    ),
    "unknown heading": (
        "## facts",
        "## fact",
        "## fact",
        "heading 'fact'; expected 'facts', 'queries' or 'en ITEM | TITLE'",
    ),
    "other language": ("## zh child", "## fr child", "## fr", "heading 'fr child | 儿童票'"),
    "no passage title": ("## en child | Child ticket", "## en child", "## en child", "heading 'en child'"),
    "capital in item": ("## en child |", "## en Child |", "## en Child", "heading 'en Child | Child ticket'"),
    "passage twice": ("## en child |", "## en adult |", "## en adult", "passage en adult stands twice"),
    "field missing": (
        "儿童 电车 票价 | child 3 |",
        "儿童 电车 票价 |",
        "- keyword",
        "4 fields between '|', expected 5",
    ),
    "field too many": ("| the-stub sprat", "| the-stub | sprat", "- keyword", "6 fields between '|', expected 5"),
    "no grade": ("adult 3, child 1", "adult 3, child", "- plain", "grade 'child'; expected 'ITEM GRADE'"),
    "grade no number": (
        "adult 3, child 1",
        "adult 3, child one",
        "- plain",
        "grade 'child one'; expected 'ITEM GRADE'",
    ),
    "grade too large": (
        "adult 3, child 1",
        "adult 4",
        "- plain",
        "grade 'adult 4'; expected 'ITEM GRADE', the grade from 0 to 3",
    ),
    "passage without fact": (
        "- child | price=1.00\n",
        "",
        "## en child",
        "the en passages are ['adult', 'child'], the facts ['adult']",
    ),
    "fact without passage": (
        "## zh child | 儿童票\n儿童乘电车一次一元。\n",
        "",
        "## facts",
        "the zh passages are ['adult']",
    ),
    "other order": (
        "- adult | price=2.00 | where=all lines\n- child | price=1.00",
        "- child | price=1.00\n- adult | price=2.00",
        "## en adult",
        "same items, same order",
    ),
}


@pytest.mark.parametrize("case", MALFORMED)
def test_malformed_family_is_refused_with_file_and_line(city, case):
    old, new, start, message = MALFORMED[case]
    text = GOOD.replace(old, new)
    assert text != GOOD
    with pytest.raises(build.SourceError) as caught:
        build.read_family(family_file(city, text))
    lines = [number for number, line in enumerate(text.split("\n"), 1) if line.startswith(start)]
    assert str(caught.value).startswith(tuple(f"tram.md:{number}: " for number in lines))
    assert message in str(caught.value)


def test_grade_of_a_passage_that_is_not_there_is_refused_with_file_and_line(city):
    text = GOOD.replace("adult 3, child 1", "adult 3, senior 1")
    families = [build.read_family(family_file(city, text))]
    with pytest.raises(
        build.SourceError, match=rf"tram\.md:{line_of(text, '- plain')}: the grades name 'tram\.senior'"
    ):
        build.grades(families)


def test_grade_may_name_a_passage_of_another_family(city):
    family_file(city, GOOD.replace("child 3 |", "child 3, ferry.child 1 |"))
    family_file(city, OTHER, "ferry")
    assert build.grades(build.read_all())["tram.q02"] == {"tram.child": 3, "ferry.child": 1}


def judge(city, *lines: str) -> None:
    (city / "judgements.tsv").write_text("query-id\tcorpus-id\tgrade\n" + "".join(line + "\n" for line in lines))


def test_judgements_override_and_add_to_the_writers_grades(city):
    family_file(city)
    judge(city, "tram.q01\ttram.child\t2", "tram.q02\ttram.adult\t0", "tram.q03\ttram.adult\t1")
    assert build.grades(build.read_all()) == {
        "tram.q01": {"tram.adult": 3, "tram.child": 2},
        "tram.q02": {"tram.child": 3, "tram.adult": 0},
        "tram.q03": {"tram.adult": 1},
    }


def test_query_without_grades_has_no_judgement(city):
    family_file(city)
    assert list(build.grades(build.read_all())) == ["tram.q01", "tram.q02"]


@pytest.mark.parametrize(
    "line",
    ["tram.q09\ttram.adult\t1", "tram.q01\ttram.senior\t1", "tram.q01\ttram.adult\t4", "tram.q01\ttram.adult\thigh"],
)
def test_judgement_of_something_unknown_is_refused_with_file_and_line(city, line):
    family_file(city)
    judge(city, "tram.q01\ttram.adult\t3", line)
    with pytest.raises(build.SourceError, match=r"judgements\.tsv:3: "):
        build.grades(build.read_all())


def test_families_come_by_split_and_name(city):
    for name, split in (("b", "test"), ("c", "train"), ("a", "test"), ("d", "dev")):
        family_file(city, GOOD.replace("# tram", f"# {name}").replace("split: train", f"split: {split}"), name)
    assert [family["name"] for family in build.read_all()] == ["c", "d", "a", "b"]


def test_minimal_city_builds_what_the_package_loads(city, monkeypatch):
    from retrieval_lab import corpora, formats

    family_file(city)
    family_file(city, OTHER, "ferry")
    files = build.build()
    build.write(files, city.parent)
    monkeypatch.setattr(corpora, "DATA", city.parent)
    for lang, title in (("en", "Adult ticket\nAn adult"), ("zh", "成人票\n成人乘电车")):
        train, test = (corpora.load("city_services", lang, split) for split in ("train", "test"))
        assert list(train.corpus) == list(test.corpus) == ["tram.adult", "tram.child", "ferry.adult", "ferry.child"]
        assert train.corpus["tram.adult"].startswith(title)
        assert train.qrels == {"tram.q01": {"tram.adult": 3, "tram.child": 1}, "tram.q02": {"tram.child": 3}}
        assert list(test.queries) == ["ferry.q01", "ferry.q02"] and test.relevant == 2
        assert list(corpora.unanswerable(lang)) == ["ferry.q03"]
        for kind in ("pair", "triplet", "scored", "graded"):
            assert not formats.validate(city / "training" / f"{kind}.{lang}.jsonl", kind, max_label=3).problems, kind


def test_training_files_hold_the_train_split_only(city):
    family_file(city)
    family_file(city, OTHER, "ferry")
    files = build.build()
    for name, text in files.items():
        if "/training/" in name:
            assert text and "ferry" not in text and "渡轮" not in text, name


def test_triplets_have_the_best_answer_and_near_twins_as_negatives(city):
    family_file(city)
    first, second = rows(build.build()["city_services/training/triplet.en.jsonl"])
    adult, child = "Adult ticket\nAn adult pays", "Child ticket\nA child pays"
    assert [text.startswith(adult) for text in first["pos"]] == [True] and first["neg"][0].startswith(child)
    assert [text.startswith(child) for text in second["pos"]] == [True] and second["neg"][0].startswith(adult)


def test_passage_of_grade_two_is_no_negative(city):
    family_file(city)
    judge(city, "tram.q01\ttram.child\t2")
    (row, _) = rows(build.build()["city_services/training/triplet.en.jsonl"])
    assert row["neg"] == []  # the only other passage answers in part


def test_query_that_shares_no_word_still_has_negatives(city):
    family_file(city, GOOD.replace("儿童 电车 票价", "小孩 贵不贵"))
    (_, row) = rows(build.build()["city_services/training/triplet.zh.jsonl"])
    assert row["query"] == "小孩 贵不贵" and row["neg"] == ["成人票\n成人乘电车一次两元。"]


def test_every_shipped_training_row_has_an_answer_and_a_negative():
    families = build.read_all()
    judged = build.grades(families)
    for lang in build.LANGUAGES:
        found = build.training_rows(families, judged, lang)
        assert [row["query"] for row in found if not row["pos"] or not row["neg"]] == []


def test_graded_text_is_not_a_negative_as_well():
    row = {"pos": ["a", "b"], "neg": ["b", "c"], "neg_scores": [0, 0]}
    assert build.drop_repeats(row) == {"pos": ["a", "b"], "neg": ["c"], "neg_scores": [0]}
    assert build.drop_repeats({"pos": ["a"], "neg": ["a"], "neg_scores": [0]}) == {"pos": ["a"]}


def test_checksums_are_those_of_the_files(city):
    import hashlib

    family_file(city)
    files = build.build()
    listed = dict(reversed(line.split("  ")) for line in files.pop("SHA256SUMS").splitlines())
    assert listed == {name: hashlib.sha256(text.encode()).hexdigest() for name, text in files.items()}


def run(monkeypatch, *arguments: str) -> int:
    monkeypatch.setattr("sys.argv", ["build.py", *arguments])
    return build.main()


def test_check_names_the_files_that_differ(city, monkeypatch, capsys):
    family_file(city)
    assert run(monkeypatch) == 0
    assert run(monkeypatch, "--check") == 0
    (city / "en" / "corpus.jsonl").write_text("changed")
    (city / "facts.jsonl").unlink()
    capsys.readouterr()
    assert run(monkeypatch, "--check") == 1
    err = capsys.readouterr().err
    assert err.count("differs from its sources; run `python data/build.py`") == 2
    assert "data/city_services/en/corpus.jsonl" in err and "data/city_services/facts.jsonl" in err


def test_full_writes_every_training_row(city, monkeypatch, tmp_path):
    family_file(city)
    assert run(monkeypatch, "--full", str(tmp_path / "full")) == 0
    (path,) = (tmp_path / "full").rglob("flat.en.jsonl")
    assert [row["score"] for row in rows(path.read_text(encoding="utf-8"))] == [1.0, pytest.approx(1 / 3), 1.0]
