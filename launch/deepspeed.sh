#!/usr/bin/env bash
# One process per GPU under DeepSpeed's launcher; engine.zero=0..3 and engine.offload=cpu choose the stage:
#
#   launch/deepspeed.sh recipes/clip.yaml data.train=shards engine.zero=2
#
# PROCESSES=2 sets their number, HOSTFILE=hosts starts them on several machines. The engine works under torchrun.sh as well.
set -euo pipefail
where=()
[[ -n ${HOSTFILE:-} ]] && where+=(--hostfile "$HOSTFILE")
[[ -n ${PROCESSES:-} ]] && where+=(--num_gpus "$PROCESSES")
exec deepspeed "${where[@]}" --no_local_rank --module vlp.train "$@" engine.kind=deepspeed --resume
