"""`--recipe`: what it chooses, who wins, and what it refuses."""

from pathlib import Path
from typing import Any

import pytest

from making.commands import Refuse, train_arguments
from pfm.cli import pfm, run
from pfm.training.config import RunConfig
from pfm.training.recipes import PAPER, load_recipe, recipe_names


class Planned:
    """The configuration of `pfm train --plan` with some options."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.seen: list[RunConfig] = []
        patch.setattr("pfm.training.run.plan_only", lambda config, *_, **__: self.seen.append(config))

    def __call__(self, *options: str | Path, of_scratch: bool = True) -> RunConfig:
        arguments = ["train", "--dataset", "colours.npz", "--plan", *map(str, options)]
        if of_scratch:
            arguments = train_arguments("colours.npz", Path("run"), "--plan", *map(str, options))
        assert run(pfm, arguments) == 0
        return self.seen[-1]


@pytest.fixture
def planned(monkeypatch: pytest.MonkeyPatch) -> Planned:
    return Planned(monkeypatch)


def test_the_papers_recipe_leaves_every_default(planned: Planned) -> None:
    config = planned()
    assert config == planned("--recipe", PAPER)
    assert config.recipe.describe() == PAPER
    assert (config.model.wrong_target, config.start.prompt_start) == ("uniform", "data")


@pytest.mark.parametrize("readout", ["cls", "prompt"])
def test_the_recommended_recipe_is_what_its_file_says_and_what_is_typed_wins(planned: Planned, readout: str) -> None:
    said = load_recipe("recommended").options(readout, "full")
    config = planned("--recipe", "recommended", "--readout", readout)
    values: dict[str, Any] = {name: value for section in config.to_dict().values() for name, value in section.items()}
    assert said
    assert {name: values[name] for name in said} == said
    assert config.recipe.describe() == "recommended: " + ", ".join(f"--{name} {value}" for name, value in said.items())
    typed = planned("--recipe", "recommended", "--readout", readout, "--prompt_start", "common")
    assert typed.start.prompt_start == "common"
    assert "prompt_start" not in typed.recipe.chose


def test_a_file_of_ones_own_says_other_things_of_adapters_than_of_whole_backbones(
    planned: Planned, tmp_path: Path
) -> None:
    mine = tmp_path / "mine.toml"
    mine.write_text('about = "mine"\n[cls]\nepochs = 3\n[cls.full]\nlr = 3e-3\nhflip = true\n[cls.lora]\nlr = 1e-4\n')
    config = planned("--recipe", mine, "--epochs", "4")
    assert (config.train.lr, config.augment.hflip, config.train.epochs) == (0.01, True, 4)  # --lr is typed as well
    assert (config.recipe.recipe, config.recipe.chose) == ("mine.toml", "--hflip True")
    assert load_recipe(str(mine)).options("cls", "lora") == {"epochs": 3, "lr": 1e-4}
    assert load_recipe(str(mine)).options("prompt", "lora") == {}


LORA = "--prompt_start secret, --tune prompts, --others_gradient 0.3, --lr 0.01"  # recommended for adapters


@pytest.mark.parametrize(
    ("given", "tune", "chose", "left_out"),
    [
        ([], "prompts", LORA, ""),
        (["--tune", "prompts"], "prompts", LORA.replace("--tune prompts, ", ""), ""),
        (["--tune", "lora"], "lora", "--prompt_start secret", "--others_gradient 0.3, --lr 0.01"),
        (["--lora_r", "8"], "auto", "--prompt_start secret", LORA.partition(", ")[2]),
        (["--frozen_dtype", "bf16"], "auto", "--prompt_start secret", LORA.partition(", ")[2]),
        (["--tune", "full"], "full", "--prompt_start secret, --wrong_target others", ""),
        (["--readout", "prompt", "--abstain", "0.1"], "auto", "--prompt_start secret, --absent_weight 0.3",
         "--wrong_target none"),
        (["--readout", "prompt", "--decoys", "1"], "auto",
         "--prompt_start secret, --wrong_target none, --absent_weight 0.3", ""),
        (["--init_key", "keys"], "prompts", LORA, ""),
    ],
)  # fmt: skip
def test_what_a_recipe_says_is_left_out_and_named_where_it_does_not_go_with_what_is_typed(
    planned: Planned, given: list[str], tune: str, chose: str, left_out: str
) -> None:
    config = planned("--recipe", "recommended", *given, of_scratch=False)
    assert config.model.tune == tune
    assert (config.recipe.chose, config.recipe.left_out) == (chose, left_out)
    if left_out:
        assert config.recipe.describe() == f"recommended: {chose}; left out beside what was given: {left_out}"


def test_what_the_user_gave_and_does_not_go_together_is_no_matter_of_the_recipe(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    start = (*train_arguments("colours.npz", tmp_path), "--plan", "--recipe", "recommended", "--readout", "prompt")
    line = Refuse(capsys)(*start, "--decoys", "1", "--label_smoothing", "0.1")
    assert "--label_smoothing would make decoys right in part" in line


def test_a_file_whose_options_go_with_each_other_in_any_order_only_loses_what_the_user_rules_out(
    planned: Planned, tmp_path: Path
) -> None:
    mine = tmp_path / "mine.toml"
    mine.write_text('[prompt]\ndecoys = 2\nhflip = true\nwrong_target = "none"\n')
    config = planned("--recipe", mine, "--readout", "prompt")
    assert (config.objective.decoys, config.recipe.left_out) == (2, "")
    config = planned("--recipe", mine, "--readout", "prompt", "--label_smoothing", "0.1")
    assert (config.objective.decoys, config.model.wrong_target, config.augment.hflip) == (0, "none", True)
    assert config.recipe.left_out == "--decoys 2"


def test_a_recipe_in_a_file_of_options_holds_too_and_the_file_wins(planned: Planned, tmp_path: Path) -> None:
    options = tmp_path / "options.yaml"
    options.write_text("recipe: recommended\nprompt_start: common\n")
    config = planned("--config", options)
    assert (config.recipe.recipe, config.start.prompt_start) == ("recommended", "common")


@pytest.mark.parametrize(
    ("content", "what"),
    [
        ("[cls]\nlearning = 3\n", "learning is not an option"),
        ("[prompt]\nlearning = 3\n", "learning is not an option"),  # of a readout that the run does not take
        ('[cls]\nreadout = "prompt"\n', "readout is not an option"),
        ('[cls]\nwrong_target = "nobody"\n', "'nobody' is not one of"),
        ("[cls]\nepochs = [1, 2]\n", "one value is expected"),
        ("[cls.lora]\nepochs = [1, 2]\n", "one value is expected"),
        ("lr = 3\n", "stands in no readout's table"),
        ("[eye]\nlr = 3\n", "eye is not a readout"),
        ("[cls\n", "is not TOML"),
        ('[cls]\nwrong_target = "none"\n', "does not go with --readout cls"),
    ],
)
def test_what_a_file_may_not_say_is_one_line(
    content: str, what: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "mine.toml"
    file.write_text(content)
    assert what in Refuse(capsys)(*train_arguments("colours.npz", tmp_path), "--plan", "--recipe", file)


def test_a_name_that_nobody_knows_is_refused_with_those_there_are(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = Refuse(capsys)(*train_arguments("colours.npz", tmp_path), "--plan", "--recipe", "best")
    assert ", ".join(recipe_names()) in line


def test_a_temperature_is_for_the_target_that_has_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    start = (*train_arguments("colours.npz", tmp_path), "--plan", "--target_temperature")
    assert "for --wrong_target others" in Refuse(capsys)(*start, "2")
    assert "divides by zero" in Refuse(capsys)(*start, "0", "--wrong_target", "others")


def test_a_share_of_the_gradient_is_for_prompts_alone(
    npz: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    start = (*train_arguments(npz, tmp_path, "--model_name", "scratch:vit_digits"), "--plan", "--others_gradient")
    assert "give --tune prompts" in Refuse(capsys)(*start, "0.3")
    assert "is not a share" in Refuse(capsys)(*start, "1.5", "--tune", "prompts")
