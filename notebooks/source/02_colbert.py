# %% [markdown] slug="objectives" lang="en"
# In this lesson you
#
# * score a query against a document token by token, by hand: MaxSim;
# * see in a real query which token matched which, and what one vector per text forgets;
# * fine-tune a ColBERT on this city's questions and compare it with lesson 01's retriever;
# * shrink its index to a fraction of the size, and measure what that costs.
# %% [markdown] slug="objectives" lang="zh" of="7950f804"
# 这一课里，你会
#
# * 逐词元比较查询和文档，亲手算出得分（MaxSim）；
# * 在真实的查询里看清哪个词元匹配了哪个词元，以及“每段文本一个向量”会丢掉什么；
# * 用这座城市的问题微调一个 ColBERT，与第 01 课的检索器比较；
# * 把索引压缩到原来的几分之一，并测出代价。
# %% slug="load"
from dataclasses import replace

from retrieval_lab import colbert, corpora, demo, profiles, search

profile = profiles.current()
whole = corpora.load("city_services", lang=LANG)
city = whole.sample(profile.n_queries)
if profile.name == "smoke":  # a test run searches the judged passages only
    judged = {doc_id for grades in city.qrels.values() for doc_id in grades}
    city = replace(city, corpus={d: whole.corpus[d] for d in sorted(judged)})
model = colbert.load(profile.encoder(LANG))
model
# %% [markdown] slug="maxsim" lang="en"
# ## MaxSim on a 2 × 3 example
#
# Lesson 01 averaged the token vectors into one. ColBERT keeps them all and compares late: **late interaction**. Each
# query token looks for the document token that is most like it; the score is the sum of these best matches.
#
# Two query tokens, three document tokens, all of length 1, so a dot product is a cosine:
# %% [markdown] slug="maxsim" lang="zh" of="86ea88de"
# ## 2 × 3 的例子：MaxSim
#
# 第 01 课把所有词元向量平均成一个。ColBERT 把它们全部保留，到打分时才比较，所以叫**延迟交互**（late interaction）。
# 查询里的每个词元，都去找文档里与自己最像的那个词元；把这些最佳匹配的相似度加起来，得到的分数就叫 MaxSim。
#
# 两个查询词元，三个文档词元，长度都是 1，所以点积就是余弦：
# %% slug="two-by-three"
import torch

query = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
doc = torch.tensor([[1.0, 0.0], [0.6, 0.8], [-1.0, 0.0]])
query @ doc.T  # (2, 3)


# %% [markdown] slug="by-hand" lang="en"
# The first row's largest value is 1, the second row's 0.8: the score is 1.8. Write it as two loops.
# %% [markdown] slug="by-hand" lang="zh" of="1423f9d9"
# 第一行最大的是 1，第二行最大的是 0.8，得分是 1.8。用两层循环写出来。
# %% slug="ex-maxsim" tags=["exercise"]
def maxsim(query, doc):  # (n_query, dim), (n_doc, dim)
    best = [max(float(q @ d) for d in doc) for q in query]  # solution
    return sum(best)  # solution: for each query token the best match, then the sum


# %% slug="check-maxsim" tags=["check"]
from retrieval_lab.course import check

check("maxsim", lambda: maxsim(query, doc), 1.8)
# %% [markdown] slug="padding" lang="en"
# ## A trap: padding
#
# Texts in a batch are filled up to one length. If the filling is a vector of zeros, its cosine with everything is 0.
# That is not neutral: where all real cosines are negative, 0 wins the maximum.
# %% [markdown] slug="padding" lang="zh" of="46e36348"
# ## 一个陷阱：填充
#
# 一批文本要补到同样长。如果补上的是零向量，它与任何向量的余弦都是 0。
# 这并不是“没有影响”：当真正的余弦都是负数时，0 反而成了最大值。
# %% slug="padding-trap"
opposite = torch.tensor([[-1.0, 0.0]])
padded = torch.cat([opposite, torch.zeros(1, 2)])
maxsim(query[:1], opposite), maxsim(query[:1], padded)
# %% [markdown] slug="masked" lang="en"
# The score should be −1 with or without padding. A mask takes the filling out before the maximum; the package and the
# library both do so.
# %% [markdown] slug="masked" lang="zh" of="9caaadfd"
# 不管有没有填充，得分都应该是 −1。办法是用掩码，在取最大值之前把填充去掉；本仓库和 sentence-transformers 都是这么做的。
# %% slug="masked-equal"
from sentence_transformers.util.similarity import maxsim as library_maxsim

