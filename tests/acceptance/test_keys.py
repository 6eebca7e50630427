"""`aiwm keys rotate`, beside programs that serve."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import threading
from collections.abc import Iterator
from contextlib import closing
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from cryptography.fernet import Fernet

import forks
from gateway import Caller, Gateway
from patience import PATIENCE
from planted import MARK

KEY = f"sk-planted-{MARK}-0123456789abcdefghijklmnop"
MODELS = 120
"""More than are sealed in one batch."""


class Provider(BaseHTTPRequestHandler):
    """Says yes to who has the key."""

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["content-length"] or 0))
        self.send_response(200 if self.headers["authorization"] == f"Bearer {KEY}" else 401)
        self.send_header("content-length", "2")
        self.end_headers()
        self.wfile.write(b"{}")

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def provider() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Provider) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def _rotate(folder: Path, **settings: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("AIWM_")}
    given = environment | {"AIWM_DATA_DIR": str(folder)} | settings
    return forks.run(["keys", "rotate"], given, timeout=PATIENCE)


def _keys(folder: Path) -> list[str]:
    return (folder / "encryption-keys").read_text().split()


def _stored(folder: Path) -> dict[str, str]:
    """The token of each model's key."""
    with closing(sqlite3.connect(folder / "aiwm.db")) as connection:
        rows = connection.execute("SELECT id, api_config FROM models").fetchall()
    return {id_: json.loads(config)["apiKey"]["sealed"] for id_, config in rows}


def _model(caller: Caller, endpoint: str) -> str:
    body = {
        "name": "m", "type": "llm", "deploymentType": "api-based", "provider": "openai", "apiEndpoint": endpoint,
        "modelIdentifier": "m", "apiConfig": {"apiKey": KEY},
    }  # fmt: skip
    made = caller.http.post("/models", json=body)
    assert made.status_code == 201, made.text
    return str(made.json()["_id"])


def _ask(gateway: Gateway, caller: Caller, deployment: str) -> int:
    return caller.http.post(f"/deployments/{deployment}/inference/v1/x", json={}).status_code


def test_secrets_get_a_new_key_while_two_programs_serve(tmp_path: Path, provider: str) -> None:
    folder = tmp_path / "data"
    with (
        Gateway(folder, AIWM_PRIVATE_UPSTREAMS="127.0.0.1") as one,
        Gateway(folder, AIWM_PRIVATE_UPSTREAMS="127.0.0.1") as two,
    ):
        admin = one.login()
        deployment = one.deploy(admin, "openai", provider, config={"apiKey": KEY})
        deleted = _model(admin, provider)
        admin.http.delete(f"/models/{deleted}")
        changed = [_model(admin, provider) for _ in range(MODELS)][MODELS // 2]
        wrong: list[Any] = []
        ended = threading.Event()

        def call() -> None:
            """Calls, and changes of a model whose key stays, without a pause."""
            number = 0
            while not ended.is_set():
                number += 1
                answers = [
                    _ask(one, admin, deployment),
                    admin.http.put(f"/models/{changed}", json={"description": str(number)}).status_code,
                ]
                wrong.extend(status for status in answers if status != 200)

        caller = threading.Thread(target=call)
        caller.start()
        [old] = _keys(folder)
        done = _rotate(folder)
        ended.set()
        caller.join()

        assert (done.returncode, done.stderr) == (0, "")
        assert KEY not in done.stdout
        assert f"A new key is the first of 2 in {folder / 'encryption-keys'}" in done.stdout
        # Whoever operates the machine did it: no login stands behind a command.
        [told] = admin.http.get("/audit?objectType=encryptionKey").json()["data"]
        assert (told["action"], told["user"]["username"], told["before"]) == ("encryptionKey.rotate", "operator", None)
        assert told["after"]["secrets"] >= MODELS
        assert told["after"]["lost"] == 0
        assert wrong == []
        assert _keys(folder)[1:] == [old]
        again = admin.http.put(f"/models/{changed}", json={"description": "last"})
        assert again.status_code == 200
        assert one.login().http.get(f"/models/{changed}").json()["apiConfig"] == {"apiKey": "sk-p…mnop"}
        # Programs that were running use the new key at once: the one for a new secret, the other for an old one.
        fresh = _model(admin, provider)
        elsewhere = two.login()
        made = elsewhere.http.post("/deployments", json={"name": "x", "modelId": fresh}).json()["_id"]
        assert _ask(two, elsewhere, made) == 200
        assert _rotate(folder).returncode == 0

    newest = Fernet(_keys(folder)[0])
    stored = _stored(folder)
    assert deleted in stored
    assert len(stored) == MODELS + 3
    assert {newest.decrypt(token) for token in stored.values()} == {KEY.encode()}
    # The old ones may go then.
    (folder / "encryption-keys").write_text(f"{_keys(folder)[0]}\n")
    with Gateway(folder, AIWM_PRIVATE_UPSTREAMS="127.0.0.1") as restarted:
        assert _ask(restarted, restarted.login(), deployment) == 200


def test_keys_of_the_settings_are_rotated_by_their_order(tmp_path: Path, provider: str) -> None:
    folder, old, new = tmp_path / "data", Fernet.generate_key().decode(), Fernet.generate_key().decode()
    with Gateway(folder, AIWM_ENCRYPTION_KEYS=old) as gateway:
        _model(gateway.login(), provider)

    done = _rotate(folder, AIWM_ENCRYPTION_KEYS=f"{new},{old}")

    assert done.returncode == 0, done.stderr
    assert "1 secrets sealed anew" in done.stdout
    assert {Fernet(new).decrypt(token) for token in _stored(folder).values()} == {KEY.encode()}


def test_what_no_key_opens_is_told_and_left_as_it_is(tmp_path: Path, provider: str) -> None:
    folder = tmp_path / "data"
    with Gateway(folder) as gateway:
        model = _model(gateway.login(), provider)
    before = _stored(folder)
    (folder / "encryption-keys").write_text(Fernet.generate_key().decode())

    done = _rotate(folder)

    assert done.returncode == 1
    assert done.stderr == f"1 models have a secret that none of the keys opens; give them again: {model}\n"
    assert _stored(folder) == before


def test_where_nothing_is_to_be_rotated_it_is_told_in_one_line(tmp_path: Path) -> None:
    done = _rotate(tmp_path / "data")

    assert (done.returncode, done.stdout) == (2, "")
    assert str(tmp_path / "data") in done.stderr
    assert done.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_a_database_that_others_can_read_keeps_it_from_starting(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    with Gateway(folder):
        pass
    (folder / "aiwm.db").chmod(0o644)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("AIWM_")}
    settings = {"AIWM_DATA_DIR": str(folder), "AIWM_PORT": "0", "AIWM_IAM_PORT": "0"}
    done = forks.run(["serve"], environment | settings, timeout=PATIENCE)
    text = f"aiwm: other users of this machine can read {folder / 'aiwm.db'}: run `chmod 600 '{folder / 'aiwm.db'}'`\n"
    assert (done.returncode, done.stderr) == (2, text)
