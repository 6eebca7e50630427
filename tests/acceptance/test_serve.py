"""`aiwm serve` as an operator meets it: the first start, the second, what keeps it from starting, and its end."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import sqlite3
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx2
import pytest
from cryptography.fernet import Fernet
from joserfc import jwt
from joserfc.jwk import OctKey

import forks
from aiwm import __version__
from gateway import ADMIN_PASSWORD, Gateway, TypedGateway, free_ports, get, post, secrets_in
from patience import PATIENCE
from planted import MARK
from postgresql import PostgreSql

KEY = f"sk-proj-0123-{MARK}-456789abcdefghijklmnop"
MODEL = {
    "name": "GPT-4 Turbo",
    "type": "llm",
    "deploymentType": "api-based",
    "provider": "openai",
    "apiEndpoint": "https://api.openai.com",
    "modelIdentifier": "gpt-4-turbo",
    "apiConfig": {"apiKey": KEY},
}


def _aiwm(*arguments: str, **settings: str) -> subprocess.CompletedProcess[str]:
    """A command that ends by itself."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("AIWM_")} | settings
    return forks.run(arguments, environment, timeout=PATIENCE)


def _refusal(*arguments: str, **settings: str) -> str:
    """The one line that a program says which can't start."""
    port, iam_port, simulator_port = map(str, free_ports(3))
    ports = {"AIWM_PORT": port, "AIWM_IAM_PORT": iam_port, "AIWM_SIMULATOR_PORT": simulator_port}
    ended = _aiwm(*(arguments or ("serve",)), **ports | settings)
    assert ended.returncode == 2, ended
    assert ended.stdout == ""
    assert ended.stderr.startswith("aiwm: ")
    assert ended.stderr.count("\n") == 1, ended.stderr
    assert "Traceback" not in ended.stderr
    return ended.stderr.removeprefix("aiwm: ").rstrip()


def _modes(folder: Path) -> dict[str, int]:
    return {path.name: stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()}


