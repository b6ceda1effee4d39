# %% [markdown] slug="objectives" lang="en"
# In this lesson you
#
# * turn a text into one vector by hand, and get the model's own numbers;
# * write the loss that trains it in three lines, and get the library's number;
# * fine-tune a pretrained encoder on this city's questions, in minutes on a CPU;
# * measure the gain with its interval, and see which queries it hurt.
# %% [markdown] slug="objectives" lang="zh" of="60ef54b8"
# 这一课里，你会
#
# * 亲手把一段文本变成一个向量，与模型自己的输出一致；
# * 用三行代码写出训练它的损失，与库的结果一致；
# * 用这座城市的问题微调一个预训练编码器，在 CPU 上只要几分钟；
# * 测出提升及其置信区间，再看看哪些查询反而变差了。
# %% slug="load"
from retrieval_lab import corpora, embedding, profiles

profile = profiles.current()
city = corpora.load("city_services", lang=LANG).sample(profile.n_queries)
model = embedding.load(profile.encoder(LANG))
model
# %% [markdown] slug="tokens" lang="en"
# ## From tokens to one vector
#
# The encoder gives each token a vector of 384 numbers that depends on its neighbours. Two texts rarely have the
# same number of tokens, so each text first has to become **one** vector. The most common way is the average over its
# real tokens; padding, which only fills the batch up, must not count.
# %% [markdown] slug="tokens" lang="zh" of="16fbfa5b"
# ## 从词元到一个向量
#
# 编码器给每个词元（token）一个 384 维的向量，这个向量随上下文而变。两段文本的词元数往往不同，所以先要把每段文本合成**一个**向量。
# 最常用的办法是对真正的词元取平均；填充（padding）只是为了凑齐一批，不能算进去。
# %% slug="token-vectors"
import torch

texts = ["student pass", "学生票", "Where do I buy a term pass for college?"]
batch = model.tokenizer(texts, padding=True, return_tensors="pt")
with torch.no_grad():
    tokens = model[0].auto_model(**batch).last_hidden_state
mask = batch["attention_mask"]
tokens.shape, mask.tolist()


# %% slug="ex-mean-pool" tags=["exercise"]
def mean_pool(tokens, mask):  # (n, length, dim), (n, length)
    mask = mask.unsqueeze(-1)  # (n, length, 1)
    return (tokens * mask).sum(1) / mask.sum(1)  # solution: sum / number


# %% slug="check-mean-pool" tags=["check"]
from retrieval_lab.course import check

two_tokens = torch.tensor([[[1.0, 0.0], [3.0, 2.0], [9.0, 9.0]]])
real = torch.tensor([[1, 1, 0]])
check("mean_pool", lambda: mean_pool(two_tokens, real), [[2.0, 1.0]])
# %% [markdown] slug="unit" lang="en"
# Here a vector's direction carries the meaning, so each is scaled to length 1. The dot product of two such vectors is
# their **cosine**: 1 for the same direction, 0 at a right angle. Unrelated texts need not be near 0; how low they fall
# differs from model to model, so compare cosines only within one model.
# %% [markdown] slug="unit" lang="zh" of="bd98eb29"
# 这里只有向量的方向带有语义，所以把每个向量的长度都缩放到 1。两个这样的向量的点积就是它们的**余弦**：方向相同为 1，互相垂直为 0。
# 毫不相干的文本，余弦不一定接近 0：下面用的 E5，任意两段都在 0.79 以上。所以余弦只能在同一个模型内部比大小。
# %% slug="by-hand"
import numpy as np

pooled = mean_pool(tokens, mask)
by_hand = pooled / pooled.norm(dim=1, keepdim=True)
library = model.encode(texts, normalize_embeddings=True)
assert np.allclose(by_hand, library, atol=1e-5)
(by_hand @ by_hand.T).numpy().round(2)
# %% [markdown] slug="prompts" lang="en"
# Equal to the model's own `encode`; both sides went without a prompt. Some encoders were trained with such a short **prompt** before each text, "query: "
# or "passage: "; leaving it out, or putting it in twice, costs quality without an error message. It is saved with the
# model, and `encode_query` and `encode_document` put it in once.
# %% [markdown] slug="prompts" lang="zh" of="b3763418"
# 与模型自己的 `encode` 一致，因为两边都没有加提示词。有些编码器在训练时给每段文本前加了一小段**提示词**（prompt），如 "query: " 或 "passage: "；
# 漏加或重复加都不会报错，只会让效果变差。提示词随模型一起保存，`encode_query` 和 `encode_document` 会自动加一次。
# %% slug="show-prompts"
model.prompts


