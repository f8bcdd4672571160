# Sourced by the scripts next to it, which may run in a bash as old as 3.2 (macOS).
# shellcheck shell=bash

# Main prints this and exits with 0 if it stops before the run is done.
readonly STOPPED='resume with the same command'

# quoted WORD...: prints one line that a shell reads back as these words.
quoted() {
  local word line='' apostrophe="'" escaped="'\\''"
  for word in "$@"; do
    case $word in
      '' | *[!A-Za-z0-9_@%+=:,./-]*) word="'${word//$apostrophe/$escaped}'" ;;
    esac
    line+="${line:+ }$word"
  done
  printf '%s\n' "$line"
}

# require_bucket ARGUMENT...: fails if --workdir among the arguments of main is not on a bucket.
require_bucket() {
  local argument workdir='' is_next=''
  for argument in "$@"; do
    if [[ $is_next ]]; then workdir=$argument; fi
    is_next=''
    case $argument in
      --workdir=*) workdir=${argument#*=} ;;
      --workdir) is_next=1 ;;
    esac
  done
  if [[ $workdir != gs://* ]]; then
    echo "$0: --workdir is '$workdir'; expected gs://BUCKET/FOLDER, since these machines are deleted with their disks" >&2
    exit 2
  fi
}

# runtime_version TYPE: prints the software of TPU VMs for an accelerator type.
runtime_version() {
  case $1 in
    v6e-*) echo v2-alpha-tpuv6e ;;
    v5p-*) echo v2-alpha-tpuv5 ;;
    v5litepod-*) echo v2-alpha-tpuv5-lite ;;
    *) echo tpu-ubuntu2204-base ;;
  esac
}

# tpu_commands MAIN_ARGUMENT...: sets the commands that copy this checkout to all hosts of the TPU
# VM or slice $NAME, install it and run it.
# shellcheck disable=SC2034  # Used by the scripts.
tpu_commands() {
  local root archive on setup
  root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
  archive=${TMPDIR:-/tmp}/$NAME.tar.gz
  on=("--project=$PROJECT" "--zone=$ZONE" --worker=all)
  # The Python of these machines is too old; uv installs a newer one.
  setup="mkdir -p cfx_jax && tar -xzf cfx_jax.tar.gz -C cfx_jax"
  setup+=" && python3 -m pip install --quiet --user uv"
  setup+=" && ~/.local/bin/uv venv --quiet --allow-existing --python 3.12 cfx_env"
  setup+=" && ~/.local/bin/uv pip install --quiet --python cfx_env/bin/python"
  setup+=" --editable './cfx_jax[tpu]'"
  changes=(git -C "$root" status --short)
  pack=(git -C "$root" archive --format=tar.gz "--output=$archive" HEAD)
  copy=(gcloud compute tpus tpu-vm scp "$archive" "$NAME:cfx_jax.tar.gz" "${on[@]}")
  install=(gcloud compute tpus tpu-vm ssh "$NAME" "${on[@]}" "--command=$setup")
  run=(gcloud compute tpus tpu-vm ssh "$NAME" "${on[@]}"
    "--command=cd cfx_jax && ../cfx_env/bin/python -m cfx_jax.main $(quoted "$@")")
}

# pack_checkout: makes the archive of the last commit, and reports uncommitted changes.
pack_checkout() {
  local uncommitted
  uncommitted=$("${changes[@]}")
  if [[ $uncommitted ]]; then
    printf 'only committed files are copied; these changes are not:\n%s\n' "$uncommitted" >&2
  fi
  "${pack[@]}"
}

# to_the_end COMMAND...: runs a command that runs main; returns 143 if main stopped early.
to_the_end() {
  local log status=0
  log=$(mktemp)
  "$@" 2>&1 | tee "$log" || status=$?
  if ((status == 0)) && grep -q "$STOPPED" "$log"; then status=143; fi
  rm "$log"
  return "$status"
}

# report_remains STATUS WORD...: unless the status is 0, prints how to delete what is left.
report_remains() {
  local status=$1
  shift
  if ((status != 0)); then
    printf '%s may still exist and cost money. Resume with the same command, or delete it:\n' \
      "$NAME" >&2
    quoted "$@" >&2
  fi
}
