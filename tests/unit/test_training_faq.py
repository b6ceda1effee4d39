"""Each cause that the FAQ names, made to happen; and the doctor recognises it."""

import copy
import math

import pytest
import torch
from datasets import Dataset
from sentence_transformers.cross_encoder import losses as pair_losses
from sentence_transformers.sentence_transformer import losses
from torch.nn.functional import normalize

from retrieval_lab import embedding, tiny, training, training_doctor, training_faq
from retrieval_lab.training import Config


@pytest.fixture(autouse=True)
def own_log(tmp_path, monkeypatch):
    monkeypatch.setenv("RETRIEVAL_LAB_RUNS", str(tmp_path / "log"))


def words(n):
    return [chr(97 + i % 26) + str(i) * (1 + i % 3) for i in range(n)]


def pairs(n=12):
    return Dataset.from_dict({"query": words(n), "positive": [word[::-1] for word in words(n)]})


def run(tmp_path, model, data, loss, **changes):
    plain = {"lr": 1e-3, "batch_size": 4, "epoch": 2, "warmup_ratio": 0, "lr_scheduler_type": "constant"}
    training.fit(model, data, loss, Config(output_dir=str(tmp_path / "run"), **(plain | changes)))
    return model.lab_card["findings"]


def gradient(loss, features, labels=None):
    loss.zero_grad()
    loss(features, labels).backward()
    return torch.cat([p.grad.flatten() for p in loss.parameters() if p.grad is not None])


def features(model, data):
    return [model.preprocess(data[name]) for name in ("query", "positive")]


# grad_norm is always zero


def test_one_row_without_negatives_has_no_gradient(tmp_path, capsys):
    model = tiny.encoder()
    loss = losses.MultipleNegativesRankingLoss(model)
    assert gradient(loss, features(model, pairs(1))).abs().max() == 0
    assert run(tmp_path, model, pairs(3), loss, batch_size=1) == ["one_row"]
    assert "groups of one row" in capsys.readouterr().out


def test_kl_with_one_document_a_query_has_no_gradient(tmp_path):
    from retrieval_lab.losses import grouped_kl

    found = torch.tensor([0.3, 0.9], requires_grad=True)
    grouped_kl(found, torch.tensor([1.0, 0.0]), torch.tensor([0, 1])).backward()
    assert found.grad.abs().max() == 0
    data = Dataset.from_dict({"query": ["a", "b"], "document": ["c", "d"], "score": [1.0, 0.0], "group": [0, 1]})
    doctor = training_doctor.Doctor(tiny.encoder(), data, losses.CoSENTLoss(tiny.encoder()))
    assert doctor.findings == ["one_row"]


def test_small_gradient_is_zero_in_fp16_weights():
    """The loss of a task that is almost learned has gradients below 6e-8: fp16 cannot hold them, fp32 and bf16 can."""
    for dtype, expected in ((torch.float32, 2e-8), (torch.bfloat16, 2e-8), (torch.float16, 0.0)):
        weight = torch.ones(1, dtype=dtype, requires_grad=True)
        (weight * 2e-8).backward() if dtype == torch.float16 else (weight.float() * 2e-8).backward()
        assert weight.grad.item() == pytest.approx(expected, rel=0.01)


def test_changing_fp16_to_bf16_does_not_cure_a_batch_of_one_row():
    """The usual advice against a zero gradient, where the cause is another."""
    model = tiny.encoder().bfloat16()
    assert gradient(losses.MultipleNegativesRankingLoss(model), features(model, pairs(1))).abs().max() == 0


# NaN


@pytest.mark.parametrize("fused", [True, False])  # transformers takes the fused one
@pytest.mark.parametrize("gradient", [0.0, 1e-4])
def test_adam_on_fp16_weights_breaks(fused, gradient):
    """Its second moment is kept in fp16, where 0.001 * gradient^2 is 0. Ten steps should be as long as ten learning rates."""
    moved = {}
    for dtype in (torch.float32, torch.float16):
        weight = torch.nn.Parameter(torch.zeros(3, dtype=dtype))
        adam = torch.optim.AdamW([weight], lr=1e-5, weight_decay=0.0, fused=fused, foreach=False)
        for _ in range(10):
            weight.grad = torch.full_like(weight, gradient)
            adam.step()
        moved[dtype] = weight.detach().abs().max().item()
    assert moved[torch.float32] == pytest.approx(1e-4 if gradient else 0.0, rel=1e-3)
    if fused:  # this step's share is worked out in fp32, what is remembered of earlier ones is 0
        assert moved[torch.float16] > 2e-4 if gradient else moved[torch.float16] == 0
    else:
        assert not math.isfinite(moved[torch.float16])


