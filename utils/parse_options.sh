# shellcheck shell=bash
# Parse the options of a script. Source it below the variables:
#
#     stage=0          # first stage to run
#     speed_perturb=true  # also train on audio at 0.9 and 1.1 of its speed
#     . utils/parse_options.sh
#
# Every variable that the script assigns at the start of a line above becomes an option: --speed-perturb false sets
# speed_perturb. Scripts that share options source a file that declares them and then sources this one; its variables
# count as well (utils/asr_options.sh); where both declare an option, --help has the script's text, and both must give it
# the same default. An option whose default is true or false accepts only these values. Options end
# at -- or at the first word without dashes; the remaining words are in "$@". --help prints the comment at the top of
# the script, then the variables, their comments and defaults.

_options_files=("${BASH_SOURCE[@]:1}") # the chain of sourcing files, the script itself last
_options_script=${_options_files[-1]:-$0}

# Print "NAME=DEFAULT # COMMENT" lines: from the script, then from the files that it sources on the way here, each up to
# the line that sources the next; the first line of each name.
_option_lines() {
  local index
  for ((index = ${#_options_files[@]} - 1; index >= 0; index--)); do
    sed -n -e '/^\(\.\|source\) /q' -e '/^[a-z_][a-z0-9_]*=/p' "${_options_files[index]}"
  done | awk -F= '!seen[$1]++'
}

_option_names=" $(_option_lines | sed 's/=.*//' | tr '\n' ' ')"

_options_help() {
  sed -n -e '1{/^#!/d;}' -e '/^#/!q' -e 's/^# \{0,1\}//p' "$_options_script"
  echo
  echo "Options:"
  local line name rest default comment
  while IFS= read -r line; do
    name=${line%%=*}
    rest=${line#*=}
    default=${rest%%#*}
    default=${default%"${default##*[![:space:]]}"}
    comment=
    [[ $rest == *'# '* ]] && comment=${rest#*# }
    printf '  --%-20s %s [%s]\n' "${name//_/-}" "$comment" "$default"
  done < <(_option_lines)
}

_options_fail() {
  echo "error: $(basename "$_options_script"): $1" >&2
  exit 2
}

while [ $# -gt 0 ]; do
  case $1 in
    --help | -h)
      _options_help
      exit 0
      ;;
    --)
      shift
      break
      ;;
    --*=*) _options_fail "cannot parse $1; write ${1%%=*} ${1#*=}" ;;
    --*)
      _option=${1#--}
      _option=${_option//-/_}
      [[ $_option_names == *" $_option "* ]] || _options_fail "unknown option $1; --help lists the options"
      [ $# -ge 2 ] || _options_fail "$1 has no value; write $1 VALUE"
      if [[ ${!_option} =~ ^(true|false)$ && ! $2 =~ ^(true|false)$ ]]; then
        _options_fail "$1 must be true or false, got '$2'"
      fi
      printf -v "$_option" '%s' "$2"
      shift 2
      ;;
    -*) _options_fail "unknown option $1; --help lists the options" ;;
    *) break ;;
  esac
done
unset _option _option_names _options_files
