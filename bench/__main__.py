"""The command line: what is set up, what is measured in which order, and what the exit code says."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from bench import report
from bench.crash import crash
from bench.ledger import ledger
from bench.measures import Bench, Effort, Section
from bench.processes import BenchError, Cores
from bench.subjects import Gateway, Nginx, Provider, nginx_version

_DEFAULT = Effort(rounds=5, seconds=3, streams=2, starts=3, soak=10_000, idle_seconds=40)
_QUICK = Effort(rounds=3, seconds=1, streams=1, starts=1, soak=2_000, idle_seconds=0)
_MEASURES = ("start", "chat", "streams", "large", "soak")
_ALONE = ("ledger", "crash")
_ROWS, _QUICK_ROWS = 1_000_000, 100_000
_KILLS, _QUICK_KILLS = 1000, 100

_ABOUT = """\
Measures AIWM beside nginx, in one run on 127.0.0.1, with everything on that AIWM does for a request: token, look-up,
model, forwarding, usage, ledger, log line. nginx passes the same bytes on and does nothing else, so the ratio says
what the rest costs, whatever the machine.

What is measured runs on one core, load and provider on another. nginx and AIWM take turns in short rounds; the table
has the median of the rounds and, in parentheses, the least and the most. On a machine that has other work, ratios say
more than absolute figures, and both are higher than on a quiet one.

  start     from the start of the process to its first answer; memory when idle
  chat      1 kB in, 1.2 kB out, 64 connections at full speed (wrk): CPU time a request, requests/s, latency
  streams   64 streams at once, 100 events each, one every 10 ms: CPU time an event
  large     answers of 5 MB: CPU time a MB
  soak      10,000 requests, 256 at once, every other one a stream: each answer is looked at, none may be lost, and
            AIWM's counts must be exactly what the answers say; memory, open files and connections before and after
  ledger    only when it is asked for, alone: a million rows on SQLite, what one takes of CPU and disk, and reports
  crash     only when it is asked for, alone: AIWM killed 1,000 times at random moments under load; the ledger must have
            each request that reached the provider, once, with the tokens of its answer, and sums that equal its rows

CPU time is user and system time of all its processes, from /proc, ledger writing included.
"""

_EXAMPLES = """\
examples:
  script/bench                       all of it: about three minutes
  script/bench --quick               fewer and shorter rounds: under a minute
  script/bench chat                  one measure
  script/bench ledger                the ledger by itself: about two minutes
  script/bench crash                 a thousand kills: about ten minutes
  script/bench --json figures.json   every round's figures, for machines

exit code:
  0  measured, whatever the figures are: a slow run is no failure
  1  an answer was lost or broken, or a count was not exact
  2  it could not be measured; the message says what to do
"""


def main() -> int:
    arguments = _arguments()
    signal.signal(signal.SIGTERM, _interrupted)
    effort = _QUICK if arguments.quick else _DEFAULT
    try:
        sections = dict(_by_itself(arguments) if _is_alone(arguments) else _sections(arguments, effort))
    except BenchError as error:
        print(f"script/bench: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\nscript/bench: stopped; everything that it started is stopped too", file=sys.stderr)
        return 130
    return 1 if any(section.wrong for section in sections.values()) else 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="script/bench",
        description=_ABOUT,
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "measure",
        nargs="*",
        help=f"which to run: {', '.join(_MEASURES)} (default: all of these), or one of {', '.join(_ALONE)} alone",
    )
    parser.add_argument(
        "--quick", action="store_true", help="fewer and shorter rounds, a soak of 2,000, fewer rows and kills"
    )
    parser.add_argument(
        "--provider",
        choices=("stand-in", "simulator"),
        default="stand-in",
        help="stand-in gives prepared answers and costs little; simulator is `aiwm simulate`, which costs more than "
        "AIWM itself and so limits the rates (default: stand-in)",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures of all rounds to FILE")
    arguments = parser.parse_args()
    if _is_alone(arguments):
        return arguments
    if unknown := set(arguments.measure) - set(_MEASURES):
        parser.error(f"there is no measure {', '.join(sorted(unknown))}; there are {', '.join(_MEASURES)}")
    return arguments


def _is_alone(arguments: argparse.Namespace) -> bool:
    return len(arguments.measure) == 1 and arguments.measure[0] in _ALONE


def _sections(arguments: argparse.Namespace, effort: Effort) -> Iterator[tuple[str, Section]]:
    """Prints each section as soon as it is there."""
    cores = Cores()
    facts = {
        "nginx": nginx_version(),
        "Python": f"{platform.python_version()}, {_speed()}",
        "cores": cores.text,
        "provider": arguments.provider,
        "other work": f"{os.getloadavg()[0]:.1f} processes on average of the minute before",
    }
    done: dict[str, Section] = {}
    with _running(arguments.provider, effort, cores) as bench:
        print(report.heading(facts), flush=True)
        for name in _MEASURES:
            # Starting is always part of it: it makes what the others need.
            section = getattr(bench, name)() if name == "start" or name in (arguments.measure or _MEASURES) else None
            if section is not None:
                done[name] = section
                print(report.text(section), flush=True)
                yield name, section
    if arguments.json:
        arguments.json.write_text(json.dumps(report.data(facts, done), indent=2) + "\n")


def _by_itself(arguments: argparse.Namespace) -> Iterator[tuple[str, Section]]:
    """What is measured without nginx: the ledger alone, or what it holds after kills."""
    [name] = arguments.measure
    with tempfile.TemporaryDirectory(prefix="aiwm-bench-") as folder:
        if name == "ledger":
            section = ledger(Path(folder), rows=_QUICK_ROWS if arguments.quick else _ROWS)
        else:
            section = crash(Path(folder), kills=_QUICK_KILLS if arguments.quick else _KILLS)
    print(report.text(section), flush=True)
    if arguments.json:
        facts = {"Python": f"{platform.python_version()}, {_speed()}"}
        arguments.json.write_text(json.dumps(report.data(facts, {name: section}), indent=2) + "\n")
    yield name, section


@contextlib.contextmanager
def _running(kind: str, effort: Effort, cores: Cores) -> Iterator[Bench]:
    """A bench whose provider runs. Afterwards nothing runs, and no file is left."""
    os.sched_setaffinity(0, {cores.load})
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="aiwm-bench-")))
        provider = Provider(kind, folder, core=cores.load)
        nginx = Nginx(folder / "nginx", provider, core=cores.measured)
        gateway = Gateway(folder / "aiwm", provider, core=cores.measured)
        for child in (provider.child, nginx.child, gateway.child):
            stack.callback(child.stop)
        provider.start()
        yield Bench(nginx, gateway, provider, effort, folder)


def _speed() -> str:
    """Builds of Python differ by half, and so does one core from minute to minute."""
    began = time.process_time()
    total = 0
    for number in range(1_000_000):
        total += number
    return f"{(time.process_time() - began) * 1000:.0f} ms of CPU for a loop of 1,000,000 additions"


def _interrupted(*_: object) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
