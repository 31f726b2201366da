#!/usr/bin/env bash
# Start a launch again when it fails, TRIES times in all (3 by default); each start goes on from the last checkpoint:
#
#   TRIES=5 launch/retry.sh launch/torchrun.sh recipes/clip.yaml data.train=shards
#
# A fresh start is more reliable than torchrun's own --max-restarts. SIGTERM and ctrl-C end the run, and are not retried.
set -uo pipefail
stop=
child=
trap 'stop=1; [[ -n $child ]] && kill -TERM "$child" 2>/dev/null' TERM INT
for ((try = 1; try <= ${TRIES:-3}; try++)); do
  "$@" &
  child=$!
  wait "$child"
  code=$?
  while kill -0 "$child" 2>/dev/null; do  # the trap interrupts `wait`
    wait "$child"
    code=$?
  done
  [[ $code -eq 0 || -n $stop ]] && exit "$code"
  echo "launch/retry.sh: try $try of ${TRIES:-3} ended with $code" >&2
done
exit "$code"
