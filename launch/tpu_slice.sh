#!/usr/bin/env bash
# Explains on a TPU slice, by a queued resource: requests it and waits, installs the last commit of
# this checkout on all of its hosts, runs `python -m cfx_jax.main --distributed` with the given
# arguments on all of them at once, and deletes it. A pre-empted slice is requested again, and
# the run resumes where it was. After a failure of the run, the slice is kept, so that you can
# inspect it, and the command that deletes it is printed.
#
#   PROJECT=my-project ZONE=us-east5-b ACCELERATOR_TYPE=v6e-64 SPOT=1 launch/tpu_slice.sh \
#     --config=configs/imagenet.py --workdir=gs://my-bucket/imagenet
#
# With --dry_run as the first argument it prints the commands of an undisturbed run and runs none of
# them. The script has to run as long as the slice: start it in tmux. If it is started again, it
# continues with the same slice. Several hosts need your key in the SSH agent:
# ssh-add ~/.ssh/google_compute_engine
#
# PROJECT           Google Cloud project
# ZONE              zone that has TPUs of this type
# ACCELERATOR_TYPE  type and size of the slice, such as v6e-64; those after v6e only exist on GKE:
#                   see gke_xpk.sh
# NAME              name of the queued resource and of its node; default: cfx-jax
# RUNTIME_VERSION   software of the TPU VMs; default: the one for the type
# SPOT              1 requests a cheaper slice that may be pre-empted
# POLL_SECONDS      time between two queries of the state; default: 30
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
: "${ACCELERATOR_TYPE:?is not set; expected type and size of the slice, such as v6e-64}"
NAME=${NAME:-cfx-jax}
RUNTIME_VERSION=${RUNTIME_VERSION:-$(runtime_version "$ACCELERATOR_TYPE")}
POLL_SECONDS=${POLL_SECONDS:-30}
require_bucket "$@"

tpu_commands --distributed "$@"
place=("--project=$PROJECT" "--zone=$ZONE")
describe=(gcloud compute tpus queued-resources describe "$NAME" "${place[@]}"
  '--format=value(state.state)')
create=(gcloud compute tpus queued-resources create "$NAME" "--node-id=$NAME" "${place[@]}"
  "--accelerator-type=$ACCELERATOR_TYPE" "--runtime-version=$RUNTIME_VERSION")
if [[ ${SPOT-} == 1 ]]; then create+=(--spot); fi
delete=(gcloud compute tpus queued-resources delete "$NAME" "${place[@]}" --force --quiet)

if [[ $dry_run ]]; then
  quoted "${changes[@]}"
  quoted "${pack[@]}"
  quoted "${describe[@]}"
  quoted "${create[@]}"
  quoted "${describe[@]}"
  quoted "${copy[@]}"
  quoted "${install[@]}"
  quoted "${run[@]}"
  quoted "${delete[@]}"
  exit
fi

report() { echo "$NAME: $*" >&2; }

# Sets $state to the state of the queued resource: ABSENT if there is none, UNKNOWN if the query
# fails temporarily. The first query has to succeed: it shows that project and zone are right.
failed_checks=19
reported=''
read_state() {
  local error
  error=$(mktemp)
  if state=$("${describe[@]}" 2>"$error"); then
    failed_checks=0
  elif grep -q NOT_FOUND "$error"; then
    state=ABSENT
    failed_checks=0
  elif ((++failed_checks < 20)); then
    state=UNKNOWN
  else
    cat "$error" >&2
    exit 1
  fi
  rm "$error"
  if [[ $state != "$reported" ]]; then report "$state"; fi
  reported=$state
}

# Whether the slice is lost; its state may change only minutes after the run has ended.
is_lost() {
  local poll
  for ((poll = 0; poll < 6; poll++)); do
    sleep "$POLL_SECONDS"
    read_state
    if [[ $state != ACTIVE ]]; then return 0; fi
  done
  return 1
}

pack_checkout
read_state
trap 'report_remains $? "${delete[@]}"' EXIT
requested='' # A slice was requested and has not been active since.
had_one=''
while true; do
  case $state in
    ABSENT)
      "${create[@]}"
      requested=1
      ;;
    ACTIVE)
      requested=''
      had_one=1
      status=0
      { "${copy[@]}" && "${install[@]}" && to_the_end "${run[@]}"; } || status=$?
      if ((status == 0)); then break; fi
      # 2 is an error in the command line or the config.
      if ((status == 2)) || ! is_lost; then exit "$status"; fi
      report "the run ended with status $status because the slice was lost; resuming on another"
      ;;
    FAILED | SUSPENDED)
      if [[ $state == FAILED && $requested && ! $had_one ]]; then
        report 'cannot be created; "describe" in place of "delete" shows the reason'
        exit 1
      fi
      sleep "$POLL_SECONDS"
      "${delete[@]}"
      ;;
    *) sleep "$POLL_SECONDS" ;;
  esac
  read_state
done
"${delete[@]}"