class Broken(losses.MultipleNegativesRankingLoss):
    """Its third value is NaN."""

    def forward(self, features, labels):
        self.calls = getattr(self, "calls", 0) + 1
        value = super().forward(features, labels)
        return value * float("nan") if self.calls == 3 else value


def test_nan_stops_training_before_the_weights_change(tmp_path, lang):
    model = tiny.encoder()
    with pytest.raises(training.TrainingError, match={"en": "NaN or infinite", "zh": "NaN 或无穷大"}[lang]):
        run(tmp_path, model, pairs(), Broken(model))
    assert all(torch.isfinite(p).all() for p in model.parameters())


# Half precision


def test_bf16_weights_lose_the_updates_that_fp32_weights_keep(tmp_path, capsys):
    moved = {}
    for dtype in (torch.float32, torch.bfloat16):
        model = tiny.encoder().to(dtype)
        before = torch.cat([p.detach().flatten().clone() for p in model.parameters()])
        findings = run(tmp_path / str(dtype), model, pairs(), losses.MultipleNegativesRankingLoss(model), lr=1e-6)
        after = torch.cat([p.detach().flatten() for p in model.parameters()])
        moved[dtype] = (after != before).float().mean().item()
        assert ("half_precision" in findings) is (dtype == torch.bfloat16)
    assert moved[torch.float32] > 0.4 and moved[torch.bfloat16] < moved[torch.float32] / 3
    assert "in fp16 or bf16" in capsys.readouterr().out


# Saturation and collapse


def test_tiny_temperature_saturates_the_softmax(tmp_path):
    """Queries that are their own answers: at 0.0001 the right class has all the probability from the start."""
    same = Dataset.from_dict({"query": words(8), "positive": words(8)})
    model = tiny.encoder()
    usual, tiny_one = (losses.MultipleNegativesRankingLoss(model, scale=1 / t) for t in (0.05, 0.0001))
    assert gradient(usual, features(model, same)).norm() > 1e-3
    findings = run(tmp_path, model, same, tiny_one)
    assert "saturated" in findings


def test_prompt_longer_than_the_length_makes_all_texts_equal(tmp_path):
    model = tiny.encoder(prompts={"query": "find what answers this: ", "document": "find what answers this: "})
    findings = run_embedding(tmp_path, model, pairs(), max_len=16)
    assert "constant_scores" in findings


def run_embedding(tmp_path, model, data, **changes):
    plain = {"lr": 1e-3, "batch_size": 4, "epoch": 2}
    embedding.train(model, data, Config(output_dir=str(tmp_path / "run"), **(plain | changes)))
    return model.lab_card["findings"]


def test_healthy_run_has_no_finding(tmp_path, capsys):
    assert run_embedding(tmp_path, tiny.encoder(), pairs()) == []
    assert "doctor" not in capsys.readouterr().out


# Collator and loss


def test_label_given_to_a_ranking_loss_is_ignored_by_the_library(tmp_path, lang):
    """Documents labelled 0 are pulled to the query as if they were answers; the label changes nothing."""
    model = tiny.encoder()
    loss = losses.MultipleNegativesRankingLoss(model)
    texts = features(model, pairs(4))
    assert torch.equal(loss(texts, torch.ones(4)), loss(texts, torch.zeros(4)))
    data = pairs().rename_column("positive", "document").add_column("label", [0.0] * 12)
    with pytest.raises(ValueError, match={"en": "ignores the label", "zh": "会忽略这些列里的标签"}[lang]):
        run(tmp_path, model, data, loss)


def test_columns_in_another_order_train_another_task(tmp_path, lang):
    """The library takes the first column for the query whatever its name."""
    model = tiny.encoder()
    loss = losses.MultipleNegativesRankingLoss(model)
    one, other = features(model, pairs(4))
    assert loss([one, other], None) != loss([other, one], None)
    wrong = pairs().select_columns(["positive", "query"])
    with pytest.raises(ValueError, match={"en": "query is column 2 of", "zh": "query 是 .* 的第 2 列"}[lang]):
        run(tmp_path, model, wrong, loss)


