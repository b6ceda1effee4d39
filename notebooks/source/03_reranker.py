# %% [markdown] slug="objectives" lang="en"
# In this lesson you
#
# * compute a cross-encoder's score and its losses by hand, and get the library's numbers;
# * fine-tune one from your retriever's weights, on what that retriever confuses;
# * choose on the dev split how much to trust it, and measure it alone and together with the retriever;
# * find where reranking helps, where it hurts, and what a score of 0.8 means.
# %% [markdown] slug="objectives" lang="zh" of="e9cd497c"
# 这一课里，你会
#
# * 亲手算出交叉编码器的得分和损失，与库的结果一致；
# * 从检索器的权重出发，用检索器分不清的文档微调一个交叉编码器；
# * 在验证集上选定该信它几分，再测它单独用、与检索器合用各有多好；
# * 看清重排在哪里有用，在哪里帮倒忙，以及 0.8 分到底是什么意思。
# %% slug="load"
from retrieval_lab import corpora, demo, profiles, search

profile = profiles.current()
splits = {
    name: corpora.load("city_services", LANG, name) for name in ("train", "dev", "test")
}
city = splits["test"].sample(profile.n_queries or 200)  # make demo: all 364
retriever = demo.retriever(LANG)
first = search.Dense(retriever, city, "retriever")
city
# %% [markdown] slug="two-texts" lang="en"
# The retriever is the one of lesson 01: `make demo` keeps it, and so does the first lesson that needs it. If neither
# has run here, it is trained now, in two to four minutes.
#
# ## What a bi-encoder cannot see
#
# A bi-encoder turns query and passage into vectors **separately**; the passage's vector was fixed before anyone asked.
# A **cross-encoder** reads both together: every word of the question can look at every word of the passage. That can be
# more exact, and it is slow: nothing can be computed in advance. So it only rereads the few best documents of a first stage.
# %% [markdown] slug="two-texts" lang="zh" of="a2b7d94d"
# 检索器就是第 01 课的那个：`make demo` 会存下一份，第一个用到它的课也会。都没跑过的话，现在训练（两到四分钟）。
#
# ## 双编码器看不到什么
#
# 双编码器（bi-encoder）把查询和文档**分开**变成向量；还没有人提问，文档的向量就已经定下来了。
# **交叉编码器**（cross-encoder）把两者放在一起读，问题里的每个词都能看到文档里的每个词。
# 这样可以判断得更准，但也更慢，因为什么都不能提前算好。所以它只重读第一阶段找到的前几篇，这一步叫重排（reranking）。
# %% slug="fresh"
import tempfile

from retrieval_lab import reranker

start = tempfile.mkdtemp()
retriever.save_pretrained(start)
untrained = reranker.load(start)
small = profiles.PROFILES["fast"].encoder(LANG)  # FULL's encoder has another head
by_hand = reranker.load(small) if profile.name == "full" else untrained
by_hand
# %% [markdown] slug="fresh-read" lang="en"
# A cross-encoder is an encoder with one number on top. The encoder's weights come from the retriever, the **head** that
# makes the number is new and random. The two texts go in as one sequence, with a separator between them:
# %% [markdown] slug="fresh-read" lang="zh" of="324cb44d"
# 交叉编码器就是一个编码器，顶上再接一个输出数字的头。
# 编码器的权重来自检索器，**头**（head）是新加的，随机初始化。两段文本连成一个序列输入，中间用分隔符隔开：
# %% slug="pair"
import torch

texts = {
    "en": ("How much is a day ticket?", "A day ticket costs 6 crowns."),
    "zh": ("一日票多少钱？", "一日票的票价是 6 元。"),
}
query, doc = texts[LANG]
pair = by_hand.tokenizer(query, doc, return_tensors="pt")
by_hand.tokenizer.decode(pair["input_ids"][0])
# %% [markdown] slug="forward" lang="en"
# ## The score by hand
#
# The retriever has learned to gather a text in the **mean** of its token vectors, so the head reads the mean of the
# pair: a linear layer makes one number of it, the **logit**, which may be any real number. Write the head.
#
# BERT's own classification head reads the first token instead; `reranker.load` gives that one to encoders that pool by
# it. From the mean, our retrievers learn with far fewer questions: with the same 320 in Chinese, this lesson's cross-encoder
# added .020 to the retriever on dev, and one on the first token nothing.
# %% [markdown] slug="forward" lang="zh" of="089074b7"
# ## 手算得分
#
# 检索器学会的，是用词元向量的**平均**来概括一段文本，所以头读的也是这一对文本的平均向量，再用一个线性层变成一个数。
# 这个数可以是任意实数，叫作 **logit**。写出这个头。
#
# BERT 自带的分类头读的是第一个词元；编码器如果用第一个词元池化（pooling），`reranker.load` 就给它配这种头。
# 对我们的检索器来说，读平均向量学得快得多：同样用 320 个中文问题训练，这一课的交叉编码器在验证集上给检索器加了 .020，读第一个词元的那个一点没加。


