"""Loading files and cutting them: expectations written out by hand."""

import re
import sys

import pytest
from langchain_core.documents import Document

from retrieval_lab import rag_documents, rag_files, rag_html, tiny
from retrieval_lab.rag_documents import load, load_bytes, sentences, split


def pdf(*pages: str) -> bytes:
    """A PDF with one line of text a page, in a Chinese font of the reader, written by hand."""
    objects = ["<< /Type /Catalog /Pages 2 0 R >>", "", "<< /Type /Font /Subtype /Type0 /BaseFont /STSong-Light "]
    objects[2] += "/Encoding /UniGB-UTF16-H /DescendantFonts [4 0 R] >>"
    objects.append(
        "<< /Type /Font /Subtype /CIDFontType0 /BaseFont /STSong-Light /CIDSystemInfo "
        "<< /Registry (Adobe) /Ordering (GB1) /Supplement 4 >> >>"
    )
    kids = []
    for text in pages:
        stream = f"BT /F1 12 Tf 50 700 Td <{text.encode('utf-16-be').hex()}> Tj ET" if text else ""
        objects.append(f"<< /Length {len(stream)} >>\nstream\n{stream}\nendstream")
        resources = f"<< /Font << /F1 3 0 R >> >> /Contents {len(objects)} 0 R"
        objects.append(f"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 600 800] /Resources {resources} >>")
        kids.append(f"{len(objects)} 0 R")
    objects[1] = f"<< /Type /Pages /Kids [{' '.join(kids)}] /Count {len(kids)} >>"
    return _assembled(objects)


def _assembled(objects: list[str]) -> bytes:
    content, places = b"%PDF-1.4\n", []
    for number, text in enumerate(objects, 1):
        places.append(len(content))
        content += f"{number} 0 obj\n{text}\nendobj\n".encode()
    table = "".join(f"{place:010d} 00000 n \n" for place in places)
    end = f"xref\n0 {len(objects) + 1}\n0000000000 65535 f \n{table}"
    end += f"trailer << /Size {len(objects) + 1} /Root 1 0 R >>\nstartxref\n{len(content)}\n%%EOF"
    return content + end.encode()


def test_folder_is_read_whole_in_the_order_of_names_and_other_types_are_left(tmp_path):
    (tmp_path / "sub").mkdir()
    (tmp_path / "b.txt").write_text("Second.", encoding="utf-8")
    (tmp_path / "a.md").write_text("# First\n\nText.", encoding="utf-8")
    (tmp_path / "sub" / "c.htm").write_text("<p>第三。</p>", encoding="utf-8")
    (tmp_path / "d.png").write_bytes(b"\x89PNG")
    found = load(tmp_path)
    assert [d.metadata["source"] for d in found] == ["a.md", "b.txt", "sub/c.htm"]
    assert [d.metadata["title"] for d in found] == ["First", "b", "c"]
    assert found[2].page_content == "第三。"


def test_line_of_blanks_takes_no_time():
    """An expression that tries each blank anew takes minutes here."""
    text = b"# a" + b" " * 100_000 + b"b ##"
    assert load_bytes(text, "a.md")[0].metadata["title"] == "a" + " " * 100_000 + "b"


def test_html_keeps_headings_rows_and_words_together_and_drops_scripts():
    page = b"""<html><head><title>Fees</title><style>p{}</style></head><body><nav>Home</nav><script>alert(1)</script>
    <h2>Boats &amp; <b>nets</b></h2><p>A <b>ten</b>-crown fee.</p><ul><li>one</li><li>two</li></ul></body></html>"""
    document = load_bytes(page, "fees.html")[0]
    assert document.metadata["title"] == "Fees"
    assert [line for line in document.page_content.split("\n") if line] == [
        "## Boats & nets", "A ten-crown fee.", "one", "two",
    ]  # fmt: skip


def test_html_with_open_paragraphs_and_a_table_keeps_texts_apart():
    page = b"<title>Fees</title><p>One.<p>Two.<table><tr><th>boat<th>fee<tr><td>big</td><td>2</td></tr></table>"
    lines = load_bytes(page, "fees.html")[0].page_content.split("\n")
    assert [line for line in lines if line] == ["One.", "Two.", "boat fee", "big 2"]


