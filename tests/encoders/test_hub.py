"""Downloads from a loopback hub, each in its own process, because huggingface_hub reads its settings at import."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from tests.conftest import shared_folder
from tests.encoders.hub_server import COMMIT, TOKEN, HubServer, sha256

REPO = "org/esm2"
# The package is entered without its __init__, which imports torch: that would cost a second in each of fifty processes.
CLIENT = """
import json, sys, types
import embedcache
sys.modules["embedcache.encoders"] = package = types.ModuleType("embedcache.encoders")
package.__path__ = [embedcache.__path__[0] + "/encoders"]
from embedcache.encoders import hub
from embedcache.errors import ModelError
hub.WAITS = (0.05,) * 4
{prelude}
try:
    files = hub.fetch(*sys.argv[1:])
except ModelError as error:
    print(json.dumps({"error": str(error)}))
else:
    print(json.dumps({"directory": str(files.directory), "revision": files.revision}))
"""


class Machine:
    """A machine with its own hub cache, on which `fetch` runs in new processes."""

    def __init__(self, home: Path, hub: HubServer) -> None:
        self.home, self.hub = home, hub
        self.cache = home / "hub" / "models--org--esm2"
        self.snapshot = self.cache / "snapshots" / COMMIT
        kept = {key: value for key, value in os.environ.items() if not key.startswith("HF_")}
        self.environment = {**kept, "HF_HOME": str(home), "HF_ENDPOINT": hub.url, "HF_HUB_DISABLE_TELEMETRY": "1"}

    def start(self, repo: str = REPO, *revision: str, prelude: str = "", **environment: str) -> subprocess.Popen[str]:
        """Start `fetch` in a process of its own."""
        command = [sys.executable, "-W", "error", "-c", CLIENT.replace("{prelude}", prelude), repo, *revision]
        environment = self.environment | environment
        return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def fetch(self, repo: str = REPO, *revision: str, prelude: str = "", **environment: str) -> tuple[Path, str]:
        """Return the directory that `fetch` gives, and what it wrote to stderr."""
        answer, stderr = self.answer(self.start(repo, *revision, prelude=prelude, **environment))
        assert "directory" in answer, answer
        return Path(answer["directory"]), stderr

    def refusal(self, repo: str = REPO, *revision: str, prelude: str = "", **environment: str) -> str:
        """Return the message of the ModelError that `fetch` raises."""
        answer, _ = self.answer(self.start(repo, *revision, prelude=prelude, **environment))
        assert "error" in answer, answer
        assert "\n" not in answer["error"]
        return answer["error"]

    @staticmethod
    def answer(process: subprocess.Popen[str]) -> tuple[dict[str, str], str]:
        stdout, stderr = process.communicate(timeout=60)
        assert process.returncode == 0, stderr
        return json.loads(stdout), stderr


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """The golden ESM-2 checkpoint as a published repository, with files beside it that nobody needs."""
    folder = tmp_path / "published" / REPO
    folder.mkdir(parents=True)
    golden = shared_folder("golden") / "esm2"
    for name in ("config.json", "model.safetensors", "special_tokens_map.json", "tokenizer_config.json", "vocab.txt"):
        shutil.copyfile(golden / name, folder / name)
    for name in ("modeling_esm.py", "pytorch_model.bin", "tf_model.h5", "model.onnx", "README.md", "training_args.bin"):
        (folder / name).write_text("not wanted")
    return folder


@pytest.fixture
def hub(model: Path) -> Iterator[HubServer]:
    server = HubServer(model.parents[1])
    yield server
    server.close()


@pytest.fixture
def machine(tmp_path: Path, hub: HubServer) -> Machine:
    return Machine(tmp_path / "home", hub)


def big_weights(model: Path, megabytes: int = 32) -> Path:
    """Replace the weights by random bytes: huggingface_hub writes to disk in steps of 10 MB."""
    weights = model / "model.safetensors"
    weights.write_bytes(np.random.default_rng(0).bytes(megabytes << 20))
    return weights


def test_a_model_is_fetched_with_its_published_bytes_and_nothing_else(machine: Machine, model: Path) -> None:
    directory, stderr = machine.fetch()
    assert directory == machine.snapshot
    wanted = {"config.json", "model.safetensors", "special_tokens_map.json", "tokenizer_config.json", "vocab.txt"}
    assert {path.name for path in directory.iterdir()} == wanted
    assert all((directory / name).read_bytes() == (model / name).read_bytes() for name in wanted)
    assert "org/esm2: 100%" in stderr.replace("\r", "\n")


def test_python_files_are_never_downloaded(machine: Machine, hub: HubServer) -> None:
    machine.fetch()
    assert not [request for request in hub.requests if request.endswith(".py")]
    assert not list(machine.home.rglob("*.py"))


def test_a_pinned_commit_is_asked_for_once(machine: Machine, hub: HubServer) -> None:
    first, _ = machine.fetch(REPO, COMMIT)
    hub.requests.clear()
    again, stderr = machine.fetch(REPO, COMMIT)
    assert again == first
    assert hub.requests == []
    assert stderr == ""


def test_no_progress_means_a_silent_stderr(machine: Machine) -> None:
    quiet = "import functools; hub.fetch = functools.partial(hub.fetch, progress=False)"
    assert machine.fetch(prelude=quiet)[1] == ""


def test_bin_weights_are_taken_only_where_there_are_no_safetensors(machine: Machine, model: Path) -> None:
    (model / "model.safetensors").unlink()
    directory, _ = machine.fetch()
    assert (directory / "pytorch_model.bin").read_text() == "not wanted"
    assert not list(directory.glob("*.safetensors"))


def test_shards_are_those_that_the_index_names(machine: Machine, model: Path) -> None:
    (model / "model.safetensors").unlink()
    names = [f"model-0000{i}-of-00002.safetensors" for i in (1, 2)]
    for name in [*names, "model-00003-of-00003.safetensors"]:
        (model / name).write_text(name)
    index = {"weight_map": {"a": names[0], "b": names[1], "c": names[0]}}
    (model / "model.safetensors.index.json").write_text(json.dumps(index))
    directory, stderr = machine.fetch()
    assert sorted(path.name for path in directory.glob("*.safetensors")) == names
    assert stderr.count("org/esm2:   0%") <= 1
    (directory / names[1]).unlink()
    assert names[1] in machine.refusal(HF_HUB_OFFLINE="1")


def test_an_index_cannot_name_files_elsewhere(machine: Machine, model: Path) -> None:
    (model / "model.safetensors").unlink()
    index = {"weight_map": {"a": "../modeling_esm.py"}}
    (model / "model.safetensors.index.json").write_text(json.dumps(index))
    assert "names ../modeling_esm.py" in machine.refusal()


def test_one_of_several_models_in_a_repository_is_fetched(machine: Machine, model: Path) -> None:
    (model / "small").mkdir()
    for name in ("config.json", "model.safetensors"):
        shutil.copyfile(model / name, model / "small" / name)
    directory, _ = machine.fetch("org/esm2/small")
    assert directory == machine.snapshot / "small"
    assert {path.name for path in machine.snapshot.rglob("*.*")} == {"config.json", "model.safetensors"}


def test_download_killed_halfway_is_never_used_and_resumes(machine: Machine, hub: HubServer, model: Path) -> None:
    weights = big_weights(model)
    hub.faults.bytes_per_second = 20 << 20
    process = machine.start()
    partial = machine.cache / "blobs" / f"{sha256(weights)}.incomplete"
    deadline = time.monotonic() + 30
    while not (partial.exists() and partial.stat().st_size >= 10 << 20):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    arrived = partial.stat().st_size
    assert 0 < arrived < weights.stat().st_size

    assert not (machine.snapshot / "model.safetensors").exists()
    assert "model.safetensors" in machine.refusal(REPO, COMMIT, HF_HUB_OFFLINE="1")

    hub.faults.bytes_per_second = float("inf")
    directory, _ = machine.fetch()
    assert sha256(directory / "model.safetensors") == sha256(weights)
    assert hub.downloads(weights) == ["", f"bytes={arrived}-"]
    assert not partial.exists()


def test_a_resumed_download_survives_a_server_without_ranges(machine: Machine, hub: HubServer, model: Path) -> None:
    hub.faults.ignore_range = True
    weights = model / "model.safetensors"
    partial = machine.cache / "blobs" / f"{sha256(weights)}.incomplete"
    partial.parent.mkdir(parents=True)
    partial.write_bytes(weights.read_bytes()[:1000])
    directory, _ = machine.fetch()
    assert sha256(directory / "model.safetensors") == sha256(weights)


def test_a_wrong_beginning_is_found_and_fetched_again(machine: Machine, hub: HubServer, model: Path) -> None:
    weights = model / "model.safetensors"
    partial = machine.cache / "blobs" / f"{sha256(weights)}.incomplete"
    partial.parent.mkdir(parents=True)
    partial.write_bytes(bytes(1000))
    directory, _ = machine.fetch()
    assert sha256(directory / "model.safetensors") == sha256(weights)
    assert hub.downloads(weights) == ["bytes=1000-", ""]


def test_cut_body_is_retried(machine: Machine, hub: HubServer, model: Path) -> None:
    weights = big_weights(model, 24)
    hub.faults.cut["model.safetensors"] = 1
    directory, _ = machine.fetch()
    assert sha256(directory / "model.safetensors") == sha256(weights)
    assert hub.downloads(weights) == ["", f"bytes={10 << 20}-"]


def test_a_busy_hub_is_asked_again(machine: Machine, hub: HubServer) -> None:
    hub.faults.unavailable.update({"api": 2, "config.json": 2, "model.safetensors": 4})
    directory, stderr = machine.fetch()
    assert (directory / "model.safetensors").exists()
    assert "503" in stderr


def test_a_hub_that_stays_busy_is_named_and_the_download_goes_on_later(machine: Machine, hub: HubServer) -> None:
    hub.faults.unavailable["model.safetensors"] = 5
    message = machine.refusal()
    assert "broke off" in message
    assert "503" in message
    assert "run the same command again" in message
    machine.fetch()


def test_corrupt_weights_are_refused(machine: Machine, hub: HubServer) -> None:
    hub.faults.corrupt["model.safetensors"] = 2
    message = machine.refusal()
    assert "model.safetensors arrived twice with another content" in message
    assert not (machine.snapshot / "model.safetensors").exists()
    assert not list(machine.cache.glob("blobs/*.incomplete"))
    hub.faults.corrupt["model.safetensors"] = 1
    _, stderr = machine.fetch()
    assert "model.safetensors arrived damaged; fetching it again" in stderr


def test_corrupt_small_files_are_refused_too(machine: Machine, hub: HubServer) -> None:
    hub.faults.corrupt["vocab.txt"] = 2
    assert "vocab.txt arrived twice" in machine.refusal()


def test_a_file_cut_in_the_cache_is_fetched_again(machine: Machine, model: Path) -> None:
    machine.fetch(REPO, COMMIT)
    blob = machine.cache / "blobs" / sha256(model / "model.safetensors")
    os.truncate(blob, 1000)
    assert "lacks model.safetensors" in machine.refusal(REPO, COMMIT, HF_HUB_OFFLINE="1")
    directory, _ = machine.fetch(REPO, COMMIT)
    assert sha256(directory / "model.safetensors") == sha256(model / "model.safetensors")


def test_two_processes_download_once(machine: Machine, hub: HubServer, model: Path) -> None:
    weights = big_weights(model, 12)
    hub.faults.bytes_per_second = 16 << 20
    both = [machine.start(), machine.start()]
    answers = [machine.answer(process)[0] for process in both]
    assert answers[0] == answers[1]
    assert hub.downloads(weights) == [""]
    assert sha256(machine.snapshot / "model.safetensors") == sha256(weights)


def test_offline_uses_the_cached_revision(machine: Machine, hub: HubServer) -> None:
    directory, _ = machine.fetch()
    hub.requests.clear()
    for revision in ("main", COMMIT):
        found, stderr = machine.fetch(REPO, revision, HF_HUB_OFFLINE="1")
        assert found == directory
        assert (f"using its last known commit {COMMIT}" in stderr) == (revision == "main")
    assert hub.requests == []


def test_a_hub_that_is_away_is_replaced_by_the_cache(machine: Machine, hub: HubServer) -> None:
    directory, _ = machine.fetch()
    hub.close()
    found, stderr = machine.fetch()
    assert found == directory
    assert "cannot be reached" in stderr
    message = machine.refusal("org/other")
    assert "cannot be reached" in message
    assert "give the path of its directory" in message
    assert "HF_HOME" in message


def test_offline_without_the_model_says_what_is_missing(machine: Machine) -> None:
    message = machine.refusal(HF_HUB_OFFLINE="1")
    assert message.startswith("org/esm2: HF_HUB_OFFLINE is set, and the cache ")
    assert "lacks config.json" in message


def test_main_stays_at_the_last_whole_commit_while_a_new_one_is_not_there(
    machine: Machine, hub: HubServer, model: Path
) -> None:
    machine.fetch()
    hub.revisions.update({"main": "f" * 40, "f" * 40: "f" * 40})
    (model / "model.safetensors").write_text("new weights")
    hub.faults.unavailable["model.safetensors"] = 5
    assert "broke off" in machine.refusal()
    directory, _ = machine.fetch(HF_HUB_OFFLINE="1")
    assert directory == machine.snapshot
    directory, _ = machine.fetch()
    assert directory.name == "f" * 40
    assert (directory / "model.safetensors").read_text() == "new weights"


def test_the_cache_is_shared_with_huggingface_hub(machine: Machine, hub: HubServer, model: Path) -> None:
    other = "from huggingface_hub import snapshot_download, scan_cache_dir; {}"
    theirs = 'snapshot_download("org/esm2", allow_patterns=["*.json", "*.txt", "model.safetensors"])'
    machine.fetch(prelude=other.format(theirs))
    assert hub.downloads(model / "model.safetensors") == [""]
    shutil.rmtree(machine.cache / "embedcache")
    assert machine.fetch(HF_HUB_OFFLINE="1")[0] == machine.snapshot

    shutil.rmtree(machine.home)
    machine.fetch()
    theirs = 'assert snapshot_download("org/esm2", local_files_only=True); assert not scan_cache_dir().warnings'
    machine.fetch(prelude=other.format(theirs))
    assert len(hub.downloads(model / "model.safetensors")) == 2


def test_missing_repo_names_the_way_out(machine: Machine) -> None:
    message = machine.refusal("org/esm3")
    assert "org/esm3 is not on http://127.0.0.1" in message
    assert "`embedcache models`" in message
    assert "is neither a directory nor a hub id" in machine.refusal("no such model!")


def test_missing_revision_is_named(machine: Machine) -> None:
    assert "has no revision 'v9'" in machine.refusal(REPO, "v9")


def test_gated_repo_asks_for_a_login_and_the_token_stays_with_the_hub(machine: Machine, hub: HubServer) -> None:
    hub.faults.gated = True
    message = machine.refusal()
    assert "gated" in message
    assert "`hf auth login`" in message
    machine.fetch(HF_TOKEN=TOKEN)  # the CDN on another host refuses requests that carry a token


def test_repo_without_weights_lists_what_there_is(machine: Machine, model: Path) -> None:
    for name in ("model.safetensors", "pytorch_model.bin"):
        (model / name).unlink()
    message = machine.refusal()
    assert "has no weights" in message
    assert "tf_model.h5" in message


def test_disk_space_is_checked_before_the_first_byte(machine: Machine, hub: HubServer) -> None:
    hub.faults.claimed_size["model.safetensors"] = 10**15
    message = machine.refusal()
    assert "needs 1,000,000,000.0 MB in" in message
    assert str(machine.home / "hub") in message
    assert not [request for request in hub.requests if "/resolve/" in request]


def test_disk_full_on_the_way_leaves_nothing_half_written(machine: Machine, hub: HubServer, model: Path) -> None:
    weights = big_weights(model, 24)
    # The kernel refuses to let any file grow beyond 12 MB, as a quota would.
    limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (12 << 20, 12 << 20))"
    assert "the disk or quota is full" in machine.refusal(prelude=limit)
    assert not (machine.snapshot / "model.safetensors").exists()
    directory, _ = machine.fetch()
    assert sha256(directory / "model.safetensors") == sha256(weights)
    assert hub.downloads(weights) == ["", f"bytes={12 << 20}-"]


def test_a_read_only_cache_is_used_or_named(machine: Machine, tmp_path: Path) -> None:
    locked = tmp_path / "locked"
    locked.mkdir(mode=0o555)
    if os.access(locked, os.W_OK):
        pytest.skip("this user (root) may write anywhere")
    machine.fetch()
    folders = [machine.home, *(path for path in machine.home.rglob("*") if path.is_dir())]
    for folder in folders:
        folder.chmod(0o555)
    machine.fetch()
    for folder in folders:
        folder.chmod(0o755)
    assert "cannot be written" in machine.refusal(HF_HOME=str(locked))


def test_a_server_that_is_no_hub_is_named(machine: Machine, hub: HubServer) -> None:
    hub.revisions["main"] = "no commit"
    assert "does not answer as a Hugging Face hub does" in machine.refusal()