# %% slug="ex-head" tags=["exercise"]
def head(tokens, weight, bias):  # (length, dim), (dim,), a number
    pooled = tokens.mean(dim=0)  # solution: one vector for the pair
    return weight @ pooled + bias  # solution


# %% slug="check-head" tags=["check"]
from retrieval_lab.course import check

example = torch.tensor([[1.0, 4.0], [3.0, 0.0]])  # two tokens, mean (2, 2)
check("head", lambda: head(example, torch.tensor([1.0, 0.5]), 0.25), 3.25)
# %% slug="forward-real"
import numpy as np

last = by_hand[-1].linear
with torch.no_grad():
    tokens = by_hand.model(**pair).last_hidden_state[0]  # (length, dim)
    logit = head(tokens, last.weight[0], last.bias[0])
package = reranker.score(by_hand, [(query, doc)])
library = by_hand.predict([(query, doc)], activation_fn=torch.nn.Identity())
assert np.allclose(logit, library, atol=1e-5) and np.allclose(package, library)
logit.item()
# %% [markdown] slug="bce" lang="en"
# ## Losses
#
# **One document at a time.** The logit $x$ becomes a probability $p = 1 / (1 + e^{-x})$, and the label $y$ says what it
# should be: 1 for an answer, 0 for none, in between for a partial one. The binary cross-entropy is
# $-y \ln p - (1 - y) \ln (1 - p)$, averaged over the pairs (`point_ce`).
# %% [markdown] slug="bce" lang="zh" of="bc56b954"
# ## 损失
#
# **逐篇看（pointwise）。** logit $x$ 换算成概率 $p = 1 / (1 + e^{-x})$，标签 $y$ 是它该有的值：能回答为 1，不能为 0，只答一部分就取中间值。
# 二元交叉熵是 $-y \ln p - (1 - y) \ln (1 - p)$，对所有文本对取平均（`point_ce`）。


# %% slug="ex-bce" tags=["exercise"]
def bce(logits, labels):  # both (n,)
    p = torch.sigmoid(logits)  # solution: the probability
    return -(labels * p.log() + (1 - labels) * (1 - p).log()).mean()  # solution


# %% slug="check-bce" tags=["check"]
logits, labels = torch.tensor([0.0, 2.0]), torch.tensor([1.0, 0.5])
check("bce", lambda: bce(logits, labels), 0.9100376)
# %% slug="bce-library"
library = torch.nn.functional.binary_cross_entropy_with_logits(logits, labels)
assert torch.isclose(bce(logits, labels), library)
library
# %% [markdown] slug="listwise" lang="en"
# **All candidates of a query at once.** A reranker only has to order. `listwise` compares two distributions over the
# candidates: the softmax of the scores should equal the softmax of the labels (divided by 0.1, so that the best label gets
# nearly everything). By hand, for one query with grades 3, 1 and 0, scaled to 0…1:
# %% [markdown] slug="listwise" lang="zh" of="93cf1a39"
# **把一个查询的候选放在一起看（listwise）。** 重排器只需要排出先后。
# `listwise` 比较候选上的两个分布：得分的 softmax 应当等于标签的 softmax（标签先除以 0.1，让最好的那篇几乎占满）。
# 拿一个查询手算，三篇的等级是 3、1、0，缩放到 0…1：
# %% slug="listwise-hand"
grades, scores = torch.tensor([3.0, 1.0, 0.0]) / 3, torch.tensor([1.0, 2.0, 0.0])
target = torch.softmax(grades / 0.1, dim=0)
loss = -(target * torch.log_softmax(scores, dim=0)).sum()
assert torch.isclose(loss, torch.nn.functional.cross_entropy(scores, target))
[round(x, 3) for x in target.tolist()], round(loss.item(), 4)
# %% [markdown] slug="listwise-read" lang="en"
# The second document scores highest, so the loss is large: about $\ln(1 + e + e^{-1})$. `pairwise`, `lambda` and
# `point_mse` are further choices of `reranker.train`; all are the library's own losses.
#
# ## Training lists: what the retriever confuses
#
# Each training list holds three passages: the query's best one, the one that the retriever puts highest beside it, and
# one drawn from the whole corpus. All carry their **grades**: 3 answers fully, 2 in part, 1 is a near-twin that does not, 0
# is neither. The hard one is what the reranker is for. The easy one gives a head that knows nothing something to begin
# with: on dev, 320 such lists took the English retriever as far as 840 lists of hard passages alone (.637 and .636).
# %% [markdown] slug="listwise-read" lang="zh" of="5ef83828"
# 得分最高的是第二篇，所以损失很大：约为 $\ln(1 + e + e^{-1})$。`reranker.train` 还有 `pairwise`、`lambda`、`point_mse` 可选，用的都是库自带的损失。
#
# ## 训练列表：检索器分不清的那些
#
# 每个训练列表有三篇文档：该查询最好的一篇，检索器排在最前的另一篇，和从整个语料库里随机抽的一篇。
# 它们都带着**相关等级**：3 完全回答，2 回答一部分，1 是答不了的近似文档，0 是其余的。
# 难的那篇正是重排器要对付的；容易的那篇，让什么都不会的头有个起点：在英文验证集上，320 个这样的列表，和 840 个只有难文档的列表效果相同（.637 与 .636）。
# %% slug="candidates"
train = splits["train"].sample(profile.n_lists)
found = search.Dense(retriever, train, "retriever", first.vectors)  # same passages
lists = reranker.candidates(found, train, demo.CANDIDATES)
row = lists[1]
titles = [text.split("\n")[0] for text in row["document"]]
row["query"], list(zip(titles, row["label"], strict=True))
# %% [markdown] slug="original" lang="en"
# ## Before
#
# First, the row that shows what training has to do. With its random head the cross-encoder's order is noise; a few dozen
# queries are enough to see it.
# %% [markdown] slug="original" lang="zh" of="ff6b97d2"
# ## 微调之前
#
# 先看起点。头是随机的，交叉编码器排出的次序就是噪声；几十个查询就足以看出来。
# %% slug="original-table"
from retrieval_lab import experiment

