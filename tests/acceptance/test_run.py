"""`aiwm run` from a repository or file to an answer of a real engine, every way it ends, and `aiwm models`."""

from __future__ import annotations

import json
import os
import pty
import random
import re
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import openai
import pytest

import forks
from gateway import Gateway, free_ports
from hub import Hub, Repository
from patience import PATIENCE
from tiny_model import write_tiny_model

WEIGHTS = random.Random(4).randbytes(2_000_000)
GGUF = ("--framework", "llamacpp")


class Commands:
    """`aiwm ...` on a data directory and ports of the test's own."""

    def __init__(self, folder: Path, hub: Hub) -> None:
        self.folder = folder
        [self.port] = free_ports(1)
        self.environment = {name: value for name, value in os.environ.items() if not name.startswith("AIWM_")} | {
            "AIWM_DATA_DIR": str(folder / "data"),
            "AIWM_PORT": str(self.port),
            "AIWM_IAM_PORT": "0",
            "HF_ENDPOINT": hub.url,
            "HF_HOME": str(folder / "home"),
            "COLUMNS": "200",
        }

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-W", "error", "-m", "aiwm", *arguments],
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, *arguments: str) -> tuple[int, str]:
        """The exit code, and all that was said."""
        ended = forks.run(arguments, self.environment, timeout=PATIENCE)
        assert "Traceback" not in ended.stderr
        return ended.returncode, ended.stdout + ended.stderr

    def end(self, command: subprocess.Popen[str]) -> tuple[int, str]:
        output, errors = command.communicate(timeout=PATIENCE)
        assert "Traceback" not in errors
        return command.returncode, output + errors

    def until_part_has(self, size: int) -> None:
        deadline = time.monotonic() + PATIENCE
        while size not in [part.stat().st_size for part in self.folder.rglob("*.aiwm-part")]:
            assert time.monotonic() < deadline, (self.folder / "data" / "run.log").read_text()
            time.sleep(0.02)

    @property
    def is_served(self) -> bool:
        with socket.socket() as connection:
            return connection.connect_ex(("127.0.0.1", self.port)) == 0


@pytest.fixture
def hub() -> Iterator[Hub]:
    with Hub(org__tiny=Repository({"README.md": b"x", "tiny.gguf": WEIGHTS})) as hub:
        yield hub


@pytest.fixture
def commands(tmp_path: Path, hub: Hub) -> Commands:
    return Commands(tmp_path, hub)


def test_what_is_not_there_is_said_and_the_server_that_was_started_ends(commands: Commands, hub: Hub) -> None:
    code, said = commands.run("run", "org/nowhere", *GGUF)
    assert code == 1
    assert f"The files of nowhere did not come: org/nowhere is not found at {hub.url}" in said
    assert not commands.is_served


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP])
def test_an_interrupted_download_leaves_nothing_running_and_goes_on_the_next_time(
    commands: Commands, hub: Hub, number: signal.Signals
) -> None:
    hub.faults.hold_after = 700_000
    command = commands.start("run", "org/tiny", *GGUF)
    commands.until_part_has(700_000)
    command.send_signal(number)

    code, said = commands.end(command)

    assert code == 130
    assert "Interrupted. What has come of the files is kept: run it again to go on." in said
    assert not commands.is_served
    assert _processes_of(commands.folder) == []

    hub.release()
    again = commands.start("run", "org/tiny", *GGUF)
    deadline = time.monotonic() + PATIENCE
    while hub.sent("org/tiny", "tiny.gguf") != [None, "bytes=700000-"]:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    again.send_signal(signal.SIGINT)
    commands.end(again)
    assert not commands.is_served