real = torch.tensor([True, False])
ours = colbert.maxsim(query[:1], padded, doc_mask=real)
library = library_maxsim(query[:1], padded, b_mask=real)
assert ours.item() == library.item() == -1.0
assert abs(colbert.maxsim(query, doc) - maxsim(query, doc)) < 1e-6
ours
# %% [markdown] slug="real" lang="en"
# ## A real query
#
# `model` is lesson 01's encoder without its pooling: every token keeps its vector. It was never trained for MaxSim.
# Here is a question with a typing error, and the paragraph that answers it.
# %% [markdown] slug="real" lang="zh" of="d32dc66a"
# ## 一个真实的查询
#
# `model` 就是第 01 课的编码器去掉池化：每个词元保留自己的向量，还没有为 MaxSim 训练过。
# 下面是一个带错别字的问题，和能回答它的那一段。
# %% slug="align"
question = whole.queries["pool-tickets.q28"]
word = {"en": "women", "zh": "女宾"}[LANG]
passage = whole.corpus["pool-tickets.sauna"]
paragraph = next(p for p in passage.split("\n") if word in p)
found = colbert.align(model, question, paragraph)
assert abs(found.shares.sum() - colbert.score(model, [(question, paragraph)])[0]) < 1e-4
question, paragraph
# %% [markdown] slug="heatmap-text" lang="en"
# Each row is a query token, each column one of the document's first 30 tokens; darker is more alike. The frame marks the
# best match, the number at the right is what the row adds to the score; an arrow names a best match further right than
# the picture goes. Tokens are pieces of words; a name that the model does not know falls into several. The special tokens
# at both ends, and the prompt where the model has one, match too.
#
# Alt text: a grid of cosines; each row has one framed cell or an arrow.
# %% [markdown] slug="heatmap-text" lang="zh" of="c0004e20"
# 每一行是查询的一个词元，每一列是文档的一个词元（只画前 30 个），颜色越深越像。橙框是这一行的最佳匹配，右边的数字是它对得分的贡献；
# 最佳匹配如果在图外，数字后面用箭头标出那个词元。
# 词元是词的片段，模型不认识的词会被拆成好几片。首尾的特殊词元和提示词（如果模型有的话）也参与匹配。
#
# 图示：一个余弦矩阵，每行有一个橙框，或者一个箭头。
# %% slug="heatmap"
from retrieval_lab import plots

ax = plots.alignment(found, question)
# %% [markdown] slug="forgets" lang="en"
# ## What one vector forgets
#
# Two sentences that differ in one number. For a question that names the number, compare one vector per text (lesson
# 01's retriever) with the token that carries the number.
# %% [markdown] slug="forgets" lang="zh" of="eee1c3a3"
# ## 一个向量会丢掉什么
#
# 下面两句话只差一个数字。问题里写明了这个数字：比较“每段文本一个向量”（第 01 课的检索器）和带着这个数字的词元。
# %% slug="forgets-table"
import pandas as pd

from retrieval_lab import embedding

