"""What goes wrong in training and why: the entries that the training doctor prints and that both READMEs show.
Taught in lesson 07. Each cause is reproduced by a test in tests/unit/test_training_faq.py.
"""

from dataclasses import dataclass

from retrieval_lab.profiles import LANGUAGES, language


class TrainingError(RuntimeError):
    """Training cannot go on; the message is the doctor's, in the reader's language."""


@dataclass(frozen=True)
class Entry:
    """A question, and an answer of paragraphs, in both languages. ``tests`` reproduce the causes."""

    question: dict[str, str]
    answer: dict[str, str]
    tests: tuple[str, ...]

    def text(self, lang: str | None = None) -> str:
        """Question and answer as plain text."""
        lang = lang or language()
        return f"{self.question[lang]}\n{self.answer[lang]}"


FAQ = {
    "gradient_zero": Entry(
        {"en": "grad_norm is always zero", "zh": "grad_norm 一直是 0"},
        {
            "en": "There is nothing to learn from, or it is rounded away. Look, in this order: a batch of one row without hard negatives (its softmax has one class, so the loss is 0); a KL loss with one document a query; a temperature so small that the softmax saturates; weights loaded in fp16, where a gradient below 6e-8 is 0. Changing between fp16 and bf16, the usual advice, helps only in the last case, and then the cure is fp32 weights with `mixed_precision`: see the entry on half precision.",
            "zh": "要么没有可学的，要么梯度被舍入掉了。按这个顺序查：一批只有一行、又没有难负例（softmax 只有一类，损失恒为 0）；KL 损失里每个查询只有一篇文档；温度太小，softmax 饱和；权重以 fp16 加载，小于 6e-8 的梯度变成 0。常见的建议是在 fp16 和 bf16 之间换一换，这只对最后一种情况有用，而真正的办法是权重用 fp32，再开 `mixed_precision`：见半精度那一条。",
        },
        ("test_one_row_without_negatives_has_no_gradient", "test_small_gradient_is_zero_in_fp16_weights"),
    ),
    "gradient_nan": Entry(
        {"en": "The loss or grad_norm is NaN or infinite", "zh": "损失或 grad_norm 是 NaN 或无穷大"},
        {
            "en": "Training stops here, because one such step makes every weight NaN. Usual causes: weights in fp16, because Adam then keeps its moments in fp16 too, where a thousandth of the square of a small gradient is 0: the step becomes infinite, 0 / 0, or with the fused optimiser many times too large; scores over 65504 in fp16; labels that are NaN. Load the model in fp32 and set `mixed_precision` instead.",
            "zh": "训练到此停止：这样的一步会让所有权重都变成 NaN。常见原因：权重是 fp16，这时 Adam 的动量也存成 fp16，梯度小时，它平方的千分之一会变成 0：一步会变成无穷大、0 除以 0，用融合版优化器时则会大上许多倍；fp16 下得分超过 65504；标签里有 NaN。用 fp32 加载模型，改设 `mixed_precision`。",
        },
        ("test_adam_on_fp16_weights_breaks", "test_nan_stops_training_before_the_weights_change"),
    ),
    "half_precision": Entry(
        {"en": "The weights that are trained are in fp16 or bf16", "zh": "被训练的权重是 fp16 或 bf16"},
        {
            "en": "transformers 5 loads a checkpoint in the precision it was saved in, so this happens unasked. bf16 has 8 bits of mantissa: an update below 0.2-0.4 % of the weight is rounded away, and with a learning rate of 1e-5 that is most of them. Load in fp32 (`model.float()`) and set `mixed_precision: bf16` or `fp16`: the forward pass is then fast, and the weights keep small updates. For inference half precision is fine.",
            "zh": "transformers 5 按检查点保存时的精度加载，所以不用特意设置也会这样。bf16 的尾数只有 8 位：小于权重 0.2%～0.4% 的更新会被舍掉，学习率 1e-5 时大部分更新都是如此。用 fp32 加载（`model.float()`），再设 `mixed_precision: bf16` 或 `fp16`：前向计算照样快，权重也留得住小的更新。推理时用半精度没有问题。",
        },
        ("test_bf16_weights_lose_the_updates_that_fp32_weights_keep",),
    ),
    "saturated": Entry(
        {"en": "The loss is zero from the start: saturated logits", "zh": "损失一开始就是 0：logits 饱和"},
        {
            "en": "The softmax or sigmoid is at its end, so its gradient vanishes. Either the temperature is too small (0.01 to 0.1 is usual; logits are cosine / temperature), or the negatives are so easy that there is nothing left to learn: mine hard ones. For a reranker, logits beyond 15 say the learning rate is too large.",
            "zh": "softmax 或 sigmoid 到了尽头，梯度消失。要么温度太小（常用 0.01 到 0.1；logits 是余弦除以温度），要么负例太容易，已经没什么可学：去挖难负例。重排器的 logits 超过 15，说明学习率太大。",
        },
        ("test_tiny_temperature_saturates_the_softmax",),
    ),
    "constant_scores": Entry(
        {
            "en": "Every text gets the same vector, every pair the same score",
            "zh": "所有文本的向量都一样，或所有文本对的得分都一样",
        },
        {
            "en": "The model has collapsed, or it does not see the texts. Look at what the tokenizer makes of two of them: with a prompt longer than `max_seq_length` only the prompt is left. Otherwise the learning rate was too large; start again from the pretrained weights with a tenth of it.",
            "zh": "模型坍缩了，或者根本没看到文本。看看分词器把两段文本变成了什么：提示词比 `max_seq_length` 还长时，剩下的只有提示词。否则就是学习率太大；从预训练权重重新开始，学习率降到十分之一。",
        },
        ("test_prompt_longer_than_the_length_makes_all_texts_equal",),
    ),
    "columns": Entry(
        {"en": "The data do not fit the loss", "zh": "数据与损失不匹配"},
        {
            "en": "The trainer hands over columns by position, not by name. A ranking loss takes the first as query, the second as its answer and the rest as negatives, and ignores a label: rows of (query, document, label) make it pull documents labelled 0 towards the query. Use `query, positive, negative_1, ...` for ranking losses, and `query, document, label` for losses that read a label.",
            "zh": "训练器按位置而不是按名字传列。排序类损失把第一列当查询、第二列当答案、其余当负例，并且不看标签：给它（查询，文档，标签）这样的行，标签为 0 的文档也会被拉向查询。排序类损失用 `query, positive, negative_1, ...`，读标签的损失用 `query, document, label`。",
        },
        (
            "test_label_given_to_a_ranking_loss_is_ignored_by_the_library",
            "test_columns_in_another_order_train_another_task",
        ),
    ),
    "one_row": Entry(
        {"en": "The loss sees groups of one row", "zh": "损失看到的每组只有一行"},
        {
            "en": "A softmax over one document is 1 whatever the model says, so the step teaches nothing. Raise the batch size, give hard negatives, or give each query of a KL loss at least two documents. `gradient_accumulation_steps` does not help: it adds gradients up after each softmax; `mini_batch_size` (GradCache) does.",
            "zh": "只有一篇文档时，无论模型怎么打分，softmax 都是 1，这一步什么也学不到。加大批大小，给出难负例，或者让 KL 损失的每个查询至少有两篇文档。`gradient_accumulation_steps` 没有用：它是在各自的 softmax 之后才把梯度加起来；`mini_batch_size`（GradCache）有用。",
        },
        ("test_one_row_without_negatives_has_no_gradient", "test_kl_with_one_document_a_query_has_no_gradient"),
    ),
    "worse": Entry(
        {"en": "The fine-tuned model is worse than the original", "zh": "微调后比原来还差"},
        {
            "en": "First check that it is used as it was trained: the same pooling and the same prompt on the same side; both are saved with the model and applied by `encode_query` and `encode_document`, so do not add them by hand as well. Then the learning rate (1e-5 to 5e-5 for all weights) and the number of epochs (two for a thousand pairs). Then the data: positives used as negatives, and validation questions of another kind than the training questions. `retrieval-lab doctor` looks for these.",
            "zh": "先看用法和训练时是否一致：池化相同，提示词相同且加在同一侧；两者都随模型保存，由 `encode_query` 和 `encode_document` 加上，不要再手工加一遍。再看学习率（训练全部权重用 1e-5 到 5e-5）和轮数（一千对数据两轮）。最后看数据：正例被当成了负例，验证集的问题与训练集不是一类。`retrieval-lab doctor` 会查这些。",
        },
        (
            "test_other_pooling_than_in_training_is_worse",
            "test_missing_prompt_is_worse",
            "test_large_learning_rate_forgets",
        ),
    ),
    "colbert_fp16": Entry(
        {"en": "How is the ColBERT part of BAAI/bge-m3 fine-tuned?", "zh": "怎样微调 BAAI/bge-m3 的 ColBERT 部分？"},
        {
            "en": "As any other: `model_type: colbert`. Its weights have to be in fp32 while they are trained (in fp16 Adam breaks them, see above); `mixed_precision` may be on, and for search fp16 is fine. The advice to take a smaller learning rate has a reason: MaxSim adds up one cosine per query token, so its scores, and with the same temperature its gradients, are as many times larger. `colbert.train` divides by the number of query tokens, so temperature and learning rate mean what they mean for one vector; for a model as large and as well trained as bge-m3 start with 1e-5.",
            "zh": "和别的模型一样：`model_type: colbert`。训练时权重要用 fp32（用 fp16 时 Adam 会把它们弄坏，见上）；可以开 `mixed_precision`，检索时用 fp16 也没问题。建议把学习率调小，是有原因的：MaxSim 把每个查询词元的余弦加起来，有多少个词元，得分就大多少倍，温度相同时梯度也是。`colbert.train` 会除以查询的词元数，所以温度和学习率的含义与单向量时相同；像 bge-m3 这样大而且训练充分的模型，从 1e-5 开始。",
        },
        ("test_adam_on_fp16_weights_breaks", "test_maxsim_gradient_grows_with_the_query"),
    ),
}


def markdown(lang: str) -> str:
    """The FAQ as a section of the README in that language."""
    if lang not in LANGUAGES:
        raise ValueError(f"lang={lang!r}; use 'en' or 'zh'")
    proof = {"en": "Reproduced by", "zh": "复现它的测试："}[lang]
    joint = {"en": ", ", "zh": "、"}[lang]
    blocks = []
    for entry in FAQ.values():
        tests = joint.join(f"`{name}`" for name in entry.tests)
        blocks.append(f"**{entry.question[lang]}**\n\n{entry.answer[lang]}\n{proof} {tests}".replace("： ", "："))
    return "\n\n".join(blocks) + "\n"
