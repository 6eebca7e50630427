import os
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from cryptography.fernet import Fernet

from aiwm.errors import StartError
from aiwm.identity import keys


def _mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_the_first_start_makes_a_key_that_only_its_owner_can_read(tmp_path: Path) -> None:
    directory = tmp_path / "data" / "aiwm"

    key = keys.signing_key(directory)

    assert key.kid == key.thumbprint()
    assert key.public_key.key_size == 2048
    assert _mode(directory / keys.SIGNING_KEY) == 0o600
    assert _mode(directory) == 0o700
    assert [path.name for path in directory.iterdir()] == [keys.SIGNING_KEY]


def test_the_second_start_finds_the_key_of_the_first(tmp_path: Path) -> None:
    assert keys.signing_key(tmp_path).kid == keys.signing_key(tmp_path).kid
    assert keys.encryption_keys(tmp_path) == keys.encryption_keys(tmp_path)
    assert keys.admin_password(tmp_path) == keys.admin_password(tmp_path)


def test_programs_that_start_at_once_end_with_one_key(tmp_path: Path) -> None:
    with ThreadPoolExecutor(16) as pool:
        found = list(pool.map(lambda _: keys.encryption_keys(tmp_path)[0], range(64)))

    assert len(set(found)) == 1
    assert [path.name for path in tmp_path.iterdir()] == [keys.ENCRYPTION_KEYS]


def test_the_keys_of_the_file_keep_their_order(tmp_path: Path) -> None:
    newest, oldest = Fernet.generate_key().decode(), Fernet.generate_key().decode()
    path = tmp_path / keys.ENCRYPTION_KEYS
    path.touch(mode=0o600)
    path.write_text(f"{newest}\n\n{oldest}\n")

    assert keys.encryption_keys(tmp_path) == [newest, oldest]


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o610])
def test_a_key_that_others_can_reach_is_refused_with_the_remedy(tmp_path: Path, mode: int) -> None:
    keys.encryption_keys(tmp_path)
    path = tmp_path / keys.ENCRYPTION_KEYS
    path.chmod(mode)

    with pytest.raises(StartError, match=f"chmod 600 '{path}'"):
        keys.encryption_keys(tmp_path)


@pytest.mark.parametrize("content", [b"", b"not a key", b"-----BEGIN PRIVATE KEY-----\n-----END PRIVATE KEY-----\n"])
def test_a_broken_signing_key_is_refused_and_left_as_it_is(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / keys.SIGNING_KEY
    path.touch(mode=0o600)
    path.write_bytes(content)

    with pytest.raises(StartError, match="restore it from a backup"):
        keys.signing_key(tmp_path)
    assert path.read_bytes() == content


def test_a_public_key_cannot_sign(tmp_path: Path) -> None:
    pem = keys.signing_key(tmp_path / "other").as_pem(private=False)
    path = tmp_path / keys.SIGNING_KEY
    path.touch(mode=0o600)
    path.write_bytes(pem)

    with pytest.raises(StartError, match="public key"):
        keys.signing_key(tmp_path)


def test_empty_files_are_no_keys(tmp_path: Path) -> None:
    for name in (keys.ENCRYPTION_KEYS, keys.ADMIN_PASSWORD):
        (tmp_path / name).touch(mode=0o600)

    with pytest.raises(StartError, match="empty"):
        keys.encryption_keys(tmp_path)
    with pytest.raises(StartError, match="empty"):
        keys.admin_password(tmp_path)


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    in_the_way = tmp_path / "file"
    in_the_way.touch()

    with pytest.raises(StartError, match=str(in_the_way)):
        keys.encryption_keys(in_the_way)


def test_the_umask_does_not_open_a_key(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        keys.admin_password(tmp_path)
    finally:
        os.umask(before)

    assert _mode(tmp_path / keys.ADMIN_PASSWORD) == 0o600


# --- another encryption key --------------------------------------------------------------------------------------


def test_a_new_key_stands_in_front_and_the_others_stay(tmp_path: Path) -> None:
    [first] = keys.encryption_keys(tmp_path)

    assert keys.add_encryption_key(tmp_path) == 2

    second, then = keys.encryption_keys(tmp_path)
    assert (then, len({first, second})) == (first, 2)
    assert _mode(tmp_path / keys.ENCRYPTION_KEYS) == 0o600
    assert [path.name for path in tmp_path.iterdir()] == [keys.ENCRYPTION_KEYS]


def test_keys_added_at_once_are_all_there(tmp_path: Path) -> None:
    keys.encryption_keys(tmp_path)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: keys.add_encryption_key(tmp_path), range(16)))

    assert len(set(keys.encryption_keys(tmp_path))) == 17


def test_where_no_key_is_none_is_added(tmp_path: Path) -> None:
    for directory in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(StartError, match="set AIWM_DATA_DIR"):
            keys.add_encryption_key(directory)

    assert list(tmp_path.iterdir()) == []


def test_a_program_that_runs_is_told_of_new_keys_once(tmp_path: Path) -> None:
    file = keys.EncryptionKeyFile(tmp_path)
    assert file.news() == file.keys
    assert file.news() is None

    keys.add_encryption_key(tmp_path)

    assert file.news() == keys.encryption_keys(tmp_path)
    assert file.news() is None


def test_a_key_file_that_goes_away_or_opens_is_told_once(tmp_path: Path) -> None:
    file = keys.EncryptionKeyFile(tmp_path)
    path = tmp_path / keys.ENCRYPTION_KEYS
    path.chmod(0o644)
    with pytest.raises(StartError, match="chmod 600"):
        file.news()
    assert file.news() is None
    path.unlink()
    with pytest.raises(StartError, match="restore it from a backup"):
        file.news()
    assert file.news() is None


def test_a_data_directory_that_cannot_be_made_names_its_setting(tmp_path: Path) -> None:
    (tmp_path / "file").touch()

    with pytest.raises(StartError, match=r"can't make the data directory .*: set AIWM_DATA_DIR to another place"):
        keys.make_directory(tmp_path / "file" / "data")
