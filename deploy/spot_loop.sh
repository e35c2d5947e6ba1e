#!/usr/bin/env bash
# spot_loop.sh COMMAND...: the command, again and again while it is stopped early (exit code 75). Other ends are final.
#
#   deploy/spot_loop.sh python -m runner.tune experiments/batch_sweep.yaml --storage /mnt/disk/results
#
# Where the machine itself comes back, have this started with it: docs/clusters.md has the line.
while "$@"; code=$?; [ "$code" -eq 75 ]; do
    sleep 30  # what stopped it, such as a full disk, may take a while to pass
done
exit "$code"
