# Log lines, errors and options of run.sh and of every recipe. Sourced, not run.
# shellcheck shell=bash
#
# As ESPnet's parse_options.sh, parse_options "$@" sets the variable of each option. Before it, a script names its options:
#     options=(stage stop_stage nj)   --stage 2, --stop-stage 3, --nj=4; each sets the variable of that name
#     switches=(use_lm)               the option without a value means true
#     lists=(set)                     may be repeated; the values are appended to the array settings as --set VALUE
#     aliases=(nj:jobs)               --nj is --jobs
# and defines `help`, which prints the text of --help.

script=${0##*/}
options=() switches=() lists=() aliases=() settings=()

log() {
    echo "$(date '+%Y-%m-%dT%H:%M:%S') (${script}:${BASH_LINENO[0]}) $*"
}

fail() {
    echo "$(date '+%Y-%m-%dT%H:%M:%S') (${script}:${BASH_LINENO[0]}) error: $*" >&2
    exit 2
}

parse_options() {
    local name value has_value alias
    while [ $# -gt 0 ]; do
        case $1 in
        --help | -h)
            help
            exit 0
            ;;
        --?*) ;;
        *) fail "unexpected argument '$1': options start with -- (./${script} --help lists them)" ;;
        esac
        name=${1#--}
        value=
        has_value=false
        if [[ ${name} == *=* ]]; then
            value=${name#*=}
            name=${name%%=*}
            has_value=true
        fi
        shift
        name=${name//-/_}
        for alias in ${aliases[@]+"${aliases[@]}"}; do
            if [ "${name}" = "${alias%%:*}" ]; then name=${alias#*:}; fi
        done
        if [[ " ${options[*]} ${lists[*]-} " != *" ${name} "* ]]; then
            fail "unknown option --${name} (./${script} --help lists all options)"
        fi
        if [ "${has_value}" = false ]; then
            if [[ " ${switches[*]-} " == *" ${name} "* && ${1:-} != true && ${1:-} != false ]]; then
                value=true
            elif [ $# -eq 0 ] || [[ $1 == --* ]]; then
                fail "--${name} needs a value (./${script} --help)"
            else
                value=$1
                shift
            fi
        fi
        if [[ " ${lists[*]-} " == *" ${name} "* ]]; then
            settings+=("--${name}" "${value}")
        else
            printf -v "${name}" '%s' "${value}"
        fi
    done
    for name in ${switches[@]+"${switches[@]}"}; do
        if [ "${!name}" != true ] && [ "${!name}" != false ]; then fail "--${name} ${!name}: true or false"; fi
    done
}

# check_counts NAME...: check that these options are empty or whole numbers of 1 or more.
check_counts() {
    local name
    for name in "$@"; do
        if [ -n "${!name}" ] && ! [[ ${!name} =~ ^[1-9][0-9]{0,8}$ ]]; then
            fail "--${name} ${!name}: give a whole number of 1 or more"
        fi
    done
}

# check_stages LAST: check that stage and stop_stage are numbers from 0 to LAST, and stage is not above stop_stage.
check_stages() {
    local name value
    for name in stage stop_stage; do
        value=${!name}
        if [ -n "${value}" ] && ! { [[ ${value} =~ ^[0-9]{1,2}$ ]] && [ "$((10#${value}))" -le "$1" ]; }; then
            fail "--${name} ${value}: a stage is a number from 0 to $1"
        fi
    done
    # shellcheck disable=SC2154  # options of the script
    if [ -n "${stage}" ] && [ "${stage}" -gt "${stop_stage}" ]; then
        fail "--stage ${stage} is above --stop_stage ${stop_stage}: no stage to run"
    fi
}
