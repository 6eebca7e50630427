"""The command line: what is set up, what is measured in which order, and what the exit code says."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import os
import signal
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import aiwm
from bench import machine, nginx, report
from bench.crash import crash, crash_workers
from bench.figures import Section
from bench.fuzz import fuzz
from bench.ledger import ledger
from bench.measures import Bench, Effort
from bench.nginx import Fixed, Nginx
from bench.peers import PEERS, Peer
from bench.processes import BenchError, Cores
from bench.subjects import Asked, Gateway

_DEFAULT = Effort(rounds=5, seconds=3, streams=2, steady=6, starts=3, growth=20, soak=10_000, idle_seconds=40)
_QUICK = Effort(rounds=1, seconds=1, streams=1, steady=2, starts=1, growth=4, soak=2_000, idle_seconds=0)
_MEASURES = ("start", "chat", "streams", "latency", "memory", "bodies", "many", "workers", "soak")
_OLD_NAMES = {"large": "bodies"}
_ALONE = ("ledger", "crash", "fuzz")
_ROWS, _QUICK_ROWS = 1_000_000, 100_000
_KILLS, _QUICK_KILLS = 1000, 100
_KILLS_PER_WORKERS_KILL = 10
"""A worker takes longer to start than AIWM itself, which is forked here."""
_FUZZ_SECONDS, _QUICK_FUZZ_SECONDS = 600, 60

_ABOUT = """\
Measures AIWM beside nginx, in one run on 127.0.0.1, with everything on that AIWM does for a request: token, look-up,
model, forwarding, usage, ledger, log line. nginx passes the same bytes on and does nothing else, so the ratio says
what the rest costs, whatever the machine.

What is measured runs on one core, load and provider on another. nginx and AIWM take turns in short rounds; the table
has the median of the rounds and, in parentheses, the least and the most, and beside it what is to be reached and what
is aimed at. On a machine that has other work, ratios say more than absolute figures, and both are higher than on a
quiet one; when others take the cores, the table says so.

  start     from the start of the process to its first answer; memory when idle
  chat      1 kB in, 1.2 kB out, 64 connections at full speed (wrk): CPU time a request, requests/s, latency
  streams   100 events each, 64 and 1,000 streams at once: CPU time an event; what is added to the first event's time
  latency   chats at 200 and 1,000 a second, each timed from when it was due, whatever those before it do: what is
            added to the provider's own time
  memory    what 1,000 and 5,000 open idle streams take; growth under load
  bodies    100 kB and 5 MB up and down: CPU time a body (`large` is its old name)
  many      100 and 10,000 deployments, 10,000 tokens: CPU time a request beside one of each
  workers   two workers on two cores beside one
  soak      10,000 requests, or what --requests says, a third of them streams, a tenth of the callers leaving early:
            each answer is looked at, none may be lost, and AIWM's books must be exactly what provider and callers
            say; memory on the way, open files and connections before and after
  ledger    only when it is asked for, alone: a million rows on SQLite, what one takes of CPU and disk, and reports
  crash     only when it is asked for, alone: AIWM killed 1,000 times at random moments under load, then workers of
            one, 100 times, and their parents; the ledger must have each request that reached the provider,
            once, with the tokens of its answer, and sums that equal its rows

  fuzz      only when it is asked for, alone: nearly right requests, paths, headers, tokens, JSON, forms and streams for
            ten minutes, or as many seconds as stand behind it; no crash, no hang, no error of ours, no promise broken

CPU time is user and system time of all its processes, from /proc, ledger writing included.
"""

_EXAMPLES = """\
examples:
  script/bench                             all of it: about ten minutes
  script/bench --quick                     one short round of each: about two minutes
  script/bench chat streams                some measures
  script/bench chat --peer litellm         another gateway beside; the first time it is installed
  script/bench soak --requests 1000000     a long one
  script/bench ledger                      the ledger by itself: about two minutes
  script/bench crash                       a thousand kills, and a hundred of workers: some twenty minutes
  script/bench fuzz 60                     a minute of nearly right input; without a number ten
  script/bench --json figures.json         every round's figures, for machines
  script/bench --markdown > table.md       the table for a document

exit code:
  0  measured, whatever the figures are: a slow run is no failure
  1  an answer was lost or broken, or a count was not exact
  2  it could not be measured; the message says what to do
