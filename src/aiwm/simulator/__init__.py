"""The simulated provider: OpenAI's, Anthropic's and Google's dialects on one port. Start at `app`."""