asked = {"en": "day ticket 6 crowns", "zh": "日票 6 元"}[LANG]
sentence = {
    "en": "A day ticket for the lido is {} crowns.",
    "zh": "露天泳场的日票 {} 元。",
}
texts = [sentence[LANG].format(price) for price in (6, 9)]
retriever = demo.retriever(LANG)
one = (
    embedding.encode(retriever, [asked], "query") @ embedding.encode(retriever, texts).T
)
pairs = [colbert.align(model, asked, text) for text in texts]
place = pairs[0].query_tokens.index("6")
rows = {"one vector": one[0], 'token "6"': [pair.shares[place] for pair in pairs]}
pd.DataFrame(rows, index=texts).round(3)
# %% [markdown] slug="forgets-read" lang="en"
# Both columns rank the right sentence first. The single vector keeps a small gap: in the average a number carries little
# weight. As a token of its own it is compared by itself; but its row is one of many in the sum, and the two columns are not
# on one scale. This is one example, not evidence: the evidence is the table below.
# %% [markdown] slug="forgets-read" lang="zh" of="3f9a2945"
# 两列都把正确的那句排在前面。一个向量时差距很小：对全部词元取平均，一个数字占不了多少分量；
# 作为单独的词元，它单独参加比较，差距大得多，不过它只是总分里的一行，两列也不在同一把尺子上。
# 这只是一个例子，不是证据；证据要看下面的表。
# %% [markdown] slug="search" lang="en"
# ## Searching with it
#
# The index holds every token of every passage in one flat array. One matrix product compares them all with the query,
# then each passage keeps its best match for each query token: no padding, exact, and on a CPU several times faster than
# scoring a padded list.
# %% [markdown] slug="search" lang="zh" of="18c151dc"
# ## 用它检索
#
# 索引把所有文档的所有词元放进一个扁平的大数组。一次矩阵乘法就把它们都与查询比一遍，然后每篇文档对每个查询词元只留下最佳匹配：
# 没有填充，结果精确，在 CPU 上比先补齐再打分快好几倍。
# %% slug="before"
single = search.Dense(retriever, city, "one vector (01)")
untrained = search.LateInteraction(model, city, "ColBERT untrained")
len(untrained.store.vectors), f"{untrained.megabytes:.0f} MB"
# %% [markdown] slug="train" lang="en"
# ## Fine-tuning
#
# The loss is that of lesson 01 with MaxSim in place of the cosine: each query has to find its own passage among those
# of the batch and their hard negatives. The score is divided by the number of query tokens, so that the temperature
# means the same as before. With `loss_type="distill"` the model would learn a teacher's scores instead
# (`benchmarks/colbert.md` has both). To keep the lesson short, half of the training rows, drawn at random, are used.
# %% [markdown] slug="train" lang="zh" of="507e9158"
# ## 微调
#
# 损失与第 01 课相同，只是把余弦换成 MaxSim：每个查询要在这一批文档和它们的难负例里认出自己的那一篇。
# 得分除以查询的词元数，这样温度的含义与之前一样。换成 `loss_type="distill"`，就改为学习教师模型的打分（两种都在 `benchmarks/colbert.md` 里）。
# 为了让这一课不太长，只用随机抽出的一半训练数据。
# %% slug="fine-tune"
from retrieval_lab.training import Config

config = Config(
    num_train_epochs=1,
    per_device_train_batch_size=profile.per_device_train_batch_size,
    learning_rate=5e-5,
    temperature=profile.temperature(LANG),
    max_seq_length=profile.max_seq_length,
)
data = demo.training_data(LANG).shuffle(seed=0).select(range(profile.n_train or 420))
model = colbert.train(colbert.load(profile.encoder(LANG)), data, config)
# %% slug="after"
from retrieval_lab import experiment