few = city.sample(40)
before = search.Reranked(first, untrained, few, depth=demo.DEPTH, name="original")
experiment.show(experiment.compare([first, before], few))
# %% [markdown] slug="train" lang="en"
# ## Fine-tuning
#
# The next cell takes two to three minutes. It reads 420 questions with three passages each, half of what there is; passages
# are read nearly whole, because the fact that decides often stands near the end. The learning rate is four times the
# retriever's: the head starts from nothing. Only the upper six layers are trained (`freeze_layers`). `e5-small`
# in the Chinese notebook has twelve, so that saves a third of its time; `minilm` has no more than six.
# %% [markdown] slug="train" lang="zh" of="d2bcdbb3"
# ## 微调
#
# 下一个单元格要跑两三分钟。它读 420 个问题（全部的一半），每个配三篇文档；文档几乎整篇读入，因为关键的那句话常在末尾。
# 学习率是检索器的四倍：头要从零学起。
# 只训练靠上的六层（`freeze_layers`）：`e5-small` 有十二层，这样省下三分之一的时间；英文 notebook 用的 `minilm` 本来就只有六层。
# %% slug="fine-tune"
config = demo.reranker_config(profile, "runs/lesson-03")
cross = reranker.load(start)
frozen = demo.frozen_layers(cross)
cross = reranker.train(cross, lists, config, freeze_layers=frozen)
config.learning_rate, config.max_seq_length, frozen
# %% [markdown] slug="dev" lang="en"
# ## How much to trust it, chosen on dev
#
# Two scores, two views: the retriever has compared the whole corpus, the cross-encoder has read closely. Both were
# trained with a softmax: over the cross-encoder's logits, and over the retriever's cosines divided by its
# **temperature**. On that scale they can be added, with a **weight**: multiplying two models' probabilities adds
# their logits. Score once, then try weights; never on the test split.
# %% [markdown] slug="dev" lang="zh" of="b0b06eea"
# ## 该信它几分：在验证集上选
#
# 两个得分，两种眼光：检索器比较过整个语料库，交叉编码器读得更仔细。
# 两者都是用 softmax 训练的：一个对 logit 做，一个对余弦除以**温度**后的值做。换到这个尺度上就可以按**权重**相加：logit 相加，就是两个模型的概率相乘。
# 得分只算一次，然后试不同的权重；不能用测试集来选。
# %% slug="dev-scores"
from retrieval_lab import fusion, metrics

dev = splits["dev"].sample(min(60, profile.n_queries or 60))
dev_first = search.Dense(retriever, dev, "retriever", first.vectors)
run = dev_first.search(dev.queries, 100)
deep = search.Reranked(dev_first, cross, dev, depth=8)
rescored = deep.scores(dev.queries, run)  # query -> document -> logit
t = profile.temperature(LANG)  # of the retriever's training


