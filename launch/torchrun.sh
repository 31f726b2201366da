#!/usr/bin/env bash
# One process per GPU of this machine (per core without one), started by torchrun:
#
#   launch/torchrun.sh recipes/clip.yaml data.train=shards
#
# PROCESSES=2 sets their number. Several machines: the same command on each, with NODES=4 HEAD=first-host:29500.
# It goes on from the run's last checkpoint by itself; `launch/retry.sh launch/torchrun.sh ...` starts it again after a crash.
set -euo pipefail
where=(--standalone)
[[ -n ${HEAD:-} ]] && where=(--nnodes "${NODES:?how many machines}" --rdzv-backend c10d --rdzv-endpoint "$HEAD" --rdzv-id vlp)
exec torchrun "${where[@]}" --nproc-per-node "${PROCESSES:-auto}" -m vlp.train "$@" --resume
