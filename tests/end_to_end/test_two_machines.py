"""Two commands on one experiment in a bucket, as on two machines: one of them trains, and the other writes nothing."""

import random
from pathlib import Path

import pytest

from tests.support.bucket_runs import BucketRuns
from tests.support.commands import assert_same_end, assert_same_pictures
from tests.support.kill_points import SAVE_ALWAYS, KillPoint, tiny_trial
from tests.support.object_proxy import FaultProxy, on

pytestmark = pytest.mark.slow

LOG = "tiny/trials/trial/log.txt"
QUICK_LEASE = {"runner.process.lease.LEASE_S": 1.0, "runner.process.lease.HEARTBEAT_S": 0.2}
# Where a worker may be suspended, and at which call at the latest.
PLACES = {
    "gan.training.loop._take_step": 17,
    "runner.records.checkpoints.write_tensors": 12,
    "runner.records.checkpoints.remove_old_checkpoints": 5,
    "runner.trial.recorder.summarise": 12,
    "runner.trial.loop.write_weights": 1,
    "runner.trial.job.TrialJob.check_current": 20,
    "runner.storage.bucket.Bucket.new_folder": 5,
    "runner.storage.bucket.Bucket.write": 15,
    "runner.storage.bucket.Bucket.append": 8,
    "runner.storage.bucket.Bucket.remove": 8,
    "runner.storage.bucket.Bucket.read_tagged": 40,
}


def elsewhere() -> str:
    """In place of the name of the set that process numbers are unique in."""
    return "of another machine"


ELSEWHERE = {**QUICK_LEASE, "runner.process.lease._pid_namespace": elsewhere}


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A quarter of `--kill-seeds`, of which each draws another place."""
    if "seed" in metafunc.fixturenames:
        metafunc.parametrize("seed", range(max(metafunc.config.getoption("kill_seeds") // 4, 1)))


def assert_ended_as(undisturbed: Path, runs: BucketRuns) -> None:
    trial = runs.fetch_trial()
    assert_same_end(trial, tiny_trial(undisturbed))
    assert_same_pictures(trial, tiny_trial(undisturbed))


def test_a_worker_that_was_suspended_while_another_start_took_over_writes_nothing_more(
    bucket_runs: BucketRuns, undisturbed: Path, fault_proxy: FaultProxy, seed: int
) -> None:
    draw = random.Random(f"suspended {seed}")
    bucket_runs.put(undisturbed / "results" / "patches", "patches")
    function = draw.choice(list(PLACES))
    pause = KillPoint(function, draw.randint(1, PLACES[function]), "pause")
    settings = draw.choice([{}, SAVE_ALWAYS]) | draw.choice([{}, {"runner.storage.bucket.Bucket.row_interval_s": 0.02}])

    first = bucket_runs.through(fault_proxy.endpoint).begin(kill_points=[pause], settings={**settings, **QUICK_LEASE})
    was_paused = first.wait_until_paused()
    second = bucket_runs.on_another_machine().train(settings=ELSEWHERE)
    assert second.code == 0, (pause, second.output)
    before = bucket_runs.objects()
    fault_proxy.clear()
    if was_paused:
        first.go_on()
    ended = first.finish()
    after = bucket_runs.objects()

    writes = {seen.key for seen in fault_proxy.requests if seen.kind == "put" and seen.status == 200}
    assert writes & {f"results/{name}" for name in after} <= {f"results/{LOG}"}, (pause, ended.output)
    before.pop(LOG)
    after.pop(LOG)
    assert after == before, (pause, ended.output)
    assert ended.code == (75 if was_paused else 0), (pause, ended.output)
    assert_ended_as(undisturbed, bucket_runs)


def test_a_second_command_is_refused_while_the_first_ones_heart_beats(
    bucket_runs: BucketRuns, undisturbed: Path, fault_proxy: FaultProxy
) -> None:
    bucket_runs.put(undisturbed / "results" / "patches", "patches")
    with fault_proxy.hold(on("put", "*/manifest.json")) as held:  # so that it can't end
        first = bucket_runs.through(fault_proxy.endpoint).begin(settings=QUICK_LEASE)
        held.wait()
        before = {name: known for name, known in bucket_runs.objects().items() if not name.endswith("/lock")}
        second = bucket_runs.on_another_machine().train(settings=ELSEWHERE)
        after = {name: known for name, known in bucket_runs.objects().items() if name in before}
    assert second.code == 2, second.output
    assert "another command is running this experiment" in second.output
    assert after == before
    ended = first.finish()
    assert ended.code == 0, ended.output
    assert_ended_as(undisturbed, bucket_runs)


def test_a_write_that_arrives_after_another_start_has_finished_changes_no_result(
    bucket_runs: BucketRuns, undisturbed: Path, fault_proxy: FaultProxy
) -> None:
    """A store may do what it was asked long after who asked has lost the experiment."""
    bucket_runs.put(undisturbed / "results" / "patches", "patches")
    with fault_proxy.hold(on("put", "*/step_00000006/manifest.json")) as held:
        first = bucket_runs.through(fault_proxy.endpoint).begin(settings=QUICK_LEASE)
        held.wait()
        second = bucket_runs.on_another_machine().train("--take-over", settings=ELSEWHERE)
        assert second.code == 0, second.output
    ended = first.finish()
    assert ended.code == 75, ended.output
    assert_ended_as(undisturbed, bucket_runs)
    again = bucket_runs.train()
    assert again.code == 0, again.output
    assert "finished before, not run again: 1 of 1 trials" in again.output