def ndcg(depth, weight):
    head_of = {q: dict(list(found.items())[:depth]) for q, found in rescored.items()}
    mixed = {q: fusion.interpolate(run[q], head_of[q], weight, t) for q in run}
    return metrics.evaluate(dev.qrels, mixed, ["nDCG@10"])["nDCG@10"]


# %% slug="weights"
from retrieval_lab import plots

weights = [0, 0.2, 0.4, 0.5, 0.6, 0.8, 1]
points = {w: ndcg(demo.DEPTH, w) for w in weights}
what = plots.label(en="weight of the cross-encoder", zh="交叉编码器的权重")
ax = plots.curve(points, "nDCG@10", what, baseline=points[0])
# %% [markdown] slug="weights-read" lang="en"
# Weight 0 is the retriever alone, weight 1 the cross-encoder alone, 0.5 the plain sum. Find the highest point, then
# see how flat the curve is around it: on a flat stretch the exact weight hardly matters. These are 60 dev questions, to
# save your time; on all 140 the plain sum, `demo.WEIGHT`, took the retriever from .626 to .638 (in Chinese from .622 to
# .645), and from here on both languages use it.
#
# Alt text: nDCG@10 against the weight; a dotted line marks the retriever alone.
#
# ## How deep
#
# A deeper first stage gives the reranker more answers to find, and more chances to be wrong. Each step costs time.
# %% [markdown] slug="weights-read" lang="zh" of="23561a44"
# 权重为 0 就是只用检索器，为 1 就是只用交叉编码器，0.5 就是直接相加。先找最高点，再看它附近平不平：曲线越平，权重取多少越无所谓。
# 为了省时间，这里只用了 60 个验证问题；在全部 140 个上，直接相加（`demo.WEIGHT`）把检索器从 .622 提到 .645（英文从 .626 提到 .638），下面两种语言都用它。
#
# 图示：横轴是权重，纵轴是 nDCG@10，虚线是只用检索器的水平。
#
# ## 重排多深
#
# 第一阶段给得越多，重排器能找回的答案越多，出错的机会也越多。每加深一步都要花时间。
# %% slug="depths"
depths = [1, 2, 3, 4, 5, 6, 8]
mixed = {depth: ndcg(depth, demo.WEIGHT) for depth in depths}
alone = {depth: ndcg(depth, 1.0) for depth in depths}
what = plots.label(en="depth", zh="重排深度")
ax = plots.curve(mixed, "nDCG@10", what, baseline=ndcg(1, 0))
ax.plot(depths, list(alone.values()), "o-", color=plots.COLOURS["orange"])
alone
# %% [markdown] slug="depths-read" lang="en"
# Blue: both scores; orange: the cross-encoder alone; dotted: no reranking. Where the orange line falls, more
# candidates mean more to be fooled by, and its training lists were short. The title names the highest point, but from 4 to 8
# the blue line moves by less than .01, and each step costs time. From here on five documents are reranked (`demo.DEPTH`).
#
# Alt text: nDCG@10 against depth, 1 to 8: two lines, and a dotted level.
#
# ## Measured on test
# %% [markdown] slug="depths-read" lang="zh" of="57ea61fb"
# 蓝线用两个得分，橙线只用交叉编码器，虚线是不重排。橙线往下走的地方，是候选一多，迷惑它的也多了，而它训练时见到的列表很短。
# 标题写的是最高的一点，可从 4 到 8，蓝线的起伏不到 .01，而每加深一步都要花时间。下面都重排 5 篇（`demo.DEPTH`）。
#
# 图示：横轴是深度 1 到 8，纵轴是 nDCG@10，两条折线和一条虚线。
#
# ## 在测试集上测量
# %% slug="table"
only, both = demo.reranked(first, cross, city)
table = experiment.compare([first, only, both], city)
experiment.show(table)
# %% [markdown] slug="table-read" lang="en"
# Three rows, and the middle one matters: trained on a few hundred questions, a small cross-encoder **alone** can fall below the
# retriever that chose its candidates. In English it does, not settled (interval up to +.001); in Chinese it stands above, but below on dev. The last row's interval is
# the gain of both over the retriever; in English it touches 0. Over all 364, `make demo` finds +.018 (+.008 to +.028) in English and +.031 (+.020 to +.042) in Chinese. It is one training run with one seed, on this corpus; a reranker
# trained on millions of pairs can stand alone.
# *ms/query* is the price.
#
# Alt text: one dot per system with the 95 % interval of its nDCG@10.
# %% [markdown] slug="table-read" lang="zh" of="523e97e3"
# 三行都要看，中间一行尤其要看：只用几百个问题训练，小的交叉编码器**单独**用，可能还不如给它挑候选的检索器。英文就偏低，但还不能下结论（-.025，上端 +.001）；中文反而高出 .029，可在 60 个验证问题上它却低于检索器。
# 再看最后一行的置信区间：它是两者合用相对检索器的提升；这 200 个问题上，英文的下端碰到 0。在全部 364 个问题上，`make demo` 测得英文 +.018（+.008 到 +.028），中文 +.031（+.020 到 +.042）。
# 这只是在这个语料库上、用一个随机种子训练一次的结果；用上百万对文本训练的重排器可以单独用。
# 还要看 *ms/query*，那就是代价。
#
# 图示：每个系统一个点，横线是 nDCG@10 的 95 % 置信区间。
# %% slug="plot-table"
ax = plots.comparison(table)
# %% [markdown] slug="cases" lang="en"
# ## What the bi-encoder missed
#
# Three questions of the test split whose answer moved up most: the question, what the retriever had put first, and what
# stands first now. Do both belong to one family of near-twins, so that a detail decides? In one of the three they do, in either language; in the
# others the retriever's first is about something else (grade 0).
# %% [markdown] slug="cases" lang="zh" of="cda1082c"
# ## 双编码器漏掉了什么
#
# 测试集里答案上升最多的三个问题：问题本身，检索器原来排在第一的，和现在排在第一的。
# 两篇是不是出自同一个近似文档家族，只差一个细节？三个里只有第一个是。三个问题都说“铅笔头”，这是市民对学生卡的叫法，文档里只写学生卡；训练问题里有这个别名。
# %% slug="three-cases"
import pandas as pd

