"""What the register says in notebooks and READMEs: first cell, setup cell, Colab badge, lesson table.
The tool behind every lesson; its commands are in `lessons.py`.
"""

import re

from lessons_register import Entry, Lessons
from lessons_source import read_text

TABLE = re.compile(r"(<!-- lessons:begin -->\n).*?(<!-- lessons:end -->)", re.DOTALL)
WORDS = {
    "en": {
        "switch": "**English** · [中文]({twin})",
        "badge": "Open in Colab",
        "before": "← {}",
        "after": "{} →",
        "minutes": "About {} minutes",
        "download": "downloads {} MB",
        "no_download": "no download",
        "first": "Do first: {}",
        "head": ["Lesson", "What you learn", "Minutes"],
    },
    "zh": {
        "switch": "[English]({twin}) · **中文**",
        "badge": "在 Colab 中打开",
        "before": "← {}",
        "after": "{} →",
        "minutes": "约 {} 分钟",
        "download": "需下载 {} MB",
        "no_download": "无需下载",
        "first": "先学：{}",
        "head": ["课程", "你将学到", "分钟"],
    },
}


def badge(lessons: Lessons, entry: Entry, lang: str) -> str:
    """Markdown of the Colab badge; empty until the register has a GitHub address, the only kind that Colab opens."""
    address = re.fullmatch(r"https://github\.com/([^/]+/[^/]+?)(\.git)?", lessons.repository)
    if not address:
        return ""
    page = f"https://colab.research.google.com/github/{address[1]}/blob/{lessons.branch}"
    image = "https://colab.research.google.com/assets/colab-badge.svg"
    return f"[![{WORDS[lang]['badge']}]({image})]({page}/notebooks/{lang}/{entry.file}.ipynb)"


def lesson_card(lessons: Lessons, entry: Entry, lang: str) -> str:
    """Text of a notebook's first cell: title, twin notebook, badge, neighbours, cost, prerequisites."""
    words, at = WORDS[lang], lessons.entries.index(entry)
    links = {e.id: f"[{e.title(lang)}]({e.file}.ipynb)" for e in lessons.entries}
    twin = f"../{'zh' if lang == 'en' else 'en'}/{entry.file}.ipynb"
    top = [words["switch"].format(twin=twin), badge(lessons, entry, lang)]
    way = [words["before"].format(links[e.id]) for e in lessons.entries[:at][-1:]]
    way += [words["after"].format(links[e.id]) for e in lessons.entries[at + 1 : at + 2]]
    cost = [words["minutes"].format(entry.minutes)]
    cost.append(words["download"].format(entry.download_mb) if entry.download_mb else words["no_download"])
    if entry.prerequisites:
        comma = {"en": ", ", "zh": "、"}[lang]
        cost.append(words["first"].format(comma.join(links.get(i, i) for i in entry.prerequisites)))
    parts = [f"# {entry.title(lang)}", entry.summary(lang)]
    parts += [" · ".join(part for part in line if part) for line in (top, cost, way) if line]
    return "\n\n".join(parts)


def setup_code(lessons: Lessons, lang: str) -> str:
    """Code of a notebook's second cell: the same in both languages but for `LANG`."""
    install = ""
    if lessons.repository:
        install = (
            "import sys\n\n"
            'if "google.colab" in sys.modules:\n'
            f'    %pip install -q "retrieval-lab[notebooks,rag,serve] @ git+{lessons.repository}@{lessons.branch}"\n\n'
        )
    return f'{install}from retrieval_lab.course import setup\n\nLANG = "{lang}"\nsetup(LANG)'


def lesson_table(lessons: Lessons, lang: str) -> str:
    """Markdown table of the lessons, for the README of one language."""
    badges = [badge(lessons, entry, lang) for entry in lessons.entries]
    columns = WORDS[lang]["head"] + ["Colab"] * any(badges)
    rows = [columns, ["---"] * len(columns)]
    for entry, image in zip(lessons.entries, badges, strict=True):
        link = f"[{entry.title(lang)}](notebooks/{lang}/{entry.file}.ipynb)"
        rows.append([link, entry.summary(lang), str(entry.minutes), *([image] if image else [])])
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def readme_text(lessons: Lessons, lang: str) -> tuple[str, str] | None:
    """(text now, text with the table of today); None without a README; equal texts where it has no markers."""
    if not lessons.readme(lang).exists():
        return None
    text, table = read_text(lessons.readme(lang)), lesson_table(lessons, lang)
    return text, TABLE.sub(lambda found: found[1] + table + found[2], text)
