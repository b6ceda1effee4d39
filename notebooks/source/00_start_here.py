# %% [markdown] slug="objectives" lang="en"
# In this lesson you
#
# * meet the help centre of an invented city, its questions and its relevance judgements;
# * score documents with BM25 by hand, then with the library, and get the same numbers;
# * compute MRR and nDCG by hand, then with the library;
# * search by meaning with a pretrained model, and read a comparison table with its confidence interval.
# %% [markdown] slug="objectives" lang="zh" of="34c38ee7"
# 这一课里，你会
#
# * 认识一座虚构城市的帮助中心：文档、问题和相关性标注；
# * 先手算 BM25 得分，再用库计算，得到相同的数；
# * 先手算 MRR 和 nDCG，再用库计算；
# * 用预训练模型按语义检索，并读懂一张带置信区间的对比表。
# %% [markdown] slug="what" lang="en"
# ## What retrieval is
#
# Somebody types a question; you hold a few hundred texts; you return them in an order, the one that answers first.
# Everything in this course is about that order: who decides it, how good it is, and how training changes it.
# %% [markdown] slug="what" lang="zh" of="e919fe74"
# ## 检索是什么
#
# 有人输入一个问题，你手里有几百篇文档，要把它们排个顺序，让能回答问题的那篇排在最前面。
# 整门课讲的就是这个顺序：由谁来排，排得好不好，训练又怎样改变它。
# %% slug="load"
from retrieval_lab import corpora

city = corpora.load("city_services", lang=LANG)
city
# %% [markdown] slug="corpus" lang="en"
# The texts come from the help centre of Heronbridge, a city that does not exist. No model has read them in
# pretraining, so none can answer from memory. They come in **families of near-twins**: eleven passages about
# shared bicycles differ in who, when, where and how much. Here is one of them.
# %% [markdown] slug="corpus" lang="zh" of="0b5a8d2c"
# 这些文本来自鹭桥市的帮助中心，而这座城市并不存在。没有模型在预训练时读过它们，也就无从凭记忆作答。
# 文档按**家族**分组，同族的文档非常相像：共享单车家族的十来篇，只在谁能用、何时、何地、多少钱上有区别。下面是其中一篇。
# %% slug="passage"
from IPython.display import Markdown

Markdown(city.corpus["cycle-hire.cargo"].replace("\n", "\n\n", 1))
# %% [markdown] slug="queries" lang="en"
# A query has a type, and judges gave grades to passages: 3 answers it fully, 2 in part, 1 is the same family
# but the wrong item. Two queries in five use a **nickname** that citizens have for an office or a card.
# No passage explains these, as in most organisations. Keep an eye on them: they are what training will teach.
# %% [markdown] slug="queries" lang="zh" of="c884be52"
# 每个查询（query）都有类型，标注员给文档评了相关等级：3 分完全回答，2 分回答一部分，1 分属于同一家族但不是要找的那一篇。
# 约五分之二的查询用了市民给机构、卡片起的**俗名**；和多数单位的情形一样，没有一篇文档解释这些俗名。
# 留意它们：训练要教会模型的正是这些。
# %% slug="query-table"
import pandas as pd

