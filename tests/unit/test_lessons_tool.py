"""The lesson tool, notebooks/lessons.py, on a tiny lesson that each test writes afresh."""

import csv
import doctest
import hashlib
import importlib
import json
import sys
from pathlib import Path

import nbformat
import pytest

NOTEBOOKS = Path(__file__).parents[2] / "notebooks"
sys.path.insert(0, str(NOTEBOOKS))  # the tool is scripts beside the notebooks, not part of the package
import lessons  # noqa: E402


def sha8(text):
    return hashlib.sha256(text.encode()).hexdigest()[:8]


OBJECTIVES = "## What you do\nPool token vectors into one vector, and check the result by hand."
POOLING = "A sentence has one vector a token. Their mean is the vector of the *sentence*."
RECAP = "You pooled two token vectors into one."

GOOD = f"""\
# %% [markdown] slug="objectives" lang="en"
# ## What you do
# Pool token vectors into one vector, and check the result by hand.

# %% [markdown] slug="objectives" lang="zh" of="{sha8(OBJECTIVES)}"
# ## 你要做什么
# 把词元向量合成一个向量，再亲手验算。

# %% [markdown] slug="pooling" lang="en"
# A sentence has one vector a token. Their mean is the vector of the *sentence*.

# %% [markdown] slug="pooling" lang="zh" of="{sha8(POOLING)}"
# 一句话里每个词元（token）各有一个向量，平均值就是整句的向量，形状是 `(2,)`。

# %% slug="tokens"
tokens = [[1.0, 0.0], [0.0, 1.0]]
len(tokens)

# %% slug="ex-mean" tags=["exercise"]
def mean_pool(tokens):
    n = len(tokens)
    total = [sum(column) for column in zip(*tokens)]  # solution: add up each column
    return [value / n for value in total]  # solution

# %% slug="ex-mean-check"
from retrieval_lab.course import check

check("ex-mean", lambda: mean_pool(tokens) == [0.5, 0.5])

# %% slug="use"
mean_pool(tokens)

# %% [markdown] slug="recap" lang="en"
# You pooled two token vectors into one.

# %% [markdown] slug="recap" lang="zh" of="{sha8(RECAP)}"
# 你把两个词元向量合成了一个。
"""

REGISTER = """\
repository = ""
branch = "main"

[[lesson]]
id = "00"
file = "00_tiny"
title_en = "Tiny"
title_zh = "小课"
minutes = 5
download_mb = 0
prerequisites = []
summary_en = "Pool by hand."
summary_zh = "亲手合成。"
family = "start"

[[lesson]]
id = "01"
file = "01_next"
title_en = "Next"
title_zh = "下一课"
minutes = 7
download_mb = 90
prerequisites = ["00"]
summary_en = "Pool again."
summary_zh = "再合成一次。"
family = "embedding"
"""

TERMS = "en\tzh\tavoid\ntoken\t词元\t令牌,记号\npooling\t池化\t\n"
COURSE = """\
def setup(lang):
    print("language", lang)

def check(name, test):
    try:
        print(name, "ok" if test() else "not yet")
    except Exception as error:
        print(name, "not yet", error)
"""


