"""`aiwm keys rotate`: another key for the secrets at rest, while programs run."""

from __future__ import annotations

import asyncio
import os
import sys

from aiwm import logs
from aiwm.app import resealed
from aiwm.identity import keys
from aiwm.settings import Settings


def rotate() -> int:
    """The exit code: 1 when something is left that none of the keys opens."""
    settings = Settings.from_env(os.environ)
    logs.configure(level=settings.log_level, as_json=settings.log_format == "json")
    if settings.encryption_keys is None:
        number = keys.add_encryption_key(settings.data_dir)
        print(f"A new key is the first of {number} in {settings.data_dir / keys.ENCRYPTION_KEYS}.")
        print("Programs that run on this data directory use it from now on.")
    else:
        print("The first key of AIWM_ENCRYPTION_KEYS is taken for the new one: every running program must have it.")
    done = asyncio.run(resealed(settings))
    print(f"{done.secrets} secrets sealed anew.")
    if not done.lost:
        return 0
    print(
        f"{len(done.lost)} models have a secret that none of the keys opens; give them again: "
        f"{', '.join(sorted(done.lost))}",
        file=sys.stderr,
    )
    return 1
