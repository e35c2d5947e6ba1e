#!/usr/bin/env bash
# requeue_on_75.sh COMMAND...: runs a command as a Slurm job, and has the job queued again where it was stopped early.
#
# A batch script hands its process over with `exec`, so that the SIGTERM of `--signal=B:TERM@120` arrives here. It is
# passed on to the command alone: a Ray that got it too would be gone before anything is saved.
set -u

"$@" &
command=$!
trap 'signalled=yes; kill -TERM "$command" 2>/dev/null' TERM

# A signal breaks `wait` off: what it returns is the command's own exit code only where none has come.
while :; do
    signalled=
    wait "$command"
    code=$?
    [ -n "$signalled" ] || break
done

if [ "$code" -eq 75 ]; then
    # A task of an array needs its own name: the SLURM_JOB_ID of one of the tasks stands for all of them.
    task=${SLURM_ARRAY_JOB_ID:+${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID}
    scontrol requeue "${task:-$SLURM_JOB_ID}"
fi
exit "$code"
