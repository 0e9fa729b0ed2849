#!/bin/bash
# Several hosts with torchrun alone, no config file. The same command on every host, in any order:
#   HEAD=host0 bash accelerate_configs/torchrun.sh --dataset bloodmnist --save_dir checkpoints/bloodmnist
# Expect: "16 process(es) on cuda:0, precision bf16" in the first lines, on the host that was given rank 0.
# HEAD is the host where all meet (c10d rendezvous), by the name the others reach it; any one of them. Ranks are given
# there, so no host is told its own. --save_dir must be a folder all hosts share: a stopped run goes on from it.
#   HOSTS=2 GPUS=8    hosts, and GPUs of each
#   PORT=29500        open on HEAD
#   RUN_ID=pfm        another one for each run that meets at the same place
set -u
: "${HEAD:?is missing: the host where all meet, HEAD=host0 bash accelerate_configs/torchrun.sh ...}"

# on SIGTERM torchrun kills its processes after 30 s unless told otherwise (torch 2.12 and later can be told)
export TORCH_ELASTIC_SHUTDOWN_TIMEOUT=100
# threads of one process
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-4}"

# no launcher of Accelerate's here, so the precision is an option of ours. With --max-restarts 3 a failed process
# starts all hosts' processes again, and --resume auto takes them back to the last checkpoint.
exec torchrun \
    --nnodes "${HOSTS:-2}" --nproc-per-node "${GPUS:-8}" \
    --rdzv-backend c10d --rdzv-endpoint "$HEAD:${PORT:-29500}" --rdzv-id "${RUN_ID:-pfm}" \
    pfm/train.py --mixed_precision bf16 --resume auto "$@"
