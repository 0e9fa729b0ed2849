"""Backbones by hub id, through transformers' and the hub's own clients, from a hub on the loopback address."""

import json
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import constants
from safetensors.torch import load, save

from making.commands import Refuse, train_arguments
from making.hub_repos import vit_files
from making.hub_server import TOKEN, Hub, Repo
from making.timm_files import small_vit
from pfm.backbones.config import BackboneConfig
from pfm.backbones.loading import build_backbone, frozen_sha256
from pfm.backbones.spec import BackboneSpec, describe_backbone
from pfm.data.images import ImagePreprocess
from pfm.errors import BackboneError, ConfigError

pytestmark = pytest.mark.slow


def describe(revision: str = "", name: str = "some/vit") -> BackboneSpec:
    return describe_backbone(BackboneConfig(model_name=name, revision=revision))


def weights_of(spec: BackboneSpec) -> str:
    return frozen_sha256(build_backbone(spec, seed=0))


def problem(revision: str = "", name: str = "some/vit") -> str:
    with pytest.raises(BackboneError) as error:
        weights_of(describe(revision, name))
    return str(error.value)


@pytest.fixture
def commit(hub: Hub) -> str:
    return hub.repos["some/vit"].refs["main"]


def test_a_model_is_downloaded_once_with_its_processors_settings(hub: Hub, commit: str) -> None:
    spec = describe()
    backbone = build_backbone(spec, seed=0)
    assert spec.commit == commit
    assert isinstance(spec.preprocess, ImagePreprocess)
    assert (spec.preprocess.mean, spec.preprocess.resample) == ((0.1, 0.2, 0.3), "bicubic")
    stored = load(hub.repos["some/vit"].commits[commit]["model.safetensors"])
    assert all(bool((backbone.encoder.state_dict()[name] == tensor).all()) for name, tensor in stored.items())
    assert hub.fetched() == ["config.json", "preprocessor_config.json", "model.safetensors"]
    hub.asked.clear()
    assert weights_of(describe()) == frozen_sha256(backbone)
    assert hub.asked == ["HEAD /some/vit/resolve/main/config.json"]


