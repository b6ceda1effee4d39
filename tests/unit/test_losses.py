"""The losses against numbers worked out by hand, against loops, and at the batch sizes where averages divide by nothing."""

import math

import pytest
import torch

from retrieval_lab import losses, tiny

KL = 0.0175112  # softmax(.8, .2) = (.6457, .3543); softmax(1, 0) = (.7311, .2689); sum of p ln(p / q)


def kl(similarities, scores, groups, **temperatures):
    tensors = [torch.tensor(values, dtype=torch.double) for values in (similarities, scores)]
    return losses.grouped_kl(*tensors, torch.tensor(groups), **({"temperature": 1.0} | temperatures)).item()


def test_kl_of_one_query_is_the_number_worked_out_by_hand():
    assert kl([1, 0], [0.8, 0.2], [0, 0]) == pytest.approx(KL, abs=1e-6)


def test_kl_is_zero_where_cosines_over_temperature_differ_from_the_scores_by_a_constant():
    assert kl([0.3, 0.1, 0.2], [7.0, 5.0, 6.0], [0] * 3, temperature=0.1) == pytest.approx(0, abs=1e-12)


def test_each_query_counts_once_however_many_documents_it_has():
    three = kl([1, 0, 0.5], [0.8, 0.2, 0.9], [1] * 3)
    assert kl([1, 0, 1, 0, 0.5], [0.8, 0.2, 0.8, 0.2, 0.9], [0, 0, 1, 1, 1]) == pytest.approx((KL + three) / 2)


def test_another_query_in_the_batch_changes_nothing_for_a_query():
    """The mistake of one softmax over the batch: a query of high scores takes the probability of all the others."""
    similarities = torch.tensor([1.0, 0.0, 0.9, 0.8], requires_grad=True)
    groups = torch.tensor([0, 0, 1, 1])
    gradients = []
    for others in ([0.1, 0.0], [9.0, 3.0]):
        loss = losses.grouped_kl(similarities, torch.tensor([0.8, 0.2, *others]), groups, temperature=1)
        gradients.append(torch.autograd.grad(loss, similarities)[0][:2])
    torch.testing.assert_close(*gradients)


def test_interleaved_groups_are_the_same_groups():
    assert kl([1, 0.5, 0, 0.2], [0.8, 3, 0.2, 1], [5, 9, 5, 9]) == pytest.approx(
        kl([1, 0, 0.5, 0.2], [0.8, 0.2, 3, 1], [0, 0, 1, 1])
    )


def test_a_query_with_one_document_gives_zero_loss_and_zero_gradient():
    similarities = torch.tensor([0.3], requires_grad=True)
    losses.grouped_kl(similarities, torch.tensor([0.9]), torch.tensor([0])).backward()
    assert similarities.grad.item() == 0


def test_teacher_temperature_divides_the_scores():
    assert kl([1, 0], [0.4, 0.1], [0, 0], teacher_temperature=0.5) == pytest.approx(KL, abs=1e-6)


def features(model, texts):
    return dict(model.tokenizer(texts, padding=True, return_tensors="pt"))


def test_grouped_kl_module_equals_the_function_on_the_models_cosines():
    model = tiny.encoder()
    queries, docs = ["tram", "tram", "pool"], ["a tram", "a ferry", "the pool"]
    labels = torch.tensor([[0.8, 0.0], [0.2, 0.0], [1.0, 1.0]])
    found = losses.GroupedKL(model, temperature=0.5)([features(model, queries), features(model, docs)], labels)
    cosines = (model.encode(queries) * model.encode(docs)).sum(1)  # the model normalises
    expected = kl(cosines[:2].tolist(), [0.8, 0.2], [0, 0], temperature=0.5) / 2
    assert found.item() == pytest.approx(expected, abs=1e-5)


def test_own_negatives_equals_cross_entropy_of_each_row_alone():
    model = tiny.encoder()
    columns = [["tram", "pool"], ["a tram", "the pool"], ["a ferry", "in town"], ["to rent", "of stone"]]
    found = losses.OwnNegatives(model, temperature=0.5)([features(model, texts) for texts in columns])
    vectors = [model.encode(texts) for texts in columns]
    expected = 0.0
    for row in range(2):
        scores = [float(vectors[0][row] @ column[row]) / 0.5 for column in vectors[1:]]
        expected += math.log(sum(map(math.exp, scores))) - scores[0]
    assert found.item() == pytest.approx(expected / 2, abs=1e-5)


