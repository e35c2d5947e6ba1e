"""A store that misbehaves: a run on it ends with the same bits, or stops and goes on when the store is well again."""

import itertools
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.bucket_runs import BucketRuns
from tests.support.commands import assert_same_end, assert_same_pictures
from tests.support.kill_points import Run, tiny_trial
from tests.support.object_proxy import FaultProxy, Predicate, Rule, on

pytestmark = pytest.mark.slow

IMPATIENT = {"PIX2PIX_STORE_RETRY_S": "0.5"}
GOES_ON = "the same command goes on from the last checkpoint"
Break = Callable[[FaultProxy, Predicate], Rule]


@pytest.fixture
def runs(bucket_runs: BucketRuns, undisturbed: Path, fault_proxy: FaultProxy) -> BucketRuns:
    """Behind the proxy; the patches are there."""
    bucket_runs.put(undisturbed / "results" / "patches", "patches")
    return bucket_runs.through(fault_proxy.endpoint)


def assert_ended_as(undisturbed: Path, runs: BucketRuns) -> None:
    trial = runs.fetch_trial()
    assert_same_end(trial, tiny_trial(undisturbed))
    assert_same_pictures(trial, tiny_trial(undisturbed))


def from_request(number: int) -> Predicate:
    """All requests but the first ones."""
    requests = itertools.count(1)
    return lambda method, path, query: next(requests) >= number


def kept_steps(runs: BucketRuns) -> list[str]:
    """The checkpoints that count."""
    return sorted(name.split("/")[-2] for name in runs.objects() if re.search(r"/step_\d+/manifest.json$", name))


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.soak) for seed in (1, 2))])
def test_a_store_of_which_every_tenth_request_fails_changes_no_bit(
    runs: BucketRuns, undisturbed: Path, fault_proxy: FaultProxy, seed: int
) -> None:
    with fault_proxy.seeded(0.1, seed) as faults:
        ended = runs.train()
    assert ended.code == 0, ended.output
    assert faults.hits > 20
    assert_ended_as(undisturbed, runs)


# By the number of the request: while the storage is looked at, at the lease, in training, and in its last steps.
@pytest.mark.parametrize(
    ("fault", "said", "number"),
    [
        ("InternalError", "500 Internal Server Error", 14),
        pytest.param("InternalError", "500 Internal Server Error", 28, marks=pytest.mark.soak),
        ("InternalError", "500 Internal Server Error", 150),
        pytest.param("InternalError", "500 Internal Server Error", 290, marks=pytest.mark.soak),
        ("ExpiredToken", "403 Forbidden, ExpiredToken", 150),
        ("AccessDenied", "403 Forbidden, AccessDenied", 150),
    ],
)
def test_a_store_that_answers_with_errors_from_some_request_on_stops_the_run_which_goes_on_later(
    runs: BucketRuns, undisturbed: Path, fault_proxy: FaultProxy, fault: str, said: str, number: int
) -> None:
    with fault_proxy.status(fault, from_request(number)):
        ended = runs.train(environment=IMPATIENT)
    assert ended.code == 75, ended.output
    before = kept_steps(runs)
    assert (len(before) > 0) == (number >= 150)
    last = ended.output.splitlines()[-1]
    assert last.startswith("error: --storage: the object store can't be used: "), ended.output
    assert f"s3://{runs.bucket}/results/" in last
    assert f"failed ({said}" in last
    assert last.endswith(f"when it answers again and takes the credentials, {GOES_ON}")
    assert "Traceback" not in ended.output

    ended = runs.train()
    assert ended.code == 0, ended.output
    if before:
        assert f"goes on from step {int(before[-1].removeprefix('step_'))} of 18" in ended.output
    assert "set aside" not in ended.output
    assert_ended_as(undisturbed, runs)


def test_reads_that_fail_are_not_taken_for_damage(runs: BucketRuns, undisturbed: Path, fault_proxy: FaultProxy) -> None:
    """Of what can't be read nothing is known: least of all that a checkpoint is damaged, or a trial new."""
    with fault_proxy.status("InternalError", from_request(200)):
        assert runs.train(environment=IMPATIENT).code == 75
    before = kept_steps(runs)
    assert before
    places = ["*.yaml", "*/outcome.json", "*/starts.jsonl", "*/metrics.jsonl", "*/checkpoints/*/manifest.json"]
    for place in [*places, "*/checkpoints/*/generator-*", "*/checkpoints/*/metrics-*"]:
        with fault_proxy.status("InternalError", on("get", place)):
            ended = runs.train(environment=IMPATIENT)
        assert ended.code == 75, (place, ended.output)
        assert "set aside" not in ended.output, place
        assert kept_steps(runs) == before, place
    ended = runs.train()
    assert ended.code == 0, ended.output
    assert_ended_as(undisturbed, runs)