tuned = search.LateInteraction(model, city, "ColBERT fine-tuned")
table = experiment.compare([single, untrained, tuned], city, baseline=0)
sizes = [single.vectors.nbytes / 1e6, untrained.megabytes, tuned.megabytes]
table["MB"] = [f"{size:.1f}" for size in sizes]
experiment.show(table)
# %% [markdown] slug="read-after" lang="en"
# The baseline is lesson 01's retriever: one vector per text, fine-tuned on all training rows. If the interval of *ColBERT
# fine-tuned* lies above 0, keeping the tokens helped on these questions. Read the price in the columns MB and ms/query:
# a vector for every token has to be kept, and compared. One seed, one city: on other texts measure again.
#
# Alt text: one dot per system with the 95 % interval of its nDCG@10.
# %% [markdown] slug="read-after" lang="zh" of="762cf13a"
# 基线是第 01 课的检索器：每段文本一个向量，用全部训练数据微调。
# 如果 *ColBERT fine-tuned* 的置信区间整个在 0 以上，就说明对这批问题，保留词元确实有用。
# 代价要看 MB 和 ms/query 两列：每个词元的向量都得存下来，检索时也都得比一遍。
# 这里只有一个随机种子、一座城市；换了别的文本，要重新测量。
#
# 图示：每个系统一个点，横线是 nDCG@10 的 95 % 置信区间。
# %% slug="plot-after"
ax = plots.comparison(table)
# %% [markdown] slug="types" lang="en"
# Which questions gain, and which lose? Means by type of question; small groups, so read them as hints.
# %% [markdown] slug="types" lang="zh" of="96d7940d"
# 哪些问题受益，哪些反而变差？下面按问题类型取平均；每组数量不多，只能当作线索。
# %% slug="by-type"
scores = pd.DataFrame(table.attrs["per_query"], index=list(city.queries))
scores["type"] = [city.details[query_id]["type"] for query_id in city.queries]
scores.groupby("type").mean().round(3)
# %% [markdown] slug="read-types" lang="en"
# Every type gains over one vector but *paraphrase*, which loses a little: untrained it starts far below, and training wins
# back only part. A likely reason: few tokens of such a question have a counterpart in the answer. Groups have 39 to 91
# questions.
# %% [markdown] slug="read-types" lang="zh" of="46b4b943"
# 除了换说法来问的 paraphrase，各类都比一个向量高；它反而略低：未训练时低得多，微调只追回一部分，多半是因为问题里的词元在答案里找不到对应。
# 各组 39 到 91 个问题。
# %% [markdown] slug="compress" lang="en"
# ## A smaller index
#
# Two ways to save memory. **Token pooling** merges tokens of a passage that are alike. **Residual compression**
# stores, for each token, the number of the nearest of a few hundred centroids and the remainder with 2 bits a
# dimension; a search ranks all passages by their centroids first and restores only the best.
#
# Or score only the 50 best of lesson 01's retriever: **rerank mode** instead of **retrieve mode**.
# %% [markdown] slug="compress" lang="zh" of="27b24403"
# ## 更小的索引
#
# 省内存有两个办法。**词元池化**（token pooling）把同一篇文档里相近的词元合并。
# **残差压缩**（residual compression）给每个词元只存两样东西：几百个中心点里离它最近的那个的编号，以及与它的差（残差），每维 2 位；
# 检索时先按中心点给所有文档粗排，只还原排在前面的。
#
# 还可以只给第 01 课检索器的前 50 篇打分：这是**重排模式**，前面的是**检索模式**。
# %% slug="compressed"
from retrieval_lab.token_stores import Compressed

stores = {
    "exact": tuned.store,
    "half the tokens": tuned.store.pooled(2),
    "2 bits": Compressed.of(tuned.store, bits=2),
}
indexes = [
    search.LateInteraction(model, city, name, store=store)
    for name, store in stores.items()
]
best50 = {"first": single, "depth": 50, "store": tuned.store}
indexes.append(search.LateInteraction(model, city, "best 50 of 01", **best50))
table = experiment.compare(indexes, city, baseline="exact")
table["MB"] = [f"{index.megabytes:.1f}" for index in indexes]
experiment.show(table)
# %% [markdown] slug="read-compressed" lang="en"
# Compare MB with the difference to *exact*: one that holds 0 does not tell the two apart.
# *2 bits* and *best 50 of 01* lose Recall@100: what the 100 candidates (`depth`), or the 50, leave out is gone. Times
# scatter: in the Chinese notebook the same index takes 50 ms in one table and 59 in the other. Restoring vectors takes time too, so a smaller
# index need not be a faster one; PLAID saves time on millions of passages.
# %% [markdown] slug="read-compressed" lang="zh" of="38a8be03"
# 把 MB 一列与相对 *exact* 的差放在一起看：置信区间含 0，说明这批问题分不出两者的高下。
# *2 bits* 和 *best 50 of 01* 的 Recall@100 会下降：100 篇候选（`depth`）或 50 篇之外的，就找不回来了。
# ms/query 有波动：*exact* 与上一张表里的 *ColBERT fine-tuned* 是同一个索引，一次约 50 毫秒，一次约 59 毫秒。
# 还原向量也要花时间，索引小了，检索不一定更快；文档多到几百万篇，才能连时间也省下来（见文末的 PLAID）。
# %% [markdown] slug="widget" lang="en"
# ## Which tokens matched?
#
# Choose a passage (one answers, the other is its near-twin) and a query token. Which passage has the larger sum, and which
# tokens decide? Without a running kernel you see a table instead.
# %% [markdown] slug="widget" lang="zh" of="0f530309"
# ## 哪些词元匹配上了？
#
# 先选一篇文档（一篇能回答，另一篇只是与它很像），再选一个查询词元。哪一篇的总分更高，是哪些词元决定的？
# 没有运行内核时，这里显示一张表。
# %% slug="show-widget"
from retrieval_lab.widgets import TokenMatches