class Repository:
    """A tiny repository in a temporary folder, and the tool's command line on it."""

    def __init__(self, root, capsys):
        self.root, self.capsys = root, capsys
        self.source = root / "notebooks" / "source" / "00_tiny.py"
        self.source.parent.mkdir(parents=True)
        self.write("notebooks/lessons.toml", REGISTER)
        self.write("notebooks/terminology.tsv", TERMS)
        self.write("notebooks/source/00_tiny.py", GOOD)
        self.write("notebooks/source/01_next.py", GOOD)
        for name in ("README.md", "README_zh.md"):
            self.write(name, "# Lab\n<!-- lessons:begin -->\nold\n<!-- lessons:end -->\nend\n")

    def write(self, name, text):
        (self.root / name).write_text(text, encoding="utf-8")

    def read(self, name):
        return (self.root / name).read_text(encoding="utf-8")

    def run(self, *command):
        """(exit status, what it printed)."""
        status = lessons.main([*command, "--root", str(self.root)])
        printed = self.capsys.readouterr()
        return status, printed.out + printed.err

    def change_source(self, old, new):
        text = self.read("notebooks/source/00_tiny.py")
        assert old in text
        self.write("notebooks/source/00_tiny.py", text.replace(old, new))

    def path(self, lang):
        return self.root / "notebooks" / lang / "00_tiny.ipynb"

    def notebook(self, lang):
        return nbformat.read(self.path(lang), as_version=4)

    def cell(self, lang, slug):
        return next(cell for cell in self.notebook(lang).cells if cell.metadata.slug == slug)

    def edit(self, lang, change):
        """Do to a notebook what JupyterLab would: `change` gets its cells by slug, and the notebook."""
        notebook = self.notebook(lang)
        change({cell.metadata.slug: cell for cell in notebook.cells}, notebook)
        nbformat.write(notebook, self.path(lang))

    def put(self, lang, slug, text):
        self.edit(lang, lambda cells, _: cells[slug].update(source=text))

    def add_outputs(self):
        """Outputs 1, 2, … in the code cells of the English notebook, as `run` records them."""

        def fill(_, notebook):
            code = [cell for cell in notebook.cells if cell.cell_type == "code"]
            for n, cell in enumerate(code, 1):
                cell.outputs = [nbformat.v4.new_output("stream", text=f"{n}\n")]
            module = importlib.import_module("lessons_outputs")
            hashes = {"code_hash": module.code_hash(notebook), "outputs_hash": module.outputs_hash(notebook)}
            notebook.metadata["retrieval_lab"].update(hashes, profile="fast", seconds=1)

        self.edit("en", fill)

    def outputs(self):
        return {c.metadata.slug: bool(c.outputs) for c in self.notebook("en").cells if c.cell_type == "code"}


@pytest.fixture
def repository(tmp_path, capsys):
    return Repository(tmp_path / "repository", capsys)


@pytest.fixture
def built(repository):
    assert repository.run("build")[0] == 0
    return repository


# build


def test_build_then_check_finds_nothing(built):
    assert built.run("check") == (0, "0 faults in 2 lessons\n")


def test_build_twice_writes_the_same_bytes(built):
    before = built.path("zh").read_bytes()
    built.run("build")
    assert built.path("zh").read_bytes() == before


def test_notebooks_are_valid_with_ids_from_slugs_and_no_widget_state(built):
    for lang in ("en", "zh"):
        notebook = built.notebook(lang)
        nbformat.validate(notebook)
        assert (notebook.nbformat, notebook.nbformat_minor) == (4, 5)
        assert notebook.metadata.kernelspec.name == "python3"
        assert "widgets" not in notebook.metadata
        assert [cell.id for cell in notebook.cells] == [
            "lesson-card",
            "setup",
            "objectives",
            "pooling",
            "tokens",
            "ex-mean",
            "ex-mean-check",
            "ex-mean-solution",
            "use",
            "recap",
        ]


def test_prose_is_picked_by_language(built):
    assert built.cell("en", "recap").source == RECAP
    assert built.cell("zh", "recap").source == "你把两个词元向量合成了一个。"
    assert built.cell("zh", "recap").metadata.base == sha8("你把两个词元向量合成了一个。")


def test_code_cells_are_identical_but_for_one_constant(built):
    english, chinese = (
        [(c.id, c.source, c.metadata) for c in built.notebook(lang).cells if c.cell_type == "code"]
        for lang in ("en", "zh")
    )
    assert english[1:] == chinese[1:]
    assert english[0][1] == 'from retrieval_lab.course import setup\n\nLANG = "en"\nsetup(LANG)'
    assert english[0][1].replace('LANG = "en"', 'LANG = "zh"') == chinese[0][1]


def test_first_cell_links_twin_neighbours_and_names_the_cost(built):
    card = built.cell("en", "lesson-card").source
    assert card == (
        "# 00 · Tiny\n\nPool by hand.\n\n**English** · [中文](../zh/00_tiny.ipynb)\n\n"
        "About 5 minutes · no download\n\n[01 · Next](01_next.ipynb) →"
    )
    text = json.loads(built.read("notebooks/zh/01_next.ipynb"))["cells"][0]["source"]
    assert "".join(text) == (
        "# 01 · 下一课\n\n再合成一次。\n\n[English](../en/01_next.ipynb) · **中文**\n\n"
        "约 7 分钟 · 需下载 90 MB · 先学：[00 · 小课](00_tiny.ipynb)\n\n← [00 · 小课](00_tiny.ipynb)"
    )


