"""Load by wrk: as many requests as the subject can take, all alike, on kept connections."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from bench.processes import BenchError

_SCRIPT = """\
wrk.method = "POST"
wrk.body = {body}
{headers}
function done(summary, latency)
  local errors = summary.errors
  io.write(string.format('\\n{{"requests":%d,"microseconds":%d,"bytes":%d,"p50":%d,"p99":%d,"failed":%d}}\\n',
    summary.requests, summary.duration, summary.bytes, latency:percentile(50), latency:percentile(99),
    errors.connect + errors.read + errors.write + errors.status + errors.timeout))
end
"""


@dataclass(frozen=True, slots=True)
class Run:
    requests: int
    bytes: int
    duration: float
    per_second: float
    p50_ms: float
    p99_ms: float
    failed: int


def run(folder: Path, url: str, headers: Mapping[str, str], body: bytes, *, connections: int, seconds: int) -> Run:
    program = shutil.which("wrk")
    if program is None:
        raise BenchError("wrk is missing. On Debian: apt-get install nginx-light wrk")
    script = folder / "wrk.lua"
    lines = "\n".join(f"wrk.headers[{json.dumps(name)}] = {json.dumps(value)}" for name, value in headers.items())
    script.write_text(_SCRIPT.format(body=json.dumps(body.decode()), headers=lines))
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
