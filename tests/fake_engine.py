"""A small engine to test with: an HTTP server as a program of its own, with switches for all that goes wrong.

python fake_engine.py --port=N [--name=N] [--slow=S] [--deaf] [--dies=S] [--broken] [--child] [--strays]
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

parser = argparse.ArgumentParser()
parser.add_argument("--port", type=int, required=True)
parser.add_argument("--name", default="fake")
parser.add_argument("--slow", type=float, default=0, help="seconds until it is ready")
parser.add_argument("--deaf", action="store_true", help="to SIGTERM")
parser.add_argument("--dies", type=float, default=0, help="seconds after which it dies")
parser.add_argument("--broken", action="store_true", help="says why, and ends")
parser.add_argument("--child", action="store_true", help="has a child in its group")
parser.add_argument("--stray", action="store_true", help="has a child in a session of its own")
parser.add_argument("--host", default="127.0.0.1")
parser.add_argument("--on-ray", action="store_true", help="to be told from others")
parser.add_argument("--ctx-size", type=int, default=0)
given = parser.parse_args()

started = time.monotonic()
key = os.environ.get("FAKE_KEY", "")
print(f"fake engine {given.name} with key {key} and variables {sorted(os.environ)}", flush=True)
if given.broken:
    print("CUDA out of memory, say", flush=True)
    sys.exit(3)
if given.deaf:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
if given.child:
    subprocess.Popen(["sleep", "3600"])
if given.stray:
    subprocess.Popen(["sleep", "3600"], start_new_session=True)
if given.dies:
    threading.Timer(given.dies, lambda: os._exit(7)).start()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self.answer(503 if time.monotonic() - started < given.slow else 200, {"status": "ok"})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])) or b"{}")
        if key and self.headers["authorization"] != f"Bearer {key}":
            self.answer(401, {"error": "wrong key"})
            return
        if body.get("seconds", 0) >= 1:
            print(f"works for {body['seconds']} seconds", flush=True)
        time.sleep(body.get("seconds", 0))
        usage = {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10}
        message = {"role": "assistant", "content": f"{given.name} {os.getpid()}"}
        choices = [{"index": 0, "finish_reason": "stop", "message": message}]
        self.answer(200, {"object": "chat.completion", "model": body.get("model"), "choices": choices, "usage": usage})

    def answer(self, status: int, body: object) -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        pass


ThreadingHTTPServer.request_queue_size = 128
ThreadingHTTPServer((given.host, given.port), Handler).serve_forever()
