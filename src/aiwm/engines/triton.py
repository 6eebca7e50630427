"""NVIDIA Triton, for a model repository of its own format. It speaks KServe's protocol: answers hold no token counts.

https://docs.nvidia.com/deeplearning/triton-inference-server/user-guide/docs/protocol/README.html
"""

from aiwm.engines.kinds import Argument, EngineKind

KIND = EngineKind(
    name="triton",
    provider="triton",
    command=(
        "tritonserver", "--model-repository={model}", "--http-address={host}", "--http-port={port}",
        "--allow-grpc=false", "--allow-metrics=false",
    ),
    ready_path="/v2/health/ready",
    paths=("v2/models/", "v2/health/"),
    arguments={
        "http-thread-count": Argument(type=int, flag="--http-thread-count", least=1, most=1024),
        "exit-timeout-secs": Argument(type=int, flag="--exit-timeout-secs", least=1, most=30),
    },
    stop_seconds=35.0,
    install="run AIWM in NVIDIA's Triton container",
)  # fmt: skip
