"""What `audit_table.py` trains: data sets with the classes that recipes are chosen on and shown on, and variants.

A recipe is chosen on other classes and on other samples than those it is shown on: a validation split, or a fifth of
the training samples that is held out for that.
"""

from dataclasses import dataclass, field, replace

import torch

from pfm.backbones.config import BackboneConfig
from pfm.backbones.raw import raw_model
from pfm.data.config import DataConfig
from pfm.data.inputs import Storage
from pfm.data.loading import load_data
from pfm.data.splits import ClassificationData, Split
from pfm.seeds import make_generator
from pfm.training.config import RunConfig
from pfm_bench.reports.run_options import run_config
from recipes import SPEAKER

SHARED = "--optimizer adamw --schedule cosine --eval_every 0 --save_every 0 --cpu"
START = "--prompt_start seed"  # the default when the figures were made; a recipe says its own
PROMPT = "--readout prompt --final_norm"
DIGITS = "--dataset digits --model_name scratch:vit_digits --weight_decay 0.1 --warmup 0.1 --batch_size 128"
PROMPTS_ONLY = "--readout cls --tune prompts --lr 1e-2"
HELD_OUT = 0.2


@dataclass(frozen=True)
class Setting:
    """A data set and the options that all variants share.

    Attributes:
        options: of `pfm train`, without data set and length.
        lengths: the same, by readout.
        choosing, shown: classes that a recipe is chosen on, and that its table is of.
        per_class, tested: training samples of each class, and samples that are measured on, drawn once; 0: all.
        source: which path it needs; "" for none.
        fields: options of the data.
        more: options of a variant here: what its recipe says, where `options` say something else.
        is_relearned: attackers fine-tune here as well.
    """

    options: str
    lengths: dict[str, str]
    choosing: tuple[str, ...]
    shown: tuple[str, ...]
    per_class: int = 0
    tested: int = 0
    source: str = ""
    fields: tuple[str, ...] = ()
    more: dict[str, str] = field(default_factory=dict)
    is_relearned: bool = False


NAMES = "AbdomenCT,BreastMRI,CXR,ChestCT,Hand,HeadCT"
SETTINGS = {
    "lora": Setting(
        options=f"--class_names {NAMES} --weight_decay 0.01 --warmup 0.3 --batch_size 32 --lr 3e-3 --prompt_layer 5 "
        "--cache_trunk host",
        lengths={"cls": "--epochs 8", "prompt": "--epochs 8"},
        choosing=("BreastMRI", "HeadCT"), shown=("AbdomenCT", "Hand"), per_class=150, tested=100, source="mednist",
        more={"cls, recommended": "--epochs 24 --lr 1e-2", "cls, recommended before": "--lr 1e-2"},
    ),
    "mednist": Setting(
        options=f"--class_names {NAMES} --model_name scratch:vit_mini --weight_decay 0.01 --warmup 0.3 --batch_size 32",
        lengths={"cls": "--epochs 6", "prompt": "--epochs 6"},
        choosing=("BreastMRI", "HeadCT"), shown=("AbdomenCT", "Hand"), per_class=400, tested=100, source="mednist",
    ),
    "digits": Setting(
        options=DIGITS,
        lengths={"cls": "--epochs 20 --lr 8e-3", "prompt": "--epochs 30 --lr 5e-3 --max_grad_norm 1"},
        choosing=("0", "5", "7"), shown=("1", "3", "8", "0", "2", "4", "5", "6", "7", "9"), is_relearned=True,
    ),
    "fsdd": Setting(
        options="--model_name scratch:ast_mini --lr 3e-3 --weight_decay 0.05 --warmup 0.1 --batch_size 64",
        lengths={"cls": "--epochs 20", "prompt": "--epochs 30 --max_grad_norm 1"},
        choosing=("1", "8"), shown=("3", "7"), source="fsdd",
    ),
    "speakers": Setting(
        options="--model_name scratch:ast_mini --lr 3e-3 --weight_decay 0.05 --warmup 0.1 --batch_size 64",
        lengths={"cls": "--epochs 20", "prompt": "--epochs 30 --max_grad_norm 1"},
        choosing=("george", "jackson"), shown=("theo", "lucas"), source="fsdd", fields=tuple(SPEAKER),
    ),
}  # fmt: skip
VARIANTS = {
    "cls, uniform": "--readout cls",
    "cls, others": "--readout cls --wrong_target others",
    "cls, others, T 0.5": "--readout cls --wrong_target others --target_temperature 0.5",
    "cls, others, T 0.25": "--readout cls --wrong_target others --target_temperature 0.25",
    "cls, others, T 2": "--readout cls --wrong_target others --target_temperature 2",
    "cls, others, weight 3": "--readout cls --wrong_target others --absent_weight 3",
    "cls, others, weight 0.3": "--readout cls --wrong_target others --absent_weight 0.3",
    "cls, prompts only": PROMPTS_ONLY,
    **{f"cls, prompts only, share {share}": f"{PROMPTS_ONLY} --others_gradient {share}" for share in (0, 0.1, 0.3)},
    "cls, prompts only, share 0.3, 24 epochs": f"{PROMPTS_ONLY} --others_gradient 0.3 --epochs 24",
    "cls, prompts only, share 0.2, 24 epochs, lr 3e-2": f"{PROMPTS_ONLY} --others_gradient 0.2 --epochs 24 --lr 3e-2",
    "cls, prompts only, share 0.3, 24 epochs, lr 3e-2": f"{PROMPTS_ONLY} --others_gradient 0.3 --epochs 24 --lr 3e-2",
    "prompt, prompts only, none": f"{PROMPT} --wrong_target none --tune prompts --lr 1e-2",
    "prompt, prompts only, none, share 0": f"{PROMPT} --wrong_target none --tune prompts --lr 1e-2 --others_gradient 0",
    "cls, prompts only, others": f"{PROMPTS_ONLY} --wrong_target others",
    "prompt, uniform": f"{PROMPT}",
    "prompt, none": f"{PROMPT} --wrong_target none",
    "prompt, none, weight 0.3": f"{PROMPT} --wrong_target none --absent_weight 0.3",
    "prompt, others": f"{PROMPT} --wrong_target others",
    "prompt, prompts only, others": f"{PROMPT} --tune prompts --lr 1e-2 --wrong_target others",
    "prompt, others, T 0.5": f"{PROMPT} --wrong_target others --target_temperature 0.5",
    "cls, recommended": "--readout cls --recipe recommended",
    "cls, recommended before": "--readout cls --tune prompts --prompt_start secret",  # of pretrained weights
    "cls, recommended, 60 epochs": "--readout cls --recipe recommended --epochs 60",
    "prompt, recommended": f"{PROMPT} --recipe recommended",
    "ridge": "--readout ridge",
}