def test_html_lines_of_the_source_are_no_lines_of_the_text():
    page = "<p>The ferry\n   runs.<p>渡船每\n  小时一班。<pre>a\n b</pre><h2>Fees<br>2026</h2>x<!-- y --><template>z</template><nav><h2>Menu</h2></nav>"
    lines = load_bytes(page.encode(), "ferry.html")[0].page_content.split("\n")
    assert [line for line in lines if line] == ["The ferry runs.", "渡船每小时一班。", "a", "b", "## Fees 2026", "x"]


def test_html_that_leaves_its_head_open_keeps_its_body():
    page = b"<html><head><title>Fees</title><meta charset=utf-8><body><p>One."
    assert load_bytes(page, "fees.html")[0].page_content == "One."


def lines_run(function) -> int:
    """How many lines of Python a call runs, in whatever module."""
    count = 0

    def trace(frame, event, argument):
        nonlocal count
        count += event == "line"
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        function()
    finally:
        sys.settrace(before)
    return count


@pytest.mark.parametrize("page", ["<p>a", "<p>a</p>", "<div>", "<nav>a", "<h2>a", "<td>a</b>"])
def test_html_of_twice_as_many_tags_is_twice_the_work(page):
    once, twice = (lines_run(lambda n=n: rag_html.title_and_text(page * n + "<p>z")) for n in (10_000, 20_000))
    assert twice < 2.1 * once


def test_html_that_the_parser_rejects_is_refused_with_its_name(lang):
    words = {"en": "a.html: no readable HTML .*save it again", "zh": "a.html：不是可读的 HTML.*重新保存"}
    with pytest.raises(ValueError, match=words[lang]):
        load_bytes(b"<p>a<![foo[b]]>", "a.html")


def test_html_is_read_in_the_encoding_that_it_declares():
    page = '<html><head><meta charset="gb18030"></head><body><p>渡船每小时一班。</p></body></html>'.encode("gb18030")
    assert load_bytes(page, "ferry.html")[0].page_content == "渡船每小时一班。"


def test_html_that_calls_its_encoding_by_the_name_of_a_smaller_set_is_read():
    page = '<meta charset="gb2312"><p>朱镕基</p>'.encode("gb18030")  # the second character is not in GB 2312
    assert load_bytes(page, "a.html")[0].page_content == "朱镕基"


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_html_is_read_in_the_encoding_of_its_first_bytes(encoding):
    assert load_bytes("<p>渡船每小时一班。</p>".encode(encoding), "a.html")[0].page_content == "渡船每小时一班。"


@pytest.mark.parametrize(
    "page, en, zh",
    [
        (b'<meta charset="utf-8"><p>' + "渡船".encode() * 50 + b"\xe6</p>", "not UTF-8 (byte 325)", "不是 UTF-8 编码（第 325 字节）"),
        ("<p>票价</p>".encode("gbk"), "not UTF-8 (byte 5)", "不是 UTF-8 编码（第 5 字节）"),  # C6 B1 could be a letter
        (b'<meta charset="klingon"><p>a</p>', "declares the unknown encoding 'KLINGON'", "声明的编码 'KLINGON' 不存在"),
    ],
)  # fmt: skip
def test_html_in_another_encoding_than_it_says_is_refused_and_never_guessed(page, en, zh, lang):
    words = {"en": f"a.html: {en}; save it as UTF-8", "zh": f"a.html：{zh}；另存为 UTF-8"}
    with pytest.raises(ValueError, match="^" + re.escape(words[lang])):
        load_bytes(page, "a.html")


def test_file_with_more_text_than_a_book_is_refused(lang, monkeypatch):
    monkeypatch.setattr(rag_files, "MAX_TEXT", 1000)
    words = {
        "en": "a.txt: it holds more than 1,000 characters.*; split it",
        "zh": "a.txt：文字超过 1,000 个字符.*；拆成",
    }
    assert load_bytes(b"a" * 1000, "a.txt")
    with pytest.raises(ValueError, match=words[lang]):
        load_bytes(b"a" * 1001, "a.txt")


@pytest.mark.parametrize("limit, value", [("MAX_PAGE", 79), ("MAX_TEXT", 79), ("MAX_TEXT", 9)])
def test_pdf_that_prints_more_than_a_book_is_given_up(limit, value, monkeypatch):
    """Forty characters of two bytes on each of two pages, in five drawing steps a page."""
    content = pdf("a" * 40, "b" * 40)
    assert len(load_bytes(content, "a.pdf")) == 2
    monkeypatch.setattr(rag_files, limit, value)
    with pytest.raises(ValueError, match="a.pdf: it holds more than"):
        load_bytes(content, "a.pdf")