def test_badges_and_colab_install_appear_with_the_repository_address(repository):
    address = "https://github.com/someone/lab"
    repository.write("notebooks/lessons.toml", REGISTER.replace('repository = ""', f'repository = "{address}"'))
    repository.run("build")
    page = "https://colab.research.google.com/github/someone/lab/blob/main/notebooks/zh/00_tiny.ipynb"
    assert page in repository.cell("zh", "lesson-card").source
    assert page in repository.read("README_zh.md")
    assert repository.cell("zh", "setup").source.startswith(
        'import sys\n\nif "google.colab" in sys.modules:\n'
        f'    %pip install -q "retrieval-lab[notebooks,rag,serve] @ git+{address}@main"\n'
    )
    assert repository.run("check")[0] == 0


def test_no_badge_for_an_address_that_colab_cannot_open(repository):
    repository.write("notebooks/lessons.toml", REGISTER.replace('""', '"https://gitee.com/someone/lab"', 1))
    repository.run("build")
    assert "colab" not in repository.cell("en", "lesson-card").source
    assert "Colab" not in repository.read("README.md")


def test_readme_tables_are_written_between_the_markers(built):
    assert built.read("README_zh.md") == (
        "# Lab\n<!-- lessons:begin -->\n| 课程 | 你将学到 | 分钟 |\n| --- | --- | --- |\n"
        "| [00 · 小课](notebooks/zh/00_tiny.ipynb) | 亲手合成。 | 5 |\n"
        "| [01 · 下一课](notebooks/zh/01_next.ipynb) | 再合成一次。 | 7 |\n<!-- lessons:end -->\nend\n"
    )


# exercises


def test_exercise_is_the_solution_minus_marked_lines(built):
    assert built.cell("en", "ex-mean").source == (
        "def mean_pool(tokens):\n    n = len(tokens)\n    ...  # add up each column"
    )
    assert built.cell("en", "ex-mean-solution").source == (
        "# @title Solution / 参考答案\ndef mean_pool(tokens):\n    n = len(tokens)\n"
        "    total = [sum(column) for column in zip(*tokens)]\n    return [value / n for value in total]"
    )


def test_solution_is_collapsed_and_comes_after_the_check(built):
    cell = built.cell("zh", "ex-mean-solution")
    assert cell.metadata.jupyter.source_hidden is True
    assert cell.metadata.tags == ["solution"]
    slugs = [c.metadata.slug for c in built.notebook("zh").cells]
    assert slugs.index("ex-mean") < slugs.index("ex-mean-check") < slugs.index("ex-mean-solution")


@pytest.mark.parametrize(
    ("code", "stub", "solution"),
    [
        ("a = 1\nb = 2  # solution", "a = 1\n...", "a = 1\nb = 2"),
        ("a  # solution\nb\nc  # solution: last", "...\nb\n...  # last", "a\nb\nc"),
        (
            "for x in y:  # solution: loop\n    n += x  # solution: add\nn",
            "...  # loop; add\nn",
            "for x in y:\n    n += x\nn",
        ),
        ("f()\n# solution: call g\ng()  # (n, dim)  # solution", "f()\n...  # call g", "f()\ng()  # (n, dim)"),
        ("x = 1  # solutions are many", "x = 1  # solutions are many", "x = 1  # solutions are many"),
    ],
)
def test_stub_and_solution(code, stub, solution):
    source = importlib.import_module("lessons_source")
    assert (source.stub(code), source.solution(code)) == (stub, solution)


@pytest.mark.parametrize("tag", ["solution", "hide-input"])
def test_tags_solution_and_hide_input_collapse_a_cell(repository, tag):
    repository.change_source('# %% slug="use"', f'# %% slug="use" tags=["{tag}"]')
    repository.run("build")
    assert repository.cell("en", "use").metadata.jupyter.source_hidden is True


# check: one fault each

