"""Weights from the Hub: a stand-in on loopback speaks its protocol and fails in all its ways."""

import errno
import json
import os

import pytest
import torch
from huggingface_hub import HfApi, constants, errors
from safetensors.torch import save
from support.hub import standing_in

import vitrail
from vitrail import checkpoint
from vitrail.checkpoint import FOLDER, hub
from vitrail.cli import main
from vitrail.errors import CheckpointError
from vitrail.jobs import weights

REPO = "some/mobilenetv2_035"


def call(*arguments):
    """The exit code of a command."""
    with pytest.raises(SystemExit) as caught:
        main([*arguments])
    return caught.value.code


def file_of(name, seed=0):
    torch.manual_seed(seed)
    state = vitrail.create(name).state_dict()
    return save({n: v.contiguous() for n, v in state.items()})


@pytest.fixture(scope="module")
def data():
    return file_of("cct_2_3x2_32")


@pytest.fixture
def server(data, tmp_path, monkeypatch):
    """A Hub with one repository, and an empty cache beside it."""
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr("huggingface_hub.file_download.time.sleep", lambda _: None)
    with standing_in() as found:
        found.repos[REPO] = {"model.safetensors": data, "config.json": b'{"mean": [0.1]}'}
        monkeypatch.setenv("HF_ENDPOINT", found.url)
        yield found


def test_weights_are_fetched_once(server, data):
    path = checkpoint.located(f"hf-hub:{REPO}")
    assert path.read_bytes() == data
    downloads = [line for line in server.log if line[0] == "GET" and "/cdn/" in line[1]]
    assert checkpoint.located(f"hf-hub:{REPO}") == path
    assert [line for line in server.log if line[0] == "GET" and "/cdn/" in line[1]] == downloads
    assert hub.kept(f"hf-hub:{REPO}", FOLDER) == path
    config = hub.beside(f"hf-hub:{REPO}", "config.json")
    assert config is not None and config.read_bytes() == b'{"mean": [0.1]}'
    assert hub.beside(f"hf-hub:{REPO}", "labels.json") is None
    assert vitrail.identify(f"hf-hub:{REPO}/model.safetensors").name == "cct_2_3x2_32"


def test_a_download_that_breaks_off_goes_on(server, data, monkeypatch):
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 1 << 16)  # what it writes at a time
    server.fault = "cut off"
    assert hub.fetched(f"hf-hub:{REPO}", FOLDER).read_bytes() == data
    ranges = [asked for method, path, asked in server.log if "/cdn/" in path and method == "GET"]
    assert ranges[0] is None
    assert ranges[-1] and ranges[-1].startswith("bytes=") and ranges[-1] != "bytes=0-"


def test_what_is_kept_needs_no_network(server, data):
    path = hub.fetched(f"hf-hub:{REPO}", FOLDER)
    server.fault = "503"
    assert hub.fetched(f"hf-hub:{REPO}", FOLDER) == path


def test_other_bytes_are_refused_and_removed(server, data):
    server.fault = "wrong bytes"
    with pytest.raises(CheckpointError, match="other bytes than the Hub says"):
        hub.fetched(f"hf-hub:{REPO}", FOLDER)
    assert hub.kept(f"hf-hub:{REPO}", FOLDER) is None
    server.fault = ""
    assert hub.fetched(f"hf-hub:{REPO}", FOLDER).read_bytes() == data


@pytest.mark.parametrize(
    ("fault", "said"),
    [("401", "set HF_TOKEN"), ("403", "set HF_TOKEN"), ("404", "check the name"),
     ("429", "answers 429"), ("503", "answers 503")],
)  # fmt: skip
def test_each_refusal_is_one_sentence(server, fault, said):
    server.fault = fault
    with pytest.raises(CheckpointError, match=said) as caught:
        hub.fetched(f"hf-hub:{REPO}/model.safetensors", FOLDER)
    assert "\n" not in str(caught.value) and REPO in str(caught.value)


def test_a_missing_repository_and_a_missing_file(server):
    for reference in ("hf-hub:some/nothing", f"hf-hub:{REPO}/other.pth"):
        with pytest.raises(CheckpointError, match="check the name"):
            hub.fetched(reference, FOLDER)
    server.repos["some/empty"] = {"readme.md": b""}
    with pytest.raises(CheckpointError, match="name the file, as in"):
        hub.fetched("hf-hub:some/empty", FOLDER)
    for wrong in ("hf-hub:", "hf-hub:name", "hf-hub:a b/c", "hf-hub:/x"):
        with pytest.raises(CheckpointError, match="names no repository"):
            hub.fetched(wrong, FOLDER)


def test_no_answer_no_network_no_room(server, monkeypatch):
    import httpx2

    whole = f"hf-hub:{REPO}/model.safetensors"
    for error, said in (
        (httpx2.ReadTimeout("slow"), "does not answer in time"),
        (httpx2.ConnectError("refused"), "cannot be reached"),
        (errors.OfflineModeIsEnabled("off"), "HF_HUB_OFFLINE is set"),
        (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), "the disk is full"),
        (OSError("Consistency check failed: file should be"), "it was cut off"),
        (RuntimeError("something else"), "something else"),
    ):

        def raises(*_, error=error, **__):
            raise error

        with monkeypatch.context() as patched:
            patched.setattr(HfApi, "hf_hub_download", raises)
            with pytest.raises(CheckpointError, match=said):
                hub.fetched(whole, FOLDER)


# ---- vitrail weights ----------------------------------------------------------------------


def test_weights_within_a_budget_are_listed(capsys):
    assert call("weights", "--max-macs", "400M", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert {"mobilenet_v2_100", "tf_efficientnet_lite0"} <= {one["name"] for one in found}
    assert all(one["macs"] <= 4e8 and one["reference"].startswith("hf-hub:") for one in found)
    assert [one["macs"] for one in found] == sorted(one["macs"] for one in found)
    assert call("weights", "--family", "mobilenet_v2") == 0
    assert "published weights" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["mobilenet_v2_100"], "--shelf is not given"),
        (["--shelf", "x"], "name their variants"),
        (["mobilenet_v3", "--shelf", "x"], "no variant is called"),
        (["mobilenet_v2_035", "--shelf", "x"], "no weights of mobilenet_v2_035"),
        (["--family", "mobilenet"], "mobilenet"),
    ],
)
def test_wrong_wishes(arguments, said, capsys):
    assert call("weights", *arguments) == 2 and said in capsys.readouterr().err


def test_a_shelf_is_filled(server, tmp_path, capsys):
    server.repos["timm/mobilenetv2_050.lamb_in1k"] = {
        "model.safetensors": file_of("mobilenet_v2_050")
    }
    shelf = tmp_path / "shelf"
    assert call("weights", "mobilenet_v2_050", "--shelf", str(shelf), "--json") == 0
    [told] = json.loads(capsys.readouterr().out)
    assert told["licence"] == "apache-2.0"
    assert vitrail.identify(shelf / told["path"]).name == "mobilenet_v2_050"
    server.fault = "503"
    [again] = weights.fetch(["mobilenet_v2_050"], shelf)
    assert again.size_bytes == told["size_bytes"]
    server.fault = ""
    server.repos["timm/mobilenetv2_100.ra_in1k"] = {
        "model.safetensors": file_of("mobilenet_v2_050")
    }
    with pytest.raises(CheckpointError):
        weights.fetch(["mobilenet_v2_100"], shelf)
    assert not list(shelf.glob("mobilenetv2_100*"))
