"""xAI: https://docs.x.ai/docs/api-reference. OpenAI's API with another meaning of one number."""

from dataclasses import replace

from aiwm.providers import openai
from aiwm.providers.base import StatedCost

PROVIDER = replace(
    openai.PROVIDER,
    name="xai",
    endpoint="https://api.x.ai",
    config_headers={},
    usage=replace(
        openai.PROVIDER.usage,
        # Chat completions leave reasoning out of completion_tokens; the Responses API counts it in.
        counts=[
            replace(
                openai.CHAT,
                output_tokens=[("completion_tokens",), ("completion_tokens_details", "reasoning_tokens")],
            ),
            openai.RESPONSES,
        ],
        tiers={"default": {}},
        stated_cost=StatedCost(path=("cost_in_usd_ticks",), per_dollar=10**10),
    ),
    price_list="x-ai",
)