LONG_EN = "# " + " ".join(["word"] * 130)
LONG_ZH = "# " + "词" * 270
BAD = {
    "missing slug": ('slug="use"', 'name="use"', "the cell has no slug"),
    "bad slug": ('slug="use"', 'slug="Use it"', "cannot be a cell id"),
    "reserved slug": ('slug="use"', 'slug="setup"', "cannot be a cell id"),
    "duplicate slug": ('slug="use"', 'slug="tokens"', "[tokens]: two cells have this slug"),
    "duplicate prose": ('slug="recap" lang="zh"', 'slug="recap" lang="en"', "[recap]: two cells have this slug"),
    "solution's slug taken": ('slug="use"', 'slug="ex-mean-solution"', "two cells have this slug"),
    "no language": ('slug="pooling" lang="en"', 'slug="pooling"', "prose without a language"),
    "one language": ('slug="recap" lang="zh"', 'slug="recap-zh" lang="zh"', "[recap]: prose in en only"),
    "stale translation": ("# You pooled two", "# You averaged two", "the translation is stale"),
    "no stamp": (f' of="{sha8(RECAP)}"', "", "the translation has no of="),
    "untranslated": (
        "# 你把两个词元向量合成了一个。",
        "# You pooled two token vectors into one.",
        "is the English text",
    ),
    "no recap": ('slug="recap"', 'slug="end"', "[recap]: the lesson has no prose cell recap"),
    "wide line": ("len(tokens)\n\n", "len(tokens)" + " + 1" * 30 + "\n\n", "line 2 has 131 columns, at most 88"),
    "long cell": ("len(tokens)\n\n", "len(tokens)\n" * 20 + "\n", "21 lines of code, at most 20"),
    "capture": ("len(tokens)\n\n", "# %%capture\n\n", "%%capture does not belong"),
    "warnings": ("len(tokens)\n\n", 'warnings.filterwarnings("ignore")\n\n', "filterwarnings"),
    "star": ("len(tokens)\n\n", "from math import *\n\n", "import * does not belong"),
    "path": ("len(tokens)\n\n", "sys.path.append('..')\n\n", "sys.path does not belong"),
    "clone": ("len(tokens)\n\n", "# !git clone x\n\n", "git clone does not belong"),
    "assert": ('check("ex-mean", lambda: ', "assert (", "[ex-mean-check]: a bare assert after an exercise"),
    "empty exercise": ("  # solution", "  # answer", "an exercise with nothing to fill in"),
    "broken stub": ("def mean_pool(tokens):", "def mean_pool(tokens):  # solution", "solution lines is no Python"),
    "long English": ("# A sentence has", LONG_EN + "\n# A sentence has", "words of en prose before code cell tokens"),
    "long Chinese": ("# 一句话里", LONG_ZH + "\n# 一句话里", "Han characters of zh prose before code cell tokens"),
    "half-width comma": (
        "向量，平均",
        "向量,平均",
        "half-width punctuation next to Han characters: “有一个向量,平均值就”",
    ),
    "half-width stop": ("合成了一个。", "合成了一个.", "half-width punctuation next to Han"),
    "half-width bracket": ("（token）", "(token)", "half-width punctuation next to Han"),
    "nin": ("# 你把", "# 您把", "write 你"),
    "no space": ("把两个词元", "把2个词元", "no space between Han and Latin letters or digits"),
    "no space in bold": ("把两个词元", "把**BERT**词元", "no space between Han and Latin letters or digits"),
    "term": ("把两个词元", "把两个令牌", "“令牌” for token"),
}


BRING_A_SECOND = ("duplicate prose", "no language", "one language", "long English")  # the twin is alone, or stale


@pytest.mark.parametrize("name", BAD)
def test_check_reports(repository, name):
    old, new, message = BAD[name]
    repository.change_source(old, new)
    repository.run("build")
    status, printed = repository.run("check", "00")
    assert status == 1
    assert message in printed
    assert "00_tiny.py [" in printed
    assert "remedy: " in printed
    assert printed.endswith(f"{2 if name in BRING_A_SECOND else 1} faults in 1 lessons\n")


def test_check_reports_languages_in_another_order(repository):
    text = repository.read("notebooks/source/00_tiny.py")
    moved = f'# %% [markdown] slug="recap" lang="zh" of="{sha8(RECAP)}"\n# 你把两个词元向量合成了一个。\n'
    repository.write("notebooks/source/00_tiny.py", moved + text.replace(moved, ""))
    assert "the two languages come in another order" in repository.run("check")[1]


def test_a_cell_tagged_long_may_be_long(repository):
    repository.change_source('slug="pooling" lang="zh"', 'slug="pooling" lang="zh" tags=["long"]')
    repository.change_source("# 一句话里", LONG_ZH + "\n# 一句话里")
    repository.run("build")
    assert repository.run("check")[0] == 0