runs, values = table.attrs["runs"], table.attrs["per_query"]
gain = pd.Series(values[both.name] - values[first.name], index=list(city.queries))


def top(name, q):
    best = max(runs[name][q], key=runs[name][q].get)
    return f"{city.corpus[best].splitlines()[0]} ({city.qrels[q].get(best, 0)})"


def cases(chosen):
    rows = [(city.queries[q], top(first.name, q), top(both.name, q)) for q in chosen]
    return pd.DataFrame(rows, columns=["query", "before (grade)", "after (grade)"])


cases(gain.nlargest(3).index)
# %% [markdown] slug="hurts" lang="en"
# ## Where it hurts
#
# Each bar is one query. A reranker that helps on average still spoils some; read the worst before you put it in front of
# people. And it can never find what the first stage left below the depth.
#
# Alt text: bars sorted by change in nDCG@10, gains in blue at the left, losses in red at the right.
# %% [markdown] slug="hurts" lang="zh" of="e03464a4"
# ## 在哪里帮倒忙
#
# 每根柱子是一个查询。平均有用的重排器也会弄坏一些查询；上线之前，先读一读最糟的几个。
# 第一阶段没有放进候选的，它永远找不回来。
#
# 图示：按 nDCG@10 的变化从大到小排列的柱子，左边蓝色是变好，右边红色是变差。
# %% slug="plot-hurts"
ax = plots.differences(values[first.name], values[both.name])
cases(gain.nsmallest(3).index)
# %% slug="ceiling"
in_reach = [
    any(city.qrels[q].get(d, 0) == 3 for d in list(found)[: demo.DEPTH])
    for q, found in runs[first.name].items()
]
float(np.mean(in_reach))
# %% [markdown] slug="ceiling-read" lang="en"
# This share of the questions has a full answer within reach. In the others a reranker can at best move up a part of an answer (grade 2): the full one needs a better first
# stage, or a deeper one.
#
# ## What does a score mean?
#
# Listwise training fixes the order within a query and nothing else: adding 5 to every score leaves the loss as it
# was. So "0.8" is no probability yet. Take the dev pairs: is the passage an answer (grade 2 or 3), and what does the
# sigmoid say?
# %% [markdown] slug="ceiling-read" lang="zh" of="160aaef4"
# 在这个比例的问题上，完整的答案就在重排够得着的范围里。其余的，重排器最多把只答了一部分的文档（等级 2）往前提；要拿到完整的答案，得换更好的第一阶段，或者取得更深。
#
# ## 分数是什么意思？
#
# listwise 训练只管同一个查询内部的先后：所有得分都加 5，损失不变。所以“0.8”还不是概率。
# 拿验证集的文本对来看：这篇是不是答案（等级 2 或 3），sigmoid 又说是多少？
# %% slug="reliability-before"
pairs = [(q, d) for q, docs in rescored.items() for d in list(docs)[: demo.DEPTH]]
dev_logits = np.array([rescored[q][d] for q, d in pairs])
answers = np.array([dev.qrels[q].get(d, 0) >= 2 for q, d in pairs])
said = 1 / (1 + np.exp(-dev_logits))
ax = plots.reliability(said, answers)
# %% [markdown] slug="calibrate" lang="en"
# On the dotted diagonal, of all pairs with 0.8 eight in ten would be answers. `reranker.calibrate` fits a line to the
# logits (Platt scaling) and writes it into the last layer: the order stays, the saved model gives probabilities. Fitted on
# dev, checked on test pairs:
#
# Alt text: groups of pairs as dots; horizontal what the model says, vertical how often it is right.
# %% [markdown] slug="calibrate" lang="zh" of="11f7b335"
# 如果落在虚线对角线上，得 0.8 的文本对，十对里就该有八对是答案。
# `reranker.calibrate` 给 logit 拟合一条直线（Platt 缩放），写进最后一层：次序不变，存下来的模型直接给出概率。
# 在验证集上拟合，再用测试集的文本对检查：
#
# 图示：每个点是一组文本对，横轴是模型给的概率，纵轴是其中答案的比例。
# %% slug="reliability-after"
cut = reranker.threshold(dev_logits, answers)
scored = {q: list(found.items())[: demo.DEPTH] for q, found in runs[only.name].items()}
test_pairs = [(q, d) for q, found in scored.items() for d, _ in found]
test_logits = np.array([x for found in scored.values() for _, x in found])
truth = np.array([city.qrels[q].get(d, 0) >= 2 for q, d in test_pairs])
if profile.name != "smoke":  # a test run's model has learned next to nothing
    reranker.calibrate(cross, dev_logits, answers)
