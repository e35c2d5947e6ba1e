"""Trains a trial again in a temporary folder, and compares it step by step with what the trial recorded.

The state at a step is a function of settings, data, seed and step: no restart, no number of checkpoints and no other
trial has a part in it. So the new training begins at the first step, never saves, and ends at the first difference.
"""

import contextlib
import itertools
import math
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from gan.data.batches import resident_limit
from gan.data.epochs import steps_per_epoch
from gan.data.patches import Patches
from gan.training.computation import describe_computation
from gan.training.delayed_logger import LoggedStep
from gan.training.loop import BeforeStep, EpochEnd, fit
from gan.training.process_group import ProcessGroup
from gan.training.settings import TrainingSettings
from gan.training.state import TrainState
from runner.config.fingerprint import Fingerprints, fingerprint_trial
from runner.config.schema import Experiment
from runner.console import Console
from runner.data.changes import changes_since
from runner.data.patch_store import find_store, local_patches
from runner.data.preparation import prepare_patches
from runner.data.shards import cut_in_this_process
from runner.data.sources import find_source, store_fingerprint
from runner.errors import ConfigError, DataError
from runner.models.recorded_run import Difference, RecordedRun, evaluations_in, tensors_digest
from runner.number_format import counted
from runner.process.lease import Lease
from runner.process.processes import num_cores
from runner.records.initial_weights import read_copy
from runner.records.metrics_log import MetricsLog
from runner.records.starts import read_starts
from runner.records.trial_file import machine_differences, read_trial_file, recorded_config
from runner.screen.cutting import with_bar
from runner.storage.run_folder import METRICS_LOG, PATCHES, TRIAL_FILE
from runner.storage.storage import Storage
from runner.trial.heartbeat import Coordinator, Heartbeat
from runner.trial.job import TrialJob
from runner.trial.recorder import Recorder, is_finite
from runner.trial.runtime import RuntimeSettings, refuse_emulation, set_up_torch, torch_settings_kept

_CHANGES_SHOWN = 5


class Reproduction(NamedTuple):
    """What came of a new training.

    Attributes:
        step: the last step that was compared.
        num_rows, num_states: rows of the log, and checkpoints and files of weights, that are the same.
        sha256: of the generator's weights at that step, as a file of weights would have it.
        difference: the first one; None where the bits are the same.
        notes: what is known to be other than when the trial was trained, a sentence each.
    """

    step: int
    num_rows: int
    num_states: int
    sha256: str
    difference: Difference | None
    notes: Sequence[str]

    def lines(self) -> list[str]:
        """The result for the screen."""
        compared = f"{counted(self.num_rows, 'row')} of metrics.jsonl and {counted(self.num_states, 'saved state')}"
        if self.difference is None:
            return [
                *self.notes,
                f"the same bits up to step {self.step}: {compared}",
                f"SHA-256 of the generator at step {self.step}: {self.sha256}",
            ]
        step, field, text = self.difference
        return [
            f"the first difference is at step {step}, {field}: {text}",
            f"before it {compared} are the same",
            *self.notes,
        ]


class _Recorded(NamedTuple):
    """A trial as its trial.yaml has it."""

    trial: Storage
    content: dict[str, Any]
    config: Experiment
    fingerprints: Fingerprints
    runtime: RuntimeSettings


def reproduce(folder: str | Path, epochs: int | None, console: Console) -> Reproduction:
    """Trains a trial again and compares.

    Args:
        folder: the trial's, by its path or URI. Nothing in it is changed.
        epochs: how many are compared; None for as many as the trial got to.

    Raises:
        DataError: it is no trial's folder, nothing of it can be compared, or its data is gone or has changed.
        ConfigError: it never got that far, or several workers trained it.
        ResourceError: it was trained in a precision that this machine can only emulate.
    """
    recorded = _read_recorded(folder)
    run = RecordedRun(recorded.trial, recorded.fingerprints)
    if not run.last_step:
        raise DataError(f"TRIAL_DIR is {str(folder)!r}: no step of it is recorded yet: there is nothing to compare")

    refuse_emulation(recorded.trial.name, recorded.content, recorded.config.training.precision, _device_of(recorded))
    with contextlib.ExitStack() as stack:
        scratch = Storage.open(stack.enter_context(tempfile.TemporaryDirectory(prefix="reproduce-")))
        store = _find_patches(recorded, scratch, console)
        job = stack.enter_context(_scratch_job(recorded, store, scratch.at("experiment")))
        stack.enter_context(torch_settings_kept())
        set_up_torch(recorded.runtime, deterministic=recorded.config.training.deterministic)
        return _Training(recorded, run, store, job).run(epochs, console)


@contextlib.contextmanager
def _scratch_job(recorded: _Recorded, store: Storage, experiment: Storage) -> Iterator[TrialJob]:
    """A job that owns a trial's folder in a temporary experiment: what an evaluation writes goes there."""
    lease = Lease.acquire(experiment)
    job = TrialJob(
        experiment=experiment,
        name="trial",
        config=recorded.config,
        params={},
        fingerprints=recorded.fingerprints,
        store=store,
        threads=recorded.runtime.threads,
        lease_token=lease.token,
        attempt=lease.attempt,
    )
    try:
        job.trial.make_folder()
        yield job
    finally:
        lease.release()