@pytest.mark.parametrize("how", ["asked for", "out of reach"])
def test_without_the_hub_the_cache_serves_and_nothing_is_asked(
    hub: Hub, commit: str, offline: Callable[[], None], monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    before = weights_of(describe())
    hub.asked.clear()
    if how == "asked for":
        offline()
    else:
        monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    spec = describe()
    assert (spec.commit, weights_of(spec), hub.asked) == (commit, before, [])
    assert isinstance(spec.preprocess, ImagePreprocess)
    assert spec.preprocess.mean == (0.1, 0.2, 0.3)


@pytest.mark.usefixtures("hub")
def test_without_the_hub_and_without_a_cache_the_line_says_both(
    offline: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
        assert "http://127.0.0.1:9 cannot be reached" in problem()
    offline()
    assert "cannot load backbone 'some/vit': it is not in the cache (" in problem()
    assert "the hub was not asked: HF_HUB_OFFLINE is set" in problem()


def test_a_revision_is_kept_to_whatever_main_becomes(hub: Hub, commit: str, offline: Callable[[], None]) -> None:
    old = weights_of(describe())
    new = hub.repos["some/vit"].commit(vit_files(1), "v2")
    hub.repos["some/vit"].refs["v1"] = commit
    assert (describe().commit, describe("v2").commit, describe("v1").commit) == (new, new, commit)
    assert weights_of(describe("v1")) == weights_of(describe(commit)) == old != weights_of(describe())
    offline()
    assert describe("v1").commit == commit
    assert weights_of(describe(commit)) == old
    assert "some/vit has no revision 'v3' on the hub" not in problem("v3")  # which nobody can say offline


def test_a_revision_that_is_not_there_is_refused(hub: Hub) -> None:
    assert "some/vit has no revision 'v3' on the hub" in problem("v3")
    assert f"some/vit has no revision {'0' * 40!r} on the hub" in problem("0" * 40)
    assert hub.fetched() == []


def test_a_revision_is_only_for_models_of_the_hub(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--revision is for models of the hub"):
        BackboneConfig(model_name="scratch:vit_digits", revision="v1")
    (tmp_path / "config.json").write_text("{}")
    assert f"--revision is for models of the hub; {tmp_path} is a folder" in problem("v1", str(tmp_path))


def test_a_gated_model_is_refused_until_there_is_a_token(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.repos["some/vit"].is_gated = True
    assert "some/vit is gated: accept its terms on its page of the hub, then log in" in problem()
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    assert weights_of(describe())


def test_a_model_that_is_not_there_is_refused_with_and_without_a_token(
    hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = f"{hub.address} has no model some/other, or it is private"
    assert expected in problem(name="some/other")
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    assert expected in problem(name="some/other")
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    assert f"{hub.address} answers 401 (Invalid credentials in Authorization header); check HF_TOKEN" in problem()
    assert "some/path/of/mine is neither a folder that is there nor a hub id" in problem(name="some/path/of/mine")


@pytest.mark.usefixtures("at_once")
def test_a_download_that_breaks_off_goes_on_where_it_was(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE", 1000)  # what is kept comes in whole chunks
    hub.broken["model.safetensors"] = 1
    spec = describe()
    size = len(hub.repos["some/vit"].commits[spec.commit]["model.safetensors"])
    assert weights_of(spec)
    assert hub.ranges == [size // 2 // 1000 * 1000]


@pytest.mark.usefixtures("at_once")
def test_a_download_that_keeps_breaking_off_is_one_line_and_leaves_nothing_half(hub: Hub, tmp_path: Path) -> None:
    hub.broken["model.safetensors"] = 1000
    assert "cannot load the weights of 'some/vit': the download broke off (" in problem()
    assert list((tmp_path / "home").rglob("*.incomplete")) == []
    hub.broken.clear()
    assert weights_of(describe())


@pytest.mark.parametrize("file", ["config.json", "preprocessor_config.json", "model.safetensors"])
def test_a_file_without_the_stated_checksum_is_refused(hub: Hub, file: str) -> None:
    hub.spoilt.add(file)
    said = problem()
    assert f"{file} does not have the checksum that the hub states; delete " in said
    hub.spoilt.clear()
    damaged = Path(said.partition("delete ")[2].partition(" and try again")[0])
    assert f"delete {damaged} and try again" in problem()  # it is in the cache now
    damaged.unlink()
    assert weights_of(describe())


def test_a_full_disk_is_one_line(hub: Hub, small_disk: Callable[[int], AbstractContextManager[None]]) -> None:
    spec = describe()
    with small_disk(30_000):
        said = problem()
    assert "cannot load the weights of 'some/vit': File too large: " in said
    assert "free some space there, or set HF_HOME to another folder" in said
    assert weights_of(spec)
    assert hub.fetched().count("model.safetensors") == 2


@pytest.mark.usefixtures("at_once")
def test_a_processor_that_cannot_be_had_is_not_taken_for_none(hub: Hub, offline: Callable[[], None]) -> None:
    hub.failing["preprocessor_config.json"] = 500
    assert "cannot load preprocessor_config.json of 'some/vit'" in problem()
    assert "answers 500" in problem()
    offline()
    assert "cannot load preprocessor_config.json of 'some/vit': it is not in the cache" in problem()


def test_a_model_without_a_processor_has_the_librarys_defaults_also_offline(
    hub: Hub, offline: Callable[[], None]
) -> None:
    files = vit_files()
    del files["preprocessor_config.json"]
    hub.repos["some/vit"].commit(files)
    preprocess = describe().preprocess
    assert isinstance(preprocess, ImagePreprocess)
    assert preprocess.mean == (0.5, 0.5, 0.5)
    offline()
    assert describe().preprocess == preprocess


def test_a_damaged_processor_is_refused(hub: Hub) -> None:
    hub.repos["some/vit"].commit({**vit_files(), "preprocessor_config.json": b"{"})
    assert "preprocessor_config.json is damaged" in problem()


def test_the_feature_extractor_of_a_sound_model_is_asked_for(hub: Hub) -> None:
    config = {
        "model_type": "audio-spectrogram-transformer", "max_length": 32, "num_mel_bins": 16, "patch_size": 8,
        "frequency_stride": 8, "time_stride": 8, "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2,
        "intermediate_size": 48,
    }  # fmt: skip
    extractor = {"num_mel_bins": 16, "mean": -3.0, "std": 2.0, "sampling_rate": 8000}
    hub.repos["some/ast"] = Repo()
    commit = hub.repos["some/ast"].commit(
        {"config.json": json.dumps(config).encode(), "preprocessor_config.json": json.dumps(extractor).encode()}
    )
    spec = describe(name="some/ast")
    assert spec.commit == commit
    found: Any = spec.preprocess
    assert (found.mean, found.std, found.sampling_rate) == (-3.0, 2.0, 8000)


def test_a_model_in_timms_layout_is_of_one_commit_too(hub: Hub) -> None:
    repo = hub.repos["some/uni"] = Repo()
    config = {"architecture": "vit_tiny_patch16_224", "num_classes": 0, "pretrained_cfg": {"mean": [0.1, 0.2, 0.3]}}
    files = {"config.json": json.dumps(config).encode(), "model.safetensors": save(small_vit())}
    commit = repo.commit(files)
    spec = describe(name="some/uni")
    before = weights_of(spec)
    repo.commit({**files, "model.safetensors": save({key: value + 1 for key, value in small_vit().items()})})
    assert (spec.commit, weights_of(spec)) == (commit, before)
    assert weights_of(describe(commit, "some/uni")) == before != weights_of(describe(name="some/uni"))


@pytest.mark.usefixtures("at_once")
def test_a_broken_download_in_timms_layout_is_not_taken_for_a_model_without_weights(hub: Hub) -> None:
    config = {"architecture": "vit_tiny_patch16_224", "num_classes": 0}
    hub.repos["some/uni"] = Repo()
    hub.repos["some/uni"].commit({"config.json": json.dumps(config).encode(), "model.safetensors": save(small_vit())})
    hub.broken["model.safetensors"] = 1000
    with pytest.raises(BackboneError, match=r"model\.safetensors of 'some/uni': the download broke off"):
        describe(name="some/uni")
    hub.broken.clear()
    assert weights_of(describe(name="some/uni"))


@pytest.mark.usefixtures("at_once")
@pytest.mark.parametrize("how", ["gated", "missing", "revision", "broken", "spoilt", "failing", "offline"])
def test_at_the_command_line_each_is_one_line_and_exit_code_2(
    hub: Hub, refuse: Refuse, npz: Path, tmp_path: Path, offline: Callable[[], None], how: str
) -> None:
    arguments = [*train_arguments(npz, tmp_path / "out"), "--model_name", "some/vit"]
    if how == "gated":
        hub.repos["some/vit"].is_gated = True
    elif how == "missing":
        del hub.repos["some/vit"]
    elif how == "revision":
        arguments += ["--revision", "v3"]
    elif how == "broken":
        hub.broken["model.safetensors"] = 1000
    elif how == "spoilt":
        hub.spoilt.add("model.safetensors")
    elif how == "failing":
        hub.failing["config.json"] = 503
    else:
        offline()
    assert "'some/vit'" in refuse(*arguments)