def _processes_of(folder: Path) -> list[str]:
    """Programs that know the folder from their environment."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if str(folder).encode() in (process / "environ").read_bytes():
                found.append((process / "cmdline").read_text())
        except (OSError, ValueError):
            continue
    return found


def test_a_file_that_is_not_here_is_said_before_anything_is_started(commands: Commands) -> None:
    assert commands.run("run", "./nowhere.gguf") == (2, "aiwm: there is no file or folder nowhere.gguf\n")
    assert not (commands.folder / "data").exists()


def test_an_engine_that_is_not_here_is_said_before_anything_is_fetched(commands: Commands, hub: Hub) -> None:
    code, said = commands.run("run", "org/tiny")
    assert code == 1
    assert "aiwm: vllm is not installed here: install it (pip install vllm, " in said
    assert "or choose one that is with --framework: llamacpp" in said
    assert (
        'there is no engine "magic"; known are llamacpp, vllm'
        in commands.run("run", "org/tiny", "--framework", "magic")[1]
    )
    assert hub.sent("org/tiny", "tiny.gguf") == []
    assert not commands.is_served


def test_a_port_that_something_else_has_is_said(commands: Commands) -> None:
    with socket.create_server(("127.0.0.1", commands.port)) as listener:
        listener.settimeout(0.01)
        code, said = commands.run("run", "org/tiny")
    assert code == 2
    assert f"aiwm: port {commands.port} on 127.0.0.1 is taken: stop the program that has it, or set AIWM_PORT" in said


def test_a_running_aiwm_is_used_and_stays(tmp_path: Path, hub: Hub, commands: Commands) -> None:
    with Gateway(tmp_path / "data", HF_ENDPOINT=hub.url, HF_HOME=str(tmp_path / "home")) as gateway:
        commands.environment["AIWM_PORT"] = str(gateway.port)
        commands.environment["AIWM_ADMIN_PASSWORD"] = "another than at its first start"
        code, said = commands.run("run", "org/nowhere", "--name", "Mine", *GGUF)
        assert code == 1
        assert "The files of Mine did not come" in said
        assert "Starting AIWM" not in said
        # The second time it is the same model, tried again.
        hub.faults.status = 403
        assert "refused access" in commands.run("run", "org/nowhere", "--name", "Mine", *GGUF)[1]
        listed = gateway.login().http.get("/models").json()
        assert [model["name"] for model in listed["data"]] == ["Mine"]

        local = tmp_path / "mine.gguf"
        local.write_bytes(b"x")
        code, said = commands.run("run", str(local))
        assert code == 1
        assert "no folder of this server is opened for models: the operator sets AIWM_MODEL_PATHS" in said

        hub.faults.status = 0
        for repository in ("org/tiny", "org/nowhere"):
            body = {"name": repository, "type": "llm", "deploymentType": "self-hosted", "framework": "llamacpp"}
            made = gateway.login().http.post("/models", json=body | {"repository": repository})
            assert made.status_code == 201
        code, said = commands.run("models", "--follow")
        assert code == 0
        rows = {line.split()[0]: line for line in said.splitlines()[1:]}
        assert "active" in rows["org/tiny"]
        assert "2 MB" in rows["org/tiny"]
        assert "download-failed" in rows["org/nowhere"]
        assert {"org/tiny", "org/nowhere", "Mine"} <= set(rows)
        body |= {"name": "[/odd] name", "repository": "org/odd"}
        assert gateway.login().http.post("/models", json=body).status_code == 201
        assert "[/odd] name" in commands.run("models")[1]


def test_another_data_directory_than_the_servers_is_said(tmp_path: Path, commands: Commands) -> None:
    with Gateway(tmp_path / "another") as gateway:
        commands.environment["AIWM_PORT"] = str(gateway.port)
        code, said = commands.run("models")
        assert code == 2
        data = tmp_path / "data"
        assert said == f"aiwm: no AIWM has ever run in {data}: set AIWM_DATA_DIR as it is started with\n"
        assert not data.exists()


# --- to an answer --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("models") / "tiny.gguf")


def _said_until(command: subprocess.Popen[str], words: str) -> str:
    """What a command said, up to the line with these words."""
    assert command.stdout is not None
    said = ""
    for line in command.stdout:
        said += line
        if words in line:
            return said
    raise AssertionError(said)


@pytest.mark.parametrize("what", ["tiny.gguf", "."])
def test_a_file_is_served_until_ctrl_c_and_answers_the_openai_sdk(commands: Commands, tiny: Path, what: str) -> None:
    # As in a cache of the hub: the name is a link's, and what it leads to is called by its hash.
    snapshot = commands.folder / "snapshot"
    snapshot.mkdir()
    (commands.folder / "blobs").mkdir()
    blob = shutil.copy(tiny, commands.folder / "blobs" / "0123456789abcdef")
    (snapshot / "tiny.gguf").symlink_to(blob)

    command = commands.start("run", str(snapshot / what), "--no-chat")
    said = _said_until(command, "Ctrl-C stops it.")
    [base_url] = re.findall(r"base_url=(\S+)", said)
    [token] = re.findall(r"Bearer (\S+)'", said)
    client = openai.OpenAI(base_url=base_url, api_key=token, max_retries=0)
    question = [{"role": "user", "content": "Hello"}]
    on = {"ignore_eos": True}  # A model that says anything may also say that it has said all.
    answer = client.chat.completions.create(
        model="", messages=question, max_tokens=8, extra_body=on  # type: ignore[arg-type]
    )  # fmt: skip
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 8

    # The line that is printed can be pasted.
    [curl] = [line.strip() for line in said.splitlines() if line.strip().startswith("curl ")]
    pasted = subprocess.run(["/bin/sh", "-c", f"{curl} --silent"], capture_output=True, text=True, check=True)
    assert json.loads(pasted.stdout)["object"] == "chat.completion"

    command.send_signal(signal.SIGINT)
    assert commands.end(command)[0] == 0
    assert not commands.is_served
    assert _processes_of(commands.folder) == []
    database = sqlite3.connect(commands.folder / "data" / "aiwm.db")
    assert database.execute("SELECT status FROM deployments").fetchall() == [("stopped",)]
    database.close()


def test_a_model_from_the_hub_is_talked_to_at_a_prompt(commands: Commands, hub: Hub, tiny: Path) -> None:
    hub.repositories["org/tiny-gguf"] = Repository({"README.md": b"x", "tiny-Q4_K_M.gguf": tiny.read_bytes()})
    for _ in range(2):
        terminal = Terminal(commands, "run", "org/tiny-gguf")
        terminal.until("> ")
        terminal.say("Hello")
        terminal.until("\r\n\r\n> ")
        terminal.say("/bye")
        assert terminal.exit_code() == 0
        assert "tiny-gguf runs: deployment " in terminal.seen
        assert _processes_of(commands.folder) == []
    # The second time nothing was fetched, and no other model or deployment made.
    assert hub.sent("org/tiny-gguf", "tiny-Q4_K_M.gguf") == [None]
    database = sqlite3.connect(commands.folder / "data" / "aiwm.db")
    assert database.execute("SELECT name, status FROM deployments").fetchall() == [("tiny-gguf", "stopped")]
    [(requests, tokens)] = database.execute("SELECT requests, tokens FROM deployment_totals").fetchall()
    assert requests == 2
    assert tokens > 2
    database.close()


def test_ctrl_c_ends_an_answer_and_ctrl_d_the_conversation(commands: Commands, tiny: Path) -> None:
    terminal = Terminal(commands, "run", str(tiny))
    terminal.until("> ")
    terminal.say("Hello")
    terminal.until("Hello\r\n")
    terminal.until("")  # Something of the answer.
    terminal.write("\x03")
    terminal.until("\r\n> ")
    terminal.write("\x04")
    assert terminal.exit_code() == 0
    assert _processes_of(commands.folder) == []


def test_an_engine_that_can_not_load_the_file_is_said(commands: Commands, tmp_path: Path) -> None:
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(b"GGUF" + bytes(100))
    code, said = commands.run("run", str(broken))
    assert code == 1
    assert "The engine of broken does not run: " in said
    assert _processes_of(commands.folder) == []


class Terminal:
    """A command on a terminal of its own."""

    def __init__(self, commands: Commands, *arguments: str) -> None:
        self.seen = ""
        self._looked_at = 0
        self._pid, self._fd = pty.fork()
        if self._pid == 0:
            environment = commands.environment | {"TERM": "dumb"}
            os.execve(sys.executable, [sys.executable, "-W", "error", "-m", "aiwm", *arguments], environment)

    def write(self, text: str) -> None:
        os.write(self._fd, text.encode())

    def say(self, line: str) -> None:
        self.write(f"{line}\r")

    def until(self, words: str) -> None:
        """Reads on until these words come, after those that were waited for before; "" is anything."""
        deadline = time.monotonic() + PATIENCE
        while (found := self.seen.find(words, self._looked_at)) < 0 or len(self.seen) == self._looked_at:
            assert time.monotonic() < deadline, self.seen
            assert self._read(), self.seen
        self._looked_at = found + len(words)

    def exit_code(self) -> int:
        while self._read():
            pass
        _, status = os.waitpid(self._pid, 0)
        os.close(self._fd)
        assert "Traceback" not in self.seen, self.seen
        return os.waitstatus_to_exitcode(status)

    def _read(self) -> bool:
        try:
            data = os.read(self._fd, 4096)
        except OSError:  # What Linux says when the other side of a terminal has gone.
            return False
        self.seen += data.decode(errors="replace")
        return bool(data)