def test_loss_that_needs_a_label_is_refused_without_one(tmp_path, lang):
    model = tiny.cross_encoder()
    with pytest.raises(ValueError, match={"en": "needs a label column", "zh": "需要标签列"}[lang]):
        run(tmp_path, model, pairs(), pair_losses.BinaryCrossEntropyLoss(model))


# Worse than the original


@pytest.fixture(scope="module")
def skilled(tmp_path_factory):
    """A tiny model that has learned to find its words written backwards, with a prompt before each side."""
    model = tiny.encoder(prompts={"query": "Q: ", "document": "D: "})
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("skilled")
        patch.setenv("RETRIEVAL_LAB_RUNS", str(folder))
        embedding.train(model, pairs(48), Config(output_dir=str(folder), lr=3e-3, batch_size=16, epoch=20))
    return model


def surprise(queries, documents) -> float:
    """Mean cross-entropy of finding each query's own document among all; lower is better."""
    queries, documents = (normalize(torch.as_tensor(vectors), dim=1) for vectors in (queries, documents))
    return torch.nn.functional.cross_entropy(queries @ documents.T / 0.05, torch.arange(len(queries))).item()


def quality(model, **options) -> float:
    data = pairs(48)
    return surprise(model.encode_query(data["query"][:], **options), model.encode_document(data["positive"][:]))


def test_training_made_the_tiny_model_better(skilled):
    assert quality(skilled) < quality(tiny.encoder(prompts=skilled.prompts)) / 2


def test_other_pooling_than_in_training_is_worse(skilled, tmp_path):
    """A folder with the transformer alone does not say how to pool."""
    skilled[0].auto_model.save_pretrained(tmp_path)
    skilled.tokenizer.save_pretrained(tmp_path)
    found = {}
    for pooling in ("mean", "cls"):
        model = embedding.load(tmp_path, pooling)
        model.prompts = dict(skilled.prompts)
        found[pooling] = quality(model)
    assert found["mean"] == pytest.approx(quality(skilled), abs=1e-3) and found["cls"] > 1.2 * found["mean"]


def test_missing_prompt_is_worse(skilled):
    assert quality(skilled, prompt="") > 1.1 * quality(skilled)


def test_large_learning_rate_forgets(skilled, tmp_path):
    found = {}
    for rate in (1e-5, 0.05):
        model = copy.deepcopy(skilled)
        run_embedding(tmp_path / str(rate), model, pairs(48), lr=rate, epoch=1)
        found[rate] = quality(model)
    assert found[1e-5] <= 1.05 * quality(skilled) and found[0.05] > 2 * quality(skilled)


# ColBERT


def test_maxsim_gradient_grows_with_the_query():
    """A sum over 16 query tokens pulls 16 times as hard as their mean, at the same temperature."""
    torch.manual_seed(0)
    query, docs = normalize(torch.randn(16, 8), dim=-1), normalize(torch.randn(4, 10, 8), dim=-1)
    norms = {}
    for name, reduce in (("sum", torch.sum), ("mean", torch.mean)):
        tokens = query.clone().requires_grad_()
        scores = reduce((tokens @ docs.transpose(1, 2)).amax(-1), dim=-1)  # (4,)
        scores[0].backward()
        norms[name] = tokens.grad.norm().item()
    assert norms["sum"] == pytest.approx(16 * norms["mean"])


# The entries themselves


@pytest.mark.parametrize("code", training_faq.FAQ)
def test_each_entry_names_tests_that_exist(code):
    assert training_faq.FAQ[code].tests and all(name in globals() for name in training_faq.FAQ[code].tests)


@pytest.mark.parametrize("code", training_faq.FAQ)
def test_each_entry_is_in_both_languages(code):
    entry = training_faq.FAQ[code]
    assert set(entry.question) == set(entry.answer) == {"en", "zh"}
    assert math.isclose(len(entry.answer["zh"]) / len(entry.answer["en"]), 0.38, abs_tol=0.2)


def test_markdown_of_an_unknown_language_is_refused():
    with pytest.raises(ValueError, match="use 'en' or 'zh'"):
        training_faq.markdown("fr")