# %% [markdown] slug="loss" lang="en"
# ## The loss: find your own answer among the batch
#
# Training shows the model pairs of a query and the passage that answers it. In a batch of $n$ pairs, each query's
# own passage is the right class and the other $n - 1$ are the wrong ones: **in-batch negatives**. The loss is the
# cross-entropy of a softmax over cosines, divided by a **temperature**; 0.05 is common.
# %% [markdown] slug="loss" lang="zh" of="d1fa2045"
# ## 损失：在一批里认出自己的答案
#
# 训练时，模型看到的是成对的查询和能回答它的文档。
# 一批有 $n$ 对，对每个查询来说，与它配对的那篇是正确类别，其余 $n - 1$ 篇是错误类别，也就是**批内负例**（in-batch negatives）。
# 把余弦除以**温度**（temperature，常用 0.05），做 softmax 再取交叉熵，就是损失。
# %% slug="ex-info-nce" tags=["exercise"]
def info_nce(queries, docs, temperature=0.05):  # both (n, dim), rows of length 1
    scores = queries @ docs.T / temperature  # solution: (n, n) cosines / temperature
    log_softmax = scores - scores.logsumexp(dim=1, keepdim=True)  # solution
    return -log_softmax.diagonal().mean()  # solution: the right class is the diagonal


# %% slug="check-info-nce" tags=["check"]
check("info_nce", lambda: info_nce(torch.eye(2), torch.eye(2), 1.0), 0.3132617)
check("temperature", lambda: info_nce(torch.eye(2), torch.eye(2), 0.5), 0.1269280)
# %% [markdown] slug="loss-hand" lang="en"
# By hand: both queries have the scores 1 and 0, so the loss is $-\ln\frac{e}{e + 1} = 0.3133$; at temperature 0.5 the scores are 2 and 0. The library's loss
# on random vectors agrees:
# %% [markdown] slug="loss-hand" lang="zh" of="ab05011a"
# 手算：两个查询的得分都是 1 和 0，所以损失是 $-\ln\frac{e}{e + 1} = 0.3133$；温度取 0.5 时，得分变成 2 和 0。换成随机向量，与库算出的损失也一致：
# %% slug="loss-library"
from sentence_transformers.sentence_transformer import losses

unit = torch.nn.functional.normalize
torch.manual_seed(0)
queries, docs = (unit(torch.randn(8, 16)) for _ in range(2))
loss = losses.MultipleNegativesRankingLoss(model, scale=1 / 0.05)
library = loss.compute_loss_from_embeddings([queries, docs], None)
assert torch.isclose(info_nce(queries, docs), library)
library
# %% [markdown] slug="data" lang="en"
# ## The training file
#
# One JSON object a line: a query, passages that answer it, and hard negatives, near-twins that do not. They were
# derived from the 30 families of the train split; the families in the test split are others. The doctor looks for
# what usually goes wrong in such files, before any minute is spent on training.
# %% [markdown] slug="data" lang="zh" of="3d03fae9"
# ## 训练文件
#
# 每行一个 JSON 对象：一个查询、能回答它的文档，以及难负例（hard negatives），即很像但答不了的文档。
# 它们出自训练集的 30 个家族，测试集用的是另外的家族。开始训练之前，先让数据医生查一查这类文件常见的问题。
# %% slug="doctor"
from retrieval_lab import doctor

file = corpora.DATA / "city_services" / "training" / f"triplet.{LANG}.jsonl"
print(doctor.diagnose(file, lang=LANG))
# %% [markdown] slug="read-doctor" lang="en"
# One line has two passages that answer, so 840 lines make 841 rows. The warning is expected: each negative is a near-twin of
# the same family, hence the answer to some other question, and none of them was judged 2 or 3 for this one. In a file of
# your own, read such pairs. The last line is settled in training: no batch holds a passage twice.
# %% [markdown] slug="read-doctor" lang="zh" of="33aacded"
# 有一行带两篇能回答的文档，所以 840 行变成 841 条样本。警告在意料之中：每个负例都是同一家族里很像的文档，自然是另一个问题的答案；
# 对这个查询，没有一篇标为 2 或 3。换成你自己的数据，这些配对要读一读。最后一条提示在训练时解决：同一批里不会重复出现一篇文档。
# %% slug="read-data"
from retrieval_lab import formats

