"""What a command has said."""

import json

import pytest


def last_line(capfd: pytest.CaptureFixture[str]) -> dict:
    return json.loads(capfd.readouterr().out.splitlines()[-1])
