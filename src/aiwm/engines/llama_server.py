"""llama.cpp's own HTTP server as a program, run by AIWM: `python llama_server.py --model=FILE --port=PORT`.

It imports nothing of AIWM's: it is another program, that only came in the same package.
"""

import argparse
import os
import signal
import sys

import xllamacpp


def main() -> None:
    parser = argparse.ArgumentParser(allow_abbrev=False)
    parser.add_argument("--model", required=True)
    parser.add_argument("--name", required=True)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--ctx-size", type=int, default=0)
    parser.add_argument("--parallel", type=int, default=4)
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--batch-size", type=int, default=0)
    parser.add_argument("--n-gpu-layers", type=int, default=-1)
    parser.add_argument("--embeddings", action="store_true")
    given = parser.parse_args()

    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    params = xllamacpp.CommonParams()
    params.model.path = given.model
    params.model_alias = {given.name}
    params.hostnames = [given.host]
    params.port = given.port
    params.api_keys = [os.environ["LLAMA_API_KEY"]]
    params.n_ctx = given.ctx_size
    params.n_parallel = given.parallel
    params.n_gpu_layers = given.n_gpu_layers
    params.embedding = given.embeddings
    params.endpoint_slots = False  # It shows callers each other's prompts.
    params.ui = False
    if given.threads:
        params.cpuparams.n_threads = given.threads
    if given.batch_size:
        params.n_batch = given.batch_size
        params.n_ubatch = min(given.batch_size, params.n_ubatch)
    try:
        server = xllamacpp.Server(params)
    except (RuntimeError, ValueError) as error:
        sys.exit(f"the model can't be loaded: {error}")
    print(f"ready on {server.listening_address}", flush=True)  # noqa: T201 - it is a program
    while True:
        signal.pause()


if __name__ == "__main__":
    main()