def _state(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


# --- the first start and the second --------------------------------------------------------------------------


def test_the_first_start_makes_everything_for_this_user_only_and_the_second_keeps_it(tmp_path: Path) -> None:
    # All that a URL would read as something else.
    folder = tmp_path / "100%20 deep?" / "data #1"
    first = TypedGateway(folder, AIWM_ADMIN_PASSWORD="")
    with first:
        [password] = re.findall(r"First user: admin, password (\S+)", first.output)
        assert len(password) >= 20
        modes = _modes(folder)
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        admin = first.login(password=password)
        assert admin.http.post("/models", json=MODEL).status_code == 201
        modes |= _modes(folder)
        kept = (folder / "admin-password").read_text().strip()
    assert {name: mode for name, mode in modes.items() if (folder / name).is_file() and mode != 0o600} == {}
    assert {name: mode for name, mode in modes.items() if (folder / name).is_dir() and mode != 0o700} == {}
    assert set(modes) >= {
        "aiwm.db",
        "aiwm.db-wal",
        "aiwm.db-shm",
        "signing-key.pem",
        "encryption-keys",
        "admin-password",
    }
    assert kept == password
    assert first.output.count(password) == 1
    assert secrets_in(first.log, password, KEY, admin.token) == []
    assert f"http://localhost:{first.port}/docs" in first.output
    assert f"http://localhost:{first.iam_port}" in first.output
    keys = {name: (folder / name).read_bytes() for name in ("signing-key.pem", "encryption-keys", "admin-password")}

    second = TypedGateway(folder, AIWM_ADMIN_PASSWORD="")
    with second:
        assert secrets_in(second.output + second.log, password) == []
        assert "First user" not in second.output
        # The login of the first start is good in the second: one signing key.
        models = get(f"{second.url}/models", headers={"authorization": f"Bearer {admin.token}"})
        assert [model["name"] for model in models.json()["data"]] == ["GPT-4 Turbo"]
        second.login(password=password)
    assert {name: (folder / name).read_bytes() for name in keys} == keys


def test_a_chosen_password_is_not_shown_and_not_kept(gateway: Gateway) -> None:
    assert secrets_in(gateway.output + gateway.log, ADMIN_PASSWORD) == []
    assert not (gateway.folder / "admin-password").exists()
    gateway.login()


# --- what keeps it from starting -----------------------------------------------------------------------------


@pytest.mark.parametrize("setting", ["AIWM_PORT", "AIWM_IAM_PORT"])
def test_a_port_that_is_taken_is_told_and_nothing_is_left_behind(tmp_path: Path, setting: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        text = _refusal(AIWM_DATA_DIR=str(tmp_path / "data"), **{setting: str(port)})
    assert text == f"port {port} on 127.0.0.1 is taken: stop the program that has it, or set {setting}"
    assert list(tmp_path.iterdir()) == []


def test_the_port_of_the_demo_that_is_taken_is_told(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        taken = str(other.getsockname()[1])
        text = _refusal("serve", "--demo", AIWM_DATA_DIR=str(tmp_path / "data"), AIWM_SIMULATOR_PORT=taken)
    assert text.endswith("or set AIWM_SIMULATOR_PORT")
    assert list(tmp_path.iterdir()) == []


def test_a_data_directory_that_can_not_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    text = _refusal(AIWM_DATA_DIR=str(tmp_path / "file" / "data"))
    assert str(tmp_path / "file" / "data") in text
    assert _state(tmp_path) == {"file": b"in the way"}


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"AIWM_PROT": "4000"}, "AIWM_PROT is not a setting; `aiwm settings` lists them all"),
        ({"AIWM_PORT": "x", "AIWM_DRAIN_SECONDS": "-1"}, "AIWM_PORT Input should be a valid integer"),
        ({"AIWM_ENCRYPTION_KEYS": "p4ssw0rd"}, "AIWM_ENCRYPTION_KEYS must be Fernet keys"),
        ({"AIWM_HOST": "no.such.host.invalid"}, "no.such.host.invalid is not an address of this machine"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_a_wrong_setting_is_told_and_nothing_is_left_behind(
    tmp_path: Path, settings: dict[str, str], told: str
) -> None:
    text = _refusal(AIWM_DATA_DIR=str(tmp_path / "data"), **settings)
    assert text.startswith(told)
    assert "p4ssw0rd" not in text
    assert list(tmp_path.iterdir()) == []


def test_a_database_that_can_not_be_opened_is_told_without_its_password(tmp_path: Path) -> None:
    text = _refusal(
        AIWM_DATA_DIR=str(tmp_path / "data"), AIWM_DATABASE_URL="postgresql+asyncpg://u:p4ssw0rd@127.0.0.1:1/none"
    )
    assert text.startswith("the database postgresql+asyncpg://u:***@127.0.0.1:1/none can't be opened")
    assert "p4ssw0rd" not in text


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The data directory of a program that has ended."""
    folder = tmp_path_factory.mktemp("stopped") / "data"
    with Gateway(folder) as running:
        assert running.login().http.post("/models", json=MODEL).status_code == 201
    return folder


def _copy(folder: Path, to: Path) -> Path:
    to.mkdir(mode=0o700)
    for path in folder.iterdir():
        if path.is_file():
            (to / path.name).write_bytes(path.read_bytes())
            (to / path.name).chmod(0o600)
    return to


@pytest.mark.parametrize("command", [("reprice",), ("keys", "rotate"), ("usage",), ("models",), ("deployments",)])
def test_where_no_aiwm_has_run_a_command_says_so_and_makes_nothing(tmp_path: Path, command: tuple[str, ...]) -> None:
    keys = {"AIWM_ENCRYPTION_KEYS": Fernet.generate_key().decode(), "AIWM_JWT_SECRET": "a" * 32}
    for given in ({}, keys):
        ended = _aiwm(*command, AIWM_DATA_DIR=str(tmp_path), **given)
        assert (ended.returncode, ended.stderr.count("\n")) == (2, 1), ended
        assert str(tmp_path) in ended.stderr
        assert list(tmp_path.iterdir()) == []


def test_a_database_that_is_newer_is_left_alone(stopped: Path, tmp_path: Path) -> None:
    folder = _copy(stopped, tmp_path / "data")
    with closing(sqlite3.connect(folder / "aiwm.db", isolation_level=None)) as connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
        before = list(connection.iterdump())
    text = _refusal(AIWM_DATA_DIR=str(folder))
    assert "is newer than this program (it has revision 9999): install the AIWM that made it" in text
    with closing(sqlite3.connect(folder / "aiwm.db")) as connection:
        assert list(connection.iterdump()) == before


def test_a_key_file_that_is_broken_is_told_and_left_alone(stopped: Path, tmp_path: Path) -> None:
    folder = _copy(stopped, tmp_path / "data")
    (folder / "encryption-keys").write_bytes(b"not a key at all\n")
    assert _refusal(AIWM_DATA_DIR=str(folder)).startswith("an encryption key is not a Fernet key")
    assert (folder / "encryption-keys").read_bytes() == b"not a key at all\n"


def test_a_key_that_others_can_read_is_told_with_the_command_that_mends_it(stopped: Path, tmp_path: Path) -> None:
    folder = _copy(stopped, tmp_path / "data")
    (folder / "encryption-keys").chmod(0o644)
    assert f"run `chmod 600 '{folder / 'encryption-keys'}'`" in _refusal(AIWM_DATA_DIR=str(folder))


def test_a_file_that_is_no_database_is_told_and_left_alone(stopped: Path, tmp_path: Path) -> None:
    folder = _copy(stopped, tmp_path / "data")
    (folder / "aiwm.db").write_bytes(b"a letter to a friend " * 500)
    assert "file is not a database" in _refusal(AIWM_DATA_DIR=str(folder))
    assert (folder / "aiwm.db").read_bytes() == b"a letter to a friend " * 500


def test_another_encryption_key_serves_all_but_what_it_can_not_open(stopped: Path, tmp_path: Path) -> None:
    folder = _copy(stopped, tmp_path / "data")
    with Gateway(folder, AIWM_ENCRYPTION_KEYS=Fernet.generate_key().decode()) as running:
        admin = running.login()
        [model] = admin.http.get("/models").json()["data"]
        assert model["apiConfig"] == {"apiKey": "sk-p…mnop"}
        deployment = admin.http.post("/deployments", json={"name": "x", "modelId": model["_id"]}).json()
        answer = admin.http.post(f"/deployments/{deployment['_id']}/inference/v1/models", json={})
        assert answer.status_code == 500
        assert "can't be decrypted: give it again, or restore the encryption keys" in answer.json()["message"]
        again = {"apiConfig": {"apiKey": KEY}}
        assert admin.http.put(f"/models/{model['_id']}", json=again).status_code == 200


# --- commands ------------------------------------------------------------------------------------------------


def test_the_version_is_told() -> None:
    ended = _aiwm("--version")
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, f"aiwm {__version__}\n", "")


def test_help_names_every_command() -> None:
    for arguments in (["--help"], []):
        ended = _aiwm(*arguments)
        for command in ("serve", "simulate", "settings", "--version"):
            assert command in ended.stdout
        assert "Traceback" not in ended.stderr
    assert "--demo" in _aiwm("serve", "--help").stdout


@pytest.mark.parametrize("arguments", [["nothing"], ["serve", "--nothing"], ["simulate", "--port", "x"],
                                       ["simulate", "--port", "99999"]])  # fmt: skip
def test_a_command_that_is_none_is_told_without_a_traceback(arguments: list[str]) -> None:
    ended = _aiwm(*arguments)
    assert ended.returncode == 2
    assert "Traceback" not in ended.stderr
    assert "Error" in ended.stderr


def test_settings_are_shown_for_people_and_for_the_documents() -> None:
    shown, markdown = _aiwm("settings"), _aiwm("settings", "--markdown")
    assert (shown.returncode, markdown.returncode) == (0, 0)
    for name in ("AIWM_DATA_DIR", "AIWM_JWT_SECRET", "AIWM_PRIVATE_UPSTREAMS"):
        assert name in shown.stdout
        assert f"| `{name}` |" in markdown.stdout
    # To ask what the settings are works whatever is set.
    assert _aiwm("settings", AIWM_PROT="4000").returncode == 0


def test_the_simulator_alone_answers_and_stops_when_told(tmp_path: Path) -> None:
    [port] = free_ports(1)
    command = [sys.executable, "-W", "error", "-m", "aiwm", "simulate", "--port", str(port)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert (
            line
            == f"Simulated provider on http://127.0.0.1:{port} (OpenAI, Anthropic, Google; any key). Ctrl-C stops it.\n"
        )
        body = {"model": "m", "messages": [{"role": "user", "content": "Hello!"}]}
        headers = {"authorization": "Bearer any"}
        answer = post(f"http://127.0.0.1:{port}/v1/chat/completions", json=body, headers=headers)
        assert "This is a simulated answer" in answer.text
        process.send_signal(signal.SIGINT)
        output, errors = process.communicate(timeout=PATIENCE)
    assert (process.returncode, output, errors) == (0, "", "")


def test_the_port_of_the_simulator_that_is_taken_is_told() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        assert "is taken" in _refusal("simulate", "--port", str(other.getsockname()[1]))


# --- running, and the end ------------------------------------------------------------------------------------


def test_ctrl_c_ends_it_with_0_and_lets_go_of_everything(tmp_path: Path) -> None:
    running = TypedGateway(tmp_path / "data", AIWM_LOG_FORMAT="console").start()
    get(f"{running.url}/healthz")
    assert running.stop(signal.SIGINT) == 0
    assert "path=/healthz" in running.log
    for never in ("Traceback", "Warning", "{"):
        assert never not in running.log
    for port in (running.port, running.iam_port):
        socket.create_server(("127.0.0.1", port)).close()
    # All is in the database itself: nothing waits in a log beside it.
    assert not {"aiwm.db-wal", "aiwm.db-shm"} & set(_modes(tmp_path / "data"))


def test_sigterm_ends_it_with_0_though_callers_keep_their_connections(tmp_path: Path) -> None:
    # Longer than anybody waits here.
    running = Gateway(tmp_path / "data", AIWM_LOG_LEVEL="warning", AIWM_DRAIN_SECONDS="600").start()
    with httpx2.Client(timeout=PATIENCE) as http, socket.create_connection(("127.0.0.1", running.port)):
        http.get(f"{running.url}/healthz")
        assert running.stop(signal.SIGTERM) == 0
    # A level above info is quiet when all is well.
    assert running.log == ""


def _lines(log: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in log.splitlines()]


def test_the_log_is_one_line_of_json_a_request_without_secrets(tmp_path: Path) -> None:
    running = Gateway(tmp_path / "data")
    with running:
        admin = running.login()
        model = admin.http.post(
            "/models?key=sk-in-the-query", json=MODEL, headers={"x-correlation-id": "order-42"}
        ).json()
        admin.http.get("/models/%0Anothing%1b[2J")
        admin.http.get(f"/models/{model['_id']}", params={"token": "in-the-query"})
        get(f"{running.url}/models", headers={"authorization": "Bearer sk-wrong-token-0123456789"})
        post(f"{running.iam_url}/auth/login", json={"username": "admin", "password": "wrong password"})
        user_id, org_id = admin.user["_id"], admin.user["orgId"]
    lines = [line for line in _lines(running.log) if line["event"] == "request"]

    assert [(line["method"], line["path"], line["status"]) for line in lines] == [
        ("POST", "/auth/login", 200),
        ("POST", "/models", 201),
        ("GET", "/models/%0Anothing%1B%5B2J", 400),
        ("GET", f"/models/{model['_id']}", 200),
        ("GET", "/models", 401),
        ("POST", "/auth/login", 401),
    ]
    made = lines[1]
    assert made["correlation_id"] == "order-42"
    assert (made["user_id"], made["org_id"], made["level"]) == (user_id, org_id, "info")
    assert made["ms"] > 0
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d+Z", made["time"])
    assert len({line["correlation_id"] for line in lines}) == len(lines)
    assert secrets_in(running.log, admin.token, KEY, ADMIN_PASSWORD, "in-the-query", "wrong password", "sk-wrong") == []


def test_a_body_that_is_too_large_is_refused_on_the_wire_too(gateway: Gateway) -> None:
    admin = gateway.login()
    answer = admin.http.post("/models", content=b'{"name": "' + b"x" * 3_000_000 + b'"}')
    assert answer.status_code == 413
    assert answer.json()["message"].endswith("at most 1048576 bytes are read here")

    def endless() -> Iterator[bytes]:
        for _ in range(3000):
            yield b" " * 1024

    assert admin.http.post("/models", content=endless()).status_code == 413
    assert admin.http.get("/models").status_code == 200


def test_metrics_are_what_prometheus_reads(gateway: Gateway) -> None:
    answer = get(f"{gateway.url}/metrics")
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/plain; version=")
    assert re.search(r"^# TYPE aiwm_\w+ \w+$", answer.text, re.MULTILINE)


# --- other databases, other IAMs -----------------------------------------------------------------------------


def _flow(running: Gateway, token: str) -> None:
    """A model, a deployment, an answer, a count: with curl, as the guide does it."""

    def curl(method: str, path: str, body: object = None) -> Any:
        data = [] if body is None else ["-d", json.dumps(body)]
        command = ["curl", "-s", "-X", method, f"{running.url}{path}", "-H", f"Authorization: Bearer {token}", *data]
        return json.loads(subprocess.run(command, capture_output=True, check=True, timeout=PATIENCE).stdout)

    simulator = f"http://127.0.0.1:{running.simulator_port}"
    model = curl("POST", "/models", MODEL | {"apiEndpoint": simulator})
    assert model["status"] == "active", model
    deployment = curl("POST", "/deployments", {"name": "GPT-4 Production", "modelId": model["_id"]})
    assert deployment["status"] == "running", deployment
    path = f"/deployments/{deployment['_id']}"
    body = {"messages": [{"role": "user", "content": "Hello!"}]}
    for number in (1, 2):
        answer = curl("POST", f"{path}/inference/v1/chat/completions", body)
        assert answer["model"] == "gpt-4-turbo"
        counted = curl("GET", path)
        assert counted["requestCount"] == number
        assert counted["totalTokens"] == number * answer["usage"]["total_tokens"]
    assert curl("POST", f"{path}/stop")["status"] == "stopped"
    refused = curl("POST", f"{path}/inference/v1/chat/completions", body)
    assert refused["message"] == "Deployment is not running. Current status: stopped"
    assert curl("GET", "/deployments?page=1&limit=10&status=stopped")["pagination"]["total"] == 1


def test_the_guides_flow_works_on_postgresql_and_survives_a_restart(tmp_path: Path, postgresql: PostgreSql) -> None:
    url = postgresql.new_database()
    with TypedGateway(tmp_path / "data", "--demo", AIWM_DATABASE_URL=url) as running:
        _flow(running, running.login().token)
    assert "aiwm.db" not in _modes(tmp_path / "data")
    with Gateway(tmp_path / "data", AIWM_DATABASE_URL=url) as again:
        deployments = again.login().http.get("/deployments?search=Production").json()["data"]
        assert [deployment["requestCount"] for deployment in deployments] == [2]


SECRET = "the secret of an IAM that was there before"


def test_tokens_of_another_iam_are_accepted(tmp_path: Path) -> None:
    claims = {
        "sub": "user-4711",
        "username": "mai@example.com",
        "status": "active",
        "roles": ["organization.editor", "a.role.of.theirs"],
        "orgId": "org/with:another-form",
        "groupId": None,
        "exp": int(time.time()) + 600,
        "iss": "https://iam.example.com",
        "aud": "everybody",
    }

    def signed(secret: str = SECRET, algorithm: str = "HS256", **changes: Any) -> str:
        return jwt.encode({"alg": algorithm}, claims | changes, OctKey.import_key(secret.encode()), [algorithm])

    with Gateway(tmp_path / "data", "--demo", AIWM_JWT_SECRET=SECRET) as running:
        _flow(running, signed())
        made = get(f"{running.url}/models", headers={"authorization": f"Bearer {signed()}"}).json()["data"][0]
        assert made["owner"] == {"orgId": "org/with:another-form", "userId": "user-4711"}
        for wrong in (
            signed("another secret of at least 32 bytes, though"),
            signed(exp=int(time.time()) - 1),
            signed(status="inactive"),
            signed(orgId=""),
            signed(algorithm="HS512"),
        ):
            answer = get(f"{running.url}/models", headers={"authorization": f"Bearer {wrong}"})
            assert (answer.status_code, answer.json()["message"]) == (401, "Unauthorized")
        # The embedded IAM signs so too.
        header = running.login().token.split(".")[0]
        assert "HS256" in json.dumps(jwt.decode(running.login().token, OctKey.import_key(SECRET.encode())).header), (
            header
        )


def test_without_the_port_of_the_iam_logins_are_on_our_own(tmp_path: Path) -> None:
    running = Gateway(tmp_path / "data")
    running.iam_port = 0
    with running:
        answer = post(f"{running.url}/auth/login", json={"username": "admin", "password": ADMIN_PASSWORD})
        assert answer.status_code == 200
        assert "Identity" not in running.output
        headers = {"authorization": f"Bearer {answer.json()['accessToken']}"}
        assert get(f"{running.url}/models", headers=headers).status_code == 200
        assert get(f"{running.url}/users", headers=headers).status_code == 404
