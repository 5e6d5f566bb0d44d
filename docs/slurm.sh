#!/bin/bash
#SBATCH --job-name=byol
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=4
#SBATCH --cpus-per-task=32
#SBATCH --time=12:00:00
#SBATCH --signal=B:TERM@120
#SBATCH --requeue
#SBATCH --open-mode=append

# sbatch docs/slurm.sh --data /shared/photos --batch-size 1024 --run-dir /shared/runs/byol
#
# It trains on all GPUs of the nodes. If the job is preempted, Slurm ends it with SIGTERM and
# queues it again. Two minutes before its time is over, this script does the same. Each time the
# run saves, and the next start goes on. The run folder must be on a disk that all nodes share.

cd "${SLURM_SUBMIT_DIR:-.}" || exit 2
first=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)

stopped=
trap 'stopped=yes; kill -TERM "$job"' TERM

srun torchrun \
    --nnodes="$SLURM_NNODES" --nproc-per-node="${PROCESSES:-gpu}" --max-restarts=3 \
    --rdzv-backend=c10d --rdzv-endpoint="$first:${PORT:-29500}" --rdzv-id="$SLURM_JOB_ID" \
    train_byol.py "$@" --resume auto &
job=$!
wait "$job"
code=$?
if [ "$stopped" ]; then
    wait "$job"  # until it has saved
    scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"
