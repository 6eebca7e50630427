"""The `aiwm` command. Each subcommand is a file; what it needs is imported when it runs, so `--help` is quick."""

from __future__ import annotations

import gc
import sys
from typing import Annotated, NoReturn

import typer

from aiwm import __version__
from aiwm.errors import StartError

app = typer.Typer(
    name="aiwm",
    help="One door to every model: an LLM gateway whose bytes are untouched and whose books are right.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


def _show_version(wanted: bool) -> None:
    if wanted:
        print(f"aiwm {__version__}")
        raise typer.Exit


@app.callback()
def _aiwm(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Settings are AIWM_* variables: `aiwm settings` lists them."""


@app.command()
def serve(
    demo: Annotated[
        bool,
        typer.Option("--demo", help="Also start the simulated provider, with a running deployment for each dialect."),
    ] = False,
    workers: Annotated[
        int | None, typer.Option(min=1, max=256, help="Processes that serve; default AIWM_WORKERS, which is 1.")
    ] = None,
) -> None:
    """Start AIWM (port 3003) and its identity service (port 3000)."""
    # What is loaded and made at start stays: looking through it for garbage is a tenth of the time. `serve` enables it.
    gc.disable()
    from aiwm.cli.serve import serve as run

    raise typer.Exit(run(demo=demo, workers=workers))


@app.command()
def simulate(
    port: Annotated[
        int | None, typer.Option(min=0, max=65535, help="Port to listen on; default AIWM_SIMULATOR_PORT.")
    ] = None,
) -> None:
    """Start only the simulated provider: OpenAI's, Anthropic's and Google's API on one port, without a model."""
    from aiwm.cli.simulate import simulate as run

    run(port=port)


@app.command()
def run(
    what: Annotated[
        str,
        typer.Argument(
            metavar="REPOSITORY_OR_FILE",
            help="A Hugging Face repository (organization/name, @revision behind it or not), or a file or folder here.",
        ),
    ],
    file: Annotated[str | None, typer.Option("--file", help="Which file of the repository, such as a GGUF.")] = None,
    framework: Annotated[
        str | None, typer.Option(help="The kind of engine; default llamacpp for GGUF, else vllm.")
    ] = None,
    name: Annotated[str | None, typer.Option(help="What the model is called; default the repository's name.")] = None,
    talk: Annotated[bool, typer.Option("--chat/--no-chat", help="Ask for something to say to it.")] = True,
) -> None:
    """Fetch a model, run it here, and talk to it. Starts AIWM if none is running."""
    from aiwm.cli.run import run as serve_and_talk

    raise typer.Exit(serve_and_talk(what=what, file=file, framework=framework, name=name, talk=talk))


@app.command()
def models(
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Until every download has come to its end.")] = False,
) -> None:
    """Show the models of the AIWM that runs here, and how far their files have come."""
    from aiwm.cli.models import show

    show(follow=follow)


@app.command()
def reprice(
    since: Annotated[str | None, typer.Option(help="First day or time of requests; default: all there are.")] = None,
    until: Annotated[str | None, typer.Option(help="Day or time before which requests began.")] = None,
    model: Annotated[str | None, typer.Option(help="Id of a model, or its name at the provider.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show what would change.")] = False,
) -> None:
    """Compute the costs of past requests anew, by the prices known today. AIWM may be serving meanwhile."""
    from aiwm.cli.reprice import run

    run(since=since, until=until, model=model, dry_run=dry_run)


@app.command()
def settings(
    markdown: Annotated[bool, typer.Option("--markdown", help="As the table of docs/settings.md.")] = False,
) -> None:
    """Show every setting, its default and what it is for."""
    from aiwm.cli.settings import show

    show(markdown=markdown)


@app.command()
def usage(
    by: Annotated[
        str,
        typer.Option(
            help="What to sum up by: deployment, model, user, apiKey, provider, day or hour; several with commas."
        ),
    ] = "deployment",
    since: Annotated[str, typer.Option(help="How long ago (12h, 7d, 4w), a day, or a time with its zone.")] = "30d",
    until: Annotated[str | None, typer.Option(help="The same; default now.")] = None,
) -> None:
    """Show what was used and what it cost, of all organizations. AIWM need not be running."""
    from aiwm.cli.usage import show

    show(by=by, since=since, until=until)


deployments = typer.Typer(help="What runs, and what engines say.", invoke_without_command=True)
app.add_typer(deployments, name="deployments")


@deployments.callback()
def list_deployments(context: typer.Context) -> None:
    """Show the deployments of the AIWM that runs here."""
    if context.invoked_subcommand is None:
        from aiwm.cli.deployments import show

        show()


@deployments.command()
def logs(
    deployment: Annotated[str, typer.Argument(help="Its id, or its name.")],
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on with what the engines write.")] = False,
    lines: Annotated[int, typer.Option(min=0, max=10_000, help="How many of the last lines.")] = 200,
) -> None:
    """Show what the engines of a self-hosted model have written."""
    from aiwm.cli.deployments import logs as show_logs

    raise typer.Exit(show_logs(deployment, follow=follow, lines=lines))


keys = typer.Typer(help="The keys that seal secrets at rest.", no_args_is_help=True)
app.add_typer(keys, name="keys")


@keys.callback()
def _keys() -> None:
    """The keys that seal secrets at rest."""


@keys.command()
def rotate() -> None:
    """Put a new encryption key in front of the others and seal all stored secrets anew. Servers may run on."""
    from aiwm.cli.keys import rotate as run

    raise typer.Exit(run())


def main() -> NoReturn:
    """Exit code 2 and one line on standard error when the program can't start."""
    try:
        app()
    except StartError as error:
        print(f"aiwm: {error}", file=sys.stderr)
        sys.exit(2)
    sys.exit(0)


if __name__ == "__main__":
    main()
