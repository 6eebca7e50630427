"""files/folders.py: only what lies below the opened folders is found, whatever links say."""

from __future__ import annotations

import os
from pathlib import Path, PurePosixPath

import pytest

from aiwm.domain.sources import LocalFiles
from aiwm.errors import Invalid
from aiwm.files.folders import Folders, Found


def _local(path: Path) -> LocalFiles:
    return LocalFiles(PurePosixPath(path))


@pytest.fixture
def opened(tmp_path: Path) -> Path:
    folder = tmp_path / "opened"
    (folder / "llama" / "deep").mkdir(parents=True)
    (folder / "llama" / "config.json").write_bytes(b"{}")
    (folder / "llama" / "deep" / "weights").write_bytes(b"x" * 100)
    (tmp_path / "secret").mkdir()
    (tmp_path / "secret" / "file").write_bytes(b"secret")
    (tmp_path / "opened-too").mkdir()
    (tmp_path / "opened-too" / "file").write_bytes(b"secret")
    return folder


def test_a_file_and_a_folder_are_found_with_their_size(opened: Path) -> None:
    folders = Folders([opened])
    assert folders.find(_local(opened / "llama" / "config.json")) == Found(opened / "llama" / "config.json", 2)
    assert folders.find(_local(opened / "llama")) == Found(opened / "llama", 102)
    assert folders.find(_local(opened / "llama" / ".." / "llama")) == Found(opened / "llama", 102)


def test_nothing_outside_is_said_to_be_there_or_not(opened: Path, tmp_path: Path) -> None:
    folders = Folders([opened])
    outside = ["secret/file", "secret", "opened-too/file", "not there", "opened/../secret/file", ".", "opened/../.."]
    for name in outside:
        path = tmp_path / name
        with pytest.raises(Invalid) as refused:
            folders.find(LocalFiles(PurePosixPath(str(path))))
        assert str(refused.value) == f"{PurePosixPath(str(path))} is not below a folder of AIWM_MODEL_PATHS"


def test_a_link_is_what_it_leads_to(opened: Path, tmp_path: Path) -> None:
    folders = Folders([opened])
    (opened / "to-llama").symlink_to(opened / "llama")
    (opened / "out").symlink_to(tmp_path / "secret")
    assert folders.find(_local(opened / "to-llama")) == Found(opened / "llama", 102)
    for path in (opened / "out", opened / "out" / "file"):
        with pytest.raises(Invalid, match="is not below a folder"):
            folders.find(_local(path))


@pytest.mark.parametrize("target", ["secret", "secret/file", "nowhere"])
def test_a_folder_with_a_link_that_leads_out_is_refused(opened: Path, tmp_path: Path, target: str) -> None:
    (opened / "llama" / "deep" / "link").symlink_to(tmp_path / target)
    with pytest.raises(Invalid) as refused:
        Folders([opened]).find(_local(opened / "llama"))
    assert "deep/link is a link that leads out" in str(refused.value)
    assert "secret" not in str(refused.value)


def test_the_cache_of_the_hubs_library_may_be_opened_whose_files_are_links(opened: Path) -> None:
    blobs, snapshot = opened / "models--a--b" / "blobs", opened / "models--a--b" / "snapshots" / "c"
    blobs.mkdir(parents=True)
    snapshot.mkdir(parents=True)
    (blobs / "hash").write_bytes(b"12345")
    (snapshot / "model").symlink_to(os.path.relpath(blobs / "hash", snapshot))
    assert Folders([opened]).find(_local(snapshot)) == Found(snapshot, 5)


def test_an_opened_folder_may_itself_be_a_link(opened: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(opened)
    assert Folders([tmp_path / "link"]).find(_local(tmp_path / "link" / "llama")).size == 102


def test_what_is_missing_or_empty_is_said(opened: Path) -> None:
    (opened / "empty").mkdir()
    folders = Folders([opened])
    with pytest.raises(Invalid, match=r"there is no file or folder .*nowhere on this server"):
        folders.find(_local(opened / "nowhere"))
    with pytest.raises(Invalid, match=r"the folder .*empty is empty"):
        folders.find(_local(opened / "empty"))
    with pytest.raises(
        Invalid, match="no folder of this server is opened for models: the operator sets AIWM_MODEL_PATHS"
    ):
        Folders([]).find(_local(opened / "llama"))


def test_what_can_not_be_read_is_said(opened: Path) -> None:
    (opened / "loop").symlink_to(opened / "loop")
    with pytest.raises(Invalid):
        Folders([opened]).find(_local(opened / "loop"))
    with pytest.raises(Invalid, match=r"can't be read \(File name too long\)"):
        Folders([opened]).find(_local(opened / ("x" * 300)))
