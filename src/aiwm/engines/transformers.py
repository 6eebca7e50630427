"""Hugging Face's own server, `transformers serve`: slow, and for models that no other engine knows yet.

https://huggingface.co/docs/transformers/serving

It answers requests for the model it was started with, by the name it was started with: the folder.
"""

from aiwm.engines.kinds import Argument, EngineKind

KIND = EngineKind(
    name="transformers",
    provider="transformers",
    command=("transformers", "serve", "{model}", "--host={host}", "--port={port}"),
    model_name="{folder}",
    environment={"HF_HUB_OFFLINE": "1"},
    paths=("v1/",),
    arguments={
        "dtype": Argument(type=str, flag="--dtype", choices=("auto", "float16", "bfloat16", "float32")),
        "attn-implementation": Argument(
            type=str, flag="--attn-implementation", choices=("eager", "sdpa", "flash_attention_2")
        ),
        "continuous-batching": Argument(type=bool, flag="--continuous-batching"),
    },
    install="pip install 'transformers[serving]', into AIWM's environment",
)
