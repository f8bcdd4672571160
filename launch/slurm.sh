#!/usr/bin/env bash
# Explains on the GPUs of a Slurm cluster: one process a node, which uses all GPUs that the job has
# there. `cfx_jax` has to be installed in the environment active at submission, and the workdir
# has to be one that all nodes see. A job that is pre-empted or out of time is queued again and goes
# on where it was.
#
#   sbatch --nodes=4 --gpus-per-node=8 --time=4:00:00 launch/slurm.sh \
#     --config=configs/imagenet.py --workdir=/shared/runs/imagenet
#
#   bash launch/slurm.sh --dry_run ...   prints the commands and runs none of them
#
# Everything else (partition, account, ...) is asked of sbatch as usual: by its options before the
# name of this script, or by SBATCH_PARTITION, SBATCH_ACCOUNT, SBATCH_GPUS_PER_NODE and so on.
#
#SBATCH --job-name=cfx_jax
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=1
#SBATCH --cpus-per-gpu=8
#SBATCH --requeue
#SBATCH --signal=TERM@60
#SBATCH --open-mode=append
set -euo pipefail

dry_run=
if [[ ${1-} == --dry_run ]]; then
  dry_run=1
  shift
elif [[ -z ${SLURM_JOB_ID-} ]]; then
  echo "$0: not a Slurm job; submit it: sbatch $0 ARGUMENTS" >&2
  exit 2
fi

# Under Slurm JAX takes it that there is a process for each GPU, unless it is told otherwise.
gpus=${SLURM_GPUS_ON_NODE:-${SBATCH_GPUS_PER_NODE:-1}}
gpus=${gpus##*:}
# A type without a number is one of it.
if [[ $gpus != [1-9]* ]]; then gpus=1; fi
run=(env "JAX_LOCAL_DEVICE_IDS=$(seq -s, 0 $((gpus - 1)))"
  srun --kill-on-bad-exit=1 python -m cfx_jax.main --distributed "$@")

if [[ $dry_run ]]; then
  # shellcheck source-path=SCRIPTDIR source=common.sh
  source "$(dirname "$0")/common.sh"
  quoted sbatch "$0" "$@"
  quoted "${run[@]}"
  exit
fi

# Slurm queues a job again only if it has to end it. The processes are warned by SIGTERM, and stop
# before that: with exit status 0 and this sentence.
log=$(mktemp)
status=0
"${run[@]}" 2>&1 | tee "$log" || status=$?
if ((status == 0)) && grep -q 'resume with the same command' "$log"; then
  scontrol requeue "$SLURM_JOB_ID"
fi
exit "$status"