def test_chinese_rules_leave_code_formulas_and_links_alone(repository):
    repository.change_source(
        "# 你把两个词元",
        '# 见 [论文](https://a.b/向量,c)、`查询a,b` 和 $向量x$：<span title="向量a">图</span>。你把两个词元',
    )
    repository.run("build")
    assert repository.run("check") == (0, "0 faults in 2 lessons\n")


def test_equal_prose_without_words_is_no_fault(repository):
    formula = "$$s = q \\cdot d$$"
    repository.change_source("# 你把两个词元向量合成了一个。", f"# {formula}")
    repository.change_source(f"# {RECAP}", f"# {formula}")
    repository.run("stamp", "recap", "--lesson", "00")
    repository.run("build")
    assert repository.run("check")[0] == 0


def test_check_reports_a_source_that_was_not_built(built):
    built.change_source("len(tokens)\n", "len(tokens) + 1\n")
    status, printed = built.run("check")
    assert status == 1
    assert "notebooks/en/00_tiny.ipynb [tokens]: not what build writes from the source" in printed
    assert "remedy: run lessons.py build" in printed


def test_check_reports_a_notebook_that_someone_edited(built):
    built.put("zh", "tokens", "tokens = []")
    assert "notebooks/zh/00_tiny.ipynb [tokens]: edited in the notebook" in built.run("check")[1]


def test_check_reports_missing_and_orphan_notebooks(built):
    built.path("en").rename(built.root / "notebooks" / "en" / "99_old.ipynb")
    printed = built.run("check")[1]
    assert "notebooks/en/00_tiny.ipynb: the notebook does not exist" in printed
    assert "notebooks/en/99_old.ipynb: no lesson makes this notebook" in printed


def test_check_reports_widget_state(built):
    built.edit("en", lambda _, notebook: notebook.metadata.update(widgets={"state": {}}))
    assert "widget state in the metadata" in built.run("check")[1]


def test_check_reports_a_file_that_is_no_notebook(built):
    built.path("en").write_text("<<<<<<< HEAD", encoding="utf-8")
    assert "not a notebook" in built.run("check")[1]


def test_check_reports_what_does_not_fit_the_register(built):
    built.source.rename(built.source.with_name("77_new.py"))
    printed = built.run("check")[1]
    assert "00_tiny.py: the register lists this source but it does not exist" in printed
    assert "77_new.py: this source is not in the register" in printed


def test_check_reports_unknown_prerequisites_and_chinese_of_the_register(repository):
    text = REGISTER.replace('prerequisites = ["00"]', 'prerequisites = ["02"]').replace("小课", "Tiny课")
    repository.write("notebooks/lessons.toml", text)
    printed = repository.run("check")[1]
    assert "notebooks/lessons.toml [01]: prerequisite '02' is no earlier lesson" in printed
    assert "notebooks/lessons.toml [00]: no space between Han and Latin" in printed


def test_check_reports_readme_tables(built):
    built.write("README.md", built.read("README.md").replace("Pool by hand", "Pool"))
    built.write("README_zh.md", "no markers")
    printed = built.run("check")[1]
    assert "README.md: the lesson table is out of date" in printed
    assert "README_zh.md: no place for the lesson table" in printed


def test_a_register_row_without_a_key_is_refused_by_name(repository):
    repository.write("notebooks/lessons.toml", REGISTER.replace("minutes = 5\n", ""))
    status, printed = repository.run("build")
    assert status == 2
    assert "lesson '00' lacks or does not know: minutes" in printed


def test_an_unknown_lesson_is_refused(repository):
    assert "no lesson '07' in notebooks/lessons.toml; it holds 00, 01" in repository.run("build", "07")[1]


def test_build_refuses_a_source_with_broken_slugs_and_builds_the_others(repository):
    repository.change_source('slug="use"', 'slug="tokens"')
    status, printed = repository.run("build")
    assert status == 1
    assert "two cells have this slug" in printed
    assert not repository.path("en").exists()
    assert (repository.root / "notebooks" / "en" / "01_next.ipynb").exists()


# outputs


def test_build_keeps_outputs_of_unchanged_code(built):
    built.add_outputs()
    built.change_source("# You pooled two", "# You pooled exactly two")
    built.run("build")
    assert all(built.outputs().values())
    assert "outputs" not in built.run("check")[1]