rows = [
    {"query": city.queries[q], **city.details[q], "grades": city.qrels[q]}
    for q in list(city.queries)[28:36]
]
pd.DataFrame(rows)[["type", "query", "nicknames", "grades"]]
# %% [markdown] slug="bm25" lang="en"
# ## BM25 by hand
#
# The classic way looks at words alone. A word counts more if it is rare in the collection (its **idf**), more if
# it is frequent in the document, though with less and less effect ($k_1$), and less in a long document ($b$):
#
# $$\text{score}(q, d) = \sum_{w \in q} \text{idf}(w)\,
# \frac{f(w, d)}{f(w, d) + k_1\,(1 - b + b\,|d| / \overline{|d|})}$$
# Here $f(w, d)$ counts the word in the document, $|d|$ is the document's length and $\overline{|d|}$ the mean length.
# %% [markdown] slug="bm25" lang="zh" of="2b1ed8f2"
# ## 手算 BM25
#
# 经典的方法只看词。一个词在语料库里越少见，分量越重（这叫 **idf**）；它在文档里出现得越多，得分越高，但增长越来越慢（由 $k_1$ 控制）；
# 文档越长，折扣越大（由 $b$ 控制）：
#
# $$\text{score}(q, d) = \sum_{w \in q} \text{idf}(w)\,
# \frac{f(w, d)}{f(w, d) + k_1\,(1 - b + b\,|d| / \overline{|d|})}$$
# 其中 $f(w, d)$ 是词在文档里出现的次数，$|d|$ 是文档长度，$\overline{|d|}$ 是平均长度。
# %% slug="tiny-docs"
docs = {
    "adult": ["pass", "month", "adult", "machine"],
    "student": ["pass", "term", "student", "office"],
    "ferry": ["ferry", "pass", "summer"],
}
# %% [markdown] slug="idf" lang="en"
# With $N$ documents of which $n$ hold the word, Lucene's idf is $\ln(1 + (N - n + 0.5)/(n + 0.5))$.
# Fill in the line marked `...`; the check below tells you whether it is right, and a folded cell has the solution.
# %% [markdown] slug="idf" lang="zh" of="4241968b"
# 设共有 $N$ 篇文档，其中 $n$ 篇含有这个词，Lucene 采用的 idf 是 $\ln(1 + (N - n + 0.5)/(n + 0.5))$。
# 补全标着 `...` 的那一行；下面的检查会告诉你对不对，折叠的单元格里有参考答案。
# %% slug="ex-idf" tags=["exercise"]
import math


def idf(word):
    n = sum(word in words for words in docs.values())
    return math.log(1 + (len(docs) - n + 0.5) / (n + 0.5))  # solution: use math.log


# %% slug="check-idf" tags=["check"]
from retrieval_lab.course import check

check("idf", lambda: [idf("pass"), idf("student")], [0.1335314, 0.9808293])


# %% [markdown] slug="idf-read" lang="en"
# *pass* stands in all three documents and says nearly nothing; *student* stands in one and says a lot.
# Now the whole score, and the library beside it.
# %% [markdown] slug="idf-read" lang="zh" of="a42fa702"
# *pass* 三篇都有，几乎不提供信息；*student* 只在一篇里出现，分量很重。
# 接下来算完整的得分，并与库的结果对照。
# %% slug="bm25-by-hand"
def bm25(query, words, k1=0.9, b=0.4):
    average = sum(map(len, docs.values())) / len(docs)
    penalty = k1 * (1 - b + b * len(words) / average)
    found = [(word, words.count(word)) for word in query]
    return sum(idf(word) * count / (count + penalty) for word, count in found)


by_hand = {name: bm25(["student", "pass"], words) for name, words in docs.items()}
by_hand
# %% slug="bm25-library"
import bm25s
import numpy as np

index = bm25s.BM25(k1=0.9, b=0.4, method="lucene")
index.index(list(docs.values()), show_progress=False)
library = index.get_scores(["student", "pass"])
assert np.allclose(library, list(by_hand.values()), atol=1e-6)
library
# %% [markdown] slug="bm25-real" lang="en"
# Equal to six digits. On real text the words are first cut out: English is stemmed, Chinese is cut into words by
# jieba. Then the same formula runs over all 518 passages.
# Look at the printed words: *feather* is a nickname for the resident's card, and no passage uses it.
# %% [markdown] slug="bm25-real" lang="zh" of="bfb676d3"
# 两边六位小数都一致。换成真实文本，先要分词：英文提取词干，中文用 jieba 切成词。然后用同一个公式给全部 518 篇文档打分。
# 留意打印出的词：“白羽”是居民卡的俗名，没有一篇文档这样叫它，jieba 还把它和“有”切成了一个词；“头半个小时”也被切成三段。
# 这里其余的词够用，正确的文档仍排第一。
# %% slug="bm25-search"
from retrieval_lab import lexical

print(lexical.tokenise(city.queries["cycle-hire.q05"]))
words = lexical.BM25(city)
words.search({"q": city.queries["cycle-hire.q05"]}, k=3)


