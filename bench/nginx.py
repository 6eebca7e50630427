"""nginx twice: what AIWM is compared with, and the cheapest provider that there is."""

from __future__ import annotations

import getpass
import os
import re
import shutil
import subprocess
import time
from pathlib import Path

from bench import exchanges
from bench.processes import BenchError, Child, free_ports, surroundings
from bench.subjects import Provider, answering

_MAIN = """\
daemon off;
{user}
worker_processes 1;
worker_rlimit_nofile 20000;
pid {folder}/nginx.pid;
error_log stderr warn;
events {{ worker_connections 15000; }}
http {{
  access_log off;
  client_body_temp_path {folder}/body;
  proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/fastcgi;
  uwsgi_temp_path {folder}/uwsgi;
  scgi_temp_path {folder}/scgi;
  keepalive_requests 1000000000;
  {rest}
}}
"""

# Bodies go through memory, and to the provider while they come: what costs nginx least.
_PROXY = """\
  upstream fixed { server 127.0.0.1:%(fixed)d; keepalive 1024; keepalive_requests 1000000000; }
  upstream asked { server 127.0.0.1:%(asked)d; keepalive 1024; keepalive_requests 1000000000; }
  server {
    listen 127.0.0.1:%(port)d backlog=4096;
    proxy_http_version 1.1;
    proxy_set_header Connection "";
    proxy_max_temp_file_size 0;
    proxy_request_buffering off;
    proxy_read_timeout 3600s;
    client_max_body_size 0;
    location / { proxy_pass http://fixed; }
    location /bodies/ { proxy_pass http://asked/; }
    location /streams/ { proxy_pass http://asked/; proxy_buffering off; }
  }
"""

_FIXED = """\
  server {
    listen 127.0.0.1:%(port)d backlog=4096;
    default_type application/json;
    add_header x-request-id req_bench;
    add_header openai-processing-ms 7;
    location / { return 200 '%(answer)s'; }
  }
"""


class Nginx:
    """One worker, connections to the provider kept, no access log: bytes only."""

    name = "nginx"
    base, streams, bodies = "", "/streams", "/bodies"

    def __init__(self, folder: Path, fixed: Provider, asked: Provider, *, core: int) -> None:
        (self.port,) = free_ports(1)
        rest = _PROXY % {"fixed": fixed.port, "asked": asked.port, "port": self.port}
        self.child = _child(self.name, folder, rest, core)

    def start(self) -> float:
        began = time.perf_counter()
        self.child.start()
        answering(self.child, self.port, exchanges.CHAT_PATH, exchanges.headers("sk-bench"))
        return time.perf_counter() - began

    def headers(self, *, streamed: bool) -> dict[str, str]:  # noqa: ARG002 - it is told by the path
        return {}


class Fixed:
    """A provider that gives one answer, whatever it is asked."""

    kind = "fixed"

    def __init__(self, folder: Path, *, core: int) -> None:
        (self.port,) = free_ports(1)
        rest = _FIXED % {"port": self.port, "answer": exchanges.chat_answer(0).decode()}
        self.child = _child("the provider of one answer", folder, rest, core)

    def start(self) -> None:
        self.child.start()
        answering(self.child, self.port, exchanges.CHAT_PATH, exchanges.headers("sk-bench"))


def version() -> str:
    said = subprocess.run([_program(), "-v"], capture_output=True, text=True, check=True, timeout=10).stderr
    found = re.search(r"nginx/(\S+)", said)
    return found[1] if found else "?"


def _child(name: str, folder: Path, rest: str, core: int) -> Child:
    folder.mkdir()
    # A worker of another user could not use our folder.
    user = f"user {getpass.getuser()};" if os.geteuid() == 0 else ""
    (folder / "nginx.conf").write_text(_MAIN.format(folder=folder, user=user, rest=rest))
    command = [_program(), "-p", str(folder), "-c", "nginx.conf", "-e", "stderr"]
    return Child(name, command, cores={core}, output=folder / "nginx.log", env=surroundings({}))


def _program() -> str:
    found = shutil.which("nginx", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
    if found is None:
        raise BenchError("nginx is missing. On Debian: apt-get install nginx-light wrk")
    return found
