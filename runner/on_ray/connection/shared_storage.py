"""Whether each node of a joined cluster sees the storage of this run, and what it really has: asked before anything is
made or trained.

A node with a folder of its own at the same path would train there, and nobody would find what it trained. What Ray
counts on a node was told to it, or was read where a container's limits and the state of a GPU's driver do not show.
"""

from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from typing import NamedTuple

import ray
import ray.exceptions
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from runner.errors import ResourceError, StorageError, UserError
from runner.on_ray.connection.capacity import node_name
from runner.process.lease import read_lease
from runner.process.machine import Machine, look_at_machine
from runner.storage.run_folder import LOCK
from runner.storage.storage import Storage

# A node that starts its first process unpacks this project and loads Python modules.
_REPLY_TIMEOUT_S = 120.0
_MAX_SHOWN = 8

# What a worker imports, as it is called there.
_PACKAGES = (
    "numpy", "obstore", "PIL", "psutil", "pyarrow", "pydantic", "safetensors", "simplejpeg", "torch", "torchvision",
    "xxhash", "yaml",
)  # fmt: skip


def check_nodes(experiment: Storage, token: str, name: str = LOCK) -> Mapping[str, Machine]:
    """Reads the experiment's lock on each node that is alive.

    Args:
        token: of this start's lease, which the lock names.
        name: of a file with a token that is looked for in the lock's place.

    Returns:
        What each node has, under its id.

    Raises:
        StorageError: a node sees no lock there, or that of another start.
        ResourceError: a node can't run this project.
    """
    nodes = [node for node in ray.nodes() if node["Alive"]]
    # Without cores, so that it waits for no trial of somebody else.
    look = ray.remote(num_cpus=0, max_retries=0)(_look)
    places = [NodeAffinitySchedulingStrategy(node["NodeID"], soft=False) for node in nodes]
    asked = {
        look.options(scheduling_strategy=place).remote(experiment, name): node
        for place, node in zip(places, nodes, strict=True)
    }
    ray.wait(list(asked), num_returns=len(asked), timeout=_REPLY_TIMEOUT_S)

    machines: dict[str, Machine] = {}
    blind, unable = [], []
    for reply, node in asked.items():
        shown = node_name(node)
        try:
            seen: _Seen = ray.get(reply, timeout=0)
        except ray.exceptions.GetTimeoutError:
            unable.append(f"{shown}: no reply within {_REPLY_TIMEOUT_S:.0f} s")
        except (ray.exceptions.NodeDiedError, ray.exceptions.TaskUnschedulableError):
            continue  # it has left the cluster meanwhile
        except ray.exceptions.RayError as error:
            unable.append(f"{shown}: {str(error).strip().splitlines()[-1]}")
        else:
            machines[node["NodeID"]] = seen.machine
            if seen.missing:
                unable.append(f"{shown} has no {', '.join(seen.missing)}")
            if seen.problem:
                blind.append(f"{shown}: {seen.problem}")
            elif seen.token != token:
                blind.append(f"{shown} {'sees another folder there' if seen.token else 'sees no such folder'}")
    _refuse(experiment, blind, unable)
    return machines


def _refuse(experiment: Storage, blind: list[str], unable: list[str]) -> None:
    """Raises the error for nodes that don't see the storage, or can't run the project."""
    problem: type[UserError]
    if blind:
        lines, problem = blind, StorageError
        first = f"--storage: not every node of the cluster sees {experiment.root}:"
        last = "Give a folder that all nodes share, such as a network drive that is mounted at the same path on each."
        if experiment.is_remote:
            last = (
                "Each node's processes need the endpoint and the credentials in their environment, from before "
                "`ray start` on: docs/clusters.md says how they get there."
            )
    elif unable:
        lines, problem = unable, ResourceError
        first = "--address: not every node of the cluster can run this project:"
        last = "Install it there with the same versions, or take the node out of the cluster."
    else:
        return

    shown = [f"  {line}" for line in lines[:_MAX_SHOWN]]
    shown += [f"  and {len(lines) - _MAX_SHOWN} more"] if len(lines) > _MAX_SHOWN else []
    raise problem("\n".join([first, *shown, last]))


class _Seen(NamedTuple):
    """What a node sees.

    Attributes:
        token: in the experiment's lock; "" where there is none.
        problem: why the lock could not be looked at; "" where it could.
        machine: what the node has.
        missing: the packages that a worker needs and the node does not have.
    """

    token: str
    problem: str
    machine: Machine
    missing: Sequence[str]


def _look(experiment: Storage, name: str) -> _Seen:
    """What this node sees; it loads none of the packages that take seconds."""
    missing = [package for package in _PACKAGES if find_spec(package) is None]
    lease, problem = None, ""
    try:
        lease = read_lease(experiment, name)
    except (OSError, StorageError) as error:
        problem = str(error)
    return _Seen(str(lease["token"]) if lease else "", problem, look_at_machine(), missing)
