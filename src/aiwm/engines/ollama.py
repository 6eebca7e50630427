"""Ollama, for a folder of models that it has pulled. https://docs.ollama.com/api

The model's folder is an OLLAMA_MODELS folder, its `fileName` the tag of one model in it (`llama3.2:1b`).
"""

from aiwm.engines.kinds import Argument, EngineKind

KIND = EngineKind(
    name="ollama",
    provider="ollama",
    command=("ollama", "serve"),
    environment={
        "OLLAMA_HOST": "{host}:{port}",
        "OLLAMA_MODELS": "{model}",
        "OLLAMA_NOPRUNE": "1",
        "OLLAMA_KEEP_ALIVE": "-1",  # When it rests is said by the deployment.
    },
    model_name="{file}",
    ready_path="/api/version",
    paths=("v1/", "api/chat", "api/generate", "api/embed", "api/tags", "api/show", "api/ps", "api/version"),
    arguments={
        "context-length": Argument(type=int, variable="OLLAMA_CONTEXT_LENGTH", least=1, most=10_000_000),
        "num-parallel": Argument(type=int, variable="OLLAMA_NUM_PARALLEL", least=1, most=1024),
        "max-queue": Argument(type=int, variable="OLLAMA_MAX_QUEUE", least=1, most=65_536),
        "flash-attention": Argument(type=bool, variable="OLLAMA_FLASH_ATTENTION"),
        "kv-cache-type": Argument(type=str, variable="OLLAMA_KV_CACHE_TYPE", choices=("f16", "q8_0", "q4_0")),
    },
    start_seconds=120.0,
    install="https://ollama.com/download",
)
