#!/usr/bin/env bash
# Explains on the GPUs of a Slurm cluster: one process per node, which uses all GPUs of the
# job on this node. `cfx_jax` has to be installed in the environment active at submission, and all
# nodes need access to the workdir. A job that is pre-empted or out of time is queued again and
# resumes where it was, unless it has written nothing new in several starts in a row.
#
#   sbatch --nodes=4 --gpus-per-node=8 --cpus-per-task=64 --time=4:00:00 launch/slurm.sh \
#     --config=configs/imagenet.py --workdir=/shared/runs/imagenet
#
#   bash launch/slurm.sh --dry_run ...   prints the commands and runs none of them
#
# GPUs, CPUs and everything else (partition, account, ...) are requested from sbatch as usual: by its
# options before the name of this script, or by SBATCH_GPUS, SBATCH_PARTITION and so on. All nodes
# need the same number of GPUs, with about 8 CPUs per GPU to decode images; a job without GPUs uses
# its CPUs.
#
#SBATCH --job-name=cfx_jax
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --requeue
#SBATCH --signal=TERM@60
#SBATCH --open-mode=append
set -euo pipefail

most_starts=5 # Starts without new results.
again='queued again'

dry_run=
if [[ ${1-} == --dry_run ]]; then
  dry_run=1
  shift
elif [[ -z ${SLURM_JOB_ID-} ]]; then
  echo "$0: not a Slurm job; submit it: sbatch $0 ARGUMENTS" >&2
  exit 2
fi

# However GPUs were requested, srun gets all that the job has on a node: it reads only some of these
# variables. Under Slurm, JAX assumes one process for each GPU unless JAX_LOCAL_DEVICE_IDS is set.
gpus=${SLURM_GPUS_ON_NODE:-${SBATCH_GPUS_PER_NODE:-0}}
gpus=${gpus##*:}
# A type without a number requests one GPU of it.
if [[ $gpus != [0-9]* ]]; then gpus=1; fi
devices=()
if ((gpus > 0)); then devices=("JAX_LOCAL_DEVICE_IDS=$(seq -s, 0 $((gpus - 1)))"); fi
# Blocked, SIGTERM waits until the process handles it. An `env` of before 2019 lacks this option.
block=(--block-signal=TERM)
if ! env "${block[@]}" true 2>/dev/null; then block=(); fi
run=(srun --kill-on-bad-exit=1 "--gpus-per-node=$gpus"
  env ${block[@]+"${block[@]}"} ${devices[@]+"${devices[@]}"}
  python -m cfx_jax.main --distributed "$@")

if [[ $dry_run ]]; then
  # Slurm starts a copy of this script, without the sourced file next to it.
  echo "sbatch launch/slurm.sh ${*@Q}"
  echo "${run[*]@Q}"
  exit
fi

if ((gpus == 0)); then echo "no GPU was requested (--gpus-per-node=N): explaining on CPUs" >&2; fi

# Slurm queues a job again only if it had to end the job. The processes get SIGTERM earlier and stop
# by themselves, with exit status 0 and a message. The script searches for this message in a file
# without a name, which is deleted when the script ends.
log=$(mktemp)
# shellcheck disable=SC2094  # It is written before it is read.
exec 3>"$log" 4<"$log"
rm "$log"
status=0
"${run[@]}" 2>&1 | tee /dev/fd/3 || status=$?
stopped=$(grep 'stopped by SIGTERM.*resume with the same command' <&4) || exit "$status"
if ((status != 0)); then exit "$status"; fi

if grep -q 'SIGTERM; resume' <<<"$stopped"; then
  echo "$again"
else
  # The message about the previous start is in the output of the job, if that is a file.
  before=
  if [[ -f /proc/$$/fd/1 ]]; then before=$(grep "^$again" "/proc/$$/fd/1" | tail -n 1) || true; fi
  starts=$((${before//[^0-9]/} + 1))
  if ((starts == most_starts)); then
    echo "not queued again: nothing new was written in $starts starts; expected more time for" \
      'each, as by --time, than one unit of work takes' >&2
    exit 1
  fi
  echo "$again: nothing new was written in $starts starts"
fi
scontrol requeue "$SLURM_JOB_ID"