data = formats.read(file, "triplet", neg_nums=1)
data = data.select(range(profile.n_train or len(data)))
print(data)
data[0]["query"]
# %% [markdown] slug="before" lang="en"
# ## Before
#
# First measure what is to be improved. Keep the vectors of the untouched model: they serve for the comparison later.
# %% [markdown] slug="before" lang="zh" of="acb32e58"
# ## 微调之前
#
# 先测一测起点。未经微调的模型编码出的向量要留着，后面对比时要用。
# %% slug="zero-shot"
from retrieval_lab import experiment, lexical, search

words = lexical.BM25(city)
zero_shot = search.Dense(embedding.load(profile.encoder(LANG)), city, "zero-shot")
experiment.show(experiment.compare([words, zero_shot], city))
# %% [markdown] slug="train" lang="en"
# ## Fine-tuning
#
# The trainer is sentence-transformers' own. Two things make it quick on a CPU: batches of texts of like length, and no
# dropout. No batch holds a passage twice; otherwise a query would be pushed away from its own answer. In a
# multilingual model the word table, 96 of 118 million weights, stays as it is.
# %% [markdown] slug="train" lang="zh" of="823c8729"
# ## 微调
#
# 训练器用的就是 sentence-transformers 自己的。在 CPU 上跑得快靠两点：把长度相近的文本放在同一批，不用 dropout。
# 同一批里不会重复出现一篇文档，否则查询会被推离自己的答案。
# 多语言模型的词向量表占 1.18 亿个权重中的 0.96 亿个，训练时保持不动。
# %% slug="fine-tune"
from retrieval_lab.training import Config

config = Config(
    num_train_epochs=profile.epochs,
    per_device_train_batch_size=profile.per_device_train_batch_size,
    learning_rate=5e-5,
    temperature=profile.temperature(LANG),
    max_seq_length=profile.max_seq_length,
)
model = embedding.train(model, data, config)
# %% slug="after"
tuned = search.Dense(model, city, "fine-tuned")
both = search.Fused([words, tuned], "BM25 + fine-tuned")
table = experiment.compare([words, zero_shot, tuned, both], city, baseline="above")
experiment.show(table)
# %% [markdown] slug="read-after" lang="en"
# Each row is compared with the one above. Look at *fine-tuned*: if its interval lies above 0, the gain over *zero-shot* is
# more than the luck of these questions. Fusing it with BM25 brings no clear gain in nDCG@10 and costs Recall@10: on
# paraphrases BM25 finds next to nothing, and rank fusion trusts both lists alike. All this is about this city's help centre;
# other texts have to be measured.
#
# Alt text: one dot a system with the 95 % interval of its mean.
# %% [markdown] slug="read-after" lang="zh" of="40303029"
# 每一行都与上一行比较。看 *fine-tuned*：如果置信区间整个在 0 以上，相对 *zero-shot* 的提升就不只是这批问题碰巧带来的。
# 再与 BM25 融合，nDCG@10 没有明显提升，Recall@10 反而下降：换一种说法来问时，BM25 几乎什么都找不到，而排名融合对两边一视同仁。
# 这些结论只针对这座城市的帮助中心；别的文本要另外测量。
#
# 图示：每个系统一个点，横线是均值的 95 % 置信区间。
# %% slug="plot-after"
from retrieval_lab import plots

ax = plots.comparison(table.iloc[:3])
# %% [markdown] slug="nicknames" lang="en"
# ## What did it learn?
#
# Part of the answer is vocabulary. Queries with a nickname name an office or a card as only citizens do; the model has met
# it in training questions of *other* families. Paraphrases, the hardest type, seldom hold one (8 of 91); both groups leave
# them out, or the groups would differ in more than nicknames. Compare the step from *zero-shot* to *fine-tuned* in the two
# columns.
# %% [markdown] slug="nicknames" lang="zh" of="c786a20c"
# ## 它学到了什么？
#
# 一部分是词汇。带俗名的查询用的是只有市民才用的叫法；训练时，模型在**别的**家族的问题里见过这些俗名。
# 换说法的查询（paraphrase）最难，又很少带俗名（91 个里只有 8 个），所以两组都不算它，否则两组的差别就不只是俗名了。
# 比较两列里从 *zero-shot* 到 *fine-tuned* 各升了多少。
# %% slug="nickname-gain"
import pandas as pd


