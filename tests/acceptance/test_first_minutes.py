"""What a newcomer does first: start the demo, paste a line, look at the counts."""

from __future__ import annotations

import re
import shlex
import subprocess

from gateway import Gateway


def test_each_pasted_curl_line_of_the_demo_is_answered_and_counted(gateway: Gateway) -> None:
    lines = re.findall(r"^ *(curl .*)$", gateway.output, re.MULTILINE)
    assert len(lines) == 3
    for line in lines:
        answer = subprocess.run(shlex.split(line), capture_output=True, text=True, check=True).stdout
        assert "This is a simulated answer" in answer
        deployment_id = line.split("/deployments/")[1].split("/")[0]
        deployment = gateway.login().http.get(f"/deployments/{deployment_id}").json()
        assert deployment["requestCount"] == 1
        assert deployment["totalTokens"] == 19
