# What run.sh and every recipe share: log lines, errors, options. Sourced, not run.
# shellcheck shell=bash
#
# Before `parse_options "$@"` a script names its variables, which are its options:
#     options=(stage stop_stage nj)   --stage 2, --stop-stage 3, --nj=4; each sets the variable of that name
#     switches=(use_lm)               may also stand alone, which means true
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

# Edit distance of two words, by two rows of the usual table.
distance() {
    local a=$1 b=$2 i j cost best
    local -a above row
    for ((j = 0; j <= ${#b}; j++)); do above[j]=$j; done
    for ((i = 1; i <= ${#a}; i++)); do
        row=("$i")
        for ((j = 1; j <= ${#b}; j++)); do
            cost=1
            [ "${a:i-1:1}" != "${b:j-1:1}" ] || cost=0
            best=$((above[j - 1] + cost))
            if ((above[j] + 1 < best)); then best=$((above[j] + 1)); fi
            if ((row[j - 1] + 1 < best)); then best=$((row[j - 1] + 1)); fi
            row[j]=$best
        done
        above=("${row[@]}")
    done
    echo "${above[${#b}]}"
}

unknown_option() {
    local known nearest='' least=99 d longer
    for known in "${options[@]}" ${lists[@]+"${lists[@]}"} help; do
        d=$(distance "$1" "${known}")
        longer=${#known}
        if ((${#1} > longer)); then longer=${#1}; fi
        # Two letters in five may differ: beyond, a suggestion has nothing to do with what was meant.
        if ((d < least && 5 * d <= 2 * longer)); then least=${d} nearest="; the nearest known one is --${known}"; fi
    done
    fail "unknown option --$1${nearest} (./${script} --help lists all)"
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
        *) fail "unexpected argument '$1': options start with -- (./${script} --help lists all)" ;;
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
        if [[ " ${options[*]} ${lists[*]-} " != *" ${name} "* ]]; then unknown_option "${name}"; fi
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

# check_stages LAST: whether stage and stop_stage are numbers from 0 to LAST, in this order.
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
        fail "--stage ${stage} lies after --stop_stage ${stop_stage}: nothing to do"
    fi
}
