"""The audit from end to end on a small model: its verdict passes, and fails where it has to."""

import contextlib
import dataclasses
import html
import json
import re
import shutil
import subprocess
import time
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import torch

from making.audits import SMALL
from making.commands import train_arguments
from making.images import write_npz
from making.models import TINY
from pfm.audit import roc
from pfm.audit.attacks import ATTACKS, Measurement
from pfm.audit.comparisons import trained
from pfm.audit.comparisons.beside import Beside
from pfm.audit.comparisons.data import by_position, without_classes
from pfm.audit.comparisons.trained import RETRAINED, SHADOW
from pfm.audit.config import FULL
from pfm.audit.models import AuditRequest, Models, same_values
from pfm.audit.page import NOT_ATTACKED, render
from pfm.audit.protocol import audit
from pfm.audit.verdict import FAIL, INCONCLUSIVE, PASS, Judgement, at_least, at_most, summarise, within, worst
from pfm.backbones.family import PRESETS
from pfm.cli import pfm, run
from pfm.data.config import DataConfig
from pfm.data.images import ImageStorage
from pfm.data.loading import load_data
from pfm.data.splits import ClassificationData
from pfm.errors import ConfigError
from pfm.forgetting.erase import erase
from pfm.model.checkpoint import Checkpoint, load_checkpoint, save_checkpoint

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two trained models: one as the paper has it, one without the wrong-prompt branch."""
    folder = tmp_path_factory.mktemp("audited")
    npz = write_npz(folder / "colours.npz", train=160, test=120)
    PRESETS["tiny"] = {key: value for key, value in TINY.items() if key != "layer_norm_eps"}
    try:
        # with a row for each class; an absent prompt of the other readout takes its answer with it, branch or not
        for name, weight, readout in (("paper", "1", "prompt"), ("no_branch", "0", "cls")):
            arguments = train_arguments(npz, folder / name, "--eval_every", "0", "--save_every", "0")
            more = ["--epochs", "10", "--lr", "0.005", "--batch_size", "16", "--absent_weight", weight]
            assert run(pfm, [*arguments, *more, "--readout", readout]) == 0
    finally:
        del PRESETS["tiny"]
    return folder


def ckpt(folder: Path, name: str) -> Path:
    return folder / name / "colours_seed_42_10.pt"


@pytest.fixture(autouse=True)
def _preset(preset: str) -> None:
    """The preset that the models were trained with."""


@pytest.fixture(scope="module")
def data(folder: Path) -> ClassificationData:
    return load_data(DataConfig(dataset=str(folder / "colours.npz")), ImageStorage(8))


@pytest.fixture(scope="module")
def results(folder: Path) -> dict[str, Any]:
    return {}


def audited(
    results: dict[str, Any], folder: Path, data: ClassificationData, name: str, judged: Checkpoint | None = None
) -> dict[str, Any]:
    key = name if judged is None else f"{name} {len(judged.classes)}"
    if key not in results:
        full = load_checkpoint(ckpt(folder, name))
        request = AuditRequest(full=full, data=data, keys=[2], judged=judged)
        results[key] = audit(request, SMALL, folder / "models", CPU, say=lambda _: None)
    return results[key]


def verdicts(result: dict[str, Any]) -> dict[str, str]:
    return {entry["measure"]: entry["verdict"] for entry in result["verdict"]["measures"]}


@pytest.mark.slow
def test_a_model_that_forgot_passes_what_erasing_promises(
    results: dict[str, Any], folder: Path, data: ClassificationData
) -> None:
    result = audited(results, folder, data, "paper")
    assert result["verdict"]["levels"]["suspend"] == PASS
    judged = [entry for entry in result["verdict"]["measures"] if entry["level"] == "erase"]
    open_or_failed = [entry["measure"] for entry in judged if entry["verdict"] != PASS]
    assert open_or_failed == []  # prompts start from samples of the class, which are not in the file
    assert len(judged) > 2
    assert result["utility"]["full"]["forget_accuracy"] > 0.9  # the control: it knew the class
    assert result["utility"]["forgotten"]["forget_accuracy"] == 0
    assert result["utility"]["forgotten"]["retain_test_accuracy"] > 0.9
    assert result["closed_form"]["largest_difference_to_retraining"] < 1e-8
    assert result["exposure"]["erased"] == 32
    assert {"full", "forgotten", "retrained", "masked", "finetuned", "closed_form"} <= result["utility"].keys()
    assert {"lira", "rmia"} == set(result["shadow_attacks"]["before"])
    json.dumps(result)


@pytest.mark.slow
def test_a_model_trained_without_the_wrong_prompt_branch_fails(
    results: dict[str, Any], folder: Path, data: ClassificationData
) -> None:
    result = audited(results, folder, data, "no_branch")
    assert result["utility"]["full"]["forget_accuracy"] > 0.9
    assert verdicts(result)["not answered"] == FAIL
    assert result["verdict"]["levels"] == {"suspend": FAIL, "erase": FAIL, "scrub": FAIL}
    assert result["verdict"]["overall"] == FAIL


@pytest.mark.slow
def test_a_class_whose_prompt_was_only_suspended_fails(
    results: dict[str, Any], folder: Path, data: ClassificationData
) -> None:
    result = audited(results, folder, data, "paper", load_checkpoint(ckpt(folder, "paper")))
    assert verdicts(result)["nothing stored"] == FAIL
    assert result["stored"]["forget_accuracy"] > 0.9
    assert (result["verdict"]["levels"]["suspend"], result["verdict"]["levels"]["erase"]) == (PASS, FAIL)


@pytest.mark.slow
def test_models_to_compare_with_are_trained_once(
    results: dict[str, Any], folder: Path, data: ClassificationData, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = audited(results, folder, data, "paper")

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("trained again")

    monkeypatch.setattr(trained, "train", refuse)
    monkeypatch.setattr(trained, "tune", refuse)
    request = AuditRequest(full=load_checkpoint(ckpt(folder, "paper")), data=data, keys=[2])
    again = audit(request, SMALL, folder / "models", CPU, say=lambda _: None)
    for part in ("utility", "shape", "membership", "shadow_attacks", "resurrection", "probe", "exposure"):
        assert again[part] == first[part], part
    with pytest.raises(AssertionError, match="trained again"):
        audit(dataclasses.replace(request, keys=[1]), SMALL, folder / "models", CPU, say=lambda _: None)


@pytest.mark.slow
def test_the_oracle_never_saw_the_class(folder: Path, data: ClassificationData) -> None:
    full = load_checkpoint(ckpt(folder, "paper"))
    here = by_position(data, full)
    less = without_classes(here, [2])
    assert less.classes.ids == (0, 1, 3)
    assert len(less.train) == 120
    for label, number in enumerate(less.classes.ids):
        images = less.train.inputs[less.train.labels == label]
        assert torch.equal(images, data.train.inputs[data.train.labels == number])


@pytest.mark.slow
def test_models_that_a_second_process_trains_are_those_that_one_process_trains(tmp_path: Path) -> None:
    npz = write_npz(tmp_path / "colours.npz", train=40)
    made = ["--model_name", "scratch:vit_digits", "--epochs", "1", "--batch_size", "20", "--eval_every", "0", "--cpu"]
    assert run(pfm, ["train", "--dataset", str(npz), "--save_dir", str(tmp_path / "run"), *made]) == 0
    (path,) = (tmp_path / "run").glob("*_1.pt")
    full = load_checkpoint(path)
    loaded = by_position(load_data(trained.recipe_of(full).data, full.preprocess.storage), full)
    alone, both = (
        trained.Comparisons(full, loaded, [2], tmp_path / name, CPU, lambda _: None) for name in ("alone", "both")
    )
    jobs = [(RETRAINED, 0), (RETRAINED, 1), (SHADOW, 0)]
    assert not any(both.is_kept(job) for job in jobs)
    second = Beside(both, jobs[1:2])
    while second.is_at_work:
        time.sleep(0.05)
    assert [both.is_kept(job) for job in jobs] == [False, True, False]
    second.finish(jobs)
    second.close()
    assert all(both.is_kept(job) for job in jobs)
    assert same_values(alone.retrained(1).checkpoint, both.retrained(1).checkpoint)
    said: list[str] = []
    request = AuditRequest(full=full, data=load_data(trained.recipe_of(full).data, full.preprocess.storage), keys=[2])
    config = dataclasses.replace(SMALL, oracles=2, shadows=2, processes=2)
    with contextlib.closing(Models(request, config, tmp_path / "models", CPU, said.append)) as models:
        assert same_values(models.oracles[1].checkpoint, both.retrained(1).checkpoint)
        assert len(models.shadows) == 2  # by whoever had time
    assert said[0] == "training 4 models in two processes"


@pytest.mark.slow
def test_an_oracle_that_is_the_judged_model_itself_is_replaced(folder: Path, data: ClassificationData) -> None:
    full = load_checkpoint(ckpt(folder, "paper"))
    first = trained.Comparisons(full, by_position(data, full), [2], folder / "models", CPU, lambda _: None).retrained()
    request = AuditRequest(full=full, data=data, keys=[2], judged=first.checkpoint)
    said: list[str] = []
    models = Models(request, dataclasses.replace(SMALL, oracles=2), folder / "models", CPU, said.append)
    assert [oracle.checkpoint.seed for oracle in models.oracles] == [43, 44]
    assert "this retrained model is the judged one; another one takes its place" in said


@pytest.mark.slow
def test_shadow_models_hold_each_sample_in_one_of_a_pair(folder: Path, data: ClassificationData) -> None:
    full = load_checkpoint(ckpt(folder, "paper"))
    made = trained.Comparisons(full, by_position(data, full), [2], folder / "models", CPU, lambda _: None)
    first, second = made.shadow(0).is_in, made.shadow(1).is_in
    assert torch.equal(first, ~second)
    assert int(first.sum()) == 140


@pytest.mark.slow
def test_a_page_holds_everything_and_asks_no_network(
    results: dict[str, Any], folder: Path, data: ClassificationData
) -> None:
    page = render(audited(results, folder, data, "paper"))
    sources = re.findall(r'(?:src|href)="([^"]*)"', page)
    assert len([source for source in sources if source.startswith("data:image/png;base64,")]) == 8
    assert all(source.startswith("data:") for source in sources)
    assert not re.search(r"https?://|<script|@import|url\(", page)
    assert "fail" in render(audited(results, folder, data, "no_branch"))


class Outline(HTMLParser):
    """The order of a page's elements; complains of one that is not closed where it has to be."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append(tag)
        if tag not in ("meta", "link", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


@pytest.mark.slow
def test_a_page_says_each_level_in_a_sentence_then_shows_pictures_then_tables(
    results: dict[str, Any], folder: Path, data: ClassificationData
) -> None:
    found = audited(results, folder, data, "paper")
    page = render(found)
    outline = Outline()
    outline.feed(page)
    outline.close()
    assert outline.open == []
    assert outline.found.count("table") == outline.found.count("thead") == page.count('<div class="wide"><table>')
    for sentence in found["verdict"]["sentences"].values():
        assert page.index(html.escape(sentence)) < page.index("<img") < page.index("<h2>Every measure</h2>")
    assert page.rindex("<img") < page.rindex("<table>")
    assert "The full model answers 100.0% of the class&#x27;s samples rightly" in page
    assert all(html.escape(what) in page for what in NOT_ATTACKED)
    assert "@media print" in page
    assert "prefers-color-scheme:dark" in page


@pytest.mark.slow
def test_a_browser_shows_the_page_without_an_error(
    results: dict[str, Any], folder: Path, data: ClassificationData
) -> None:
    names = ("chromium", "chromium-browser", "google-chrome", "chrome", "headless_shell")
    browser = next((path for name in names if (path := shutil.which(name))), None)
    if browser is None:
        pytest.skip("no Chromium on this machine; the page's source is checked by the test above")
    page = folder / "page.html"
    page.write_text(render(audited(results, folder, data, "paper")))
    # pictures that were not drawn are 0 pixels wide; the title says what the browser found
    probe = (
        "<script>onload=()=>{document.title=[...document.images]"
        ".map(i=>i.complete&&i.naturalWidth>0)+' '+performance.getEntriesByType('resource')"
        ".filter(e=>!e.name.startsWith('data:')).length}</script>"
    )
    page.write_text(page.read_text().replace("</body>", f"{probe}</body>"))
    found = subprocess.run(
        [browser, "--headless", "--no-sandbox", "--disable-gpu", "--dump-dom", "--enable-logging=stderr",
         "--virtual-time-budget=5000", page.as_uri()],
        capture_output=True, text=True, timeout=600, check=True,
    )  # fmt: skip
    assert "<title>" + ",".join(["true"] * 8) + " 0</title>" in found.stdout
    assert "CONSOLE" not in found.stderr


@pytest.mark.slow
def test_the_command_writes_a_report_and_can_require_a_level(
    folder: Path, data: ClassificationData, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from pfm_export.commands import audit as audit_commands

    monkeypatch.setattr(audit_commands, "QUICK", SMALL)
    out = folder / "report"
    (out / "models").parent.mkdir()
    (out / "models").symlink_to(folder / "models")
    full = ckpt(folder, "paper")
    bundle = folder / "bundle"
    assert run(pfm, ["export", "onnx", "--ckpt", str(full), "--out", str(bundle)]) == 0
    assert run(pfm, ["forget", "--in_place", str(bundle), "--classes", "2"]) == 0
    common = ["audit", "--ckpt", str(full), "--classes", "2", "--cpu", "--out", str(out)]
    assert run(pfm, [*common, "--bundle", str(bundle), "--require", "suspend"]) == 0
    result = json.loads((out / "audit.json").read_text())
    served, torch_side = result["utility"]["bundle"], result["utility"]["forgotten"]
    assert served["retain_test_accuracy"] == torch_side["retain_test_accuracy"]
    assert result["shape"]["bundle"]["entropy"] == pytest.approx(result["shape"]["forgotten"]["entropy"], abs=1e-3)
    assert (out / "audit.html").read_text().startswith("<!doctype html>")
    assert "by level: suspend pass, erase pass" in capsys.readouterr().out
    assert run(pfm, [*common, "--forgotten", str(full), "--require", "erase"]) == 1
    assert "level erase was required; the verdict is fail" in capsys.readouterr().err
    save_checkpoint(folder / "less.pt", erase(load_checkpoint(full), [2]))
    assert run(pfm, [*common[:2], str(folder / "less.pt"), *common[3:]]) == 2
    assert "was erased from" in capsys.readouterr().err


@pytest.mark.slow
def test_the_full_audit_tries_every_size_and_longer_prompts_against_as_many_oracles_as_asked_for(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from pfm_export.commands import audit as audit_commands

    # fewer steps and models, everything else as it is
    monkeypatch.setattr(audit_commands, "FULL", dataclasses.replace(FULL, attack_seeds=2, attack_steps=3, shadows=2))
    out = folder / "full"
    common = ["audit", "--full", "--ckpt", str(ckpt(folder, "paper")), "--classes", "2", "--cpu", "--out", str(out)]
    (out / "models").parent.mkdir()
    (out / "models").symlink_to(folder / "models")
    assert run(pfm, [*common, "--oracles", "4"]) == 0
    assert "4 retrained models: if they differ by 2 points" in capsys.readouterr().out
    result = json.loads((out / "audit.json").read_text())
    found = [(entry["n"], entry["tokens"]) for entry in result["resurrection"]]
    assert found == [(n, 1) for n in (0, 1, 5, 10, 40)]  # 40 samples are all there are
    assert [(entry["n"], entry["tokens"]) for entry in result["long_prompts"]] == [(10, 5), (10, 10)]
    assert all(len(entry["retrained"]) == 4 for entry in result["resurrection"])
    assert (out / "audit.html").read_text().count("data:image/png;base64,") == 8


@pytest.mark.slow
def test_a_checkpoint_that_does_not_say_how_it_was_trained_is_refused(folder: Path) -> None:
    full = dataclasses.replace(load_checkpoint(ckpt(folder, "paper")), run={})
    with pytest.raises(ConfigError, match="does not say how it was trained"):
        trained.recipe_of(full)


@pytest.mark.slow
def test_what_no_attack_asks_for_is_not_trained(
    folder: Path, data: ClassificationData, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("trained")

    monkeypatch.setattr(trained, "train", refuse)
    request = AuditRequest(full=load_checkpoint(ckpt(folder, "paper")), data=data, keys=[2])
    models = Models(request, SMALL, tmp_path, CPU, lambda _: None)
    assert ATTACKS.get("exposure").measure(models).figures["erased"] == 32
    assert ATTACKS.get("closed_form").measure(models).figures["largest_difference_to_retraining"] < 1e-8
    with pytest.raises(AssertionError, match="trained"):
        ATTACKS.get("utility").measure(models)


class RetainedConfidence:
    """An attack that somebody else wrote: how much the erasure changes answers on the other classes."""

    name = "retained_confidence"

    def measure(self, models: Models) -> Measurement[dict[str, float]]:
        value = float(models.answers["forgotten"]["retain_test"].exp().amax(dim=1).mean())
        judged = dataclasses.replace(judgement("suspend", "retained confidence", FAIL), value=value, limit=2.0)
        return Measurement({"value": value}, (judged,))

    def show(self, figures: dict[str, float]) -> str:
        return f"<h2>Retained confidence</h2><p>{figures['value']:.3f}</p>"


@pytest.mark.slow
def test_an_attack_from_outside_is_made_judged_and_shown(folder: Path, data: ClassificationData) -> None:
    attack = ATTACKS.register("retained_confidence", RetainedConfidence())
    try:
        request = AuditRequest(full=load_checkpoint(ckpt(folder, "paper")), data=data, keys=[2])
        result = audit(request, SMALL, folder / "models", CPU, say=lambda _: None)
        assert 0 < result[attack.name]["value"] <= 1
        assert verdicts(result)["retained confidence"] == FAIL
        assert result["verdict"]["levels"]["suspend"] == FAIL
        assert f"<p>{result[attack.name]['value']:.3f}</p>" in render(result)
    finally:
        ATTACKS.remove(attack.name)
    assert attack.name not in ATTACKS


# --- verdict --------------------------------------------------------------------------------------


def judgement(level: str, measure: str, verdict: str) -> Judgement:
    return Judgement(level=level, measure=measure, value=0, low=0, high=0, limit=0, verdict=verdict, reason="")


def test_a_verdict_is_the_worst_and_never_an_average() -> None:
    assert worst([PASS, PASS]) == PASS
    assert worst([PASS, INCONCLUSIVE]) == INCONCLUSIVE
    assert worst([PASS, FAIL, INCONCLUSIVE]) == FAIL
    assert worst([]) == INCONCLUSIVE
    found = summarise([judgement("suspend", "a", PASS), judgement("erase", "b", PASS), judgement("scrub", "c", FAIL)])
    assert found["levels"] == {"suspend": PASS, "erase": PASS, "scrub": FAIL}
    assert found["overall"] == FAIL


def test_an_interval_that_crosses_the_limit_is_inconclusive() -> None:
    assert [at_most(0.0, 0.04, 0.05), at_most(0.0, 0.1, 0.05), at_most(0.06, 0.1, 0.05)] == [PASS, INCONCLUSIVE, FAIL]
    assert [at_least(0.9, 1, 0.8), at_least(0.7, 1, 0.8), at_least(0.1, 0.2, 0.8)] == [PASS, INCONCLUSIVE, FAIL]
    assert [within(-0.01, 0.01, 0.05), within(-0.1, 0.1, 0.05), within(-0.3, -0.1, 0.05)] == [PASS, INCONCLUSIVE, FAIL]
    nan = float("nan")
    assert {at_most(nan, nan, 1), within(nan, nan, 1)} == {INCONCLUSIVE}


def test_curves_keep_their_ends_when_they_are_thinned() -> None:
    values = [i / 999 for i in range(1000)]
    thin = roc.thin(values, values)
    assert (thin[0][0], thin[0][-1]) == (0.0, 1.0)
    assert len(thin[0]) <= roc.CURVE_POINTS + 2