doc_ids = ["pool-tickets.sauna", "pool-tickets.womens-hour"]
pairs = [colbert.align(model, question, whole.corpus[doc_id]) for doc_id in doc_ids]
TokenMatches(pairs, doc_ids)
# %% [markdown] slug="read-widget" lang="en"
# The near-twin wins here, 5.79 against 5.62, although *reserved* (0.66 against 0.45) and *su* (0.50 against 0.19) point to
# the right passage: *day* finds the word itself in one passage and only *days* in the other, and *on* and *which* count as
# much as *women*. The sum cannot tell which tokens matter. Lesson 03 reads query and passage together.
# %% [markdown] slug="read-widget" lang="zh" of="d594b4f7"
# 能回答的那篇胜出，10.53 对 9.62。起决定作用的是“桑”（0.87 对 0.57）和“宾”（0.82 对 0.64）：虽然“桑拿”错写成“桑那”，
# “桑”这个词元还是对上了；“女”两篇都有，分不出高下。首尾的词元和提示词 query: 也各加一份，与内容无关。
# 英文版里，同一个问题反而让另一篇排在前面，因为虚词和实词一样算分。第 03 课让模型把查询和文档放在一起读。
# %% [markdown] slug="save" lang="en"
# ## Saved, and loaded without us
#
# Plain sentence-transformers loads the folder and gives the same scores. An index is saved with its model's
# fingerprint; another model may not read it.
# %% [markdown] slug="save" lang="zh" of="fb8877e6"
# ## 保存，然后不靠本仓库加载
#
# 直接用 sentence-transformers 加载这个文件夹，得分相同。索引保存时带着模型的指纹，换一个模型来读，会被拒绝。
# %% slug="reload"
import tempfile

from sentence_transformers import MultiVectorEncoder

with tempfile.TemporaryDirectory() as folder:
    model.save_pretrained(folder)
    again = MultiVectorEncoder(folder, device=str(model.device))
passages = [whole.corpus[doc_id] for doc_id in doc_ids]
plain = again.similarity(
    again.encode_query([question]), again.encode_document(passages)
)
ours = colbert.score(model, [(question, text) for text in passages])
assert torch.allclose(plain[0].cpu(), torch.tensor(ours), atol=1e-3)
plain


# %% [markdown] slug="exercise-text" lang="en"
# ## Exercise: how large will it be?
#
# Write the size of an index in MB ($10^6$ bytes): fp32 takes 32 bits a dimension; a compressed index takes `bits` a
# dimension and 32 for the centroid's number. (The centroids come on top, once: 512 of them in the table above, 0.8 MB.)
# Then try `colbert.load(..., dim=128)`: what does the warning say, and what does it save?
# %% [markdown] slug="exercise-text" lang="zh" of="f1490f5c"
# ## 练习：索引会有多大？
#
# 写出索引的大小，单位 MB（$10^6$ 字节）：fp32 每维 32 位；压缩索引每维 `bits` 位，另加 32 位的中心点编号。（中心点本身只存一份，不算在内：上面的表里有 512 个，占 0.8 MB。）
# 再试试 `colbert.load(..., dim=128)`：警告说了什么，能省多少？
# %% slug="ex-megabytes" tags=["exercise"]
def megabytes(n_tokens, dim, bits=None):
    if bits is None:
        return n_tokens * dim * 4 / 1e6  # solution
    return n_tokens * (dim * bits + 32) / 8 / 1e6  # solution: 8 bits are a byte


