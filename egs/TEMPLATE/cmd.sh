# Choose where jobs run: on this machine or on a Slurm cluster. Set cmd_backend in the environment or here, and adapt srun's
# options to your cluster.
# shellcheck shell=bash disable=SC2034

cmd_backend=${cmd_backend:-local}

case ${cmd_backend} in
local)
    prepare_cmd=
    train_cmd=
    decode_cmd=
    # one process per GPU
    ranks_cmd=
    if [ "${ranks:-1}" -gt 1 ]; then ranks_cmd="python -m torch.distributed.run --standalone --nproc_per_node ${ranks}"; fi
    if [ "${num_nodes:-1}" -gt 1 ]; then
        echo "error: --num_nodes ${num_nodes} needs cmd_backend=slurm" >&2
        exit 2
    fi
    ;;
slurm)
    prepare_cmd="srun --job-name prepare --cpus-per-task 8 --mem 16G"
    train_cmd="srun --job-name train --gres gpu:${ngpu:-1} --cpus-per-task 8 --mem 64G"
    decode_cmd="srun --job-name decode --cpus-per-task 2 --mem 8G"
    ranks_cmd="srun --kill-on-bad-exit=1 --job-name ranks --nodes ${num_nodes:-1} --ntasks-per-node ${ranks:-1} --gres gpu:${ranks:-1}"
    ranks_cmd+=" --cpus-per-task 8 --mem 0 python"
    ;;
*)
    echo "error: cmd_backend ${cmd_backend} is unknown; choose local or slurm" >&2
    exit 2
    ;;
esac
