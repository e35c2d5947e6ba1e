"""Prepares a run: sound checkpoints, initial weights, patch stores, and what each worker gets."""

import contextlib
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from runner.config.schema import Data
from runner.data.patch_store import PatchStore, describe_store
from runner.data.preparation import prepare_patches
from runner.data.shards import ShardReport
from runner.data.sources import Source
from runner.errors import StorageError
from runner.process.stop_request import Stopped
from runner.screen.cutting import with_bar
from runner.storage.run_folder import CHECKPOINTS, PATCHES, trial_path
from runner.storage.storage import Storage
from runner.sweep.check import SweepPlan, check_enough_patches, check_enough_pictures, note_on_large_batches
from runner.sweep.session import Session
from runner.sweep.waiting import await_resources, stoppable
from runner.trial.resources import TrialResources


class Prepared(NamedTuple):
    """What trials are run with.

    Attributes:
        stores: the patch store of each of the pending trials' patchings; empty where the run was asked to stop.
        resources: what each worker gets; None where nothing is to run.
    """

    stores: Mapping[str, PatchStore]
    resources: TrialResources | None


def prepare(plan: SweepPlan, session: Session) -> Prepared:
    """Brings all that pending trials need to where their workers find it.

    Raises:
        UserError: something is gone or damaged, or the cluster can never give what was asked for.
    """
    if not plan.pending:
        return Prepared({}, None)
    session.backend.begin()  # it starts while the storage is looked at

    _set_damaged_checkpoints_aside(plan, session)
    if any(trial.fingerprints.initial_weights for trial in plan.pending):
        from runner.records.initial_weights import keep_copies  # torch comes with it

        keep_copies(plan.folder, plan.pending)

    # Asked to stop, the run goes on without stores: no trial begins, and the results so far are written.
    stores: dict[str, PatchStore] = {}
    resources = None
    with contextlib.suppress(Stopped):
        # A request that a cluster can't meet is refused before patches are made.
        if plan.options.address is not None:
            await_resources(plan, session)
            session.backend.check_nodes(plan.folder, session.lease.token)
            await_resources(plan, session)  # now it is known what the nodes really have
        stores = _prepare_stores(plan, session)

        # Asked again, because machines may have come or gone while patches were made.
        resources = await_resources(plan, session)
        session.console.print(resources.describe())
    return Prepared(stores, resources)


def _set_damaged_checkpoints_aside(plan: SweepPlan, session: Session) -> None:
    """Names and renames damaged checkpoints; raises StorageError, with nothing deleted, where a trial has no other."""
    folders = {trial.name: plan.folder.at(trial_path(trial.name)) for trial in plan.pending}
    begun = [trial for trial in plan.pending if folders[trial.name].exists(CHECKPOINTS)]
    if not begun:
        return
    from runner.records.checkpoints import NoGoodCheckpoint, newest_checkpoint  # torch comes with it

    # All trials are looked at before an error is raised, so that it names each that can't go on.
    refused = []
    for trial in begun:
        try:
            newest_checkpoint(folders[trial.name], trial.fingerprints, session.console.print)
        except NoGoodCheckpoint as error:
            refused.append(f"{plan.folder.shown}/{trial_path(trial.name)}/{CHECKPOINTS}: {error}")
    if refused:
        raise StorageError(
            "\n".join(refused) + "\nNothing was deleted. Bring a good checkpoint back, or move the folder "
            "`checkpoints` away to train the trial from its first step."
        )


def _prepare_stores(plan: SweepPlan, session: Session) -> dict[str, PatchStore]:
    """The patch store of each of the pending trials' patchings; raises Stopped when asked to stop."""

    def cut(source: Source, data: Data, folder: Storage) -> Iterator[ShardReport]:
        yield from stoppable(session.backend.cut(source, data, folder), session)

    stores: dict[str, PatchStore] = {}
    for trial in plan.pending:
        data = trial.config.data
        if data.patching in stores:
            continue
        found, patches = plan.data[data.patching], plan.storage.at(PATCHES)
        shown_cut = with_bar(cut, session.console)
        store = prepare_patches(data, found.source, found.fingerprint, patches, shown_cut, session.console.print)
        # Damage that headers do not show may have left fewer than was expected.
        check_enough_patches(trial.config, store.num_patches("train"))
        check_enough_pictures(plan.experiment, store.num_pictures("val"))
        if store.num_pictures("val") < 2 and plan.experiment.evaluation.select is not None:
            session.console.print(
                "one validation picture: no best weights are kept, for no picture is left to report with"
            )
        stores[data.patching] = store
        for line in describe_store(store):
            session.console.print(line)

    num_patches = {patching: store.num_patches("train") for patching, store in stores.items()}
    for note in note_on_large_batches(plan.pending, num_patches):
        session.console.print(f"note: {note}")
    return stores
