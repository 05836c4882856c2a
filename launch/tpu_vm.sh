#!/usr/bin/env bash
# One run on all hosts of a Cloud TPU, started again after each preemption.
#
#   launch/tpu_vm.sh NAME ZONE --config=configs/imagenet_resnet.py:50 \
#     --workdir=gs://bucket/runs/resnet50 --compilation_cache=gs://bucket/cache
#
# NAME is a TPU VM that has this repository in ~/flax_enn, and
# flax_enn[train,tpu,gcs] in ~/flax_enn/.venv.
set -uo pipefail

if (($# < 4)); then
  sed -n '2,8s/^# \{0,1\}//p' "$0" >&2
  exit 2
fi
name=$1 zone=$2
shift 2
printf -v arguments ' %q' "$@"

# A worker that dies ends the others within --peer_timeout. The run is over
# when train.py has written its results; a preempted one ends before that.
for attempt in $(seq "${ATTEMPTS:-100}"); do
  echo "Attempt ${attempt} on ${name}" >&2
  if gcloud compute tpus tpu-vm ssh "${name}" --zone="${zone}" --worker=all \
    --command="cd flax_enn && .venv/bin/python train.py${arguments} \
      --preemption_exit_code=75"; then
    exit 0
  elif (($? == 2)); then
    echo 'A mistake that no second attempt mends; see above' >&2
    exit 2
  fi
  sleep "${PAUSE:-60}"
done
echo "Gave up after ${ATTEMPTS:-100} attempts" >&2
exit 1