def random_vectors(n, dim, seed=0):
    return torch.randn(n, dim, generator=torch.Generator().manual_seed(seed), dtype=torch.double)


def by_loops(student, teacher, margin):
    student, teacher = (rows / rows.norm(dim=1, keepdim=True) for rows in (student, teacher))
    n = len(student)
    cosine = sum(1 - float(student[i] @ teacher[i]) for i in range(n)) / n
    square, short = 0.0, []
    for i in range(n):
        for j in range(n):
            square += float(student[i] @ student[j] - teacher[i] @ teacher[j]) ** 2
            for k in range(n):
                gap = float(teacher[i] @ teacher[j] - teacher[i] @ teacher[k])
                if len({i, j, k}) == 3 and gap > 0:
                    short.append(max(0.0, min(gap, margin) - float(student[i] @ student[j] - student[i] @ student[k])))
    return {"cosine": cosine, "structure": square / n**2, "triplet": sum(short) / max(1, len(short))}


@pytest.mark.parametrize("n", [1, 2, 3, 7])
def test_distillation_terms_equal_loops(n):
    student, teacher = random_vectors(n, 5), random_vectors(n, 5, seed=1)
    found = losses.distillation_terms(student, teacher, margin=0.1)
    assert {name: term.item() for name, term in found.items()} == pytest.approx(by_loops(student, teacher, 0.1))


def test_student_equal_to_its_teacher_has_no_loss():
    vectors = random_vectors(6, 4)
    terms = losses.distillation_terms(vectors, vectors * 3)
    assert all(abs(term.item()) < 1e-12 for term in terms.values())


def test_teacher_of_another_width_gives_structure_and_triplets_only():
    assert set(losses.distillation_terms(random_vectors(3, 4), random_vectors(3, 9))) == {"structure", "triplet"}


@pytest.mark.parametrize("n", [1, 2, 3, 16])
def test_distillation_is_finite_with_its_gradient_at_every_batch_size(n):
    model = tiny.encoder()
    texts = [f"text {i}" for i in range(n)]
    loss = losses.TeacherVectors(model, mrl_dims=[8])([features(model, texts)], random_vectors(n, 32))
    loss.backward()
    assert torch.isfinite(loss) and all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)


def test_default_weights_are_10_200_and_20():
    model, texts = tiny.encoder(), ["a", "b c", "d e f"]
    teacher = random_vectors(3, 32).float()
    found = losses.TeacherVectors(model)([features(model, texts)], teacher)
    terms = losses.distillation_terms(torch.tensor(model.encode(texts)), teacher)
    expected = 10 * terms["cosine"] + 200 * terms["structure"] + 20 * terms["triplet"]
    assert found.item() == pytest.approx(expected.item(), rel=1e-4)


def test_prefixes_learn_from_structure_and_triplets():
    model, texts = tiny.encoder(), ["a", "b c", "d e f"]
    teacher = random_vectors(3, 32).float()
    whole = losses.TeacherVectors(model)([features(model, texts)], teacher)
    both = losses.TeacherVectors(model, mrl_dims=[8])([features(model, texts)], teacher)
    terms = losses.distillation_terms(torch.tensor(model.encode(texts))[:, :8], teacher)
    assert (both - whole).item() == pytest.approx((200 * terms["structure"] + 20 * terms["triplet"]).item(), rel=1e-3)


def test_teacher_of_another_width_is_refused_with_both_numbers(lang):
    model = tiny.encoder()
    words = {
        "en": "teacher's vectors have 48 dims, the model's 32; .*add_head.model, 48",
        "zh": "教师的向量是 48 维，模型的是 32 维",
    }
    with pytest.raises(ValueError, match=words[lang]):
        losses.TeacherVectors(model)([features(model, ["a"])], random_vectors(1, 48))


def test_weight_of_no_term_is_refused_with_the_three_that_are(lang):
    words = {
        "en": "'cosin': there is no such term; the terms are cosine, structure, triplet",
        "zh": "'cosin' 不是损失项",
    }
    with pytest.raises(ValueError, match=words[lang]):
        losses.TeacherVectors(tiny.encoder(), {"cosin": 10.0})
