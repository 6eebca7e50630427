"""Load by wrk: as many requests as the subject can take, all alike, on kept connections."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from bench.processes import BenchError

_SCRIPT = """\
wrk.method = "POST"
wrk.body = {body}
{headers}
{rest}
function done(summary, latency)
  local errors = summary.errors
  io.write(string.format('\\n{{"requests":%d,"microseconds":%d,"bytes":%d,"p50":%d,"p99":%d,"failed":%d}}\\n',
    summary.requests, summary.duration, summary.bytes, latency:percentile(50), latency:percentile(99),
    errors.connect + errors.read + errors.write + errors.status + errors.timeout))
end
"""


_MANY = """\
local requests, at = {{}}, 0
function init(arguments)
  for line in io.lines({file}) do
    local path, token = line:match("(%S+) (%S+)")
    requests[#requests + 1] = "POST " .. path .. {before_token} .. token .. {after_token}
  end
  math.randomseed(os.time())
end
function request()
  at = {at}
  return requests[at]
end
"""
_AT_RANDOM, _IN_TURN = "math.random(#requests)", "at % #requests + 1"


@dataclass(frozen=True, slots=True)
class Run:
    requests: int
    bytes: int
    duration: float
    per_second: float
    p50_ms: float
    p99_ms: float
    failed: int


@dataclass(frozen=True, slots=True)
class Crowd:
    """Paths and the token for each: one request is drawn from them by chance, or they are asked one after another."""

    members: Sequence[tuple[str, str]]
    in_turn: bool = False


def run(
    folder: Path,
    url: str,
    headers: Mapping[str, str],
    body: bytes,
    *,
    connections: int,
    seconds: int,
    crowd: Crowd | None = None,
) -> Run:
    """Raises BenchError if wrk is missing or fails."""
    program = shutil.which("wrk")
    if program is None:
        raise BenchError("wrk is missing. On Debian: apt-get install nginx-light wrk")
    script = folder / "wrk.lua"
    lines = "\n".join(f"wrk.headers[{json.dumps(name)}] = {json.dumps(value)}" for name, value in headers.items())
    rest = "" if crowd is None else _many(folder, url, headers, body, crowd)
    script.write_text(_SCRIPT.format(body=json.dumps(body.decode()), headers=lines, rest=rest))
    command = [program, "-t1", f"-c{connections}", f"-d{seconds}s", "--timeout", "10s", "-s", str(script), url]
    done = subprocess.run(command, capture_output=True, text=True, timeout=seconds + 30, check=False)
    if done.returncode:
        raise BenchError(f"wrk failed: {done.stderr.strip() or done.stdout.strip()}")
    found = json.loads(done.stdout.strip().rpartition("\n")[2])
    return Run(
        requests=found["requests"],
        bytes=found["bytes"],
        duration=found["microseconds"] / 1e6,
        per_second=found["requests"] / found["microseconds"] * 1e6,
        p50_ms=found["p50"] / 1000,
        p99_ms=found["p99"] / 1000,
        failed=found["failed"],
    )


def _many(folder: Path, url: str, headers: Mapping[str, str], body: bytes, crowd: Crowd) -> str:
    """Written out, because wrk puts its headers into another order each time it runs, which no program does."""
    file = folder / "crowd.txt"
    file.write_text("".join(f"{path} {token}\n" for path, token in crowd.members))
    others = "".join(f"{name}: {value}\r\n" for name, value in headers.items() if name.lower() != "authorization")
    return _MANY.format(
        file=json.dumps(str(file)),
        before_token=json.dumps(f" HTTP/1.1\r\nHost: {urlsplit(url).netloc}\r\nauthorization: Bearer "),
        after_token=json.dumps(f"\r\n{others}Content-Length: {len(body)}\r\n\r\n{body.decode()}"),
        at=_IN_TURN if crowd.in_turn else _AT_RANDOM,
    )