some = np.random.default_rng(0).permutation(len(test_pairs))[:200]
chosen = [test_pairs[i] for i in some]
texts = [(city.queries[q], city.corpus[d]) for q, d in chosen]
probability = reranker.score(cross, texts, sigmoid=True)
ax = plots.reliability(probability, truth[some], bins=5)
# %% [markdown] slug="threshold" lang="en"
# The line is nearer to the diagonal, and shorter: even the surest fifth says about 0.5 on average. (The first figure had dev pairs and
# eight groups, so compare the shapes, not the titles.)
#
# A **threshold** turns scores into "answer" or "no answer": the one with the best F1, the harmonic mean of precision and recall, on dev. On
# test, among the five candidates, the English one is strict and misses most answers, the Chinese one lets through more wrong
# documents than answers. `cut` is a logit from **before** calibration: for the saved model, choose it again.
# %% [markdown] slug="threshold" lang="zh" of="ab9a58e3"
# 折线靠近了对角线，也变短了：最有把握的那五分之一，平均也只给 0.5 左右。（前一张图用的是验证集，分八组，所以比形状，别比标题里的数。）
#
# **阈值**把得分变成“是答案”或“不是答案”：取验证集上 F1（精确率与召回率的调和平均）最高的那个。
# 在测试集的五篇候选里，英文的阈值偏严，漏掉了多数答案；中文的偏松，放进来的错误文档比答案还多。
# `cut` 是校准**之前**的 logit：用存下来的模型，要重新选。
# %% slug="precision"
said_yes = test_logits >= cut
precision = (said_yes & truth).sum() / max(1, said_yes.sum())
recall = (said_yes & truth).sum() / truth.sum()
{"cut": round(cut, 2), "precision": float(precision), "recall": float(recall)}
# %% [markdown] slug="long" lang="en"
# ## Texts that are too long
#
# Two traps. An overlong *query* must not push the document out: the tokenizer shortens the longer of the two. An overlong
# *document* loses its end, and maybe the answer; `slices=True` reads it in overlapping pieces and takes the best score. A
# short document has the same score either way.
#
# Pieces are as long as the model reads: 256 tokens in English, 512 in Chinese. It was trained on 176, and in a longer piece
# the mean over all tokens thins an answer out. In the Chinese notebook pieces do not find it again; `cross.max_seq_length = 176`
# makes shorter ones, which do (without calibration: answer alone 2.29, in pieces of 512 tokens -2.25, of 176 tokens 2.30).
# %% [markdown] slug="long" lang="zh" of="ec1728b5"
# ## 文本太长
#
# 有两个陷阱。**查询**太长，不能把文档挤掉：分词器会截断两者中较长的那个。
# **文档**太长，末尾会丢，答案可能就在那里；`slices=True` 把它切成有重叠的几片分别打分，取最高分。短文档用哪种方式得分都一样。
#
# 每片的长度就是模型能读的长度：英文 256 个词元，中文 512 个。而训练时只读 176 个；片越长，对全部词元取平均就越会把答案冲淡。
# 下面的中文结果里，切片也没能把答案找回来；设 `cross.max_seq_length = 176`，切得短一些，就找得回来
# （校准之前：只有答案 2.29，512 个词元一片 -2.25，176 个词元一片 2.30）。
# %% slug="slices"
question, answer = row["query"], row["document"][0]
filler = "".join(list(city.corpus.values())[:6])
options = {"cut": {}, "slices": {"slices": True}}
rows = {
    name: reranker.score(cross, [(question, answer), (question, filler + answer)], **o)
    for name, o in options.items()
}
pd.DataFrame(rows, index=["answer alone", "answer after six passages"]).round(2)
# %% [markdown] slug="save" lang="en"
# ## Saved, and used without us
#
# The folder is a plain CrossEncoder; sentence-transformers gives the same scores, already as probabilities.
# `reranker.rerank` returns places in your list, best first, each with its logit: 0.38 means a probability of 0.59;
# `sigmoid=True` returns that.
#
# In the table above, the best piece may score higher than the answer alone (English: 0.87, 0.38): a maximum over many pieces
# favours long documents.
# %% [markdown] slug="save" lang="zh" of="b2f4d1da"
# ## 保存，然后不靠本仓库使用
#
# 文件夹里就是普通的 CrossEncoder；sentence-transformers 直接加载，得分相同，而且已经是概率。
# `reranker.rerank` 返回的是列表中的位置和 logit，最好的在前：0.60 换算成概率是 0.65；加上 `sigmoid=True` 就直接返回概率。
#
# 上面的表里，切片取最高分，也可能比只有答案时还高（英文：0.87 与 0.38）：片越多，最大值越容易偏高，长文档会占便宜。
# %% slug="reload"
from sentence_transformers import CrossEncoder