direct = city.where(type=lambda kind: kind != "paraphrase")
groups = {
    "with nickname": direct.where(nicknames=bool),
    "without": direct.where(nicknames=lambda names: not names),
}
scores = pd.DataFrame(table.attrs["per_query"], index=list(city.queries))
means = {name: scores.loc[list(group.queries)].mean() for name, group in groups.items()}
pd.DataFrame(means).round(3)
# %% [markdown] slug="heatmap" lang="en"
# Cosines of four questions with four passages of one family, before and after. The right passage of each question
# is on the diagonal; training should make the diagonal stand out.
#
# Alt text: two 4 × 4 grids of cosines; darker means closer.
# %% [markdown] slug="heatmap" lang="zh" of="8846cac7"
# 同一家族里四个问题与四篇文档的余弦，左为微调前，右为微调后。每个问题的正确文档在对角线上；训练应当让对角线更突出。
#
# 图示：两个 4 × 4 的余弦矩阵，颜色越深越接近。
# %% slug="plot-heatmap"
import matplotlib.pyplot as plt

names = ["standard", "electric", "cargo", "winter"]
doc_ids = [f"cycle-hire.{name}" for name in names]
full = corpora.load("city_services", lang=LANG)
answered = {d: q for q, g in full.qrels.items() for d in doc_ids if g.get(d) == 3}
questions = [full.queries[answered[d]] for d in doc_ids]
figure, axes = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
for ax, index in zip(axes, [zero_shot, tuned], strict=True):
    vectors = index.vectors[[index.doc_ids.index(d) for d in doc_ids]]
    asked = embedding.encode(index.model, questions, "query")
    labels = [f"Q{i}" for i in range(1, 5)]
    plots.heatmap(asked @ vectors.T, labels, names, index.name, ax)
questions
# %% [markdown] slug="map" lang="en"
# A passage is found when it is the darkest of its row: the gap within a row counts, not its height. Here the right passage
# led every row before training already; training widens some gaps and narrows others. Four questions are a picture, not a
# measurement.
#
# The same vectors on a plane: five test families, passages as dots, their questions as crosses. Before training, questions
# and passages lie apart, most of all in E5, which puts different prompts before them; afterwards they mix by family. The
# projection (PCA, fitted to each picture) keeps only a small part of 384 dimensions: see neighbourhoods in it, measure
# nothing.
#
# Alt text: two scatter plots, one colour a family.
# %% [markdown] slug="map" lang="zh" of="9fee9839"
# 排序看的是同一行里的差距，不是数值高低。这四行在微调之前，正确的文档就已经最高；微调拉大了其中几行的差距，也缩小了个别的。
# 四个问题只是示意，不是测量。
#
# 把同样的向量画到平面上：五个测试家族，圆点是文档，叉是问题。
# 微调前，问题和文档各在一边（E5 给两者加的提示词就不同）；微调后，两者按家族混到了一起。
# 这种投影（PCA，两张图各自计算）只保留 384 维里的一小部分信息；可以用来看谁和谁相邻，不能用来度量。
#
# 图示：两张散点图，每个家族一种颜色。
# %% slug="plot-map"
from sklearn.decomposition import PCA

families = ["cycle-hire", "library-loan", "water-bill", "pool-tickets", "school-meals"]
docs = [d for d in full.corpus if d.split(".")[0] in families]
asked = [q for q in full.queries if q.split(".")[0] in families]
figure, axes = plt.subplots(1, 2, figsize=(10, 4.5), layout="constrained")
for ax, index in zip(axes, [zero_shot, tuned], strict=True):
    passages = index.vectors[[index.doc_ids.index(d) for d in docs]]
    asking = embedding.encode(index.model, [full.queries[q] for q in asked], "query")
    points = PCA(2).fit_transform(np.concatenate([passages, asking]))
    labels = [i.split(".")[0] for i in docs + asked]
    is_query = [False] * len(docs) + [True] * len(asked)
    plots.map_2d(points, labels, is_query, index.name, ax)