"""


def main() -> int:
    arguments = _arguments()
    signal.signal(signal.SIGTERM, _interrupted)
    effort = _effort(arguments)
    try:
        sections = dict(_by_itself(arguments) if _is_alone(arguments) else _sections(arguments, effort))
    except BenchError as error:
        print(f"script/bench: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\nscript/bench: stopped; everything that it started is stopped too", file=sys.stderr)
        return 130
    return 1 if any(section.wrong for section in sections.values()) else 0


def _effort(arguments: argparse.Namespace) -> Effort:
    effort = _QUICK if arguments.quick else _DEFAULT
    rounds, requests = arguments.rounds or effort.rounds, arguments.requests or effort.soak
    return dataclasses.replace(effort, rounds=rounds, soak=requests)


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
        "--quick", action="store_true", help="one short round of each, a soak of 2,000, fewer rows and kills"
    )
    parser.add_argument("--rounds", type=_positive, metavar="N", help="how often each is measured (default: 5)")
    parser.add_argument("--requests", type=_positive, metavar="N", help="of the soak (default: 10,000)")
    parser.add_argument(
        "--peer",
        action="append",
        default=[],
        choices=sorted(PEERS),
        help="another gateway beside, in start, chat and streams; it is installed into a folder of its own below "
        "~/.cache/aiwm-bench when it is not there yet",
    )
    parser.add_argument(
        "--provider",
        choices=("stand-in", "simulator"),
        default="stand-in",
        help="stand-in gives prepared answers and costs little; simulator is `aiwm simulate`, which costs more than "
        "AIWM itself and so limits the rates (default: stand-in)",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures of all rounds to FILE")
    parser.add_argument(
        "--markdown", action="store_true", help="the table as Markdown; what it says on the way, to stderr"
    )
    arguments = parser.parse_args()
    if _is_alone(arguments):
        return arguments
    arguments.measure = [_OLD_NAMES.get(name, name) for name in arguments.measure]
    if unknown := set(arguments.measure) - set(_MEASURES):
        parser.error(f"there is no measure {', '.join(sorted(unknown))}; there are {', '.join(_MEASURES)}")
    return arguments


def _is_alone(arguments: argparse.Namespace) -> bool:
    name, *numbers = arguments.measure or [""]
    return name in _ALONE and (not numbers or (name == "fuzz" and len(numbers) == 1 and numbers[0].isdecimal()))


def _sections(arguments: argparse.Namespace, effort: Effort) -> Iterator[tuple[str, Section]]:
    """Prints each section as soon as it is there."""
    cores = Cores()
    out = sys.stderr if arguments.markdown else sys.stdout
    facts = {
        "AIWM": aiwm.__version__,
        "nginx": nginx.version(),
        "Python": machine.python(),
        "cores": cores.text,
        "provider": "nginx and " + arguments.provider if arguments.provider == "stand-in" else arguments.provider,
        "other work": ", ".join(machine.others_at_work()[:3]) or "none",
    }
    done: dict[str, Section] = {}
    with _running(arguments, effort, cores) as (bench, peers):
        facts |= {peer.name: peer.version for peer in peers}
        names = [peer.name for peer in peers]
        print(report.heading(facts, names), flush=True, file=out)
        for name in _MEASURES:
            # Starting is always part of it: it makes what the others need.
            if name != "start" and name not in (arguments.measure or _MEASURES):
                continue
            watch = machine.Watch(bench.cpu_seconds)
            section = done[name] = getattr(bench, name)()
            if name != "start" and (warning := watch.warning()):
                section.notes.append(warning)
            print(report.text(section, names), flush=True, file=out)
            yield name, section
    if arguments.markdown:
        print(report.markdown(facts, done, names))
    if arguments.json:
        arguments.json.write_text(json.dumps(report.data(facts, done), indent=2) + "\n")


def _by_itself(arguments: argparse.Namespace) -> Iterator[tuple[str, Section]]:
    """What is measured without nginx."""
    done: dict[str, Section] = {}
    with tempfile.TemporaryDirectory(prefix="aiwm-bench-") as folder:
        for name, section in _alone(arguments, Path(folder)):
            done[name] = section
            print(report.text(section), flush=True)
            yield name, section
    if arguments.json:
        facts = {"Python": machine.python()}
        arguments.json.write_text(json.dumps(report.data(facts, done), indent=2) + "\n")


def _alone(arguments: argparse.Namespace, folder: Path) -> Iterator[tuple[str, Section]]:
    """The ledger by itself, what it holds after kills, or what nearly right input does."""
    name, *numbers = arguments.measure
    if name == "ledger":
        yield name, ledger(folder, rows=_QUICK_ROWS if arguments.quick else _ROWS)
    elif name == "fuzz":
        seconds = _QUICK_FUZZ_SECONDS if arguments.quick else _FUZZ_SECONDS
        yield name, fuzz(folder, seconds=int(numbers[0]) if numbers else seconds)
    else:
        kills = _QUICK_KILLS if arguments.quick else _KILLS
        yield name, crash(folder / "one", kills=kills)
        yield f"{name} of workers", crash_workers(folder / "workers", kills=kills // _KILLS_PER_WORKERS_KILL)


@contextlib.contextmanager
def _running(arguments: argparse.Namespace, effort: Effort, cores: Cores) -> Iterator[tuple[Bench, Sequence[Peer]]]:
    """A bench whose providers run. Afterwards nothing runs, and no file is left."""
    os.sched_setaffinity(0, {cores.load})
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="aiwm-bench-")))
        asked = Asked(arguments.provider, folder, core=cores.load)
        fixed = Fixed(folder / "fixed", core=cores.load) if arguments.provider == "stand-in" else asked
        proxy = Nginx(folder / "nginx", fixed, asked, core=cores.measured)
        gateway = Gateway(folder / "aiwm", fixed, asked, cores={cores.measured})
        peers = [
            PEERS[name](folder / name, fixed, asked, core=cores.measured) for name in dict.fromkeys(arguments.peer)
        ]
        for child in (asked.child, fixed.child, proxy.child, gateway.child, *(peer.child for peer in peers)):
            stack.callback(child.stop)
        for provider in dict.fromkeys((asked, fixed)):
            provider.start()
        bench = Bench(
            nginx=proxy,
            gateway=gateway,
            peers=peers,
            fixed=fixed,
            asked=asked,
            cores=cores,
            effort=effort,
            folder=folder,
        )
        stack.callback(bench.close)
        yield bench, peers


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise ValueError
    return number


def _interrupted(*_: object) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
