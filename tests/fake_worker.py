"""A worker that serves nothing but who it is: what a parent starts in its tests. Its folder says what goes wrong.

fails-N     worker N ends with the exit code in this file before it is ready
answers-N   worker N still answers something when it is told to stop, as long as this file is there
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import sys
from contextlib import suppress
from pathlib import Path

from aiwm.workers.line import Line
from patience import eventually


async def serve() -> int:
    birth = json.loads(sys.argv[1])
    folder = Path(os.environ["FAKE_FOLDER"])
    stopped = asyncio.Event()
    signals: list[str] = []

    def stop(number: signal.Signals) -> None:
        signals.append(number.name)
        (folder / f"signals-{birth['number']}").write_text(" ".join(signals))
        stopped.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop, number)
    fails = folder / f"fails-{birth['number']}"
    with suppress(FileNotFoundError):
        return int(fails.read_text())
    line = Line({}, ended=stopped.set)
    await line.open(socket.socket(fileno=birth["line"]))

    async def answer(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(f"{birth['number']} {os.getpid()}".encode())
        writer.close()

    server = await asyncio.start_server(answer, sock=socket.socket(fileno=birth["listeners"]["gateway"]))
    line.tell("ready")
    pid = folder / f"pid-{os.getpid()}"
    pid.write_text(str(os.getpid()))
    pid.rename(folder / f"ready-{birth['number']}")  # Who waits for the file reads it at once.
    await stopped.wait()
    server.close()
    await eventually(lambda: not (folder / f"answers-{birth['number']}").exists())
    line.close()
    return 0


if __name__ == "__main__":
    sys.exit(asyncio.run(serve()))