def test_build_drops_outputs_from_the_first_changed_cell_on(built):
    built.add_outputs()
    built.change_source('check("ex-mean"', 'check("ex-mean "')
    built.run("build")
    assert built.outputs() == {
        "setup": True,
        "tokens": True,
        "ex-mean": True,
        "ex-mean-check": False,
        "ex-mean-solution": False,
        "use": False,
    }
    assert "stale outputs: other code than today's made them" in built.run("check")[1]


def test_outputs_of_a_setup_cell_do_not_depend_on_the_address(built):
    built.add_outputs()
    built.write("notebooks/lessons.toml", REGISTER.replace('""', '"https://github.com/a/b"', 1))
    built.run("build")
    assert built.outputs()["use"]
    assert not built.outputs()["setup"]


def test_check_reports_outputs_that_run_did_not_write(built):
    built.add_outputs()
    built.edit("en", lambda cells, _: cells["use"].update(outputs=[nbformat.v4.new_output("stream", text="mine")]))
    assert "outputs that lessons.py run did not write" in built.run("check")[1]


def test_clean_outputs_takes_out_widgets_progress_bars_and_folders(tmp_path):
    clean = importlib.import_module("lessons_outputs").clean_outputs
    new = nbformat.v4.new_output
    widget = {"application/vnd.jupyter.widget-view+json": {"model_id": "1"}, "text/plain": "IntSlider(value=3)"}
    bar = {"application/vnd.jupyter.widget-view+json": {"model_id": "2"}, "text/plain": "100%|####| 3/3"}
    outputs = [
        new("stream", name="stderr", text="  0%|   | 0/3\r100%|###| 3/3 [00:00<00:00, 9it/s]\nread this\n"),
        new("stream", name="stdout", text=f"saved in {tmp_path}/runs and {Path.home()}/.cache\n"),
        new("display_data", data=widget),
        new("display_data", data=bar),
    ]
    stderr, stdout, shown = clean(outputs, tmp_path)
    assert stderr.text == "read this\n"
    assert stdout.text == "saved in ./runs and ~/.cache\n"
    assert shown.data == {"text/plain": "IntSlider(value=3)"}


# stamp


def test_stamp_changes_one_hash_and_no_other_byte(repository):
    repository.source.write_bytes(
        GOOD.replace("# You pooled two", "# You pooled just two").replace("\n", "\r\n").encode()
    )
    before = repository.source.read_bytes()
    status, printed = repository.run("stamp", "recap", "--lesson", "00")
    new = sha8("You pooled just two token vectors into one.")
    assert status == 0
    assert f"00_tiny.py [recap]: of {sha8(RECAP)} -> {new}" in printed
    assert repository.source.read_bytes() == before.replace(sha8(RECAP).encode(), new.encode())


def test_stamp_adds_a_missing_hash(repository):
    repository.change_source(f' of="{sha8(RECAP)}"', "")
    repository.run("stamp", "--all", "--lesson", "00")
    assert repository.read("notebooks/source/00_tiny.py") == GOOD


def test_stamp_needs_to_know_the_lesson_and_the_slug(repository):
    assert "slug 'recap' is in lessons 00, 01: name one with --lesson" in repository.run("stamp", "recap")[1]
    assert "slug 'tokens' is in no lesson as prose" in repository.run("stamp", "tokens", "--lesson", "00")[1]
    assert "--all together with --lesson" in repository.run("stamp", "--all")[1]


def test_build_never_stamps(repository):
    repository.change_source("# You pooled two", "# You averaged two")
    before = repository.source.read_bytes()
    repository.run("build")
    assert repository.source.read_bytes() == before


# pull


def test_pull_takes_an_edit_of_code_and_leaves_the_rest_byte_for_byte(built):
    built.put("en", "tokens", "tokens = [[1.0, 2.0], [0.0, 1.0]]\nlen(tokens)")
    assert built.run("pull") == (
        0,
        "take: notebooks/en/00_tiny.ipynb [tokens]: edited here only\npulled 1 edits; now run lessons.py build\n",
    )
    assert built.read("notebooks/source/00_tiny.py") == GOOD.replace("[[1.0, 0.0]", "[[1.0, 2.0]")
    assert built.run("build")[0] == 0
    assert built.run("check")[0] == 0
    assert "2.0" in built.cell("zh", "tokens").source


def test_pull_takes_chinese_prose(built):
    built.put("zh", "recap", "你把两个向量\n\n合成了一个。")
    built.run("pull")
    assert built.read("notebooks/source/00_tiny.py") == GOOD.replace(
        "# 你把两个词元向量合成了一个。", "# 你把两个向量\n#\n# 合成了一个。"
    )