def _read_recorded(folder: str | Path) -> _Recorded:
    """The trial's record; raises DataError or ConfigError where it can't be trained again."""
    trial = Storage.open(folder)
    if absence := trial.absence():
        raise DataError(
            f"TRIAL_DIR is {str(folder)!r}: {absence}: give a trial's folder, STORAGE/EXPERIMENT/trials/TRIAL"
        )
    content = read_trial_file(trial)
    if content is None:
        raise DataError(
            f"TRIAL_DIR is {str(folder)!r}: it has no readable {TRIAL_FILE}, which says what to train: give a trial's "
            "folder, STORAGE/EXPERIMENT/trials/TRIAL"
        )

    config = recorded_config(content, trial.shown)
    # trial.yaml has the workers of the last start alone.
    workers = max([config.resources.workers, *(start.get("workers", 1) for start in read_starts(trial))])
    if workers > 1:
        raise ConfigError(
            f"{trial.shown}: it was trained with resources.workers {workers}, but this command trains "
            "with one worker: several workers add up their parts of each batch in another order than one worker does, "
            "so no bit could be compared. Run the experiment again under another name, with the same number of "
            "workers, and compare the sha256 in the two files weights/manifest.json"
        )
    fingerprints = Fingerprints(
        content["fingerprint"], content["data_fingerprint"], content.get("initial_weights") or ""
    )
    runtime = RuntimeSettings(int(content["threads"]), str(content["precision"]), str(content["kernels"]))
    return _Recorded(trial, content, config, fingerprints, runtime)


def _kernels(recorded: _Recorded, device: torch.device) -> str:
    """How this program would compute the trial on a device, as trial.yaml says it."""
    config, precision = recorded.config, recorded.runtime.precision
    return describe_computation(device, precision, ProcessGroup(), config.networks, config.training.gan_loss)


def _device_of(recorded: _Recorded) -> torch.device:
    """The kind of device that the trial was trained on, where this machine has it."""
    processor = torch.device("cpu")
    was_on_processor = recorded.runtime.kernels == _kernels(recorded, processor)
    return processor if was_on_processor or not torch.cuda.is_available() else torch.device("cuda", 0)


def _find_patches(recorded: _Recorded, scratch: Storage, console: Console) -> Storage:
    """The patches that the trial was trained on, from its storage; made again, elsewhere, where they are gone.

    Raises:
        DataError: they are gone, and the source is gone or has changed.
    """
    data, fingerprint = recorded.config.data, recorded.fingerprints.data
    stores = recorded.trial.above(3).at(PATCHES)  # STORAGE/EXPERIMENT/trials/TRIAL
    store, problem = find_store(stores, fingerprint)
    if store is not None:
        return store.folder

    source = find_source(data)
    now = store_fingerprint(source, data)
    if now != fingerprint:
        changes = changes_since(source, data, stores.at(fingerprint), fingerprint)
        if changes != []:
            listed = "".join(f"\n  {change}" for change in (changes or [])[:_CHANGES_SHOWN])
            raise DataError(
                f"data.source is {data.source!r}: it is not the data that the trial was trained on (its fingerprint is "
                f"{now}, recorded is {fingerprint}), and the patches of then are {'damaged' if problem else 'gone'} "
                f"({stores.shown}/{fingerprint}). Bring the patches or the data back.{listed}"
            )
    cut = with_bar(cut_in_this_process, console)
    return prepare_patches(data, source, fingerprint, scratch.at(PATCHES), cut, console.print).folder


