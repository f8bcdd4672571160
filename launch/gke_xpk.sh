#!/usr/bin/env bash
# Explains on TPU slices of a GKE cluster, by XPK (https://github.com/AI-Hypercomputer/xpk): submits
# a workload whose pods install this checkout and run `python -m cfx_jax.main --distributed` with
# the given arguments. Pods that are evicted or pre-empted are started again, and the run resumes
# where it was.
#
#   PROJECT=my-project ZONE=us-east5-b CLUSTER=my-cluster ACCELERATOR_TYPE=v6e-64 \
#     launch/gke_xpk.sh --config=configs/imagenet.py --workdir=gs://my-bucket/imagenet
#
# With --dry_run as the first argument it prints the command and does not run it.
#
# PROJECT           Google Cloud project
# ZONE              zone of the cluster
# CLUSTER           name of the cluster, made by `xpk cluster create`
# ACCELERATOR_TYPE  type and size of a slice, such as v6e-64
# NUM_SLICES        number of slices; default: 1
# NAME              name of the workload; default: cfx-jax
# BASE_IMAGE        image with Python 3.11 or newer; default: python:3.12
# MAX_RESTARTS      number of times that pods may be started again; default: 50
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=common.sh
source "$(dirname "$0")/common.sh"

dry_run=
if [[ ${1-} == --dry_run ]]; then
  dry_run=1
  shift
fi
: "${PROJECT:?is not set; expected the name of your Google Cloud project}"
: "${ZONE:?is not set; expected the zone of the cluster}"
: "${CLUSTER:?is not set; expected the name of a cluster made by xpk cluster create}"
: "${ACCELERATOR_TYPE:?is not set; expected type and size of a slice, such as v6e-64}"
require_bucket "$@"

# XPK sends SIGTERM to the shell that runs the command. Were that shell replaced by main, as bash
# does with a last command, main would exit with 0 and the workload would count as done. The exit
# status of a shell that is ended by SIGTERM, 143, has the pods started again.
command="pip install --quiet '.[tpu]' && python -m cfx_jax.main --distributed $(quoted "$@")"
command+='; exit $?'
create=(xpk workload create "--project=$PROJECT" "--zone=$ZONE" "--cluster=$CLUSTER"
  "--workload=${NAME:-cfx-jax}" "--tpu-type=$ACCELERATOR_TYPE" "--num-slices=${NUM_SLICES:-1}"
  "--max-restarts=${MAX_RESTARTS:-50}" "--base-docker-image=${BASE_IMAGE:-python:3.12}"
  "--script-dir=$(cd "$(dirname "$0")/.." && pwd)" "--command=$command")

if [[ $dry_run ]]; then
  quoted "${create[@]}"
  exit
fi
"${create[@]}"
