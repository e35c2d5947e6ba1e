"""A running Ray as it is seen from outside: its dashboard, and a node's Prometheus endpoint."""

import contextlib
import json
import re
import time
import urllib.request
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from tests.support.commands import Command, read_until

SAMPLE = re.compile(r"(\w+)\{(.*)\} (\S+)")


def dashboard_address(process: Command) -> tuple[str, str]:
    """The address that a command prints, and all that it has printed up to there."""
    found, printed = read_until(process, r"Ray dashboard: (http://\S+) .*\n")
    return found[1], printed


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


def wait_until(process: Command, holds: Callable[[], bool]) -> None:
    """Returns as soon as it holds; fails where the command ends before."""
    while process.poll() is None:
        if holds():
            return
        time.sleep(0.2)  # a poll
    raise AssertionError(f"the command ended before:\n{process.communicate()[0]}")


def open_to_other_machines(family: dict[int, str]) -> set[str]:
    """The names of the processes at which other machines could knock."""
    owners: dict[str, str] = {}
    for pid, title in family.items():
        for link in Path(f"/proc/{pid}/fd").glob("*"):
            with contextlib.suppress(OSError):  # closed meanwhile
                owners[str(link.readlink())] = title
    rows = [line.split() for name in ("tcp", "tcp6") for line in Path(f"/proc/net/{name}").read_text().splitlines()[1:]]
    listening = [
        (row[1], owners[f"socket:[{row[9]}]"]) for row in rows if row[3] == "0A" and f"socket:[{row[9]}]" in owners
    ]
    assert len(listening) > 5
    return {title for address, title in listening if not address.split(":")[0].endswith("0100007F")}
