"""Training files: every way in which one can be wrong, what each kind gives, and the walk of the negatives."""

import json
import os
import re
import subprocess
import sys
from collections import Counter
from itertools import product
from pathlib import Path

import numpy as np
import pytest

from retrieval_lab import converters, data_records, data_report, doctor, formats, teacher_embeddings
from retrieval_lab.formats import DataError, DataWarning, NegativeDraw, NegativeSampler

HERE = Path(__file__).resolve()
DATA = Path(os.environ.get("RETRIEVAL_LAB_DATA") or HERE.parents[2].parent / "shared" / "datasets") / "seed_formats"
real = pytest.mark.skipif(not (DATA / "lmsft.jsonl").is_file(), reason="no seed_formats; set RETRIEVAL_LAB_DATA")


@pytest.fixture(autouse=True)
def english(monkeypatch):
    monkeypatch.delenv("RETRIEVAL_LAB_LANG", raising=False)


def write(folder: Path, content, name: str = "train.jsonl") -> Path:
    """A file of bytes, of text, or of one JSON value a line."""
    if isinstance(content, list):
        content = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in content)
    (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    return folder / name


GOOD = '{"query": "when does the pool open", "pos": ["at seven"], "neg": ["on the hill"]}'
PAIR = '{"query": "when does the pool open", "pos": "at seven"}'
SCORED = '{"query": "pool hours", "pos": ["at seven", "on the hill"], "scores": [0.9, 0.1]}'
GRADED = '{"query": "pool hours", "pos": ["at seven", "on the hill"], "pos_scores": [1, 0]}'
FLAT = '{"query": "pool hours", "content": "at seven", "score": 1}'

# (name, file, kind, line, field, code, a part of the English cause or remedy)
CASES = [
    ("blank", f"{PAIR}\n\n{PAIR}\n", None, 2, "", "blank_line", "the line is blank"),
    ("broken", f'{PAIR}\n{{"query": "a", "pos" "b"}}\n', None, 2, "", "broken_json", "not JSON at column 22"),
    ("cut off", f'{PAIR}\n{{"query": "a', None, 2, "", "broken_json", "not JSON at column 11"),
    ("two objects", f"{PAIR} {PAIR}\n{PAIR}", None, 1, "", "broken_json", "Extra data"),
    ("long number", FLAT.replace("1}", "9" * 5000 + "}") + f"\n{FLAT}", None, 1, "", "broken_json", "not JSON"),
    ("deep", f"{PAIR}\n" + '{"query":' + "[" * 100_000, None, 2, "", "broken_json", "not JSON"),
    ("python", f"{PAIR}\n{{'query': 'a', 'pos': ['b']}}", None, 2, "", "single_quotes", "json.dumps"),
    ("key twice", f'{PAIR}\n{{"query": "a", "pos": "b", "pos": "c"}}', None, 2, "pos", "repeated_key", "the key 'pos' stands twice"),
    ("no object", f'{PAIR}\n"when"\n', None, 2, "", "not_a_record", "the line holds text"),
    ("null", f"{PAIR}\nnull\n", None, 2, "", "not_a_record", "the line holds null"),
    ("no query", f'{PAIR}\n{{"pos": "b"}}', None, 2, "query", "missing", "the field is missing"),
    ("no pos", f'{PAIR}\n{{"query": "b"}}', None, 2, "pos", "missing", "the field is missing"),
    ("no neg", f"{GOOD}\n{PAIR}", "triplet", 2, "neg", "missing", "the field is missing"),
    ("typo", f'{PAIR}\n{{"Query": "a", "pos": "b"}}', None, 2, "query", "missing_near", 'rename "Query" to "query"'),
    ("plural", f'{PAIR}\n{{"query": "a", "positives": "b"}}', None, 2, "pos", "missing_near", 'rename "positives" to "pos"'),
    ("both", f'{PAIR}\n{{"query": "a", "pos": "b", "positive": "c"}}', None, 2, "pos", "both_spellings", "two spellings"),
    ("empty query", f'{PAIR}\n{{"query": "", "pos": "b"}}', None, 2, "query", "empty_text", "the text is empty"),
    ("ideographic space", f'{PAIR}\n{{"query": "\u3000", "pos": "b"}}', None, 2, "query", "empty_text", "the text is empty"),
    ("empty item", f'{PAIR}\n{{"query": "a", "pos": ["b", " "]}}', None, 2, "pos[1]", "empty_text", "the text is empty"),
    ("no positives", f'{PAIR}\n{{"query": "a", "pos": []}}', None, 2, "pos", "empty_list", "the list is empty"),
    ("no negatives", f'{GOOD}\n{{"query": "a", "pos": "b", "neg": []}}', None, 2, "neg", "empty_negatives", "mine negatives"),
    ("no labels", GRADED + '\n{"query": "a", "pos": ["b"], "pos_scores": []}', None, 2, "pos_scores", "empty_optional", "leave"),
    ("number", f'{PAIR}\n{{"query": 3, "pos": "b"}}', None, 2, "query", "wrong_type", "a number where text belongs"),
    ("object", f'{PAIR}\n{{"query": "a", "pos": {{}}}}', None, 2, "pos", "wrong_type", "an object where text or a list of texts"),
    ("null neg", f'{GOOD}\n{{"query": "a", "pos": "b", "neg": null}}', None, 2, "neg", "wrong_type", "null where text or a list"),
    ("null item", f'{PAIR}\n{{"query": "a", "positive": ["b", null]}}', None, 2, "positive[1]", "wrong_type", "null where text"),
    ("text score", FLAT + '\n{"query": "a", "content": "b", "score": "1"}', None, 2, "score", "wrong_type", "text where a number"),
    ("true", FLAT + '\n{"query": "a", "content": "b", "score": true}', None, 2, "score", "wrong_type", "true/false where a number"),
    ("prompt", f'{PAIR}\n{{"query": "a", "pos": "b", "prompt_for_query": 1}}', None, 2, "prompt_for_query", "wrong_type", "number"),
    ("surrogate", f'{PAIR}\n{{"query": "\\ud83d", "pos": "b"}}', None, 2, "query", "surrogate", "half of a surrogate pair"),
    ("prompt half", f'{PAIR}\n{{"query": "a", "pos": "b", "prompt": "\\udc00"}}', None, 2, "prompt", "surrogate", "half of"),
    ("fewer", SCORED + '\n{"query": "a", "pos": ["b", "c"], "scores": [1]}', None, 2, "scores", "length", "scores: 1, number of texts: 2"),
    ("more", SCORED + '\n{"query": "a", "pos": "b", "scores": [1, 2]}', None, 2, "scores", "length", "scores: 2, number of texts: 1"),
    ("neg_scores", GRADED[:-1] + ', "neg": ["x"], "neg_scores": [0, 0]}', None, 1, "neg_scores", "length", "scores: 2, number of texts: 1"),
    ("nan", SCORED + '\n{"query": "a", "pos": "b", "scores": NaN}', None, 2, "scores", "not_finite", "nan is not a finite number"),
    ("infinity", SCORED + '\n{"query": "a", "pos": ["b", "c"], "scores": [1, -Infinity]}', None, 2, "scores[1]", "not_finite", "-inf"),
    ("overflow", f'{FLAT}\n{{"query": "a", "content": "b", "score": 1e999}}', None, 2, "score", "not_finite", "inf is not a finite"),
    ("huge int", f'{FLAT}\n["a", "b", 1]\n{FLAT.replace("1}", "1" + "0" * 400 + "}")}', None, 3, "score", "not_finite", "not a finite"),
    ("above", f'{GRADED}\n{{"query": "a", "pos": ["b"], "pos_scores": [3]}}', None, 2, "pos_scores[0]", "out_of_range", "label 3 lies outside 0..1"),
    ("below", '["a", "b", 1]\n["a", "c", -1]', None, 2, "[2]", "out_of_range", "label -1 lies outside 0..1"),
    ("short list", '["a", "b", 1]\n["a", "c"]', None, 2, "", "list_length", "this one has 2"),
    ("mixed fields", f"{PAIR}\n{PAIR}\n{SCORED}", None, 3, "scores", "mixed", "written as scored, while the file is pair (see line 1)"),
    ("mixed list", f'{FLAT}\n{FLAT}\n["a", "b", 1]', None, 3, "", "mixed", "written as list, while the file is flat"),
    ("unscored", GRADED + '\n{"query": "a", "pos": "b"}', None, 2, "pos_scores", "missing", "the field is missing"),
    ("half scored", GRADED[:-1] + ', "neg": "c"}', "scored", 1, "neg_scores", "missing", "the field is missing"),
    ("prompt in query", '{"query": "find: a", "pos": "b", "prompt": "find: "}', None, 1, "prompt", "prompt_twice", "already begins"),
    ("gbk", PAIR.encode() + b"\n" + '{"query": "泳池几点开门", "pos": "七点"}'.encode("gbk"), None, 2, "", "encoding", "byte 14 of this line is 0xB3"),
    ("latin", PAIR.encode() + b'\n{"query": "caf\xe9 hours", "pos": "seven"}', None, 2, "", "encoding", "WINDOWS-1252"),
    ("array", f"[\n{PAIR},\n{PAIR}\n{PAIR}]", None, 4, "", "array_broken", "Expecting ',' or ']'"),
    ("array comma", f"[{PAIR},\n]", None, 2, "", "array_broken", "Expecting value"),
    ("array more", f"[{PAIR}]\n[{PAIR}]", None, 2, "", "array_broken", "Extra data"),
    ("utf-16", PAIR.encode("utf-16"), None, None, "", "encoding_utf16", "the file is UTF-16"),
    ("empty file", "", None, None, "", "file_empty", "holds no line"),
    ("empty array", "[ ]", None, None, "", "file_empty", "holds no line"),
    ("all broken", "pool\n", None, None, "", "no_rows", "no line is left"),
    ("no format", '{"text": "a"}\n{"text": "b"}\n', None, None, "", "unknown_shape", "no line holds the fields"),
    ("other kind", f"{PAIR}\n", "scored", None, "", "kind", "written as pair, which cannot be read as scored"),
]  # fmt: skip


@pytest.mark.parametrize("lang", ["en", "zh"])
@pytest.mark.parametrize("content, kind, line, field, code, part", [c[1:] for c in CASES], ids=[c[0] for c in CASES])
def test_a_problem_is_named_with_line_field_cause_and_remedy(tmp_path, content, kind, line, field, code, part, lang):
    report = formats.validate(write(tmp_path, content), kind, lang=lang)
    found = next(p for p in report.problems if p.code == code)
    assert (found.line, found.field) == (line, field)
    assert found.cause in str(report) and found.remedy in str(report)
    assert not report.ok
    if lang == "en":
        assert part in found.cause + found.remedy
        assert line is None or re.search(rf"\b{line}\b", str(report))
    else:
        assert re.search("[一-鿿]", found.cause) and re.search("[一-鿿]", found.remedy)
    with pytest.raises(DataError) as raised:
        formats.read(tmp_path / "train.jsonl", kind or ("triplet" if report.shape == "triplet" else None), lang=lang)
    assert found in raised.value.report.problems


def test_a_missing_file_is_a_report_too(tmp_path):
    report = formats.validate(tmp_path / "nowhere.jsonl")
    assert [(p.line, p.code) for p in report.problems] == [(None, "file_missing")]
    assert str(tmp_path) in str(report)
    with pytest.raises(DataError, match="there is no such file"):
        formats.read(tmp_path / "nowhere.jsonl", skip_bad=True)


def test_every_message_is_tested_somewhere():
    tests = "".join(file.read_text(encoding="utf-8") for file in HERE.parent.glob("test_*.py"))
    untested = [code for code in data_report.MESSAGES if f'"{code.removeprefix("not_held_")}"' not in tests]
    assert untested == []


def test_every_message_exists_in_both_languages_with_the_same_names():
    for code, pair in data_report.MESSAGES.items():
        names = [set(re.findall(r"(?<!{){(\w+)}", " ".join(pair[lang]))) for lang in ("en", "zh")]
        assert names[0] == names[1], code
        assert all(len(pair[lang]) == 2 and all(pair[lang]) for lang in ("en", "zh")), code


def test_chinese_messages_keep_the_house_rules():
    for code, pair in data_report.MESSAGES.items():
        for text in pair["zh"]:
            assert not re.search("[您请]", text), code
            assert not re.search("[一-鿿][A-Za-z0-9]|[A-Za-z0-9][一-鿿]", text), (code, text)
            assert not re.search("[一-鿿][,;:!?]", text), (code, text)


def test_an_emoji_written_as_two_escapes_is_one_character(tmp_path):
    assert formats.read(write(tmp_path, '{"query": "\\ud83d\\ude80", "pos": "b"}'))["query"][0] == "\U0001f680"


def test_the_report_names_all_lines_and_draws_equal_problems_together(tmp_path):
    rows = [PAIR, "", "", "", '{"query": "", "pos": "b"}', PAIR, ""]
    report = formats.validate(write(tmp_path, "\n".join([*rows, PAIR])))
    assert report.bad_lines == [2, 3, 4, 5, 7]
    text = str(report)
    assert "8 lines, 3 training rows; 5 problems on 5 lines" in text
    assert "lines 2-4, 7: the line is blank. Do: delete it" in text
    assert "line 5, query: the text is empty" in text


def test_the_chinese_report_reads_chinese(tmp_path):
    report = formats.validate(write(tmp_path, f"{PAIR}\n\n\n{PAIR}\n"), lang="zh")
    assert "4 行，可得 2 条训练样本；2 个问题，涉及 2 行" in str(report)
    assert "第 2-3 行：这一行是空行。办法：删掉这一行" in str(report)


def test_the_language_follows_the_environment(tmp_path, monkeypatch):
    monkeypatch.setenv("RETRIEVAL_LAB_LANG", "zh")
    assert "空行" in str(formats.validate(write(tmp_path, f"{PAIR}\n\n{PAIR}")))
    with pytest.raises(ValueError, match="lang='fr' is not known"):
        formats.validate(tmp_path / "train.jsonl", lang="fr")


def test_nothing_is_returned_before_the_last_line_was_checked(tmp_path):
    with pytest.raises(DataError, match="line 1001, pos"):
        formats.read(write(tmp_path, f"{PAIR}\n" * 1000 + '{"query": "a", "pos": 1.5}'))


def test_skip_bad_loads_the_rest_and_says_how_many_it_left(tmp_path):
    path = write(tmp_path, f'{PAIR}\n\n{{"query": "a"}}\n{{"query": "b", "pos": ["c", ""]}}\n{PAIR}\n')
    with pytest.warns(DataWarning, match="left out 3 of 5 lines"):
        assert len(formats.read(path, skip_bad=True)) == 2
    dataset, report = formats.read_with_report(path, skip_bad=True)
    assert (len(dataset), report.left_out, report.n_rows, report.bad_lines) == (2, 3, 2, [2, 3, 4])
    chinese = formats.read_with_report(path, skip_bad=True, lang="zh")[1]
    assert "共 5 行，跳过了 3 行" in str(chinese)


def test_skip_bad_is_no_way_around_a_file_that_cannot_be_read(tmp_path):
    for content in (f"[{PAIR}, {PAIR} {PAIR}]", PAIR.encode("utf-16"), "\n\n", '{"query": ""}', '{"text": "a"}'):
        with pytest.raises(DataError):
            formats.read(write(tmp_path, content), skip_bad=True)


def test_a_good_file_warns_of_nothing(tmp_path, recwarn):
    assert len(formats.read(write(tmp_path, PAIR), skip_bad=True)) == 1
    assert not [w for w in recwarn if issubclass(w.category, DataWarning)]


@pytest.mark.parametrize("separator", ["\u2028", "\u2029", "\x85", "\x0b", "\x0c", "\x1c", "\\r\\n", "\\n"])
def test_no_character_inside_a_text_splits_a_line(tmp_path, separator):
    text = f"seven{separator}eight"
    if separator < " ":  # JSON wants control characters escaped
        text = f"seven\\u{ord(separator[0]):04x}eight"
    report = formats.validate(write(tmp_path, f'{{"query": "a", "pos": "{text}"}}\n{PAIR}\n'))
    assert (report.problems, report.n_lines) == ([], 2)
    dataset = formats.read(tmp_path / "train.jsonl")
    assert dataset[0]["positive"] == json.loads(f'"{text}"')


def test_crlf_and_bom_are_accepted_and_said(tmp_path):
    path = write(tmp_path, b"\xef\xbb\xbf" + f"{PAIR}\r\n{PAIR}\r\n".encode())
    report = formats.validate(path)
    assert report.ok and report.n_rows == 2
    assert {(note.line, note.code) for note in report.notes} == {(1, "bom"), (None, "crlf")}
    assert "note, line 1: a byte order mark" in str(report) and "lines that end in CRLF (Windows): 2" in str(report)
    assert "提示，第 1 行：行首有字节顺序标记" in str(formats.validate(path, lang="zh"))
    assert formats.read(path)["query"][0] == "when does the pool open"


def test_joined_files_with_a_mark_in_the_middle_are_read(tmp_path):
    report = formats.validate(write(tmp_path, f"{PAIR}\n\ufeff{PAIR}\n"))
    assert report.ok and [(note.line, note.code) for note in report.notes] == [(2, "bom")]


def test_every_line_of_a_gbk_file_is_named_with_the_command_that_mends_it(tmp_path):
    lines = ['{"query": "泳池几点开门", "pos": "七点"}', PAIR, '{"query": "图书馆在哪", "pos": "河边"}']
    path = write(tmp_path, "\n".join(lines).encode("gbk"), "my file.jsonl")
    report = formats.validate(path)
    assert [p.line for p in report.problems if p.code == "encoding"] == [1, 3]
    assert "iconv -f GB18030 -t UTF-8 'my file.jsonl' > 'my file.utf8.jsonl'" in str(report)
    path.write_bytes(path.read_bytes().decode("gb18030").encode())
    assert formats.validate(path).ok


def test_the_byte_of_a_wrong_encoding_counts_within_its_line(tmp_path):
    report = formats.validate(write(tmp_path, PAIR.encode() + b'\n{"query": "ab\xff", "pos": "c"}\n'))
    assert "byte 14 of this line is 0xFF" in report.problems[0].cause  # {"query": "ab is 13 bytes


def test_arrays_give_the_line_of_each_element(tmp_path):
    elements = [json.loads(PAIR), {"query": "", "pos": "b"}, {"query": "c", "pos": {}}]
    report = formats.validate(write(tmp_path, json.dumps(elements, indent=2)))
    lines = json.dumps(elements, indent=2).split("\n")
    assert [p.line for p in report.problems] == [i + 1 for i, line in enumerate(lines) if line == "  {"][1:]
    assert (report.n_lines, report.n_rows) == (3, 1)


def test_an_array_in_a_wrong_encoding_names_its_lines_only(tmp_path):
    content = '[{"query": "泳池", "pos": "a"},\n{"query": "b", "pos": "c"}]'.encode("gbk")
    assert [(p.line, p.code) for p in formats.validate(write(tmp_path, content)).problems] == [(1, "encoding")]


def test_arrays_lines_and_lists_of_three_give_the_same_rows(tmp_path):
    rows = [{"query": "a", "content": "b", "score": 1}, {"query": "a", "content": "c", "score": 0.5}]
    lists = [list(row.values()) for row in rows]
    contents = [
        rows,
        json.dumps(rows),
        json.dumps(rows, indent=1),
        lists,
        json.dumps(lists),
        json.dumps(lists, indent=1),
    ]
    for content in contents:
        assert formats.read(write(tmp_path, content)).to_list() == [
            {"query": "a", "document": "b", "label": 1.0},
            {"query": "a", "document": "c", "label": 0.5},
        ]
    assert len(formats.read(write(tmp_path, '["a", "b", 1]'))) == 1  # one list line is no array


def test_both_spellings_and_bare_strings_are_read(tmp_path):
    for names, single in product([("pos", "neg"), ("positive", "negative")], [True, False]):
        row = {"query": "a", names[0]: "bc" if single else ["bc"], names[1]: "de" if single else ["de"]}
        assert formats.read(write(tmp_path, [row]), "triplet").to_list() == [
            {"query": "a", "positive": "bc", "negative_1": "de"}
        ]


def test_unknown_and_unused_fields_are_noted(tmp_path):
    path = write(tmp_path, [{"query": "a", "pos": "b", "neg": "c", "source": "x"}] * 2)
    notes = formats.validate(path, "pair").notes
    assert {(note.line, note.field, note.code) for note in notes} == {
        (1, "neg", "unused_field"),
        (1, "source", "unknown_field"),
    }
    assert "lines with this field: 2" in notes[0].cause
    assert [note.field for note in formats.validate(path, "triplet").notes] == ["source"]


def test_a_kind_must_be_said_where_a_file_can_feed_several(tmp_path):
    path = write(tmp_path, GOOD)
    with pytest.raises(DataError, match=r'kind="triplet".*or kind="graded"') as raised:
        formats.read(path)
    assert raised.value.report.problems[0].code == "kind_ambiguous"
    with pytest.raises(DataError, match="含 query、pos、neg 的行可以训练几类模型"):
        formats.read(path, lang="zh")
    assert formats.validate(path).kind == "triplet" and formats.validate(path).ok


@pytest.mark.parametrize(
    "options, message",
    [
        ({"kind": "triplets"}, "kind='triplets' is not known; .*did you mean 'triplet'"),
        ({"min_label": 1, "max_label": 1}, "min_label must be the smaller one"),
        ({"kind": "triplet", "neg_nums": 0}, "neg_nums=0; use neg_nums >= 1"),
    ],
)
def test_a_wrong_option_is_refused(tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        formats.read(write(tmp_path, GOOD), **options)


REFUSALS = [
    ("kind_unknown", lambda path: formats.validate(path, "graph"), "kind='graph' is not known; use one of pair, triplet"),
    ("kind_near", lambda path: formats.validate(path, "triplets"), "did you mean 'triplet'"),
    ("label_scale", lambda path: formats.validate(path, min_label=2), "min_label=2, max_label=1"),
    ("neg_nums", lambda path: formats.read(path, "triplet", neg_nums=-1), "neg_nums=-1"),
    ("no_negative", lambda path: NegativeSampler().draw(4, [], 1, 0), "row 4 has no negative"),
    ("draw_range", lambda path: NegativeSampler().draw(4, ["a"], 1, 0, turn=2), "turn=2 of 1"),
    ("not_redrawing", lambda path: formats.set_epoch(formats.read(path, "pair"), 1), "this dataset keeps its negatives"),
    ("vectors_shape", lambda path: teacher_embeddings.write(path, np.zeros((0, 2))), "float64 of shape \\(0, 2\\)"),
    ("dim_dtype", lambda path: teacher_embeddings.describe(path, 0), "dim=0, dtype='float32'"),
    ("whole_rows", lambda path: teacher_embeddings.describe(path, 4096), "no whole number of rows of 16384 bytes"),
    ("format_unknown", lambda path: converters.convert(path, path, "lab", "bge"), "format 'bge' is not known"),
    ("target_exists", lambda path: converters.convert(path, path, "lab", "lab"), "train.jsonl exists"),
    ("tokenizer_length", lambda path: doctor.diagnose(path, max_length=5), "max_length=5; give both, or neither"),
]  # fmt: skip


@pytest.mark.parametrize("code, call, part", REFUSALS, ids=[case[0] for case in REFUSALS])
def test_a_refusal_is_one_sentence_in_the_readers_language(tmp_path, monkeypatch, code, call, part):
    path = write(tmp_path, GOOD)
    with pytest.raises((ValueError, TypeError, FileExistsError), match=part):
        call(path)
    monkeypatch.setenv("RETRIEVAL_LAB_LANG", "zh")
    start = data_report.MESSAGES[code]["zh"][0].split("{")[0]
    with pytest.raises((ValueError, TypeError, FileExistsError), match=f"^{start}.*[一-鿿].*；?"):
        call(path)


def test_pairs_are_one_row_a_positive(tmp_path):
    path = write(tmp_path, [{"query": "a", "pos": ["b", "c"]}, {"query": "d", "pos": "e"}])
    assert formats.read(path).to_list() == [
        {"query": "a", "positive": "b"},
        {"query": "a", "positive": "c"},
        {"query": "d", "positive": "e"},
    ]


def test_pairs_are_read_from_triplets_only_when_asked(tmp_path):
    path = write(tmp_path, f"{PAIR}\n{GOOD}\n")
    assert formats.read(path, "pair").column_names == ["query", "positive"]
    assert [p.code for p in formats.validate(path).problems] == ["mixed"]


def test_scored_rows_carry_the_group_of_their_query(tmp_path):
    rows = [{"query": "a", "pos": ["b", "c"], "scores": [7, -2.5]}, {"query": "d", "pos": "e", "scores": 0}]
    assert formats.read(write(tmp_path, rows)).to_list() == [
        {"query": "a", "document": "b", "score": 7.0, "group": 0},
        {"query": "a", "document": "c", "score": -2.5, "group": 0},
        {"query": "d", "document": "e", "score": 0.0, "group": 1},
    ]


def test_flat_lines_of_one_query_are_one_group_wherever_they_stand(tmp_path):
    rows = [["a", "b", 5], ["c", "d", 4], ["a", "e", 3]]
    assert formats.read(write(tmp_path, rows), "scored")["group"][:] == [0, 1, 0]


def test_labels_are_scaled_between_min_and_max(tmp_path):
    path = write(tmp_path, [{"query": "a", "pos": ["b", "c", "d", "e"], "pos_scores": [0, 1, 2, 3]}])
    assert formats.read(path, max_label=3)["label"][:] == [0, 1 / 3, 2 / 3, 1]
    path = write(tmp_path, [{"query": "a", "pos": ["b", "c"], "pos_scores": [-1, 0]}])
    assert formats.read(path, min_label=-1, max_label=1)["label"][:] == [0, 0.5]


def test_positives_are_at_the_top_and_negatives_at_the_bottom_of_the_scale(tmp_path):
    row = {"query": "a", "pos": ["b"], "neg": ["c", "d"]}
    assert formats.read(write(tmp_path, [row]), "graded", max_label=3)["label"][:] == [1, 0, 0]
    assert formats.read(write(tmp_path, [row | {"pos_scores": 2}]), max_label=4)["label"][:] == [0.5, 0, 0]
    assert formats.read(write(tmp_path, [row | {"neg_scores": [1, 0]}]), max_label=4)["label"][:] == [1, 0.25, 0]


def test_scores_of_a_query_are_read_as_labels_when_asked(tmp_path):
    path = write(tmp_path, SCORED)
    assert formats.read(path, "graded")["label"][:] == [0.9, 0.1]
    with pytest.raises(DataError, match=r"scores\[0\]: label 0.9 lies outside 0..0.5"):
        formats.read(path, "graded", max_label=0.5)


def test_prompts_are_kept_beside_the_query_and_applied_once(tmp_path):
    hostile = "{x} {} %s {0!r} \\"
    rows = [
        {"query": hostile, "pos": ["b", "c"], "prompt_for_query": "find {this}: "},
        {"query": "d", "pos": "e", "prompt": "find {this}: "},
        {"query": "f", "pos": "g"},
    ]
    path = write(tmp_path, rows)
    assert formats.prompts(path) == {"find {this}: ": 2, "": 1}
    dataset = formats.read(path)
    assert dataset.column_names == ["query", "positive", "prompt_for_query"]
    assert dataset["query"][0] == hostile
    once = formats.apply_prompts(dataset)
    expected = ["find {this}: " + hostile] * 2 + ["find {this}: d", "f"]
    assert once["query"][:] == expected and once.column_names == ["query", "positive"]
    assert formats.apply_prompts(once)["query"][:] == expected


def test_prompts_follow_a_selection_and_a_redrawing_dataset(tmp_path):
    rows = [{"query": q, "pos": "b", "neg": ["c", "d"], "prompt_for_query": "find: "} for q in "xyz"]
    dataset = formats.read(write(tmp_path, rows), "triplet", redraw=True)
    assert list(dataset[0]) == ["query", "positive", "negative_1", "prompt_for_query"]
    applied = formats.apply_prompts(dataset.select([2, 0]))
    assert [row["query"] for row in applied] == ["find: z", "find: x"]
    before = applied[0]["negative_1"]
    formats.set_epoch(applied, 1)
    assert {before, applied[0]["negative_1"]} == {"c", "d"}


# Negatives: the walk, by brute force over all small sizes


@pytest.mark.parametrize("size, n, turns", list(product(range(1, 7), range(1, 9), (1, 2, 3))))
def test_every_negative_is_used_before_one_repeats(size, n, turns):
    negatives, sampler = [f"n{i}" for i in range(size)], NegativeSampler(3)
    draws = [
        sampler.draw(5, negatives, n, epoch, turn=turn, turns=turns) for epoch in range(12) for turn in range(turns)
    ]
    stream = [text for draw in draws for text in draw]
    for start in range(0, len(stream) - size + 1, size):
        assert sorted(stream[start : start + size]) == negatives
    used = Counter()
    for draw in draws:
        used.update(draw)
        assert max(used.values()) - min(used[text] for text in negatives) <= 1 or size == 1
        within = Counter(draw)
        assert max(within.values()) - min(within[text] for text in negatives) <= 1  # as evenly as possible


def test_the_draw_is_a_pure_function_of_seed_row_and_epoch():
    negatives = [f"n{i}" for i in range(20)]
    forward = [NegativeSampler(1).draw(2, negatives, 4, epoch) for epoch in range(9)]
    sampler = NegativeSampler(1)
    assert [sampler.draw(2, negatives, 4, epoch) for epoch in reversed(range(9))] == forward[::-1]
    assert forward != [NegativeSampler(2).draw(2, negatives, 4, epoch) for epoch in range(9)]
    assert forward != [NegativeSampler(1).draw(3, negatives, 4, epoch) for epoch in range(9)]
    assert forward[:5] != forward[4:]  # shuffled anew after all were used


def test_the_draw_is_the_same_in_another_process():
    code = "from retrieval_lab.negatives import NegativeSampler as S; print(S(1).draw(2, list('abcdefgh'), 3, 4))"
    outputs = {
        subprocess.run(
            [sys.executable, "-c", code],
            capture_output=True,
            text=True,
            check=True,
            env=os.environ | {"PYTHONHASHSEED": s},
        ).stdout
        for s in ("1", "2")
    }
    assert outputs == {f"{NegativeSampler(1).draw(2, list('abcdefgh'), 3, 4)}\n"}


def test_each_negative_comes_first_about_equally_often():
    firsts = Counter(NegativeSampler(seed).draw(0, list("abcd"), 1, 0)[0] for seed in range(4000))
    assert all(abs(count - 1000) < 150 for count in firsts.values())  # 5 standard deviations: 137


def test_a_negative_listed_twice_counts_once():
    drawn = [NegativeSampler(0).draw(0, ["a", "a", "b"], 1, epoch)[0] for epoch in range(4)]
    assert sorted(drawn[:2]) == sorted(drawn[2:]) == ["a", "b"]


@pytest.mark.parametrize(
    "negatives, options", [([], {}), (["a"], {"n": 0}), (["a"], {"epoch": -1}), (["a"], {"turn": 1})]
)
def test_impossible_draws_are_refused(negatives, options):
    values = {"n": 1, "epoch": 0, "turn": 0} | options
    with pytest.raises(ValueError, match=r"use n >= 1|has no negative"):
        NegativeSampler(0).draw(0, negatives, values["n"], values["epoch"], turn=values["turn"])


@pytest.mark.parametrize("neg_nums", [1, 2, 3, 5])
def test_epochs_of_a_dataset_use_all_negatives_of_a_query_before_repeating_one(tmp_path, neg_nums):
    negatives = {"a": [f"a{i}" for i in range(5)], "b": [f"b{i}" for i in range(3)]}
    rows = [{"query": "a", "pos": ["p", "q"], "neg": negatives["a"]}, {"query": "b", "pos": "r", "neg": negatives["b"]}]
    path = write(tmp_path, rows)
    dataset = formats.read(path, "triplet", neg_nums=neg_nums, seed=9, redraw=True)
    used = {"a": Counter(), "b": Counter()}
    for epoch in range(10):
        formats.set_epoch(dataset, epoch)
        assert dataset[:] == formats.read(path, "triplet", neg_nums=neg_nums, seed=9, epoch=epoch)[:]
        for row in dataset:
            used[row["query"]].update(row[f"negative_{i + 1}"] for i in range(neg_nums))
            counts = [used[row["query"]][text] for text in negatives[row["query"]]]
            assert max(counts) - min(counts) <= 1


def test_the_walk_stays_in_step_when_bad_lines_are_left_out(tmp_path):
    rows = [json.loads(GOOD), {"query": "b", "pos": "c", "neg": list("uvwxyz")}]
    whole = formats.read(write(tmp_path, rows), "triplet", neg_nums=3)[1]
    with pytest.warns(DataWarning):
        part = formats.read(write(tmp_path, [{"query": ""}, rows[1]]), "triplet", neg_nums=3, skip_bad=True)[0]
    assert part == whole


def test_one_column_of_a_redrawing_dataset_can_be_looked_at(tmp_path):
    dataset = formats.read(write(tmp_path, GOOD), "triplet", redraw=True)
    assert list(dataset["query"]) == ["when does the pool open"]
    assert isinstance(dataset.format["format_kwargs"]["transform"], NegativeDraw)


def test_a_dataset_of_fixed_negatives_refuses_an_epoch(tmp_path):
    with pytest.raises(TypeError, match="redraw=True"):
        formats.set_epoch(formats.read(write(tmp_path, GOOD), "triplet"), 1)


# Teacher embeddings


def teacher_files(folder: Path, dtype="float32") -> tuple[Path, Path]:
    vectors = np.array([[1, 0], [0, 1], [0.5, 0.5]], dtype=dtype)
    path = write(folder, [{"query": q} for q in "abc"])
    return path, teacher_embeddings.write(folder / "train.memmap", vectors)


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_teacher_rows_carry_their_vectors(tmp_path, dtype):
    path, vectors = teacher_files(tmp_path, dtype)
    assert json.loads((tmp_path / "train.memmap.json").read_text())["dtype"] == dtype
    for dataset in (formats.read(path), formats.read(path, "teacher", embeddings=vectors)):
        assert dataset["query"][:] == ["a", "b", "c"]
        assert dataset["label"][:] == [[1, 0], [0, 1], [0.5, 0.5]]


def test_teacher_vectors_stay_with_their_lines_when_bad_ones_are_left_out(tmp_path):
    _, vectors = teacher_files(tmp_path)
    path = write(tmp_path, '{"query": "a"}\n\n{"query": ""}\n{"query": "c", "prompt_for_query": "find: "}')
    dataset, report = formats.read_with_report(path, embeddings=vectors, skip_bad=True)
    assert (report.n_lines, report.n_records, report.left_out) == (4, 3, 2)
    assert dataset.to_list() == [
        {"query": "a", "label": [1, 0], "prompt_for_query": ""},
        {"query": "c", "label": [0.5, 0.5], "prompt_for_query": "find: "},
    ]
    assert formats.apply_prompts(dataset)["query"][:] == ["a", "find: c"]


def spoil_sidecar(vectors: Path, **entries):
    about = json.loads(Path(f"{vectors}.json").read_text()) | entries
    Path(f"{vectors}.json").write_text(json.dumps(about))


TEACHER_CASES = [
    (lambda path, v: v.unlink(), "teacher_missing", "train.memmap is not there"),
    (lambda path, v: Path(f"{v}.json").unlink(), "sidecar_missing", "train.memmap.json is not there"),
    (lambda path, v: Path(f"{v}.json").write_text("{"), "sidecar_broken", "Expecting property name"),
    (lambda path, v: Path(f"{v}.json").write_text("[]"), "sidecar_broken", r"\[\]"),
    (lambda path, v: spoil_sidecar(v, dim=0), "sidecar_broken", "dim=0"),
    (lambda path, v: spoil_sidecar(v, rows=3.0), "sidecar_broken", "rows=3.0"),
    (lambda path, v: spoil_sidecar(v, dtype="int8"), "sidecar_broken", "dtype='int8'"),
    (lambda path, v: spoil_sidecar(v, sha256=None), "sidecar_broken", "sha256=None"),
    (
        lambda path, v: spoil_sidecar(v, dim=3),
        "teacher_size",
        "3 rows x 3 dims of float32 are 36 bytes, but the file has 24",
    ),
    (lambda path, v: spoil_sidecar(v, dtype="float16"), "teacher_size", "float16 are 12 bytes, but the file has 24"),
    (lambda path, v: write(path.parent, [{"query": q} for q in "abcd"]), "teacher_rows", "3 vectors for 4 lines"),
    (lambda path, v: v.write_bytes(v.read_bytes()[::-1]), "teacher_hash", "sha256"),
]


@pytest.mark.parametrize("spoil, code, message", TEACHER_CASES)
def test_vectors_that_do_not_fit_are_refused_with_the_numbers(tmp_path, spoil, code, message):
    path, vectors = teacher_files(tmp_path)
    spoil(path, vectors)
    with pytest.raises(DataError, match=message) as raised:
        formats.read(path, "teacher", embeddings=vectors)
    assert [p.code for p in raised.value.report.problems] == [code]
    with pytest.raises(DataError, match=r"。办法：[^。]*[一-鿿]"):
        formats.read(path, "teacher", embeddings=vectors, lang="zh")


def test_another_dim_or_dtype_than_asked_for_is_refused(tmp_path):
    _, vectors = teacher_files(tmp_path)
    assert teacher_embeddings.open_vectors(vectors, rows=3, dim=2, dtype="float32").shape == (3, 2)
    with pytest.raises(DataError, match="dim is 2, but 4 was asked for") as raised:
        teacher_embeddings.open_vectors(vectors, dim=4, dtype="float16")
    assert [p.code for p in raised.value.report.problems] == ["teacher_dim", "teacher_dtype"]
    assert "dtype is float32, but float16 was asked for" in str(raised.value)


def test_vectors_that_are_not_finite_are_refused(tmp_path):
    vectors = np.zeros((3, 2), dtype="float32")
    vectors[1, 0] = np.nan
    with pytest.raises(DataError, match="vector 2 holds NaN") as raised:
        teacher_embeddings.write(tmp_path / "t.memmap", vectors)
    assert raised.value.report.problems[0].code == "teacher_not_finite"
    (tmp_path / "t.memmap").write_bytes(vectors.tobytes())
    teacher_embeddings.describe(tmp_path / "t.memmap", 2)
    with pytest.raises(DataError, match="vector 2 holds NaN"):
        teacher_embeddings.open_vectors(tmp_path / "t.memmap")


def test_vectors_of_the_other_byte_order_are_the_same_numbers(tmp_path):
    for order in "<>":
        file = teacher_embeddings.write(tmp_path / "t.memmap", np.array([[1, 2.5]], dtype=f"{order}f4"))
        assert teacher_embeddings.open_vectors(file).tolist() == [[1, 2.5]]


def test_only_whole_rows_of_known_types_are_described(tmp_path):
    (tmp_path / "t.memmap").write_bytes(bytes(24))
    assert teacher_embeddings.describe(tmp_path / "t.memmap", 3)["rows"] == 2
    with pytest.raises(ValueError, match="24 bytes, which is no whole number of rows of 20 bytes"):
        teacher_embeddings.describe(tmp_path / "t.memmap", 5)
    with pytest.raises(ValueError, match="dtype='int8'"):
        teacher_embeddings.describe(tmp_path / "t.memmap", 2, "int8")
    with pytest.raises(ValueError, match="of shape \\(3,\\)"):
        teacher_embeddings.write(tmp_path / "t.memmap", np.zeros(3, dtype="float32"))


def test_one_object_over_many_lines_names_the_line_of_its_fault(tmp_path):
    found = data_records.read_object(write(tmp_path, '{\n "queries": {},\n "corpus": oops\n}'))
    assert [(p.line, p.code) for p in found.problems] == [(3, "broken_json")]
    assert data_records.read_object(tmp_path / "no.json").problems[0].code == "file_missing"


def test_importing_formats_imports_nothing_heavy():
    code = "import sys, retrieval_lab.formats; print({'torch', 'transformers', 'datasets', 'numpy'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "set()\n"


# The real files


@real
def test_real_triplets_and_labels_have_the_known_counts():
    triplets = formats.read(DATA / "t2rank_100.jsonl", "triplet", neg_nums=2)
    assert (len(triplets), triplets.column_names) == (505, ["query", "positive", "negative_1", "negative_2"])
    graded = formats.read(DATA / "t2rank_100.jsonl", "graded")
    assert Counter(graded["label"][:]) == {1.0: 505, 0.0: 1500}


@real
def test_real_distillation_files_give_the_same_rows_flat_and_grouped():
    flat = formats.read(DATA / "t2rank_100.distill.jsonl")
    grouped = formats.read(DATA / "t2rank_100.distill.standard.jsonl")
    assert flat.column_names == ["query", "document", "label"]
    assert len(flat) == 2005 and flat.to_list() == grouped.to_list()


@real
def test_real_scored_file_has_four_rows_in_two_groups():
    dataset = formats.read(DATA / "lmsft.jsonl")
    assert (dataset["group"][:], dataset["score"][:]) == ([0, 0, 1, 1], [0.8, 0.2, 0.8, 0.2])


@real
def test_real_negatives_are_all_used_within_an_epoch_before_one_repeats():
    dataset = formats.read(DATA / "t2rank_100.jsonl", "triplet", neg_nums=4)
    used: dict[str, Counter] = {}
    for row in dataset:
        used.setdefault(row["query"], Counter()).update(row[f"negative_{i}"] for i in range(1, 5))
    for counts in used.values():
        rows = sum(counts.values()) // 4
        assert len(counts) == min(15, rows * 4) and max(counts.values()) <= -(-rows * 4 // 15)
