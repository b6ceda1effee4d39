"use strict";
// Text from documents, questions and models only ever enters the page through textContent: it cannot become markup.

const WORDS = {
  en: {
    about: (n) => `Answers come from ${n} passages, and each citation is looked up in them.`,
    question: "Your question", placeholder: "Type a question", send: "Ask",
    retriever: "Search by", both: "both", meaning: "meaning", words: "words", rerank: "rerank", upload: "Add a file",
    sources: "Sources", searching: "Searching …", answering: "Writing the answer …", reading: (name) => `Reading ${name} …`,
    added: (name, n) => `${name}: ${n} passages added, until the server is restarted.`,
    checked: (n) => `✓ ${n === 1 ? "1 citation" : n + " citations"} found word for word in the sources`,
    abstained: "The sources are too far from the question to answer from them. These came nearest:",
    score: "score", cosine: "cosine", bm25: "BM25", rerank_score: "reranker", page: "page", gone: "The server does not answer.",
    tooLarge: (mb) => `The file is larger than ${mb} MB.`, cut: "The answer was cut off.",
  },
  zh: {
    about: (n) => `回答取自 ${n} 段资料，每处引用都与原文核对过。`,
    question: "你的问题", placeholder: "写下问题", send: "提问",
    retriever: "检索方式", both: "两者结合", meaning: "按语义", words: "按词", rerank: "重排", upload: "添加文件",
    sources: "资料", searching: "正在检索……", answering: "正在回答……", reading: (name) => `正在读取 ${name} ……`,
    added: (name, n) => `${name}：已加入 ${n} 段，服务重启后清除。`,
    checked: (n) => `✓ ${n} 处引用，与资料原文逐字一致`,
    abstained: "资料与问题相距太远，不足以回答。最接近的是：",
    score: "得分", cosine: "余弦", bm25: "BM25", rerank_score: "重排得分", page: "页", gone: "服务没有响应。",
    tooLarge: (mb) => `文件超过 ${mb} MB。`, cut: "回答中断了。",
  },
};

const $ = (id) => document.getElementById(id);
let words = WORDS.en;
let state = {};

function element(tag, className, text) {
  const made = document.createElement(tag);
  if (className) made.className = className;
  if (text !== undefined) made.textContent = text;
  return made;
}

function notice(text, bad = false) {
  $("notice").textContent = text;
  $("notice").classList.toggle("bad", bad);
}

async function start() {
  state = await (await fetch("/api/state")).json();
  words = WORDS[state.lang];
  document.documentElement.lang = state.lang === "zh" ? "zh-Hans" : "en";
  $("question-label").textContent = words.question;
  $("question").placeholder = words.placeholder;
  $("send").textContent = words.send;
  $("rerank-label").textContent = words.rerank;
  $("rerank").disabled = !state.reranker;
  $("file-label").textContent = words.upload;
  $("file").accept = state.types.join(",");
  $("sources-label").textContent = words.sources;
  document.querySelector("legend").textContent = words.retriever;
  for (const kind of ["both", "meaning", "words"]) $("retrievers").append(choice(kind));
  count(state.chunks);
  document.body.dataset.ready = "yes";
}

function count(chunks) {
  state.chunks = chunks;
  $("about").textContent = words.about(chunks);
}

function choice(kind) {
  const label = element("label");
  const input = element("input");
  Object.assign(input, { type: "radio", name: "retriever", value: kind, checked: kind === "both" });
  label.append(input, element("span", "", words[kind]));
  return label;
}

async function problem(response) {
  const body = await response.json().catch(() => ({}));
  return typeof body.detail === "string" ? body.detail : `${response.status} ${response.statusText}`;
}

async function ask(event) {
  event.preventDefault();
  const question = $("question").value.trim();
  if (!question) return;
  $("send").disabled = true;
  notice(words.searching);
  try {
    const retriever = document.querySelector("[name=retriever]:checked").value;
    const body = JSON.stringify({ question, retriever, rerank: $("rerank").checked });
    const response = await fetch("/api/ask", { method: "POST", headers: { "Content-Type": "application/json" }, body });
    if (!response.ok) return notice(await problem(response), true);
    clear(question);
    const view = { answer: "", documents: [] };
    for await (const part of lines(response.body)) show(part, view);
    if (!view.done) notice(words.cut, true);
  } catch (error) {
    notice(error instanceof TypeError ? words.gone : String(error), true);
  } finally {
    $("send").disabled = false;
  }
}

