"""llama.cpp, for GGUF files: on the processor, or on whatever GPU its build knows. https://github.com/ggml-org/llama.cpp

It is the server in the wheel of xllamacpp, run by `llama_server.py`.
"""

from aiwm.engines.kinds import Argument, EngineKind

KIND = EngineKind(
    name="llamacpp",
    provider="llamacpp",
    # -P: the folder of the script holds files of ours that are called like other people's packages.
    command=(
        "{python}",
        "-P",
        "{engines}/llama_server.py",
        "--model={model}",
        "--name={name}",
        "--host={host}",
        "--port={port}",
    ),
    module="xllamacpp",
    environment={"LLAMA_API_KEY": "{key}"},
    for_types={"embedding": ("--embeddings",)},
    model_file="*.gguf",
    paths=("v1/", "chat/completions", "tokenize", "detokenize", "apply-template"),
    arguments={
        "ctx-size": Argument(type=int, flag="--ctx-size", least=0, most=10_000_000),
        "parallel": Argument(type=int, flag="--parallel", least=1, most=256),
        "threads": Argument(type=int, flag="--threads", least=1, most=1024),
        "batch-size": Argument(type=int, flag="--batch-size", least=1, most=65_536),
        "n-gpu-layers": Argument(type=int, flag="--n-gpu-layers", least=-1, most=10_000),
        "embeddings": Argument(type=bool, flag="--embeddings"),
    },
    install="pip install 'aiwm[llama]'",
)