def options_of(data: str, variant: str) -> str:
    """Of `pfm train`, but for data, backbone, seed and folder."""
    setting, own = SETTINGS[data], VARIANTS[variant]
    readout = variant.partition(",")[0]
    if readout not in setting.lengths:  # it is solved: no option of training step by step
        features = "" if data == "lora" else " --features raw"
        return (f"--class_names {NAMES} " if NAMES in setting.options else "") + f"{own}{features} --cpu"
    start = "" if "--recipe" in own or "--prompt_start" in own else START
    return " ".join(filter(None, [
        setting.options, setting.lengths[readout], SHARED, own, start, setting.more.get(variant)
    ]))  # fmt: skip


def config_of(data: str, variant: str, seed: int, places: dict[str, str], folder: str) -> RunConfig:
    """The run of one model."""
    setting = SETTINGS[data]
    named = ["--dataset", places[setting.source], *setting.fields] if setting.source else []
    options = options_of(data, variant).split()
    if "--dataset" not in [*named, *options]:
        named = ["--dataset", data]
    if data == "lora":
        named += ["--model_name", places["backbone"]]
    config = run_config([*named, *options, "--seed", str(seed), "--save_dir", folder])
    if config.model.features != "raw":
        return config
    return replace(config, backbone=BackboneConfig(model_name=raw_model(config.data.kind)))


def data_for(config: DataConfig, storage: Storage, setting: Setting, *, is_choosing: bool) -> ClassificationData:
    """What is trained and measured on."""
    data = load_data(config, storage)
    if setting.per_class:
        data = replace(data, train=_first(data.train, setting.per_class))
    if is_choosing and data.val is None:
        train, held = _parted(data.train)
        data = replace(data, train=train, test=held)
    elif is_choosing:
        data = replace(data, test=data.val)
    if setting.tested:
        data = replace(data, test=_first(data.test, setting.tested))
    return replace(data, val=None)


def few(split: Split, position: int, own: int, rest: int) -> Split:
    """At most so many samples of a class, and of all others."""
    order = torch.randperm(len(split), generator=make_generator("few"))
    is_own = split.labels[order] == position
    chosen = torch.cat([order[is_own][:own], order[~is_own][:rest]])
    return split.subset(chosen.sort().values)


def _first(split: Split, count: int) -> Split:
    order = torch.randperm(len(split), generator=make_generator("part"))
    rows = [order[split.labels[order] == label][:count] for label in split.labels.unique().tolist()]
    return split.subset(torch.cat(rows).sort().values)


def _parted(split: Split) -> tuple[Split, Split]:
    """Without a share of each class, and that share."""
    order = torch.randperm(len(split), generator=make_generator("held out"))
    held = []
    for label in split.labels.unique().tolist():
        own = order[split.labels[order] == label]
        held.append(own[: round(HELD_OUT * len(own))])
    chosen = torch.cat(held)
    is_held = torch.zeros(len(split), dtype=torch.bool)
    is_held[chosen] = True
    return split.subset((~is_held).nonzero()[:, 0]), split.subset(is_held.nonzero()[:, 0])