@pytest.mark.parametrize("text", ["The ferry costs 2 crowns.", "渡船票价 2 元。"])
def test_pdf_gives_a_document_a_page_and_leaves_out_empty_ones(text):
    found = load_bytes(pdf(text, "", "3"), "ferry.pdf")
    assert [(d.page_content, d.metadata["page"]) for d in found] == [(text, 1), ("3", 3)]


def test_lines_of_a_printed_column_are_joined():
    assert rag_files._unwrapped("The ferry\nruns.\nNext") == "The ferry runs.\nNext"
    assert rag_files._unwrapped("渡船每\n小时一班。\n\n电车") == "渡船每小时一班。\n\n电车"


@pytest.mark.parametrize(
    "name, content, message",
    [
        ("a.docx", b"x", "a.docx: the type is none of .md .markdown .html .htm .pdf .txt"),
        ("a.txt", "渡船".encode("gb18030"), "a.txt: not UTF-8 (byte 0); save it as UTF-8"),
        ("a.pdf", b"no pdf", "a.pdf: no readable PDF"),
        ("a.pdf", b"", "a.pdf: no readable PDF"),
        ("a.pdf", pdf("x").replace(b"/Length", b"/Filter /Fla /Length"), "a.pdf: no readable PDF"),
        ("a.pdf", pdf(""), "a.pdf: it holds no text"),
        ("a.md", b" \n", "a.md: it holds no text"),
    ],
)
def test_file_that_cannot_be_read_is_named_with_the_reason(name, content, message):
    with pytest.raises(ValueError, match="^" + re.escape(message)):
        load_bytes(content, name)


def test_encrypted_pdf_is_refused_in_chinese(chinese, tmp_path):
    from pypdf import PdfReader, PdfWriter

    (tmp_path / "open.pdf").write_bytes(pdf("text"))
    writer = PdfWriter(clone_from=PdfReader(tmp_path / "open.pdf"))
    writer.encrypt("secret", algorithm="RC4-128")
    writer.write(tmp_path / "closed.pdf")
    with pytest.raises(ValueError, match=r"closed.pdf：不是可读的 PDF.*去掉密码"):
        load(tmp_path / "closed.pdf")


def test_missing_path_and_folder_without_documents_are_said(tmp_path):
    with pytest.raises(FileNotFoundError, match="not there"):
        load(tmp_path / "none.md")
    with pytest.raises(FileNotFoundError, match="holds no file of the types"):
        load(tmp_path)


def contents(text: str, size: int, **options) -> list[str]:
    return [chunk.page_content for chunk in split([Document(text, metadata={"source": "s"})], size, **options)]


def test_chinese_is_cut_after_its_punctuation_never_before_it():
    text = "渡船每小时一班。冬天停开！电车呢？照常；夜里，每半小时一班。"
    for size in range(8, 24):  # the longest clause has 8 characters
        found = contents(text, size)
        assert "".join(found) == text
        assert not any(chunk[0] in "。！？；，" for chunk in found)
        assert max(map(len, found)) <= size
    assert contents(text, 8) == ["渡船每小时一班。", "冬天停开！", "电车呢？", "照常；夜里，", "每半小时一班。"]


def test_english_is_cut_between_sentences_and_never_inside_a_number():
    assert contents("It costs 2.40 crowns. Children pay half.", 22) == ["It costs 2.40 crowns.", "Children pay half."]


def test_no_chunk_is_longer_than_asked_even_without_any_punctuation():
    assert max(map(len, contents("长" * 100, 7))) == 7


def test_size_may_be_counted_in_tokens():
    model = tiny.encoder()  # one token a character
    count = rag_documents.token_counter(model)
    assert count("tram") == 4
    assert contents("abc. def. ghi.", 9, length=count) == contents("abc. def. ghi.", 9)


def test_every_chunk_names_its_section_and_keeps_the_metadata():
    text = "# City\n\nIntro.\n\n## Ferry\n\nHourly.\n\n```\n# no heading\n```\n\n## Tram\n\nOften."
    document = Document(text, metadata={"source": "c.md", "title": "City", "page": 3})
    found = split([document], 100)
    assert [chunk.metadata["title"] for chunk in found] == ["City", "City › Ferry", "City › Tram"]
    assert found[1].page_content == "City › Ferry\nHourly.\n\n```\n# no heading\n```"
    assert [(chunk.metadata["chunk"], chunk.metadata["page"]) for chunk in found] == [(0, 3), (1, 3), (2, 3)]
    assert document.page_content == text and document.metadata == {"source": "c.md", "title": "City", "page": 3}


