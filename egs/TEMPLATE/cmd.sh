# Where jobs run: here, or on a Slurm cluster. Set cmd_backend in the environment or here; the options of srun are those
# of your cluster.
# shellcheck shell=bash disable=SC2034

cmd_backend=${cmd_backend:-local}

case ${cmd_backend} in
local)
    prepare_cmd=
    train_cmd=
    decode_cmd=
    ;;
slurm)
    prepare_cmd="srun --job-name prepare --cpus-per-task 8 --mem 16G"
    train_cmd="srun --job-name train --gres gpu:${ngpu:-1} --cpus-per-task 8 --mem 64G"
    decode_cmd="srun --job-name decode --cpus-per-task 2 --mem 8G"
    ;;
*)
    echo "error: cmd_backend ${cmd_backend} is unknown; choose local or slurm" >&2
    exit 2
    ;;
esac
