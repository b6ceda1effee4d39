"""The chat page in a real headless browser: ask, rerank, upload, ask what nobody can answer; English and Chinese."""

import shutil
import threading
import time

import pytest

from retrieval_lab import corpora, embedding, profiles, rag, rag_documents, rag_page

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium in PATH: the page was NOT tested in a browser")

FAMILY = "archive-records"  # eleven near-twins; real weights, a short index
TEXTS = {
    "en": ("What is the express surcharge for a building file?", "express surcharge of 20", "Zebra crossing lamps", "Not found in the sources."),
    "zh": ("房屋建筑档案的加急费是多少？", "加急费", "斑马线路灯", "资料中没有。"),
}  # fmt: skip


def words_shared(pairs):
    """A reranker that counts shared characters: quick, and it reorders."""
    return [len(set(query) & set(text)) / len(text) for query, text in pairs]


@pytest.fixture
def url(lang, tmp_path):
    """The page's server on a free port, over one family of the shipped corpus."""
    import uvicorn

    city = corpora.load("city_services", lang=lang, split="dev")
    chunks = [d for d in rag_documents.from_collection(city) if d.metadata["source"].startswith(f"{FAMILY}.")]
    model = embedding.load(profiles.current().encoder(lang))
    assistant = rag.Assistant(model, chunks, tmp_path, score=words_shared, thresholds={"words": 0.5})
    service = uvicorn.Server(uvicorn.Config(rag_page.app(assistant), port=0, log_level="error"))
    thread = threading.Thread(target=service.run, daemon=True)
    thread.start()
    while not service.started:
        time.sleep(0.05)
    yield f"http://127.0.0.1:{service.servers[0].sockets[0].getsockname()[1]}"
    service.should_exit = True
    thread.join(10)


@pytest.fixture
def page(url):
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1000, "height": 1100})
        page.problems = []
        page.on("pageerror", lambda error: page.problems.append(str(error)))
        page.on("dialog", lambda dialog: (page.problems.append(dialog.message), dialog.dismiss()))
        page.goto(url)
        page.wait_for_selector("body[data-ready=yes]")
        yield page
        browser.close()


def ask(page, question: str, retriever: str = "both") -> None:
    page.check(f"input[value={retriever}]")
    page.fill("#question", question)
    page.click("#send")
    page.wait_for_function("q => document.querySelector('#asked').textContent === q", arg=question)
    page.wait_for_selector("#result[data-state=answered], #result[data-state=abstained]")


def shown(page) -> list[str]:
    return page.locator("#sources .scores").all_inner_texts()


def test_page_answers_reranks_takes_files_and_abstains(page, lang, tmp_path):
    question, quoted, title, refusal = TEXTS[lang]

    ask(page, question)
    assert quoted in page.inner_text("#answer") and page.locator("#answer a").count() >= 1
    assert page.inner_text("#check").startswith("✓") and page.locator("#sources mark").count() >= 1
    assert page.locator("#sources li").count() == 3 and f"{FAMILY}.building-files" in shown(page)[0]
    before = shown(page)
    page.screenshot(path=tmp_path / "answer.png", full_page=True)

    page.check("#rerank")
    ask(page, question)
    label = {"en": "reranker", "zh": "重排得分"}[lang]
    assert all(label in line for line in shown(page)) and shown(page) != before
    page.uncheck("#rerank")

    ask(page, title, "words")
    assert page.get_attribute("#result", "data-state") == "abstained"
    assert page.inner_text("#answer") == refusal

    attack = f"{title} <img src=x onerror=alert(1)><script>alert(2)</script>。"
    (tmp_path / "lamps.md").write_text(f"# {title}\n\n{attack}", encoding="utf-8")
    page.set_input_files("#file", tmp_path / "lamps.md")
    page.wait_for_function(
        "() => document.querySelector('#notice').textContent.includes('lamps.md:') || document.querySelector('#notice').textContent.includes('lamps.md：')"
    )
    ask(page, f"{title}?", "words")
    assert page.get_attribute("#result", "data-state") == "answered"
    assert "onerror=alert(1)" in page.inner_text("#answer")  # as text
    assert page.locator("#result img, #result script").count() == 0
    page.screenshot(path=tmp_path / "upload.png", full_page=True)

    (tmp_path / "tool.exe").write_bytes(b"MZ")
    page.set_input_files("#file", tmp_path / "tool.exe")
    page.wait_for_selector("#notice.bad")
    assert "tool.exe" in page.inner_text("#notice")
    assert page.problems == []


@pytest.mark.parametrize(
    ("answer", "links"),
    [
        ("It costs “2” [1].", ["1"]),
        ("“a” [1, 2]，“b” ［２、３］", ["1", "2", "２", "３"]),
        ("“a” [1][2] 【3; 4】", ["1", "2", "3"]),  # there is no fourth source
        ("In [2024] and [0], or a[1 and 2], [], [ ].", []),
    ],
)
def test_every_number_of_a_citation_is_a_link(page, answer, links):
    made = page.evaluate("answer => withLinks(answer, 3).map(n => [n.nodeName, n.textContent, n.hash])", answer)
    assert "".join(text for _, text, _ in made) == answer
    assert [text for name, text, _ in made if name == "A"] == links
    assert [place for name, _, place in made if name == "A"] == [f"#source-{int(text)}" for text in links]


def test_page_fits_a_phone_and_is_usable_by_keyboard(page, lang):
    page.set_viewport_size({"width": 360, "height": 700})
    page.focus("#question")
    page.keyboard.type(TEXTS[lang][0])
    page.keyboard.press("Enter")
    page.wait_for_selector("#result[data-state=answered]")
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    assert page.get_attribute("html", "lang") == {"en": "en", "zh": "zh-Hans"}[lang]
