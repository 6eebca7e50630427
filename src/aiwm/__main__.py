"""`python -m aiwm` is the `aiwm` command."""

from aiwm.cli.main import main

main()