def test_a_finished_trial_whose_weights_cannot_be_read_is_not_trained_again(
    bucket_runs: BucketRuns, undisturbed: Path, fault_proxy: FaultProxy
) -> None:
    bucket_runs.put(undisturbed / "results")
    before = bucket_runs.objects()
    # Of the weights no more than their size is asked for.
    for kind, place in (("head", "*/weights/generator.safetensors"), ("get", "*/weights/manifest.json")):
        with fault_proxy.status("InternalError", on(kind, place)):
            ended = bucket_runs.through(fault_proxy.endpoint).train(environment=IMPATIENT)
        assert ended.code == 75, (place, ended.output)
        assert bucket_runs.objects() == before, place


def test_credentials_that_are_renewed_in_time_are_waited_for(
    runs: BucketRuns, undisturbed: Path, fault_proxy: FaultProxy
) -> None:
    rule = fault_proxy.expired(from_request(150))
    begun = runs.begin()
    rule.wait(hits=8)  # all that the threads of a run ask for meanwhile, again and again
    rule.remove()
    ended = begun.finish()
    assert ended.code == 0, ended.output
    assert_ended_as(undisturbed, runs)


def assert_stopped_for_lack_of_room(ended: Run) -> None:
    assert ended.code == 75, ended.output
    assert "no room" in ended.output
    assert "goes on from the last checkpoint" in ended.output
    assert "Traceback" not in ended.output


@pytest.mark.parametrize(
    "code",
    [
        "QuotaExceeded",
        pytest.param("XMinioAdminBucketQuotaExceeded", marks=pytest.mark.soak),
        pytest.param("XMinioStorageFull", marks=pytest.mark.soak),
    ],
)
def test_a_quota_that_is_reached_stops_the_run_and_when_it_is_raised_it_goes_on(
    runs: BucketRuns, undisturbed: Path, fault_proxy: FaultProxy, code: str
) -> None:
    with fault_proxy.quota(1_200_000, code) as quota:
        assert_stopped_for_lack_of_room(runs.train())
        before = kept_steps(runs)
        assert before
        quota.num_bytes += 10_000  # which do for the first look at the storage
        assert_stopped_for_lack_of_room(runs.train())
        assert kept_steps(runs) == before
        quota.num_bytes = quota.used
        refused = runs.train()
        assert refused.code == 2, refused.output
        assert "there is no room" in refused.output
        quota.num_bytes = 10**9
        ended = runs.train()
    assert ended.code == 0, ended.output
    assert f"goes on from step {int(before[-1].removeprefix('step_'))} of 18" in ended.output
    assert_ended_as(undisturbed, runs)


def test_no_step_waits_for_a_checkpoint_on_its_way_or_for_rows_of_the_log(
    runs: BucketRuns, undisturbed: Path, fault_proxy: FaultProxy
) -> None:
    """The last epoch's picture is written while the first checkpoint and all rows of the log are on their way."""
    changes = {"checkpoint": {"every_n_epochs": 5}}
    begun = runs.begin(changes=changes, settings={"runner.storage.bucket.Bucket.row_interval_s": 0.02})
    log, checkpoint = on("put", "*/trial/metrics.jsonl"), on("put", "*/step_00000015/generator_optimizer-*")
    fault_proxy.wait_for(log)  # as it is opened, empty
    with fault_proxy.hold(log) as rows, fault_proxy.hold(checkpoint):
        rows.wait()
        fault_proxy.wait_for(on("put", "*/images/epoch_0006.png"))
    ended = begun.finish()
    assert ended.code == 0, ended.output
    log_text = runs.read("tiny/trials/trial/log.txt").decode()
    found = re.search(r"step 15: .* training waited ([\d.]+) s, written in ([\d.]+) s beside it", log_text)
    assert found, log_text
    assert float(found[1]) < 0.5 * float(found[2])
    assert_ended_as(undisturbed, runs)
