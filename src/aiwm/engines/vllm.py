"""vLLM, for models in Hugging Face's format on GPUs. https://docs.vllm.ai/en/latest/cli/serve/"""

from aiwm.engines.kinds import Argument, EngineKind

KIND = EngineKind(
    name="vllm",
    provider="vllm",
    command=("vllm", "serve", "{model}", "--host={host}", "--port={port}", "--served-model-name={name}"),
    environment={
        "VLLM_API_KEY": "{key}",  # In the environment: a command can be read by every user of the machine.
        "HF_HUB_OFFLINE": "1",
        "VLLM_NO_USAGE_STATS": "1",
        "DO_NOT_TRACK": "1",
    },
    for_types={"embedding": ("--runner=pooling",)},
    paths=("v1/", "v2/rerank", "tokenize", "detokenize", "pooling", "classify", "score", "rerank"),
    arguments={
        "max-model-len": Argument(type=int, flag="--max-model-len", least=1, most=100_000_000),
        "max-num-seqs": Argument(type=int, flag="--max-num-seqs", least=1, most=65_536),
        "gpu-memory-utilization": Argument(type=float, flag="--gpu-memory-utilization", least=0.05, most=1.0),
        "tensor-parallel-size": Argument(type=int, flag="--tensor-parallel-size", least=1, most=64),
        "dtype": Argument(type=str, flag="--dtype", choices=("auto", "half", "float16", "bfloat16", "float32")),
        "quantization": Argument(type=str, flag="--quantization", choices=("awq", "gptq", "fp8", "compressed-tensors")),
        "kv-cache-dtype": Argument(type=str, flag="--kv-cache-dtype", choices=("auto", "fp8", "fp8_e4m3", "fp8_e5m2")),
        "enable-prefix-caching": Argument(type=bool, flag="--enable-prefix-caching"),
        "enforce-eager": Argument(type=bool, flag="--enforce-eager"),
        "seed": Argument(type=int, flag="--seed", least=0, most=2**31 - 1),
    },
    gpus=1,
    gpus_argument="tensor-parallel-size",
    start_seconds=1800.0,
    stop_seconds=30.0,
    install="pip install vllm, into AIWM's environment or onto the PATH",
)
