"""What users of a trainer take for granted, each against a run without it or a slow reference."""

import dataclasses
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch

from making.images import write_npz
from making.logs import log_records
from making.models import tiny_model
from pfm.backbones.config import BackboneConfig
from pfm.data.config import AugmentConfig, DataConfig, FeedConfig
from pfm.data.images import ImageStorage
from pfm.data.loading import load_data
from pfm.device import DeviceConfig, Processes
from pfm.errors import ConfigError, TrainingError
from pfm.evaluation.config import EvalConfig
from pfm.evaluation.evaluator import make_evaluator
from pfm.evaluation.samples import label_positions
from pfm.model.checkpoint import load_checkpoint
from pfm.model.config import LoraSettings, ModelConfig
from pfm.model.flops import StepWork, step_flops
from pfm.training import memory
from pfm.training.config import ObjectiveConfig, RunConfig, TrainConfig
from pfm.training.interrupt import StopRequest
from pfm.training.launch import TRACKERS, split_trackers, start_accelerator
from pfm.training.memory import largest_micro_batch
from pfm.training.objective import class_weights
from pfm.training.optim import Average
from pfm.training.records import flops_per_sample
from pfm.training.run import train
from pfm.training.setup import Setup, check_sharded
from pfm.training.shares import balanced_order
from pfm.training.throughput import peak_of

CPU = torch.device("cpu")
STEM = "colours_seed_42"
pytestmark = pytest.mark.usefixtures("preset")


def run(data: Path, folder: Path, **changes: Any) -> Path:
    """Train and return the checkpoint; `changes` are fields of any part of the configuration."""
    parts: dict[str, Any] = {
        "data": DataConfig(dataset=str(data)), "backbone": BackboneConfig(model_name="scratch:tiny"),
        "model": ModelConfig(), "lora": LoraSettings(), "augment": AugmentConfig(), "evaluation": EvalConfig(),
        "train": TrainConfig(epochs=2, batch_size=16, lr=0.01, eval_every=0, save_dir=str(folder), log_every=1),
        "device": DeviceConfig(cpu=True), "objective": ObjectiveConfig(), "feed": FeedConfig(),
    }  # fmt: skip
    for part, config in parts.items():
        own = {f.name for f in dataclasses.fields(config)} & set(changes)
        parts[part] = dataclasses.replace(config, **{name: changes.pop(name) for name in own})
    assert not changes
    return train(RunConfig(**parts), CPU, lambda _: None).checkpoint


def records(folder: Path, event: str) -> list[dict[str, Any]]:
    return [record for record in log_records(folder / f"{STEM}_log.jsonl") if record["event"] == event]


def assert_same(first: Path, second: Path, tolerance: float = 0.0) -> None:
    one, other = load_checkpoint(first).tensors, load_checkpoint(second).tensors
    for name in one:
        if "k_proj.bias" not in name:  # has no gradient but rounding, which Adam magnifies
            torch.testing.assert_close(one[name], other[name], atol=tolerance, rtol=0, msg=name)


# --- portions of a batch --------------------------------------------------------------------------


@pytest.mark.parametrize(
    "more",
    [{}, {"readout": "prompt", "wrong_target": "none", "decoys": 2}, {"tune": "prompts", "others_gradient": 0.3}],
    ids=["paper", "decoys", "share"],
)
def test_accumulation_over_four_batches_is_one_batch_as_large(npz: Path, tmp_path: Path, more: dict[str, Any]) -> None:
    large = run(npz, tmp_path / "a", batch_size=16, **more)
    small = run(npz, tmp_path / "b", batch_size=4, gradient_accumulation_steps=4, **more)
    assert_same(large, small, 2e-4)  # rounding, through two epochs of Adam at 0.01
    assert len(records(tmp_path / "a", "step")) == len(records(tmp_path / "b", "step"))


