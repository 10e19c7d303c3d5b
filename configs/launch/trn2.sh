#!/bin/bash
# One run over the cores of one or several Trainium 2 machines (trn2.48xlarge: 64 logical cores each).
#   configs/launch/trn2.sh music fit --config llama/hlat_7b --config mesh/hlat_7b_trn2
#   NODES=4 NODE_RANK=0 MASTER=FIRST configs/launch/trn2.sh …        # on each machine, with its own NODE_RANK
# CORES and HARDWARE serve to try it elsewhere: CORES=2 HARDWARE=trainer/cpu configs/launch/trn2.sh …
set -e
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"
if [ "${NODES:-1}" -gt 1 ]; then  # the network between machines
  export FI_PROVIDER="${FI_PROVIDER:-efa}" FI_EFA_USE_DEVICE_RDMA="${FI_EFA_USE_DEVICE_RDMA:-1}" FI_EFA_FORK_SAFE=1
fi
exec "${PYTHON:-python}" -m torch.distributed.run \
  --nnodes "${NODES:-1}" --node_rank "${NODE_RANK:-0}" --nproc_per_node "${CORES:-64}" \
  --master_addr "${MASTER:-127.0.0.1}" --master_port "${PORT:-29500}" --max_restarts "${RESTARTS:-3}" \
  -m domainfm "$@" --config "${HARDWARE:-trainer/neuron}"
