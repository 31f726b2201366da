#!/usr/bin/env bash
# One process per GPU under `accelerate launch`, for clusters that are set up for it (its own config file is respected):
#
#   launch/accelerate.sh recipes/clip.yaml data.train=shards
#
# accelerate only starts the processes; the engine and its precision are the recipe's. PROCESSES=2 sets their number; several
# on a CPU need it as well, since accelerate's own --cpu starts one.
set -euo pipefail
options=(--mixed_precision no --dynamo_backend no)
[[ -n ${PROCESSES:-} ]] && options+=(--multi_gpu --num_machines 1 --num_processes "$PROCESSES")
exec accelerate launch "${options[@]}" --module vlp.train "$@" --resume
