#!/usr/bin/env bash
# Explains on one TPU VM: creates it, installs the last commit of this checkout, runs
# `python -m cfx_jax.main` with the given arguments, and deletes it. After a failure the VM is
# kept, so that you can inspect it, and the command that deletes it is printed.
#
#   PROJECT=my-project ZONE=us-east5-b launch/tpu_vm.sh \
#     --config=configs/imagenet.py --workdir=gs://my-bucket/imagenet
#
# With --dry_run as the first argument it prints the commands and runs none of them.
#
# PROJECT           Google Cloud project
# ZONE              zone that has TPUs of this type
# NAME              name of the TPU VM; default: cfx-jax
# ACCELERATOR_TYPE  type with a single host; default: v6e-8
# RUNTIME_VERSION   software of the TPU VM; default: the one for the type
# KEEP              1 does not delete it, and allows a --workdir on its own disk
#
# For spot machines and more than one host see tpu_slice.sh.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=common.sh
source "$(dirname "$0")/common.sh"

dry_run=
if [[ ${1-} == --dry_run ]]; then
  dry_run=1
  shift
fi
: "${PROJECT:?is not set; expected the name of your Google Cloud project}"
: "${ZONE:?is not set; expected a zone that has TPUs, such as us-east5-b}"
NAME=${NAME:-cfx-jax}
ACCELERATOR_TYPE=${ACCELERATOR_TYPE:-v6e-8}
RUNTIME_VERSION=${RUNTIME_VERSION:-$(runtime_version "$ACCELERATOR_TYPE")}
if [[ ${KEEP-} != 1 ]]; then require_bucket "$@"; fi

tpu_commands "$@"
place=("--project=$PROJECT" "--zone=$ZONE")
describe=(gcloud compute tpus tpu-vm describe "$NAME" "${place[@]}" '--format=value(state)')
create=(gcloud compute tpus tpu-vm create "$NAME" "${place[@]}"
  "--accelerator-type=$ACCELERATOR_TYPE" "--version=$RUNTIME_VERSION")
delete=(gcloud compute tpus tpu-vm delete "$NAME" "${place[@]}" --quiet)

if [[ $dry_run ]]; then
  quoted "${changes[@]}"
  quoted "${pack[@]}"
  quoted "${describe[@]}"
  quoted "${create[@]}"
  quoted "${copy[@]}"
  quoted "${install[@]}"
  quoted "${run[@]}"
  if [[ ${KEEP-} != 1 ]]; then quoted "${delete[@]}"; fi
  exit
fi

pack_checkout
trap 'report_remains $? "${delete[@]}"' EXIT
# Use the VM of an earlier start again, if it was kept.
"${describe[@]}" 2>/dev/null || "${create[@]}"
"${copy[@]}"
"${install[@]}"
to_the_end "${run[@]}"
if [[ ${KEEP-} != 1 ]]; then "${delete[@]}"; fi