# %% slug="check-megabytes" tags=["check"]
check("fp32", lambda: megabytes(1_000_000, 128), 512.0)
check("2 bits", lambda: megabytes(1_000_000, 128, 2), 36.0)
# %% [markdown] slug="m3" lang="en"
# ## Three heads on one encoder: bge-m3
#
# `bge-m3` reads a text once and can answer in three ways: one vector, a vector for each token, and a weight for each token.
# The last is **learned sparse retrieval**. A linear layer with a single output turns a token's vector into its weight; a
# negative one counts as 0, and a token that occurs twice keeps the larger. A document scores the sum, over the tokens that
# it shares with the query, of weight times weight. BM25 counts words; here the encoder has read the sentence before it
# weighs them. Every head comes with its own trained layer:
#
# ```python
# from retrieval_lab import sparse
#
# heads = [
#     search.Dense(embedding.load("bge-m3"), city),
#     search.Sparse(sparse.load("bge-m3"), city),
#     search.LateInteraction(colbert.load("bge-m3"), city),
# ]
# experiment.compare([*heads, search.Fused(heads)], city, baseline="dense")
# ```
#
# The model is a download of 2.3 GB and wants a GPU, so this is not a cell of the lesson.
# %% [markdown] slug="m3" lang="zh" of="659b3c07"
# ## 一个编码器，三个输出头：bge-m3
#
# `bge-m3` 把文本读一遍，可以给出三种结果：整段一个向量，每个词元一个向量，每个词元一个权重。
# 最后一种叫**学习型稀疏检索**（learned sparse retrieval）：只有一个输出的线性层把词元的向量变成权重，负数按 0 算；
# 同一个词元出现几次，取最大的那个权重。文档的得分，就是在它与查询共有的词元上，把两边的权重相乘，再加起来。
# BM25 只会数词；这里的编码器先读懂整句话，再决定每个词元有多重要。三个头都带着自己训练好的那一层：
#
# ```python
# from retrieval_lab import sparse
#
# heads = [
#     search.Dense(embedding.load("bge-m3"), city),
#     search.Sparse(sparse.load("bge-m3"), city),
#     search.LateInteraction(colbert.load("bge-m3"), city),
# ]
# experiment.compare([*heads, search.Fused(heads)], city, baseline="dense")
# ```
#
# 这个模型要下载 2.3 GB，最好用 GPU 跑，所以没有做成可运行的单元格。
# %% [markdown] slug="recap" lang="en"
# ## Recap
#
# You wrote MaxSim, kept padding from setting its floor, saw token by token why a passage was found, fine-tuned a
# ColBERT, compared it with one vector per text, and shrank its index. For a model with a trained head, load `bge-m3`
# or a ColBERT from the hub with the same `colbert.load`; that function also gives a plain encoder ColBERT's own
# `markers`, `query_expansion` and `skip_punctuation`.
#
# **Further reading.** Khattab & Zaharia 2020, *ColBERT*; Santhanam et al. 2022, *ColBERTv2* and *PLAID*; Chen et al. 2024,
# *M3-Embedding*; Clavié et al. 2024 (token pooling).
# %% [markdown] slug="recap" lang="zh" of="6e45db44"
# ## 回顾
#
# 你写出了 MaxSim，挡住了填充对最大值的干扰，逐词元看清了一篇文档为什么被找到，微调了一个 ColBERT，与“每段文本一个向量”作了比较，还压缩了索引。
# 想用训练好的投影层，可以用同一个 `colbert.load` 从 Hugging Face Hub 加载 `bge-m3` 或别的 ColBERT；
# 这个函数还能给普通编码器加上 ColBERT 原有的标记、查询扩展和标点掩码（`markers`、`query_expansion`、`skip_punctuation`）。
#
# **延伸阅读。** Khattab、Zaharia 2020，*ColBERT*；Santhanam 等 2022，*ColBERTv2*、*PLAID*；Chen 等 2024，*M3-Embedding*；
# Clavié 等 2024（词元池化）。
