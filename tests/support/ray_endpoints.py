"""A running Ray as it is seen from outside: its dashboard, and a node's Prometheus endpoint."""

import json
import os
import re
import subprocess
import time
import urllib.request
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

SAMPLE = re.compile(r"(\w+)\{(.*)\} (\S+)")


def dashboard_address(process: subprocess.Popen[str]) -> tuple[str, str]:
    """The address that a command prints, and all that it has printed up to there."""
    assert process.stdout is not None
    printed = b""
    while not (found := re.search(rb"Ray dashboard: (http://\S+) .*\n", printed)):
        byte = os.read(process.stdout.fileno(), 1)  # what is buffered would be lost to whoever reads the rest
        assert byte, printed.decode()
        printed += byte
    return found[1].decode(), printed.decode()


def ask_dashboard(address: str, path: str) -> Any:
    """What the dashboard's HTTP API answers to whoever has its token."""
    token = (Path.home() / ".ray" / "auth_token").read_text().strip()
    request = urllib.request.Request(f"{address}{path}", headers={"Authorization": f"Bearer {token}"})
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.loads(answer.read())


def node_metrics(family: Mapping[int, str]) -> dict[tuple[str, str, str], float]:
    """Our samples at the endpoint of a command's only node, by name, experiment and trial.

    Args:
        family: the command's processes with their titles.
    """
    (raylet,) = (title for title in family.values() if "/raylet " in title)
    (session,) = re.findall(r"--session_dir=(\S+)", raylet)
    (ip,) = re.findall(r"--node_ip_address=(\S+)", raylet)
    (port,) = (path.read_text() for path in Path(session).glob("metrics_export_port_*"))
    with urllib.request.urlopen(f"http://{ip}:{port}/metrics", timeout=60) as answer:
        text = answer.read().decode()
    samples = {}
    for name, labels, value in SAMPLE.findall(text):
        if name.startswith("ray_pix2pix_"):
            tags = dict(re.findall(r'(\w+)="([^"]*)"', labels))
            samples[name, tags["experiment"], tags["trial"]] = float(value)
    return samples


def wait_until(process: subprocess.Popen[str], holds: Callable[[], bool]) -> None:
    """Returns as soon as it holds; fails where the command ends before."""
    while process.poll() is None:
        if holds():
            return
        time.sleep(0.2)  # a poll
    raise AssertionError(f"the command ended before:\n{process.communicate()[0]}")