# %% [markdown] slug="metrics" lang="en"
# ## How good is an order?
#
# Say a system returns four passages with the grades 1, 0, 3, 0, and a grade-2 passage is not returned at all.
# **Reciprocal rank** asks: at which rank is the first relevant one (grade 2 or more)? **nDCG** adds up the grades,
# each divided by $\log_2(\text{rank}+1)$, and divides by the best sum that any order could reach.
# The mean of reciprocal ranks over the queries is **MRR**. **Recall@k** is the share of a query's relevant passages that
# stand among the first k; what is missing there, no later stage can bring back. A number after @ means that only so many
# ranks count.
# %% [markdown] slug="metrics" lang="zh" of="f248faa0"
# ## 怎样衡量排序的好坏
#
# 假设系统返回四篇文档，相关等级依次是 1、0、3、0，另有一篇 2 分的没有返回。
# **倒数排名**（reciprocal rank）看的是：第一篇相关文档（2 分及以上）排第几？
# **nDCG** 把每篇的等级除以 $\log_2(\text{排名}+1)$ 再相加，然后除以所有顺序中能达到的最大值。
# 倒数排名对所有查询取平均就是 **MRR**。**召回率**（Recall@k）是一个查询的相关文档里有多大比例进了前 k 篇；
# 没进来的，后面的步骤再也找不回来。@ 后面的数字表示只看前多少名。
# %% slug="ex-ndcg" tags=["exercise"]
def dcg(grades):
    # the grade at rank r counts 1 / log2(r + 1); ranks start at 1
    ranked = enumerate(grades, 1)  # solution: enumerate(grades, 1) gives the ranks
    return sum(grade / math.log2(rank + 1) for rank, grade in ranked)  # solution


# %% slug="check-ndcg" tags=["check"]
check("dcg", lambda: [dcg([3]), dcg([0, 0, 1])], [3.0, 0.5])
# %% slug="metrics-library"
from retrieval_lab import metrics

grades = {"q": {"a": 1, "b": 0, "c": 3, "d": 0, "missing": 2}}
run = {"q": {"a": 4.0, "b": 3.0, "c": 2.0, "d": 1.0}}
by_hand = dcg([1, 0, 3, 0]) / dcg([3, 2, 1])
library = metrics.evaluate(grades, run, ["nDCG@10", "MRR@10"], relevant=2)
assert np.isclose(by_hand, library["nDCG@10"])
library
# %% [markdown] slug="metrics-trap" lang="en"
# The ideal order, 3, 2, 1, counts the passage that was missed. Leaving it out is a common bug: it would give
# a system full marks for returning one good passage and hiding the rest.
# %% [markdown] slug="metrics-trap" lang="zh" of="2385bce4"
# 理想顺序 3、2、1 把漏掉的那一篇也算在内。不算它是一种常见的错误：那样的话，系统只返回一篇好文档、把其余的全藏起来，也能拿满分。
# %% [markdown] slug="dense" lang="en"
# ## Searching by meaning
#
# A pretrained encoder turns each text into a vector, so that texts of like meaning point the same way; lesson 01
# opens it up. Here it is a black box with the same `search` as BM25. Encoding 518 passages takes some seconds.
# %% [markdown] slug="dense" lang="zh" of="4eec7e42"
# ## 按语义检索
#
# 预训练编码器（encoder）把每段文本变成一个向量，意思相近的文本，向量的方向也相近；第 01 课会把它拆开来看。
# 这里先把它当作黑盒，和 BM25 一样调用 `search`。编码 518 篇文档，几秒到十几秒就够。
# %% slug="dense-search"
from retrieval_lab import embedding, profiles, search

profile = profiles.current()
model = embedding.load(profile.encoder(LANG))
meaning = search.Dense(model, city, name="dense")
# %% slug="compare"
from retrieval_lab import experiment

questions = city.sample(profile.n_queries)
both = search.Fused([words, meaning])
table = experiment.compare([words, meaning, both], questions, baseline=0)
experiment.show(table)
# %% [markdown] slug="read-table" lang="en"
# Column Δ is a system's nDCG@10 minus BM25's, over the same queries. The **interval** comes from drawing the queries again
# 10,000 times: if it holds 0, another set of questions could well have turned the order around. **p** is how often swapping
# the two systems' results at random gives a difference this large. Neither says anything about texts unlike these.
#
# *dense* has an interval that holds 0. That of *BM25 + dense*, which merges the two lists by rank, lies above 0. Which
# finds more? Recall@100 answers: *dense* finds 95 % of the relevant passages, BM25 78 %; it ranks what it finds less well.
# %% [markdown] slug="read-table" lang="zh" of="016061dc"
# Δ 是各系统的 nDCG@10 减去 BM25 的 nDCG@10，用的是同一批查询。
# **置信区间**来自对查询重抽样 10,000 次：区间如果包含 0，换一批问题，两者的高下就完全可能颠倒。
# **p** 是随机对调两个系统的结果时，出现这么大差距的频率。对于和这里不同的文本，两者都说明不了什么。
#
# *dense* 的区间包含 0；*BM25 + dense* 按名次把两份结果合成一份，它的区间整个在 0 以上。
# 哪种找得更全？看 Recall@100：*dense* 找到了 93 % 的相关文档，BM25 只有 81 %，只是 *dense* 找到了却排得不够靠前。
# %% slug="plot"
from retrieval_lab import plots