class _Training:
    """The new training, and what of it has been compared."""

    def __init__(self, recorded: _Recorded, run: RecordedRun, store: Storage, job: TrialJob) -> None:
        """Takes the trial, and a job for the files that evaluations write.

        Args:
            store: the patches.
        """
        config = recorded.config
        self._recorded, self._run, self._device = recorded, run, _device_of(recorded)
        patches = local_patches(store)
        self._patches = Patches.open(patches, "train", config.data.direction)
        val_patches = Patches.open(patches, "val", config.data.direction)
        self._steps_per_epoch = steps_per_epoch(len(self._patches), config.training.batch_size)
        self._epochs = -(-run.last_step // self._steps_per_epoch)

        # A step that was logged is logged again, though log_every_n_steps may have been another one then.
        within_epochs = [step for step in run.rows if step % self._steps_per_epoch]
        self._settings = TrainingSettings(
            precision=recorded.runtime.precision,
            log_every_n_steps=math.gcd(config.log_every_n_steps, *within_epochs),
            **config.training.model_dump(exclude={"precision", "deterministic", "epochs"}),
            epochs=self._epochs,
        )
        self._state = TrainState(config.networks, self._settings, self._device)
        if recorded.fingerprints.initial_weights:
            experiment = recorded.trial.above(2)
            self._state.start_from(read_copy(experiment, recorded.fingerprints.initial_weights, config))
        # It needs a log, by whose evaluations the best weights are chosen.
        log, heartbeat = MetricsLog(job.trial, b"", -1), Heartbeat(job.name, Coordinator())
        self._recorder = Recorder(job, log, self._state, val_patches, heartbeat, 0.0, recorded.runtime.precision)

        # What has been compared, and what is left.
        self._num_rows = self._num_states = 0
        self._states_left = set(run.checkpoint_steps)
        self._goal = run.last_step

    def run(self, epochs: int | None, console: Console) -> Reproduction:
        """Trains as far as something is recorded, or to the end of an epoch; raises ConfigError for a later one."""
        if epochs is not None:
            if epochs > self._epochs:
                raise ConfigError(
                    f"--epochs is {epochs}, but the trial got to epoch {self._epochs}: give a number from 1 to "
                    f"{self._epochs}"
                )
            self._goal = min(self._goal, epochs * self._steps_per_epoch)
        self._states_left = {step for step in self._states_left if step <= self._goal}

        found = None
        with console.progress("training again", self._goal) as bar:
            for found in self._compared_moments():
                bar.advance(self._state.step - bar.done)
                if found:
                    break
        return Reproduction(
            step=self._state.step,
            num_rows=self._num_rows,
            num_states=self._num_states,
            sha256=tensors_digest(self._state.generator.state_dict()),
            difference=found,
            notes=self._notes(),
        )

    def _compared_moments(self) -> Iterator[Difference | None]:
        """After each moment of the training what differs there, None for nothing; it ends where nothing is left."""
        resident_bytes = resident_limit(self._device, self._recorded.config.resources.gpu_share)
        events = fit(self._state, self._patches, self._settings, resident_bytes=resident_bytes)
        # One more moment comes after the last event: the one at which the last checkpoint is taken.
        for event in itertools.chain(events, [None]):
            match event:
                case BeforeStep() | None:
                    yield self._compare_state() or self._compare_weights()
                    if self._state.step >= self._goal:
                        break
                case LoggedStep():
                    yield self._compare({"step": event.step, "epoch": event.epoch, **event.losses})
                    last = event
                case EpochEnd():
                    yield self._compare_epoch(event) or self._compare_state()
                    last = event.last
            if event is not None and not isinstance(event, BeforeStep) and not is_finite(last):
                return  # there the trial has ended, too

        for step in sorted(self._states_left):
            yield Difference(step, "progress.safetensors: place", "the checkpoint is of another place in its epoch")

    def _compare_epoch(self, event: EpochEnd) -> Difference | None:
        """Compares the row of an epoch's end, with the evaluations that the recorded one has."""
        step, epoch = event.last.step, event.last.epoch
        recorded = self._run.rows.get(step)
        if recorded is None:
            # A trial that was stopped in an evaluation does not have that row yet.
            is_gone = step < self._goal
            return Difference(step, METRICS_LOG, "the row of the epoch's end is gone") if is_gone else None

        row: dict[str, Any] = {"step": step, "epoch": epoch, **event.last.losses}
        row |= {f"epoch_mean/{name}": value for name, value in event.means.items()}
        # First without an evaluation, which takes long: it can't be the same where the losses are not.
        difference = self._run.compare_row(row, with_evaluations=False)
        kinds = evaluations_in(recorded)
        if difference is None and kinds and is_finite(event.last):
            row |= self._recorder.record_epoch(epoch, last="final" in kinds, measured="selection" in kinds)
        return difference or self._compare(row)

    def _compare(self, row: dict[str, Any]) -> Difference | None:
        """Compares a row, and counts it."""
        difference = self._run.compare_row(row)
        self._num_rows += difference is None and row["step"] in self._run.rows
        return difference

    def _compare_state(self) -> Difference | None:
        """Compares the state as it is now with the checkpoint of its step, if there is one."""
        step = self._state.step
        if step not in self._states_left:
            return None
        difference, is_compared = self._run.compare_state(step, self._state.state_dict())
        if is_compared:
            self._states_left.discard(step)
            self._num_states += difference is None
        return difference

    def _compare_weights(self) -> Difference | None:
        """Compares the generator with the weights that the trial ended with and that are of this step."""
        for name, step in self._run.weights.items():
            if step != self._state.step:
                continue
            if difference := self._run.compare_weights(name, self._state.generator.state_dict()):
                return difference
            self._num_states += 1
        return None

    def _notes(self) -> list[str]:
        """What is other than it was, and may be why the bits are."""
        recorded, runtime = self._recorded, self._recorded.runtime
        kernels = _kernels(recorded, self._device)
        notes = machine_differences(recorded.content, kernels)
        if runtime.threads > num_cores():
            cores = counted(num_cores(), "core")
            notes.append(f"it was trained with {runtime.threads} threads, and this process may use {cores}")

        data, weights = recorded.fingerprints.data, recorded.fingerprints.initial_weights
        if fingerprint_trial(recorded.config, data, weights).config != recorded.fingerprints.config:
            notes.append(f"the settings in {TRIAL_FILE} are not those that its fingerprint was made of")
        return notes