def chunks_of(content: str, name: str) -> list[str]:
    return [chunk.page_content for chunk in split(load_bytes(content.encode(), name), 100)]


def test_sections_of_the_same_name_are_told_apart_by_those_around_them():
    text = "# City\n\n## Ferry\n\n### Fees\n\nTwelve crowns.\n\n## Tram\n\n### Fees\n\nThree crowns.\n\n# Sea\n\nCold."
    assert chunks_of(text, "c.md") == [
        "City › Ferry › Fees\nTwelve crowns.", "City › Tram › Fees\nThree crowns.", "City › Sea\nCold.",
    ]  # fmt: skip
    page = "<title>City</title><h2>Tram</h2><h3>Fees</h3><p>Three crowns.</p>"
    assert chunks_of(page, "c.html") == ["City › Tram › Fees\nThree crowns."]


def test_heading_with_nothing_below_it_is_text():
    assert chunks_of("# City\n\n## Fee: 12 crowns\n## Opening\nNine.\n## Free on Sundays", "c.md") == [
        "City\nFee: 12 crowns", "City › Opening\nNine.", "City\nFree on Sundays",
    ]  # fmt: skip
    assert chunks_of("# City\n", "c.md") == []  # the title is none


def test_number_sign_in_plain_text_and_in_a_pdf_is_no_heading():
    assert chunks_of("Team list\n# 1 Anna\n# 2 Bert", "team.txt") == ["team\nTeam list\n# 1 Anna\n# 2 Bert"]
    assert [chunk.page_content for chunk in split(load_bytes(pdf("# 1 Anna"), "team.PDF"), 100)] == ["team\n# 1 Anna"]


def test_title_of_a_collections_document_stands_once(harbour):
    document = rag_documents.from_collection(harbour)[0]
    assert document.metadata == {"source": "tram", "title": "the tram leaves every ten minutes"}
    titled = Document("Ferry\nHourly.", metadata={"source": "f", "title": "Ferry"})
    assert split([titled], 50)[0].page_content == "Ferry\nHourly."


@pytest.mark.parametrize("size, overlap", [(0, 0), (5, 5), (5, -1)])
def test_impossible_size_is_refused(size, overlap, lang):
    sign = {"en": ", ", "zh": "，"}[lang]
    with pytest.raises(ValueError, match=f"size={size}{sign}overlap={overlap}"):
        split([], size, overlap)


@pytest.mark.parametrize(
    "text, expected",
    [
        ("Pay 2.40 crowns. Ask Dr. Lee at St. Anne. Bring form No. 4!", ["Pay 2.40 crowns.", "Ask Dr. Lee at St. Anne.", "Bring form No. 4!"]),
        ("Is it free? No. Then pay.", ["Is it free?", "No.", "Then pay."]),
        ("Open from 7 a.m. to 9 p.m. daily.", ["Open from 7 a.m. to 9 p.m. daily."]),
        ("It ends at 9 p.m. The bar closes.", ["It ends at 9 p.m.", "The bar closes."]),
        ("See sec. 4 and fig. 2. Then go.", ["See sec. 4 and fig. 2.", "Then go."]),
        ("Bring nets, rods etc. on board, see e.g. no. 3, i.e. the last.", ["Bring nets, rods etc. on board, see e.g. no. 3, i.e. the last."]),
        ("1. Fill in the form.\n2. Pay. Wait.\n3. 取票。", ["1. Fill in the form.", "2. Pay.", "Wait.", "3. 取票。"]),
        ("It costs 12. Cash only.", ["It costs 12.", "Cash only."]),
        ('He said "come." Then left.', ['He said "come."', "Then left."]),
        ("没有。他说：“明天来。”再见！", ["没有。", "他说：“明天来。”", "再见！"]),
        ("| line | every |\n|---|---|\n| 1 | 8 min |", ["| line | every |", "| 1 | 8 min |"]),
        ("", []),
    ],
)  # fmt: skip
def test_sentences(text, expected):
    assert sentences(text) == expected
    assert all(sentence in text for sentence in sentences(text))
