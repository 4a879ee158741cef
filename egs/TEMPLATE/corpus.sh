# Set the environment, launchers and corpus folders of a recipe, and define its stage 1. Sourced in the recipe's folder
# after its options are read; `root` and `corpus` are set.
# shellcheck shell=bash

# shellcheck disable=SC2154
[ -n "${corpus}" ] || fail "no corpus: name it in the recipe's run.sh or with --corpus NAME"

# shellcheck source=egs/TEMPLATE/path.sh
. ./path.sh
# shellcheck source=egs/TEMPLATE/cmd.sh
. ./cmd.sh
if [ -f db.sh ]; then
    set -a
    # shellcheck source=/dev/null
    . ./db.sh
    set +a
fi

# prepare_data DIR [OPTION...]: run stage 1 with local/data.sh if it exists, else with the corpus's module.
prepare_data() {
    local out=$1 variable
    shift
    log "stage 1: data directories of ${corpus}"
    if [ -f local/data.sh ]; then
        # shellcheck disable=SC2154  # an option of every recipe
        local/data.sh "${out}" "${nj}"
        return
    fi
    variable=$(python -c 'import sys; from corpora import registry
print(registry.load(sys.argv[1]).INFO.variable)' "${corpus}")
    [ -n "${!variable:-}" ] || fail "${variable} is not set: name the folder of the corpus in db.sh or the environment"
    # shellcheck disable=SC2086  # a command and its options
    ${prepare_cmd} python -m corpora "${corpus}" --corpus "${!variable}" --out "${out}" --jobs "${nj}" "$@"
}