def test_pull_of_english_prose_makes_the_translation_stale(built):
    built.put("en", "recap", "You pooled three token vectors.")
    built.run("pull")
    built.run("build")
    assert "[recap]: the translation is stale" in built.run("check")[1]


def test_pull_reports_a_conflict_with_both_texts_and_writes_nothing(built):
    built.put("en", "use", "mean_pool(tokens)[0]")
    built.put("en", "recap", "You pooled.")
    built.change_source('slug="use"\nmean_pool(tokens)', 'slug="use"\nmean_pool(tokens)[1]')
    before = built.source.read_bytes()
    status, printed = built.run("pull")
    assert status == 1
    assert "conflict: notebooks/en/00_tiny.ipynb [use]: edited here and in the source" in printed
    assert "| mean_pool(tokens)[0]" in printed
    assert "| mean_pool(tokens)[1]" in printed
    assert built.source.read_bytes() == before


def test_pull_partial_writes_what_has_no_conflict(built):
    built.put("en", "use", "mean_pool(tokens)[0]")
    built.put("en", "recap", "You pooled.")
    built.change_source('slug="use"\nmean_pool(tokens)', 'slug="use"\nmean_pool(tokens)[1]')
    assert built.run("pull", "--partial")[0] == 1
    text = built.read("notebooks/source/00_tiny.py")
    assert "mean_pool(tokens)[1]" in text
    assert "# You pooled.\n" in text


def test_a_stale_notebook_never_reverts_the_source(built):
    built.change_source("# You pooled two", "# You averaged two")
    built.change_source("len(tokens)\n\n", 'len(tokens) + 1\n\n# %% slug="new-cell"\n1\n\n')
    before = built.source.read_bytes()
    assert built.run("pull") == (0, "pulled 0 edits\n")
    assert built.source.read_bytes() == before


def test_a_stale_notebook_can_still_give_the_edit_of_another_cell(built):
    built.change_source("# You pooled two", "# You averaged two")
    built.put("en", "use", "mean_pool(tokens)[0]")
    assert built.run("pull")[0] == 0
    text = built.read("notebooks/source/00_tiny.py")
    assert "# You averaged two" in text
    assert "mean_pool(tokens)[0]" in text


def test_the_same_edit_in_both_notebooks_is_taken_once(built):
    built.put("en", "use", "mean_pool(tokens)[0]")
    built.put("zh", "use", "mean_pool(tokens)[0]\n")
    status, printed = built.run("pull")
    assert (status, printed.count("take:")) == (0, 1)
    assert built.read("notebooks/source/00_tiny.py").count("mean_pool(tokens)[0]") == 1


def test_different_edits_in_both_notebooks_are_a_conflict(built):
    built.put("en", "use", "mean_pool(tokens)[0]")
    built.put("zh", "use", "mean_pool(tokens)[1]")
    status, printed = built.run("pull")
    assert status == 1
    assert "two different edits of one cell" in printed
    assert built.read("notebooks/source/00_tiny.py") == GOOD


def test_an_edit_of_a_cell_that_the_source_dropped_is_a_conflict(built):
    built.put("en", "use", "mean_pool(tokens)[0]")
    built.change_source('# %% slug="use"\nmean_pool(tokens)\n\n', "")
    assert "edited here, but the source no longer has it" in built.run("pull")[1]


def test_new_split_and_deleted_cells_are_reported(built):
    def change(cells, notebook):
        notebook.cells = [cell for cell in notebook.cells if cell.metadata.slug != "use"]
        notebook.cells.append(nbformat.v4.new_code_cell("my_own_idea()"))
        notebook.cells.append(nbformat.v4.new_code_cell("len(tokens)", metadata=cells["tokens"].metadata))

    built.edit("en", change)
    status, printed = built.run("pull")
    assert status == 0
    assert "new cell, not pulled; write it into the source with a slug" in printed
    assert "| my_own_idea()" in printed
    assert "[tokens]: split or copied: two cells have this slug" in printed
    assert "cells deleted here: use" in printed
    assert built.read("notebooks/source/00_tiny.py") == GOOD


