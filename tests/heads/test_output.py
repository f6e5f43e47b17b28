"""Where a run directory may go, and what is left where it cannot be written."""

from __future__ import annotations

import pytest

from tests.heads.program import ROOT, process, refused, run
from tests.processes import run_python

QUICK = ("--bootstrap", "0", "--c", "0.1", "--class-weight", "none")


@pytest.mark.parametrize("limit", [100, 2_000, 30_000])
def test_a_full_disk_is_said_and_nothing_half_written_is_left(store, tmp_path, limit):
    # a limit on the size of a file answers as a full disk does; each limit stops another file
    before = f"import resource; resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}))"
    done = process("train", "--features", store, *QUICK, "--output", "out", cwd=tmp_path, before=before)
    assert done.returncode == 2, done.stderr
    assert "the run directory out cannot be written: File too large" in done.stderr
    assert done.stderr.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_a_link_to_a_run_is_kept_and_its_run_replaced(store, tmp_path):
    run(tmp_path, "train", "--features", store, *QUICK, "--output", "real")
    (tmp_path / "real" / "mark").touch()
    (tmp_path / "link").symlink_to("real")
    run(tmp_path, "train", "--features", store, *QUICK, "--output", "link", "--overwrite")
    assert (tmp_path / "link").is_symlink()
    assert not (tmp_path / "real" / "mark").exists()
    assert (tmp_path / "real" / "metrics.json").exists()
    assert {file.name for file in tmp_path.iterdir()} == {"real", "link"}


@pytest.mark.parametrize("output", [".", ".."])
def test_the_folder_one_is_in_is_not_replaced(store, tmp_path, output):
    said = refused(tmp_path, "train", "--features", store, *QUICK, "--output", output, "--overwrite")
    assert "the folder you are in cannot be replaced" in said


@pytest.mark.parametrize("output", ["afile", "afile/x", "afile/x/y"])
def test_a_file_in_the_way_is_named(store, tmp_path, output):
    (tmp_path / "afile").touch()
    said = refused(tmp_path, "train", "--features", store, *QUICK, "--output", output)
    assert "afile is a file; name a directory" in said


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--split", "kfold"), "does not say how many folds"),
        (("--strata", "lenght:200"), "no such column"),
        (("--threshold", "best"), "--threshold best"),
        (("--head", "lr", "--epochs", "3"), "is an option of --head mlp"),
        (("--detect", "x"), "--detect x"),
    ],
)
def test_mistakes_are_found_before_torch_is_loaded(store, tmp_path, options, said):
    # an import of torch would fail as our own mistake, with exit code 1
    code = f"import sys; sys.path.insert(0, {str(ROOT)!r}); sys.modules['torch'] = None; from cli.heads import main; main()"
    done = run_python(code, "train", "--features", store, *options, cwd=tmp_path)
    assert (done.returncode, said in " ".join(done.stderr.split())) == (2, True), done.stderr
