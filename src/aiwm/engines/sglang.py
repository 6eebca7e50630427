"""SGLang, for models in Hugging Face's format on GPUs. https://docs.sglang.ai/advanced_features/server_arguments.html

Its key could only stand in the command, for every user of the machine to read: it is kept to the loopback without one.
"""

from aiwm.engines.kinds import Argument, EngineKind

KIND = EngineKind(
    name="sglang",
    provider="sglang",
    command=(
        "{python}", "-m", "sglang.launch_server",
        "--model-path={model}", "--host={host}", "--port={port}", "--served-model-name={name}",
    ),
    module="sglang",
    environment={"HF_HUB_OFFLINE": "1"},
    for_types={"embedding": ("--is-embedding",)},
    paths=("v1/",),
    arguments={
        "context-length": Argument(type=int, flag="--context-length", least=1, most=100_000_000),
        "max-running-requests": Argument(type=int, flag="--max-running-requests", least=1, most=65_536),
        "mem-fraction-static": Argument(type=float, flag="--mem-fraction-static", least=0.05, most=1.0),
        "tp-size": Argument(type=int, flag="--tp-size", least=1, most=64),
        "dtype": Argument(type=str, flag="--dtype", choices=("auto", "half", "float16", "bfloat16", "float32")),
        "quantization": Argument(type=str, flag="--quantization", choices=("awq", "gptq", "fp8", "w8a8_int8")),
        "disable-cuda-graph": Argument(type=bool, flag="--disable-cuda-graph"),
    },
    gpus=1,
    gpus_argument="tp-size",
    start_seconds=1800.0,
    stop_seconds=30.0,
    install="pip install 'sglang[all]', into AIWM's environment",
)  # fmt: skip