@pytest.mark.parametrize(
    ("slug", "advice"),
    [
        ("ex-mean", "exercises are not pulled; edit the lines marked # solution in the source cell ex-mean"),
        ("ex-mean-solution", "exercises are not pulled; edit the lines marked # solution in the source cell ex-mean"),
        ("setup", "written by build; edit notebooks/lessons.toml"),
    ],
)
def test_edits_of_generated_cells_are_reported(built, slug, advice):
    built.put("en", slug, "x = 1")
    assert advice in built.run("pull")[1]
    assert built.read("notebooks/source/00_tiny.py") == GOOD


def test_pasted_images_are_reported(built):
    def paste(cells, _):
        cells["recap"].update(source="![](attachment:a.png)", attachments={"a.png": {"image/png": "aGk="}})

    built.edit("en", paste)
    assert "pasted images are not pulled" in built.run("pull")[1]
    assert built.read("notebooks/source/00_tiny.py") == GOOD


def test_build_refuses_to_lose_an_edit_unless_forced(built):
    built.put("en", "use", "mean_pool(tokens)[0]")
    before = built.path("en").read_bytes()
    status, printed = built.run("build")
    assert status == 1
    assert "building would lose: use; run lessons.py pull first" in printed
    assert built.path("en").read_bytes() == before
    assert built.run("build", "--force")[0] == 0
    assert built.run("check")[0] == 0


def test_build_refuses_to_lose_a_new_cell(built):
    built.edit("zh", lambda _, notebook: notebook.cells.append(nbformat.v4.new_markdown_cell("我的笔记")))
    assert "building would lose: a new cell" in built.run("build")[1]


def test_pull_refuses_text_that_a_percent_file_cannot_hold(built):
    built.put("en", "use", "x = 1\n# %% another cell\ny = 2")
    status, printed = built.run("pull")
    assert status == 2
    assert "does not survive being written as a percent file" in printed
    assert built.read("notebooks/source/00_tiny.py") == GOOD


# run


@pytest.fixture
def kernel(built, monkeypatch):
    """The tiny repository with a `retrieval_lab.course` of its own for the kernel to import."""
    package = built.root / "stand_in" / "retrieval_lab"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "course.py").write_text(COURSE, encoding="utf-8")
    monkeypatch.setenv("PYTHONPATH", str(package.parent))
    return built


def test_run_fast_survives_the_unfilled_exercise_and_keeps_outputs(kernel):
    status, printed = kernel.run("run", "00", "--lang", "en", "--profile", "fast")
    assert status == 0, printed
    assert printed.startswith("00 en ")
    assert "slowest: " in printed
    assert kernel.cell("en", "setup").outputs[0].text == "language en\n"
    assert kernel.cell("en", "ex-mean-check").outputs[0].text == "ex-mean not yet\n"
    assert kernel.cell("en", "use").outputs[0].data["text/plain"] == "[0.5, 0.5]"
    record = kernel.notebook("en").metadata.retrieval_lab
    assert (record.profile, record.lang, record.lesson) == ("fast", "en", "00")
    assert "execution" not in kernel.cell("en", "use").metadata
    assert kernel.run("check") == (0, "0 faults in 2 lessons\n")


def test_run_smoke_writes_elsewhere_and_names_the_failing_cell(kernel, tmp_path):
    kernel.change_source("len(tokens)\n\n", 'import os\n\nraise KeyError(os.environ["RETRIEVAL_LAB_PROFILE"])\n\n')
    kernel.run("build")
    before = kernel.path("en").read_bytes()
    status, printed = kernel.run("run", "00", "--lang", "en", "--profile", "smoke", "--out", str(tmp_path / "out"))
    assert status == 1
    assert "FAILED 00 en in cell tokens" in printed
    assert "KeyError: 'smoke'" in printed
    assert kernel.path("en").read_bytes() == before
    assert (tmp_path / "out" / "en" / "00_tiny.ipynb").exists()


# the files that ship


def test_no_avoided_term_is_part_of_a_wanted_one():
    with (NOTEBOOKS / "terminology.tsv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    wanted = [row["zh"] for row in rows]
    avoided = [word for row in rows for word in row["avoid"].split(",") if word]
    assert len(rows) >= 50
    assert [(a, w) for a in avoided for w in wanted if a in w] == []


@pytest.mark.parametrize("name", ["lessons_source", "lessons_text"])
def test_doctests_of_the_tool(name):
    assert doctest.testmod(importlib.import_module(name)).failed == 0
