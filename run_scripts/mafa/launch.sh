# Sourced by train.sh and evaluate.sh: `launcher MODULE ARGUMENTS…` sets the array `launch` to the command that runs a module of
# lavis_mafa, under torchrun where CUDA shows several GPUs, unless the arguments ask for the CPU or for one of them.
launcher() {
    local module="$1" gpus=1
    shift
    case " $* " in
        *" run.device=cpu "* | *" run.device=cuda:"*) ;;
        *) gpus="$("$PYTHON_BIN" -m lavis_mafa.common.gpus)" ;;
    esac
    launch=("$PYTHON_BIN")
    if ((gpus > 1)); then # torchrun would leave each process one thread, also for what it plans
        local cores
        cores="$("$PYTHON_BIN" -m lavis_mafa.common.threads)"
        export OMP_NUM_THREADS="${OMP_NUM_THREADS:-$((cores > gpus ? cores / gpus : 1))}"
        launch+=(-m torch.distributed.run --standalone --nproc-per-node "$gpus")
    fi
    launch+=(-m "$module")
}