with tempfile.TemporaryDirectory() as folder:
    cross.save_pretrained(folder)
    again = CrossEncoder(folder)
assert np.allclose(again.predict(texts[:8]), probability[:8], atol=1e-5)
reranker.rerank(cross, question, row["document"], top_k=2)
# %% [markdown] slug="exercise-text" lang="en"
# ## Exercise: multiply two models
#
# Turn the retriever's cosines and the cross-encoder's logits into probabilities over the candidates, each by its own
# softmax, and multiply. The order is that of the sum of `cosine / temperature` and logit, which is what
# `fusion.interpolate` adds. Without a temperature (BM25 has none) it standardises both scores first.
# %% [markdown] slug="exercise-text" lang="zh" of="e01a9ea0"
# ## 练习：把两个模型相乘
#
# 把检索器的余弦和交叉编码器的 logit 各自用 softmax 变成候选上的概率，再相乘。
# 得到的次序，与 `余弦 / 温度` 加 logit 的次序相同，`fusion.interpolate` 加的就是它。
# 没有温度时（例如 BM25），它先把两个得分各自标准化。


# %% slug="ex-product" tags=["exercise"]
def product(cosines, logits, temperature):  # both (n,) arrays
    def softmax(x):
        return np.exp(x) / np.exp(x).sum()  # solution

    return softmax(cosines / temperature) * softmax(logits)  # solution: multiply


# %% slug="check-product" tags=["check"]
equal, new = np.array([0.9, 0.9]), np.log([1.0, 3.0])  # 1/2, 1/2 and 1/4, 3/4
check("product", lambda: product(equal, new, 0.05), [1 / 8, 3 / 8])
# %% [markdown] slug="hub" lang="en"
# ## Public rerankers
#
# Where a model hub can be reached, the `full` profile measures public rerankers with the same cells. They were trained on
# millions of pairs; `chinese-roberta-wwm-ext` is a plain encoder and gets a fresh head, as ours did.
# %% [markdown] slug="hub" lang="zh" of="c24db9bb"
# ## 公开的重排器
#
# 能连上 Hugging Face Hub 时，`full` 档位会用同样的单元格测量公开的重排器。它们是用上百万对文本训练的；
# `chinese-roberta-wwm-ext` 是普通编码器，和我们的一样，要新加一个头。
# %% slug="hub-models"
names = [
    "BAAI/bge-reranker-base",
    "BAAI/bge-reranker-v2-m3",
    "maidalun1020/bce-reranker-base_v1",
    "hfl/chinese-roberta-wwm-ext",
]
if profile.name == "full":
    public = [
        search.Reranked(first, reranker.load(name), city, depth=20, name=name)
        for name in names
    ]
    print(experiment.compare([first, *public], city).to_string())
