#!/bin/bash
# One run over the machines of a SLURM job; it goes on in its folder when SLURM starts the job again.
#   sbatch configs/launch/slurm.sh timeseries fit --config ttm/pretrain --config trainer/cuda
# Change sizes here or on the command line of sbatch: sbatch --nodes=4 configs/launch/slurm.sh …
#SBATCH --job-name=dfm
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=8
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=8
#SBATCH --time=24:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=dfm-%j.log
# Three minutes before the time is over every process saves a checkpoint and the job goes back into the queue.
#SBATCH --signal=USR1@180

export OMP_NUM_THREADS="${SLURM_CPUS_PER_TASK:-1}"
# One task that is killed takes the others along at once, instead of after launch.timeout.
srun --kill-on-bad-exit=1 dfm "$@" --launch.requeue='[USR1]'
