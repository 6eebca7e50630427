"""Azure OpenAI: https://learn.microsoft.com/azure/ai-foundry/openai/reference

OpenAI's API under `{resource}/openai`, with the key in `api-key`, a version in the query, and (outside its
v1 paths) the model's deployment in the path, as Azure calls its name: there no body needs a `model`.
"""

from dataclasses import replace

from aiwm.providers import openai

PROVIDER = replace(
    openai.PROVIDER,
    name="azure",
    endpoint="https://RESOURCE.openai.azure.com/openai",
    key_header="api-key",
    key_prefix="",
    config_headers={},
    model_in_path=("deployments",),
    config_query={"api-version": "api-version"},
    price_list="azure",
    # It bills what it has processed, whatever the status: a prompt that its content filter refused, say.
    bills_errors=True,
    request_id_header=b"apim-request-id",
)
