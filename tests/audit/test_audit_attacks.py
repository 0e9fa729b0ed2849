"""Each attack against a case whose answer is known, and its control."""

import itertools
import math
import statistics

import pytest
import torch

from making.models import tiny_model
from pfm.audit import closed_form, figures, lira, probe, resurrection, rmia, thresholds
from pfm.audit.sampled import area_of
from pfm.audit.subject import Subject
from pfm.data.splits import Split
from pfm.errors import CheckpointError
from pfm.seeds import make_generator


def gaussians(count: int, shift: float, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Scores of members N(shift, 1) and of others N(0, 1)."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, generator=generator) + shift, torch.randn(count, generator=generator)


def normal(value: float) -> float:
    return 0.5 * (1 + math.erf(value / math.sqrt(2)))


# --- figures --------------------------------------------------------------------------------------


@pytest.mark.parametrize("shift", [0.0, 0.7, -1.5])
def test_the_area_and_the_curve_are_those_of_scikit_learn(shift: float) -> None:
    import sklearn.metrics

    members, others = gaussians(300, shift)
    members = (members * 5).round()  # with ties
    others = (others * 5).round()
    labels = [1] * 300 + [0] * 300
    scores = torch.cat([members, others]).numpy()
    assert figures.auc(members, others) == pytest.approx(sklearn.metrics.roc_auc_score(labels, scores), abs=1e-12)
    false, true, _ = sklearn.metrics.roc_curve(labels, scores, drop_intermediate=False)
    mine = figures.roc(members, others)
    assert mine[0] == pytest.approx(false.tolist())
    assert mine[1] == pytest.approx(true.tolist())


def test_the_area_between_two_gaussians_is_the_known_one() -> None:
    members, others = gaussians(4000, 1.0)
    # P(X > Y) with X - Y ~ N(1, 2); 4,000 samples a side know it to about 0.005
    assert figures.auc(members, others) == pytest.approx(normal(1 / math.sqrt(2)), abs=0.02)
    # TPR at 1 % FPR is P(Z > z - 1) with P(Z > z) = 0.01
    assert figures.tpr_at_fpr(members, others, 0.01) == pytest.approx(1 - normal(2.3263 - 1), abs=0.03)


def test_the_interval_of_an_area_holds_the_truth_about_as_often_as_it_says() -> None:
    truth, held = normal(0.5 / math.sqrt(2)), 0
    for seed in range(100):
        members, others = gaussians(60, 0.5, seed)
        low, high = figures.auc_interval(members, others, make_generator(seed), replicates=300)
        held += low <= truth <= high
    assert 88 <= held <= 100  # 95 on average; a binomial's three standard deviations


def test_an_attack_that_knows_nothing_scores_one_half_and_its_interval_says_so() -> None:
    members, others = gaussians(500, 0.0)
    found = thresholds.attack(members, others, make_generator(0))
    assert found["auc_low"] < 0.5 < found["auc_high"]
    assert found["advantage"] < 0.05


def test_an_attack_is_two_sided() -> None:
    members, others = gaussians(500, -3.0)
    found = thresholds.attack(members, others, make_generator(0))
    assert found["auc"] < 0.05
    assert found["advantage"] > 0.45
    assert found["tpr_at_1pct"] > 0.5


def test_entropy_is_one_for_uniform_and_zero_for_certain_and_ignores_what_cannot_be_answered() -> None:
    log_p = torch.tensor([[0.25] * 4, [0.5, 0.5, 0.0, 0.0], [1.0, 0.0, 0.0, 0.0]]).double().log()
    assert figures.normalised_entropy(log_p).tolist() == pytest.approx([1.0, 1.0, 1.0])  # -inf: no answer there
    sure = torch.tensor([[30.0, 0.0, 0.0]]).double().log_softmax(dim=1)
    assert figures.normalised_entropy(sure).item() == pytest.approx(0.0, abs=1e-9)


def test_divergence_calibration_and_alignment_of_known_cases() -> None:
    p = torch.tensor([[1.0, 0.0], [0.5, 0.5]]).log()
    q = torch.tensor([[0.0, 1.0], [0.5, 0.5]]).log()
    assert figures.js_divergence(p, q).tolist() == pytest.approx([math.log(2), 0.0])
    # answers with confidence 0.8 of which 6 of 10 are right
    log_p = torch.tensor([[0.8, 0.2]] * 10).log()
    labels = torch.tensor([0] * 6 + [1] * 4)
    assert figures.calibration_error(log_p, labels) == pytest.approx(0.2, abs=1e-6)
    x = torch.randn(200, 5, generator=torch.Generator().manual_seed(0))
    rotation = torch.linalg.qr(torch.randn(5, 5, generator=torch.Generator().manual_seed(1)))[0]
    assert figures.linear_cka(x, 3 * x @ rotation + 1) == pytest.approx(1.0, abs=1e-5)
    assert figures.linear_cka(x, torch.randn(200, 5, generator=torch.Generator().manual_seed(2))) < 0.2


# --- thresholds -----------------------------------------------------------------------------------


def test_the_modified_entropy_is_that_of_its_definition() -> None:
    log_p = torch.randn(6, 4, generator=torch.Generator().manual_seed(0)).double().log_softmax(dim=1)
    labels = torch.tensor([0, 1, 2, 3, 0, 1])
    expected = []
    for row, label in zip(log_p.exp().tolist(), labels.tolist(), strict=True):
        value = -(1 - row[label]) * math.log(row[label])
        value -= sum(p * math.log(1 - p) for i, p in enumerate(row) if i != label)
        expected.append(-value)
    assert thresholds.negative_modified_entropy(log_p, labels).tolist() == pytest.approx(expected, abs=1e-12)


def test_scores_that_need_the_label_are_left_out_where_it_cannot_be_answered() -> None:
    log_p = torch.tensor([[0.5, 0.5, 0.0]]).log()
    assert set(thresholds.all_scores(log_p, torch.tensor([1]))) == {
        "confidence", "entropy", "loss", "modified_entropy",
    }  # fmt: skip
    assert set(thresholds.all_scores(log_p, torch.tensor([2]))) == {"confidence", "entropy"}


@pytest.mark.parametrize("name", ["confidence", "entropy", "loss"])
def test_threshold_attacks_agree_with_scikit_learn_and_scipy(name: str) -> None:
    """Scores from scipy and scikit-learn, the rates from scikit-learn's ROC curve, both signs."""
    import scipy.stats
    import sklearn.metrics

    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(500, 6, generator=generator) * torch.tensor([2.0] * 300 + [1.0] * 200)[:, None]
    log_p, labels = logits.double().log_softmax(dim=1), torch.randint(6, (500,), generator=generator)
    p = log_p.exp().numpy()
    reference = {
        "confidence": p.max(axis=1),
        "entropy": -scipy.stats.entropy(p, axis=1) / math.log(6),
        "loss": [-sklearn.metrics.log_loss([y], row[None], labels=range(6)) for y, row in zip(labels, p, strict=True)],
    }[name]
    score = thresholds.all_scores(log_p, labels)[name]
    assert score.tolist() == pytest.approx(list(reference), abs=1e-7)  # ours divides by ln C in float32
    is_member = [1] * 300 + [0] * 200
    found = thresholds.attack(score[:300], score[300:], make_generator(0))
    assert found["auc"] == pytest.approx(sklearn.metrics.roc_auc_score(is_member, reference), abs=1e-12)
    for key, rate in (("tpr_at_1pct", 0.01), ("tpr_at_01pct", 0.001)):
        best = 0.0
        for sign in (1, -1):
            false, true, _ = sklearn.metrics.roc_curve(is_member, [sign * float(x) for x in reference])
            best = max(best, max(true[false <= rate]))
        assert found[key] == pytest.approx(best, abs=1e-12)


# --- LiRA and RMIA --------------------------------------------------------------------------------


def test_lira_is_the_known_likelihood_ratio_of_two_gaussians() -> None:
    """Shadow scores drawn from N(2, 1) with the sample and N(0, 1) without: log ratio = 2 phi - 2."""
    generator = torch.Generator().manual_seed(0)
    is_in = torch.arange(4000)[:, None] % 2 == torch.zeros(50, dtype=torch.int64)
    shadows = torch.randn(4000, 50, generator=generator) + 2.0 * is_in
    target = torch.linspace(-2, 4, 50)
    # means and variances are known to about 0.03
    torch.testing.assert_close(lira.scores(target, shadows, is_in), 2 * target.double() - 2, atol=0.5, rtol=0)
    few = lira.scores(target, shadows[:40], is_in[:40])
    assert torch.corrcoef(torch.stack([few, 2 * target.double() - 2]))[0, 1] > 0.9


def test_lira_reaches_the_area_that_the_ratio_allows_and_one_half_where_there_is_nothing() -> None:
    generator = torch.Generator().manual_seed(0)
    is_in = torch.rand(64, 2000, generator=generator) < 0.5
    hard = torch.randn(2000, generator=generator) * 3  # samples differ: a global threshold sees little
    for shift, expected in ((1.5, normal(1.5 / math.sqrt(2))), (0.0, 0.5)):
        shadows = torch.randn(64, 2000, generator=generator) + shift * is_in + hard
        member = torch.arange(2000) < 1000
        target = torch.randn(2000, generator=generator) + shift * member + hard
        ratio = lira.scores(target, shadows, is_in)
        assert figures.auc(ratio[:1000], ratio[1000:]) == pytest.approx(expected, abs=0.03)
        assert figures.auc(target[:1000], target[1000:]) < expected + 0.03


def test_lira_reaches_the_published_rates_of_two_gaussians() -> None:
    """Members N(2, 1), others N(0, 1): TPR at FPR a is 1 - Phi(Phi^-1(1 - a) - 2), which no attack can beat."""
    generator = torch.Generator().manual_seed(0)
    is_in = torch.arange(200)[:, None] % 2 == torch.zeros(8000, dtype=torch.int64)
    shadows = torch.randn(200, 8000, generator=generator) + 2.0 * is_in
    target = torch.randn(8000, generator=generator) + 2.0 * (torch.arange(8000) < 4000)
    ratio = lira.scores(target, shadows, is_in)
    for rate in (0.1, 0.01):
        expected = 1 - normal(statistics.NormalDist().inv_cdf(1 - rate) - 2)
        # 4,000 samples a side, and means and variances known from 100 shadow scores each
        assert figures.tpr_at_fpr(ratio[:4000], ratio[4000:], rate) == pytest.approx(expected, abs=0.05)


@pytest.mark.slow
@pytest.mark.parametrize("shadows", [8, 160])
def test_lira_is_an_independent_implementation_sample_by_sample(shadows: int) -> None:
    """The attack of Carlini et al., algorithm 1, written again with scipy's densities, on models that were trained.

    Logistic models of random halves of 60 samples in 40 dimensions, which memorise; half of 60 for the target too. With
    few shadow models both take one variance for all samples, with many each sample's own.
    """
    import numpy as np
    from scipy.stats import norm

    random = np.random.default_rng(0)
    inputs, labels = random.normal(size=(60, 40)), random.integers(0, 2, 60)

    def phi(chosen: np.ndarray) -> np.ndarray:
        weight, sign = np.zeros(40), 2 * labels - 1
        for _ in range(300):
            margin = sign[chosen] * (inputs[chosen] @ weight)
            weight += 0.05 * (inputs[chosen] * (sign[chosen] / (1 + np.exp(margin)))[:, None]).mean(axis=0)
        return sign * (inputs @ weight)  # ln p / (1 - p) of the label

    halves = []
    for _ in range(shadows // 2):
        order = random.permutation(60)
        halves += [order[:30], order[30:]]
    is_in = np.stack([np.isin(np.arange(60), half) for half in halves])
    scores = np.stack([phi(half) for half in halves])
    target_half = random.permutation(60)[:30]
    target = phi(target_half)

    sides = [(scores[is_in[:, i], i], scores[~is_in[:, i], i]) for i in range(60)]
    residuals = [np.concatenate([side[s] - side[s].mean() for side in sides]) for s in (0, 1)]
    freedom = [sum(len(side[s]) - 1 for side in sides) for s in (0, 1)]
    expected = []
    for i, side in enumerate(sides):
        ratio = 0.0
        for s, sign in ((0, 1), (1, -1)):
            own = side[s].std(ddof=1) if len(side[s]) >= 64 else math.sqrt((residuals[s] ** 2).sum() / freedom[s])
            ratio += sign * norm.logpdf(target[i], side[s].mean(), own)
        expected.append(ratio)
    found = lira.scores(torch.from_numpy(target), torch.from_numpy(scores), torch.from_numpy(is_in))
    assert found.tolist() == pytest.approx(expected, abs=1e-9)
    member = torch.from_numpy(np.isin(np.arange(60), target_half))
    assert figures.auc(found[member], found[~member]) > 0.8  # the control: half of the samples are memorised
    flipped = torch.from_numpy(random.permutation(np.isin(np.arange(60), target_half)))
    assert 0.25 < figures.auc(found[flipped], found[~flipped]) < 0.75  # labels that mean nothing


@pytest.mark.parametrize("gamma", [1.0, 2.0])
def test_rmia_is_the_known_share_where_likelihood_ratios_are_log_normal(gamma: float) -> None:
    """ln r is N(1, 1) for members, N(0, 1) for others and the population: the score is Phi(ln r - ln gamma)."""
    generator = torch.Generator().manual_seed(0)
    logs = torch.randn(2000, generator=generator) + (torch.arange(2000) < 1000)
    population = torch.randn(20000, generator=generator)
    shadows, shadows_population = torch.ones(2, 2000), torch.ones(2, 20000)
    found = rmia.scores(logs.exp(), shadows, population.exp(), shadows_population, gamma=gamma)
    expected = [normal(float(value) - math.log(gamma)) for value in logs]
    assert found.tolist() == pytest.approx(expected, abs=0.015)  # a share of 20,000 is known to 0.0035
    assert figures.auc(found[:1000], found[1000:]) == pytest.approx(normal(1 / math.sqrt(2)), abs=0.03)


def test_the_stable_logit_is_that_of_the_probability() -> None:
    log_p = torch.randn(5, 4, generator=torch.Generator().manual_seed(0)).log_softmax(dim=1)
    labels = torch.tensor([0, 1, 2, 3, 0])
    own = log_p.exp()[torch.arange(5), labels].double()
    torch.testing.assert_close(lira.stable_logit(log_p, labels), (own / (1 - own)).log(), atol=1e-5, rtol=0)
    best = log_p.exp().amax(dim=1).double()
    torch.testing.assert_close(lira.stable_logit(log_p), (best / (1 - best)).log(), atol=1e-5, rtol=0)


def test_rmia_is_the_share_of_the_population_beaten_counted_one_by_one() -> None:
    generator = torch.Generator().manual_seed(0)
    x, shadows_x = torch.rand(7, generator=generator), torch.rand(4, 7, generator=generator)
    z, shadows_z = torch.rand(9, generator=generator), torch.rand(4, 9, generator=generator)
    for gamma in (1.0, 2.0):
        expected = []
        for i in range(7):
            own = float(x[i]) / (sum(float(s) for s in shadows_x[:, i]) / 4)
            beaten = [own >= gamma * float(z[j]) / (sum(float(s) for s in shadows_z[:, j]) / 4) for j in range(9)]
            expected.append(sum(beaten) / 9)
        assert rmia.scores(x, shadows_x, z, shadows_z, gamma=gamma).tolist() == pytest.approx(expected)


# --- closed form ----------------------------------------------------------------------------------


def test_subtracting_a_class_equals_retraining_without_it_to_rounding() -> None:
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(400, 20, generator=generator)
    labels = torch.arange(400) % 5
    features += torch.eye(5, 20)[labels] * 4
    statistics = closed_form.collect(features, labels, 5)
    for positions in ([2], [0, 4], [1, 2, 3]):
        kept = [c for c in range(5) if c not in positions]
        stays = torch.isin(labels, torch.tensor(kept))
        renumbered = torch.tensor([kept.index(int(c)) for c in labels[stays]])
        fresh = closed_form.collect(features[stays], renumbered, len(kept)).solve(1e-3)
        torch.testing.assert_close(closed_form.remove(statistics, positions, 1e-3), fresh, atol=1e-12, rtol=1e-10)
    full = statistics.solve(1e-3)
    answers = (closed_form.with_constant(features) @ full).argmax(dim=1)
    assert float((answers == labels).double().mean()) > 0.9


# --- resurrection and probe -----------------------------------------------------------------------


@pytest.mark.parametrize(("readout", "target"), [("cls", "uniform"), ("prompt", "uniform"), ("prompt", "none")])
@torch.no_grad()
def test_the_attackers_forward_is_the_models_own_with_the_prompt_in_its_bank(readout: str, target: str) -> None:
    """An attack that puts back a class's own prompt and row gives the logits of the model that has it."""
    whole, less = (
        tiny_model(readout=readout, wrong_target=target, prompt_tokens=2),
        tiny_model(readout=readout, wrong_target=target, prompt_tokens=2, num_classes=3),
    )
    state = whole.state_dict()
    less.load_state_dict({k: v[:3] if k in ("bank.prompts", "classifier.weight", "classifier.bias") else v
                          for k, v in state.items()})  # fmt: skip
    inputs = torch.randn(5, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    prompt = whole.bank.prompts[3].expand(5, -1, -1)
    row = torch.zeros(5, 33)
    if whole.readout.class_rows:
        weight, bias = whole.readout.weights(whole)
        row = torch.cat([weight[3], bias[3:]]).expand(5, -1)
    found = resurrection._logits(less, less.trunk(inputs), prompt, row)
    expected = whole.logits(inputs, torch.arange(4).expand(5, -1))
    torch.testing.assert_close(found[:, :-1], expected, atol=1e-5, rtol=0)
    assert found[:, -1].tolist() == [whole.unknown_logit] * 5


@pytest.mark.parametrize("readout", ["cls", "prompt"])
def test_an_attack_brings_a_class_back_and_the_model_is_left_as_it_was(readout: str) -> None:
    model = tiny_model(readout=readout, num_classes=3)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(40, 3, 8, 8, generator=generator)
    inputs[:20] += 2  # the class
    found = {}
    for size in (0, 8):
        samples = inputs[torch.arange(2 * size) % 20].unflatten(0, (2, size))
        found[size] = resurrection.resurrect(
            model, samples, resurrection.Tested(inputs[:20], inputs[20:], torch.zeros(20, dtype=torch.int64)),
            resurrection.Learning(tokens=1, steps=60, lr=0.05, seed=0),
        )  # fmt: skip
    assert found[8].forget.shape == (2, 20)
    assert found[8].forget.double().mean() > found[0].forget.double().mean() + 0.3
    assert found[8].forget.double().mean() > 0.9
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name])
    assert all(tensor.requires_grad for name, tensor in model.named_parameters() if "layernorm." not in name[-20:])


def test_the_gap_of_a_model_to_itself_is_zero_and_of_a_better_one_positive() -> None:
    generator = torch.Generator().manual_seed(0)

    def recovery(share: float) -> resurrection.Recovery:
        return resurrection.Recovery(
            forget=torch.rand(5, 40, generator=generator) < share,
            retain=torch.rand(5, 300, generator=generator) < share,
            placed=torch.zeros(5, 40),
            placed_rest=torch.zeros(5, 300),
        )

    low, high = recovery(0.6), recovery(0.9)
    gap, interval = resurrection.gap_interval(low, low, make_generator(0))
    assert (gap, interval) == (0.0, (0.0, 0.0))
    gap, interval = resurrection.gap_interval(high, low, make_generator(0))
    assert gap == pytest.approx(0.3, abs=0.08)
    assert 0.15 < interval[0] < gap < interval[1] < 0.45


def test_samples_are_drawn_without_replacement_and_differ_between_attacks() -> None:
    chosen = resurrection.choose_samples(torch.arange(100), 10, 4, 0)
    assert chosen.shape == (4, 10)
    for row in chosen:
        assert row.unique().numel() == 10
    assert all(not torch.equal(a, b) for a, b in itertools.combinations(chosen, 2))
    assert resurrection.choose_samples(torch.arange(3), 10, 2, 0).shape == (2, 3)


def test_a_probe_finds_what_is_there_and_nothing_in_noise() -> None:
    generator = torch.Generator().manual_seed(0)
    is_class = torch.rand(600, generator=generator) < 0.1
    for strength, low, high in ((3.0, 0.9, 1.0), (0.0, 0.35, 0.65)):
        features = torch.randn(600, 20, generator=generator)
        features[:, 4] += strength * is_class
        own, rest = probe.probe(features[:400], is_class[:400], features[400:], is_class[400:])
        balanced = 0.5 * float(own.double().mean() + rest.double().mean())
        assert low <= balanced <= high


@torch.no_grad()
def test_the_features_of_the_last_layer_are_those_that_the_model_reads() -> None:
    model = tiny_model(prompt_layer=1)
    inputs = torch.randn(5, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    layers = probe.layer_features(model, inputs)
    assert [tuple(layer.shape) for layer in layers] == [(5, 64)] * 3
    read = model.readout.score(layers[-1][:, None, :32], *model.readout.weights(model), prompt_tokens=1)
    torch.testing.assert_close(read, model.logits(inputs, torch.arange(4).expand(5, -1)), atol=1e-5, rtol=0)


def test_a_model_whose_logits_are_multiplied_is_attacked_no_worse() -> None:
    """Its answers are the same and its probabilities 0 and 1, which would tie."""
    model = tiny_model(num_classes=3)
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(24, 3, 8, 8, generator=generator)
    inputs[:12] += 1
    tested = resurrection.Tested(inputs[:12], inputs[12:], torch.zeros(12, dtype=torch.int64))
    prompt, row = torch.randn(2, 1, 32, generator=generator), torch.randn(2, 33, generator=generator)
    plain = resurrection.recover(model, tested, prompt, row)
    with torch.no_grad():
        for tensor in model.get_submodule("classifier").parameters():
            tensor *= 1e6
    sharp = resurrection.recover(model, tested, prompt, 1e6 * row)
    torch.testing.assert_close(sharp.auroc, plain.auroc, atol=0.1, rtol=0)
    weak = resurrection.recover(model, tested, prompt, row)  # whose probability of the class is 0 for every sample
    assert all(area != 0.5 for area in weak.auroc.tolist())
    logits = torch.tensor([[2.0, 1.0, 0.5], [0.0, 3.0, -1.0]])
    expected = logits.softmax(dim=1)[:, 1]
    torch.testing.assert_close(figures.log_odds(logits, 1).float(), (expected / (1 - expected)).log())
    assert figures.log_odds(1e4 * logits, 1).unique().numel() == 2


def test_scores_that_are_not_numbers_are_no_area() -> None:
    """Sorted, they would stand above all others, and an area could be had by choosing how many there are."""
    own, rest = torch.tensor([0.1, math.nan]), torch.tensor([0.2, 0.3])
    for pair in ((own, rest), (rest, own)):
        assert math.isnan(figures.auc(*pair))
        assert math.isnan(area_of(*pair).value)
    never = torch.full((3,), -math.inf)
    assert figures.auc(never, never) == area_of(never, never).value == 0.5


def test_a_model_that_answers_with_what_is_not_a_number_is_not_judged() -> None:
    def answer(inputs: torch.Tensor) -> torch.Tensor:
        logits = torch.zeros(len(inputs), 3)
        logits[0, 1] = math.nan
        return logits

    with pytest.raises(CheckpointError, match="the model forgotten answers 1 of 4 samples with what is not a number"):
        Subject("forgotten", answer).log_probabilities(Split(torch.zeros(4, 1), torch.zeros(4, dtype=torch.int64)))