async function* lines(stream) {
  const reader = stream.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const parts = (rest + value).split("\n");
    rest = parts.pop();
    for (const part of parts) yield JSON.parse(part);
  }
}

function clear(question) {
  $("result").hidden = false;
  $("result").classList.remove("abstained");
  $("result").dataset.state = "running";
  $("asked").textContent = question;
  for (const id of ["answer", "check", "sources"]) $(id).replaceChildren();
}

function show(part, view) {
  if (part.documents) {
    view.documents = part.documents;
    $("sources").replaceChildren(...part.documents.map(source));
    notice(words.answering);
  }
  if (part.answer) {
    view.answer += part.answer;
    $("answer").replaceChildren(...withLinks(view.answer, view.documents.length));
  }
  if (part.citations) checked(part.citations, view);
  if (part.error) notice(part.error, true);
  if (part.done) {
    view.done = true;
    if (!$("notice").classList.contains("bad")) notice("");
    $("result").classList.toggle("abstained", part.abstained);
    if (part.abstained) $("check").textContent = words.abstained;
    $("result").dataset.state = part.abstained ? "abstained" : "answered";
  }
}

function source(document_, place) {
  const item = element("li");
  item.id = `source-${place + 1}`;
  const page = document_.page ? ` · ${words.page} ${document_.page}` : "";
  const title = element("span", "title", (document_.title || document_.source) + page);
  const scores = Object.entries(document_.scores).map(([name, value]) => `${words[name]} ${value}`);
  item.append(element("span", "number", String(place + 1)), title);
  item.append(element("p", "scores", [document_.source, ...scores].join(" · ")), element("p", "text", document_.text));
  return item;
}

function withLinks(answer, n) {
  // [1], [1, 2] and ［１、２］: as `rag_answers.MARKERS` reads them; every number of a real source becomes a link.
  return answer.split(/([\[［【]\s*\p{Nd}+(?:\s*[,，、;；]\s*\p{Nd}+)*\s*[\]］】])/u).flatMap((piece, place) => {
    return place % 2 ? piece.split(/(\p{Nd}+)/u).map((part) => linked(part, n)) : [document.createTextNode(piece)];
  });
}

function linked(part, n) {
  const number = Number(part.normalize("NFKC"));
  if (!(number >= 1 && number <= n)) return document.createTextNode(part);
  const link = element("a", "", part);
  link.href = `#source-${number}`;
  return link;
}

function checked(citations, view) {
  const wrong = citations.filter((citation) => citation.problem);
  $("check").classList.toggle("bad", wrong.length > 0);
  $("check").textContent = wrong.length ? "✗ " + wrong.map((c) => c.problem).join("; ") : citations.length ? words.checked(citations.length) : "";
  for (const citation of citations.filter((c) => !c.problem)) mark(citation, view);
}

function mark(citation, view) {
  const item = $(`source-${citation.number}`);
  if (!item) return;
  item.classList.add("cited");
  const paragraph = item.querySelector(".text");
  for (const node of [...paragraph.childNodes].filter((child) => child.nodeType === Node.TEXT_NODE)) {
    const place = plain(node.textContent).indexOf(plain(citation.quote));
    if (place < 0) continue;
    const rest = node.splitText(place);
    rest.splitText(citation.quote.length);
    rest.replaceWith(element("mark", "", rest.textContent));
    return;
  }
}

const plain = (text) => text.replace(/[“”"‘’']/g, "'").replace(/\[/g, "(").replace(/\]/g, ")"); // one for one, so that places stay

async function upload() {
  const file = $("file").files[0];
  $("file").value = "";
  if (!file) return;
  if (file.size > state.max_bytes) return notice(words.tooLarge(state.max_bytes / 2 ** 20), true);
  notice(words.reading(file.name));
  const body = new FormData();
  body.append("file", file);
  try {
    const response = await fetch("/api/upload", { method: "POST", body });
    if (!response.ok) return notice(await problem(response), true);
    const { name, chunks } = await response.json();
    count((await (await fetch("/api/state")).json()).chunks);
    notice(words.added(name, chunks));
  } catch {
    notice(words.gone, true);
  }
}

$("ask").addEventListener("submit", ask);
$("file").addEventListener("change", upload);
start().catch(() => notice(words.gone, true));