names
# %% [markdown] slug="mteb" lang="en"
# ## MTEB's reranking tasks
#
# Public benchmarks give each query a fixed list of candidates and report **MAP**: the precision at each relevant document,
# averaged over the documents, then over the queries. Relevant at ranks 1 and 3 of three: $(1/1 + 2/3) / 2 = 0.8333$.
# %% [markdown] slug="mteb" lang="zh" of="876d29cb"
# ## MTEB 的重排任务
#
# 公开评测给每个查询一份固定的候选列表，报告 **MAP**：在每篇相关文档处算精确率，先对文档取平均，再对查询取平均。
# 三篇候选里第 1、3 名相关：$(1/1 + 2/3) / 2 = 0.8333$。


# %% slug="ex-ap" tags=["exercise"]
def average_precision(relevant):  # e.g. [True, False, True], best rank first
    hits = np.cumsum(relevant)  # solution: relevant documents up to each rank
    ranks = np.arange(1, len(relevant) + 1)
    return (hits / ranks)[np.array(relevant)].mean()  # solution


# %% slug="check-ap" tags=["check"]
check("average_precision", lambda: average_precision([True, False, True]), 5 / 6)
# %% slug="mteb-local"
from retrieval_lab import lexical, reranking_tasks

asked = city.sample(30)
task = reranking_tasks.from_collection(asked, lexical.BM25(asked), n_candidates=5)
print(reranking_tasks.NAMES)
pd.Series(reranking_tasks.evaluate(task, cross)).round(3)
# %% [markdown] slug="mteb-read" lang="en"
# `reranking_tasks.from_collection` makes such a task from any folder in BEIR layout, with BM25's best wrong documents as
# candidates; where `mteb` is installed and the hub can be reached, `reranking_tasks.mteb_scores(model)` runs the four named
# above. Numbers from different candidate lists cannot be compared, even under the same metric.
#
# Do not expect this reranker to travel. On 100 queries of T2Ranking, web search in Chinese, the plain `e5-small` has a MAP of .888 by
# cosine, our fine-tuned cross-encoder .650 (`benchmarks/rerankers.md`): 420 questions about one city teach that city.
# %% [markdown] slug="mteb-read" lang="zh" of="b7288fc5"
# `reranking_tasks.from_collection` 可以把任何 BEIR 布局的文件夹做成这样的任务，用 BM25 排在前面的错误文档作候选；
# 装了 `mteb` 又能连上 Hugging Face Hub 时，`reranking_tasks.mteb_scores(model)` 会跑上面列出的四个任务。
# 候选列表不同，数字就不能比较，哪怕指标同名。
#
# 别指望这个重排器换个地方还好用。在 T2Ranking（中文网页搜索）的 100 个查询上，没有微调过的 `e5-small` 用余弦排，MAP 是 .888，我们微调的交叉编码器只有 .650（见 `benchmarks/rerankers.md`）：420 个关于一座城市的问题，教会的只是这座城市。
# %% [markdown] slug="recap" lang="en"
# ## Recap
#
# You computed a cross-encoder's score and losses by hand, fine-tuned one from your retriever's weights, chose weight and
# depth on dev, measured it alone and together with the retriever, read what it saved and what it spoiled, and made its
# scores mean something. `demo.reranker(LANG)` keeps a model trained like this one for lesson 05.
#
# **Further reading.** Nogueira & Cho 2019, *Passage Re-ranking with BERT*; Gao et al. 2021, *Rethink Training of BERT
# Rerankers*; Cao et al. 2007 (ListNet); Dai & Callan 2019 (slices and their maximum); Platt 1999 (calibration).
# %% [markdown] slug="recap" lang="zh" of="5e03e209"
# ## 回顾
#
# 你亲手算出了交叉编码器的得分和损失，从检索器的权重出发微调了一个，在验证集上选定了权重和深度，测了它单独用、与检索器合用的效果，读了它救回的和弄坏的查询，还让它的分数有了含义。`demo.reranker(LANG)` 会存下一个同样训练出来的模型，供第 05 课使用。
#
# **延伸阅读。** Nogueira、Cho 2019，*Passage Re-ranking with BERT*；Gao 等 2021，*Rethink Training of BERT Rerankers*；
# Cao 等 2007（ListNet）；Dai、Callan 2019（切片取最大值）；Platt 1999（校准）。