ax = plots.comparison(table)
# %% [markdown] slug="by-type" lang="en"
# The bars overlap, and yet the table's interval for *BM25 + dense* lies above 0. A bar holds the spread between easy and
# hard questions; it cancels when two systems answer the same ones. Judge a comparison by the interval of the difference.
#
# A mean hides who wins where. Look at each type of query on its own.
#
# Alt text of the figure above: one dot a system with its interval, a dotted line at BM25; the text needs only the table.
# %% [markdown] slug="by-type" lang="zh" of="32f5ede3"
# 三条横线互有重叠，表里 *BM25 + dense* 的区间却整个在 0 以上。横线里包含问题本身难易不同带来的波动；
# 两个系统回答同一批问题，相减时这部分就抵消了。比较高下，要看差值的区间。
#
# 平均值看不出谁在哪里占优。下面把各类查询分开看。
#
# 上图说明：每个系统一个点，横线是置信区间，虚线是 BM25 的位置；下文只用到表中的数。
# %% slug="by-type-table"
kinds = ["keyword", "plain", "situational", "numeric", "typo", "paraphrase"]
runs = table.attrs["runs"]


def ndcg(name, subset):
    run = {q: runs[name][q] for q in subset.queries}
    return metrics.evaluate(subset.qrels, run, ["nDCG@10"])["nDCG@10"]


subsets = {kind: questions.where(type=kind) for kind in kinds}
subsets["with nickname"] = questions.where(nicknames=bool)
columns = {n: {k: ndcg(n, s) for k, s in subsets.items()} for n in table.index}
pd.DataFrame(columns).round(2)
# %% [markdown] slug="recap" lang="en"
# ## Recap
#
# You met a collection (texts, queries, grades), scored it with BM25 and with a pretrained encoder, measured both
# and read the difference with its interval. Words win where the asker uses the clerk's words. Paraphrases
# were written to share almost none with their passage, so BM25 has to fail there, and merging the two lists pulls *dense*
# down with it. *with nickname* looks easy only because 8 of its 145 questions are paraphrases, against 83 of the other 219. Next, lesson 01 fine-tunes the encoder on this city's own questions.
#
# **Further reading.** Robertson & Zaragoza 2009, *The Probabilistic Relevance Framework: BM25 and Beyond*;
# Järvelin & Kekäläinen 2002, *Cumulated gain-based evaluation of IR techniques*; Sakai 2006, on the bootstrap;
# Thakur et al. 2021, *BEIR*.
# %% [markdown] slug="recap" lang="zh" of="11fbb652"
# ## 回顾
#
# 你认识了一个检索数据集（文档、查询、相关等级），分别用 BM25 和预训练编码器检索，测出各自的好坏，并结合置信区间读懂了差距。
# 提问者的用词和文档一样时，按词检索占优。
# 换说法的问题（paraphrase）是特意写成与文档几乎没有共同用词的，BM25 在这里必然失败，合并两份结果还会把 *dense* 一起拉低。
# *with nickname* 一行看似容易，只是因为它的 145 个问题里这一类只有 8 个，其余 219 个问题里却有 83 个。
# 下一课（01）用这座城市自己的问题来微调编码器。
#
# **延伸阅读。** Robertson、Zaragoza 2009，*The Probabilistic Relevance Framework: BM25 and Beyond*；
# Järvelin、Kekäläinen 2002，*Cumulated gain-based evaluation of IR techniques*；Sakai 2006，讲自助法（bootstrap）；
# Thakur 等 2021，*BEIR*。
