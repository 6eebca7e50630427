"""Measures AIWM beside nginx. `script/bench --help` says what and how; docs/performance.md says what it means."""