def test_a_batch_that_does_not_fit_is_computed_in_parts_with_the_same_numbers(
    npz: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    more = {"readout": "prompt", "wrong_target": "none", "decoys": 2}  # which the trials show too
    plain = run(npz, tmp_path / "a", **more)
    tried: list[int] = []

    def attempt(*arguments: Any) -> None:
        size = arguments[-1]
        tried.append(size)
        if size > 5:
            raise RuntimeError("CUDA out of memory. Tried to allocate 2 GiB")
        original(*arguments)

    original = memory.try_batch
    monkeypatch.setattr(memory, "try_batch", attempt)
    parts = run(npz, tmp_path / "b", auto_batch_size=True, **more)
    assert tried == [16, 8, 4]
    assert_same(plain, parts, 2e-4)


@pytest.mark.slow
def test_out_of_memory_on_another_process_counts_and_other_errors_do_not_hide(monkeypatch: pytest.MonkeyPatch) -> None:
    stop = StopRequest()
    hands = iter([1, 0])
    monkeypatch.setattr(stop, "highest", lambda value: max(value, next(hands)))
    assert largest_micro_batch(8, lambda _: None, stop) == 4

    def wrong(_: int) -> None:
        raise RuntimeError("shapes do not fit")

    with pytest.raises(RuntimeError, match="shapes do not fit"):
        largest_micro_batch(8, wrong, StopRequest())

    def never(_: int) -> None:
        raise RuntimeError("CUDA out of memory. Tried to allocate")

    with pytest.raises(TrainingError, match="not even one image fits"):
        largest_micro_batch(8, never, StopRequest())


def test_recomputing_activations_changes_no_number(npz: Path, tmp_path: Path) -> None:
    assert_same(
        run(npz, tmp_path / "a", tune="lora"), run(npz, tmp_path / "b", tune="lora", gradient_checkpointing=True), 1e-6
    )


# --- where the data lie ---------------------------------------------------------------------------


@pytest.mark.parametrize("workers", [0, 1])
def test_images_gathered_by_workers_give_the_same_bytes(npz: Path, tmp_path: Path, workers: int) -> None:
    options: dict[str, Any] = {"shift": 1, "hflip": True}
    resident = run(npz, tmp_path / "a", data_on="device", **options)
    assert_same(resident, run(npz, tmp_path / "b", data_on="host", num_workers=workers, **options))


@pytest.mark.parametrize("where", ["device", "host", "disk"])
@pytest.mark.parametrize("layer", [0, 1])
def test_a_cached_trunk_gives_the_same_bytes_and_accuracies(npz: Path, tmp_path: Path, where: str, layer: int) -> None:
    options: dict[str, Any] = {"tune": "lora", "prompt_layer": layer, "eval_every": 1, "batch_size": 8}
    options["eval_batch_size"] = 8  # batches as large as in training, so that rounding is the same
    assert_same(run(npz, tmp_path / "a", **options), run(npz, tmp_path / "b", cache_trunk=where, **options), 1e-6)
    first, second = ((tmp_path / name / f"{STEM}_accuracies.json").read_text() for name in "ab")
    assert first == second


@pytest.mark.parametrize(
    ("options", "message"),
    [({"tune": "full"}, "--tune full trains them"), ({"tune": "lora", "shift": 1}, "augmented inputs")],
)
def test_a_cache_of_what_changes_is_refused(npz: Path, tmp_path: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        run(npz, tmp_path, cache_trunk="host", **options)


def test_the_cache_says_how_large_it_is(npz: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from making.commands import train_arguments
    from pfm.cli import pfm
    from pfm.cli import run as command

    assert command(pfm, train_arguments(npz, tmp_path, "--tune", "lora", "--cache_trunk", "disk")) == 0
    said = capsys.readouterr().out
    assert "trunk of train: 64 images x 5 tokens" in said
    assert "MiB in each process (disk)" in said
    assert not list(tmp_path.glob("*trunk*"))


# --- precision ------------------------------------------------------------------------------------


def test_frozen_weights_in_bf16_train_what_float32_does_and_are_saved_by_the_same_hash(
    npz: Path, tmp_path: Path
) -> None:
    options: dict[str, Any] = {"tune": "lora", "epochs": 4, "eval_every": 4}
    first = load_checkpoint(run(npz, tmp_path / "a", **options))
    second = load_checkpoint(run(npz, tmp_path / "b", frozen_dtype="bf16", **options))
    assert first.frozen_sha256 == second.frozen_sha256
    assert all(tensor.dtype == torch.float32 for tensor in second.tensors.values())
    losses = [records(tmp_path / name, "step")[0]["loss"] for name in "ab"]
    assert losses[0] != losses[1]  # it is another arithmetic
    assert losses[0] == pytest.approx(losses[1], abs=0.05)
    second.build_model()


def test_bf16_stores_frozen_weights_in_bf16_unless_told_otherwise() -> None:
    assert DeviceConfig(mixed_precision="bf16").stores_frozen_in_bf16
    assert not DeviceConfig(mixed_precision="bf16", frozen_dtype="fp32").stores_frozen_in_bf16
    assert not DeviceConfig().stores_frozen_in_bf16
    model = tiny_model(lora=LoraSettings())
    model.store_frozen(torch.bfloat16)
    trained = model.trained_tensors()
    for name, tensor in model.named_parameters():
        assert tensor.dtype == (torch.float32 if name in trained else torch.bfloat16), name


@pytest.mark.slow(seconds=40)
@pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated:DeprecationWarning")  # torch's own import
@pytest.mark.parametrize(
    "options",
    [{"tune": "lora"}, {"readout": "prompt", "wrong_target": "none", "decoys": 2},
     {"tune": "prompts", "others_gradient": 0.3}],
    ids=["lora", "decoys", "share"],
)  # fmt: skip
def test_a_compiled_step_gives_the_numbers_of_the_eager_one(npz: Path, tmp_path: Path, options: dict[str, Any]) -> None:
    options = {**options, "epochs": 1}
    eager, compiled = run(npz, tmp_path / "a", **options), run(npz, tmp_path / "b", compile=True, **options)
    assert_same(eager, compiled, 2e-4)


# --- objective and optimizer ----------------------------------------------------------------------


@pytest.fixture
def skewed(tmp_path: Path) -> Path:
    """Half of the images are of class 0, the rest evenly of the other three."""
    from making.images import coloured_images

    images, labels = coloured_images(120)
    keep = np.concatenate([np.flatnonzero(labels[:, 0] == 0), np.flatnonzero(labels[:, 0] != 0)[:30]])
    return write_npz(tmp_path / "colours.npz", train_images=images[keep], train_labels=labels[keep])


def test_class_weights_give_each_class_the_same_total() -> None:
    labels = torch.tensor([0] * 30 + [1] * 10 + [2] * 5)
    weights = class_weights(labels, 3)
    totals = torch.zeros(3).index_add(0, labels, weights[labels])
    torch.testing.assert_close(totals, torch.full((3,), 15.0))


def test_balanced_sampling_draws_each_class_equally_often_and_repeats_with_the_seed() -> None:
    labels = torch.tensor([0] * 3000 + [1] * 900 + [2] * 100)
    order = balanced_order(labels, class_weights(labels, 3), 1, 0)
    shares = torch.bincount(labels[order], minlength=3) / 4000
    assert (shares - 1 / 3).abs().max() < 0.04  # five standard errors
    assert torch.equal(order, balanced_order(labels, class_weights(labels, 3), 1, 0))
    assert not torch.equal(order, balanced_order(labels, class_weights(labels, 3), 1, 1))


def test_balance_changes_the_run(skewed: Path, tmp_path: Path) -> None:
    losses = [
        [r["loss"] for r in records(run(skewed, tmp_path / b, balance=b).parent, "step")]
        for b in ("none", "weights", "sampling")
    ]
    assert losses[0] != losses[1] != losses[2] != losses[0]


def test_clipping_bounds_the_step(npz: Path, tmp_path: Path) -> None:
    assert records(run(npz, tmp_path / "a").parent, "step")[3]["loss"] != pytest.approx(
        records(run(npz, tmp_path / "b", max_grad_norm=1e-4).parent, "step")[3]["loss"], abs=1e-9
    )


def test_the_average_follows_its_formula_and_steps_in_for_a_while() -> None:
    model = tiny_model()
    average = Average(model, 0.9)
    before = model.bank.prompts.detach().clone()
    wanted = before.clone()
    for step in range(3):
        with torch.no_grad():
            model.bank.prompts.add_(step + 1.0)
        average.update()
        wanted = 0.9 * wanted + 0.1 * model.bank.prompts.detach()
    torch.testing.assert_close(average.tensors["bank.prompts"], wanted)
    with average.applied():
        torch.testing.assert_close(model.bank.prompts.detach(), wanted)
    torch.testing.assert_close(model.bank.prompts.detach(), before + 6)
    torch.testing.assert_close(average.tensors["bank.prompts"], wanted)


def test_the_average_is_what_a_checkpoint_is_evaluated_with(npz: Path, tmp_path: Path) -> None:
    checkpoint = load_checkpoint(run(npz, tmp_path, ema=0.5))
    assert not torch.equal(checkpoint.averaged["bank.prompts"], checkpoint.tensors["bank.prompts"])
    assert torch.equal(checkpoint.build_model().bank.prompts, checkpoint.averaged["bank.prompts"])


# --- which epochs are kept ------------------------------------------------------------------------


def test_only_the_last_checkpoints_and_the_best_are_kept(npz: Path, tmp_path: Path) -> None:
    run(npz, tmp_path / "out", epochs=5, keep=2, eval_every=1, best_metric="full_bank")
    assert sorted(path.name for path in (tmp_path / "out").glob("*.pt")) == [
        f"{STEM}_4.pt", f"{STEM}_5.pt", f"{STEM}_best.pt",
    ]  # fmt: skip
    accuracies = json.loads((tmp_path / "out" / f"{STEM}_accuracies.json").read_text())["full_bank"]
    best = accuracies.index(max(accuracies)) + 1  # the first of equals
    assert load_checkpoint(tmp_path / "out" / f"{STEM}_best.pt").epoch == best


def test_the_best_is_judged_on_the_val_split_where_there_is_one(tmp_path: Path) -> None:
    from making.images import coloured_images

    images, labels = coloured_images(20, seed=9)
    noise = np.random.default_rng(0).integers(0, 256, images.shape).astype(np.uint8)  # so that epochs differ
    path = write_npz(tmp_path / "colours.npz", val_images=images // 2 + noise // 2, val_labels=labels)
    last = run(path, tmp_path / "out", epochs=6, lr=0.003, eval_every=1, best_metric="full_bank")
    data = load_data(DataConfig(dataset=str(path)), ImageStorage(8))
    assert data.val is not None
    val = []
    for epoch in range(1, 7):
        checkpoint = load_checkpoint(last.with_name(f"{STEM}_{epoch}.pt"))
        positions = label_positions(checkpoint.classes, data.classes)
        evaluator = make_evaluator(
            data.val, positions, checkpoint.preprocess, Processes(device=CPU), EvalConfig(), seed=42
        )
        val.append(evaluator.evaluate(checkpoint.build_model()).modes["full_bank"])
    assert len(set(val)) > 1
    assert load_checkpoint(tmp_path / "out" / f"{STEM}_best.pt").epoch == val.index(max(val)) + 1


def test_a_run_that_no_longer_improves_stops_early(npz: Path, tmp_path: Path) -> None:
    options: dict[str, Any] = {"lr": 0.0, "eval_every": 1, "best_metric": "full_bank", "patience": 2}
    path = run(npz, tmp_path / "out", epochs=9, **options)
    assert path.name == f"{STEM}_3.pt"
    again = run(npz, tmp_path / "out", epochs=9, resume="auto", **options)
    assert again == path  # it stays stopped


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"best_metric": "accuracy"}, "choose one of full_bank"),
        ({"patience": 3}, "--patience needs --best_metric"),
        ({"best_metric": "full_bank"}, "needs evaluations"),
        ({"best_metric": "class_9", "eval_every": 1}, "the classes are"),
        ({"ema": 1.0}, "never moves"),
        ({"label_smoothing": 1.0}, "leaves no target"),
        ({"report_to": "notebook"}, "choose from tensorboard"),
    ],
)
def test_options_that_make_no_sense_are_refused(
    npz: Path, tmp_path: Path, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        run(npz, tmp_path / "out", **options)


# --- what is said ---------------------------------------------------------------------------------


def test_rates_land_in_the_log_and_in_the_runs_json(npz: Path, tmp_path: Path) -> None:
    run(npz, tmp_path / "out")
    document = json.loads((tmp_path / "out" / f"{STEM}_run.json").read_text())
    assert document["processes"] == 1
    assert [entry["epoch"] for entry in document["epochs"]] == [1, 2]
    for entry in document["epochs"]:
        assert entry["samples_per_s"] > 0
        assert entry["step_ms"] > 0
        assert entry["tflops_per_device"] >= 0
        assert entry["mfu"] is None  # no data sheet says what this CPU could do
        assert 0 <= entry["data_wait"] < 1
        assert entry["peak_memory_mib"] > 10
    assert records(tmp_path / "out", "step")[0]["samples_per_s"] > 0


def test_the_operations_of_a_sample_count_the_decoys_that_it_sees() -> None:
    model = tiny_model(readout="prompt", wrong_target="none")
    feed, none, two = FeedConfig(), ObjectiveConfig(), ObjectiveConfig(decoys=2)
    found = [
        flops_per_sample(
            cast(
                Setup,
                SimpleNamespace(
                    model=model, lora=None, spec=model.backbone.spec, config=SimpleNamespace(feed=feed, objective=each)
                ),
            )
        )
        for each in (none, two)
    ]
    work = StepWork(prompts=(2.5, 1.5), num_scores=1, rank=0, is_frozen=False, reads_prompts=True)
    # the other branch has no prompt in one step of four, and then no decoy
    shown = dataclasses.replace(work, prompts=(2.5 + 2, 1.5 + 2 * 3 / 4))
    assert found == [step_flops(model.backbone.spec, each) for each in (work, shown)]


@pytest.mark.parametrize(
    ("name", "peak"),
    [
        ("NVIDIA H100 80GB HBM3", 989), ("NVIDIA H100 PCIe", 756), ("NVIDIA H100 NVL", 835), ("NVIDIA H200", 989),
        ("NVIDIA GH200 480GB", 989), ("NVIDIA A100-SXM4-80GB", 312), ("NVIDIA A10", 125), ("NVIDIA L40S", 362),
        ("NVIDIA L4", 121), ("Tesla V100-SXM2-16GB", 125), ("NVIDIA RTX A4000", None), ("NVIDIA A10G", None),
    ],
)  # fmt: skip
def test_a_gpus_peak_goes_by_whole_words_of_its_name(name: str, peak: float | None) -> None:
    assert peak_of(name) == peak


def test_a_run_on_the_cpu_behind_one_on_a_gpu_is_on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACCELERATE_TORCH_DEVICE", "cuda:0")  # as a run on a GPU left it
    assert start_accelerator(torch.device("cpu"), DeviceConfig()).device.type == "cpu"


def test_trackers_write_what_the_log_has(npz: Path, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run(npz, tmp_path / "out", report_to="tensorboard", eval_every=1)
    folder = next(path.parent for path in (tmp_path / "out").rglob("events.out.tfevents.*"))
    events = EventAccumulator(str(folder)).Reload()
    losses = [event.value for event in events.Scalars("loss/loss")]
    assert losses == pytest.approx([record["loss"] for record in records(tmp_path / "out", "step")], abs=1e-6)
    assert len(events.Scalars("accuracy/full_bank")) == 2


def test_a_tracker_whose_package_is_missing_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(TRACKERS, "aim", "no_such_package")
    with pytest.raises(ConfigError, match="pip install no-such-package"):
        split_trackers("aim")


def test_a_broken_run_names_the_last_good_state(npz: Path, tmp_path: Path) -> None:
    path = run(npz, tmp_path / "out")
    with torch.no_grad():
        content = torch.load(path, weights_only=True)
        content["model_state_dict"]["bank.prompts"].fill_(torch.nan)
        torch.save(content, path)
    with pytest.raises(TrainingError, match=r"no longer a number at step \d+ \(epoch 3, learning rate 0.01\)"):
        run(npz, tmp_path / "out", epochs=3, resume=str(path))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"tune": "lora"}, "--tune full"),
        ({"auto_batch_size": True}, "smaller --batch_size"),
        ({"compile": True}, "leave it out"),
    ],
)
def test_what_does_not_go_with_a_sharded_model_is_refused(settings: dict[str, Any], message: str) -> None:
    train = TrainConfig(**{name: value for name, value in settings.items() if name != "tune"})
    config = SimpleNamespace(train=train)
    model = SimpleNamespace(trunk_is_frozen=settings.get("tune") == "lora")
    with pytest.raises(ConfigError, match=message):
        check_sharded(config, model)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"ACCELERATE_USE_DEEPSPEED": "true"}, r"zero2_8\.yaml"),
        ({"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "1"}, "fsdp_version: 2"),
        ({"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2"}, r"on the CPU.*cpu_2\.yaml"),
    ],
)
def test_launch_configs_the_trainer_does_not_do_are_refused(
    variables: dict[str, str], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match=message):
        start_accelerator(torch.device("cpu"), DeviceConfig(cpu=True))