# %% [markdown] slug="worse" lang="en"
# ## Which queries got worse?
#
# A mean that rises still hides losses. Each bar is one query; blue gained, orange lost, the gap between them stayed the
# same. Read the worst ones before you trust any gain: they show what the training data did not cover, or a judgement that
# is wrong.
#
# Alt text: bars sorted by change in nDCG@10.
# %% [markdown] slug="worse" lang="zh" of="4db3532f"
# ## 哪些查询变差了？
#
# 平均值上升，仍可能有查询变差。每根柱子是一个查询，蓝色变好，橙色变差，中间空着的没有变化。
# 相信提升之前，先读一读变差最多的几条：它们会暴露训练数据没有覆盖到的地方，或者有误的标注。
#
# 图示：按 nDCG@10 的变化排列的柱子。
# %% slug="plot-worse"
before, after = scores["zero-shot"], scores["fine-tuned"]
ax = plots.differences(before, after)
worst = (after - before).sort_values().head(3)
[(city.queries[q], round(change, 2)) for q, change in worst.items()]
# %% [markdown] slug="save" lang="en"
# ## Saved, and loaded without us
#
# The folder holds weights, pooling, prompts and length. Plain sentence-transformers loads it and gives the same vectors,
# also for an empty text and for one of 1,800 characters.
# %% [markdown] slug="save" lang="zh" of="1aee3b4a"
# ## 保存，然后不靠本仓库加载
#
# 文件夹里有权重、池化方式、提示词和最大长度。直接用 sentence-transformers 加载，得到的向量相同，空文本和 1,800 字符的长文本也不例外。
# %% slug="reload"
import tempfile

from sentence_transformers import SentenceTransformer

texts = [*questions, "", "鹭桥 Heronbridge " * 120]
with tempfile.TemporaryDirectory() as folder:
    model.save_pretrained(folder)
    again = SentenceTransformer(folder)
same = again.encode_query(texts, batch_size=1, normalize_embeddings=True)
assert np.allclose(same, embedding.encode(model, texts, "query"), atol=1e-5)
again


# %% [markdown] slug="exercise-text" lang="en"
# ## Exercise: which other pooling?
#
# Some models take the first token's vector instead of the mean. Write `cls_pool`. What would happen if a model trained
# with one were used with the other? `embedding.load` refuses to guess.
# %% [markdown] slug="exercise-text" lang="zh" of="ffd57a22"
# ## 练习：另一种池化
#
# 有些模型不取平均，而取第一个词元的向量。写出 `cls_pool`。
# 训练时用一种、使用时换另一种，会怎样？`embedding.load` 不会替你猜。
# %% slug="ex-cls-pool" tags=["exercise"]
def cls_pool(tokens):  # (n, length, dim)
    return tokens[:, 0]  # solution: the first token of each text


# %% slug="check-cls-pool" tags=["check"]
check("cls_pool", lambda: cls_pool(two_tokens), [[1.0, 0.0]])
# %% [markdown] slug="recap" lang="en"
# ## Recap
#
# You pooled token vectors into one, wrote the in-batch loss, fine-tuned a real encoder on 840 questions,
# measured the gain with its interval, and read the queries that it hurt. To scale up, set the environment variable
# `RETRIEVAL_LAB_PROFILE=full`: the same cells then load a larger model from the hub and use the GPU.
#
# **Further reading.** Reimers & Gurevych 2019, *Sentence-BERT*; Henderson et al. 2017 (in-batch negatives);
# Karpukhin et al. 2020, *Dense Passage Retrieval*; Wang et al. 2024, *Multilingual E5*.
# %% [markdown] slug="recap" lang="zh" of="52a8f454"
# ## 回顾
#
# 你把词元向量池化（pooling）成一个向量，写出了用批内负例的损失，用 840 个问题微调了真实的编码器，测出了提升及其置信区间，也读了变差的查询。
# 想扩大规模，就设置环境变量 `RETRIEVAL_LAB_PROFILE=full`：同样的单元格会从 Hugging Face Hub 加载更大的模型，并使用 GPU。
#
# **延伸阅读。** Reimers、Gurevych 2019，*Sentence-BERT*；Henderson 等 2017（批内负例）；
# Karpukhin 等 2020，*Dense Passage Retrieval*；Wang 等 2024，*Multilingual E5*。
