# shellcheck shell=bash
# Helpers for the stages of a recipe. Source it after parse_options.sh; it reads stage and stop_stage.
#
#     if in_stage 2; then
#       require data/manifests/recordings.jsonl.gz 1
#       run_logged "features" data/log/features.JOB.log $train_cmd JOB=1:$nj -- local/compute_features.py --split JOB
#     fi

# jobs, also on a cluster, end with the recipe, however it ends: a second run never meets jobs of a killed one
export RUN_JOBS_END_WITH_PARENT=true

_stage_now=
_runner=
_runner_group=
_logs=()
_logs_before=
_queued=()
_to_check=()
_progress= # the process that shows the progress
_utils=$(dirname "${BASH_SOURCE[0]}")

fail() {
  echo "error: $1" >&2
  exit 1
}

[[ ${stage:?} =~ ^-?[0-9]+$ && ${stop_stage:?} =~ ^-?[0-9]+$ ]] ||
  fail "--stage and --stop-stage must be numbers, got '$stage' and '$stop_stage'"

# --stop-stage -1 runs nothing on purpose
[ "$stop_stage" -lt 0 ] || [ "$stage" -le "$stop_stage" ] ||
  fail "--stage $stage is after --stop-stage $stop_stage: there is nothing to run"

# in_stage N: return whether stage N is to run.
in_stage() {
  _stage_now=$1
  [ "$stage" -le "$1" ] && [ "$1" -le "$stop_stage" ]
}

# require FILE N: fail with one line if FILE, which stage N writes, is missing.
require() {
  [ -e "$1" ] || fail "stage $_stage_now needs $1, which does not exist; run stage $2 first"
}

# run_logged WHAT LOG RUNNER... -- COMMAND...: run "RUNNER... LOG COMMAND...", print what starts and its log, and how long
# it took.
# On failure, print the ends of the failed logs, and as the last line the error that they report.
# Kaldi's runners (NAME.pl) paste the words of the command into a shell line, and leave jobs behind when they are
# ended. For them the words are quoted, and a signal goes to all processes that they started.
run_logged() {
  local what=$1 log=$2 runner=() words=() word
  shift 2
  while [ "$1" != -- ]; do
    runner+=("$1")
    shift
  done
  shift
  _check_job_words "$log" "${runner[@]}" -- "$@"
  local began=$SECONDS
  echo "$(date '+%F %T') stage $_stage_now: $what; log: $log"
  words=("$@")
  local group=
  if [[ ${runner[0]} == *.pl ]]; then
    words=() group=- runner=(setsid "${runner[@]}")
    for word in "$@"; do words+=("$(_quoted "$word")"); done
  fi
  _logs_of "$log" "${runner[@]}"
  _logs_before=$(_look_at_logs)
  _start_progress
  _ended_with_us "$group" "${runner[@]}" "$log" ${words[@]+"${words[@]}"} || _report_failure "$what" "$log"
  _end_progress
  local took=$((SECONDS - began))
  printf '%s stage %s: %s: ended after %d:%02d:%02d\n' "$(date '+%F %T')" "$_stage_now" "$what" $((took / 3600)) \
    $((took / 60 % 60)) $((took % 60))
}

# Reject paths in which the runner's variable (JOB) is part of a name: it would be replaced by the number of the job.
_check_job_words() {
  local log=$1 variable='' word
  shift
  while [ "$1" != -- ]; do
    [[ $1 =~ ^([A-Za-z_][A-Za-z0-9_]*)=[0-9]+(:[0-9]+)?$ ]] && variable=${BASH_REMATCH[1]}
    shift
  done
  shift
  [ -n "$variable" ] || return 0
  for word in "$log" "$@"; do
    [[ $word =~ ^[^[:space:]\;\|\&\(\)\$]*([A-Za-z0-9]${variable}|${variable}[A-Za-z0-9]) ]] || continue
    fail "$word contains $variable, which stands for the number of a job; use a path without it"
  done
}

# without_job OPTION...: reject option values that contain JOB, which would become paths of other directories.
without_job() {
  local name
  for name in "$@"; do
    [[ ${!name:-} != *JOB* ]] ||
      fail "--${name//_/-} ${!name} contains JOB, which stands for the number of a job; use a path without it"
  done
}

# check_teacher: reject --teacher if it is not a finished experiment; no stage of this recipe would finish it.
check_teacher() {
  [ -z "${teacher:-}" ] || [ -e "$teacher/.done" ] || fail "--teacher $teacher is not a finished experiment"
}

# not_empty OPTION...: reject lists of words that have none.
not_empty() {
  local name
  for name in "$@"; do
    [[ ${!name:-} =~ [^[:space:]] ]] || fail "--${name//_/-} is empty; name at least one"
  done
}

# show_report RESULTS OPTION...: write the HTML page of the report RESULTS next to it, with these options for
# pruning.bin.page, print the tables of the report, and say where report and page are. Reads train_cmd.
show_report() {
  local results=$1 page
  shift
  page=$(cd "$(dirname "$results")" && pwd)/$(basename "$results" .md).html
  # shellcheck disable=SC2086
  run_logged "the page" "$(dirname "$page")/log/page.log" ${train_cmd:?} -- \
    python -m pruning.bin.page --results "$results" --output "$page" "$@"
  python -m pruning.bin.show "$results"
  echo "report, with the commands: $results"
  echo "page: file://$page"
}

# further_runs PRUNED FINETUNED: set further to the option of pruning.bin.page for pruning and fine-tuning, which were
# trained here.
further_runs() {
  further=()
  [ ! -f "$1/metrics.jsonl" ] || further+=("pruning=$1")
  [ ! -f "$2/metrics.jsonl" ] || further+=("fine-tuning=$2")
  [ "${#further[@]}" -eq 0 ] || further=(--further "${further[@]}")
}

# queued COMMAND...: add a job for run_queued.
queued() {
  local line
  printf -v line '%q ' "$@"
  _queued+=("${line% }")
}

# run_queued WHAT LOG RUNNER...: run the queued commands as the jobs of one array, "RUNNER... JOB=1:N LOG". The commands
# are written as lines of a file in the directory of the logs.
run_queued() {
  local list=${2%JOB*}commands
  [ "${#_queued[@]}" -gt 0 ] || return 0
  mkdir -p "$(dirname "$list")"
  printf '%s\n' "${_queued[@]}" > "$list.$$"
  mv "$list.$$" "$list"
  run_logged "$1" "$2" "${@:3}" "JOB=1:${#_queued[@]}" -- bash "$_utils/run_line.sh" "$list" JOB
  _queued=()
}

# checked COMMAND ARGUMENT...: have check_commands check these words for pruning.bin.COMMAND, a command of the stage that
# in_stage was asked for last.
checked() { _to_check+=("$_stage_now" "$@" ---); }

# check_commands: end with one line if a command would reject its options, configuration or settings. Takes seconds.
check_commands() {
  [ "${#_to_check[@]}" -eq 0 ] || python -m pruning.bin.check "${_to_check[@]}" || exit 1
}

# run_recipe COMMAND...: run another recipe's run.sh, and end it if this one is ended.
run_recipe() {
  _ended_with_us '' "$@" || fail "stage $_stage_now needs what $1 makes, which failed; see above"
}

# On a terminal, show what the newest of _logs reports (step, loss, time left) under the line of the stage.
_start_progress() {
  [ -t 1 ] || return 0
  (
    trap 'kill "$!" 2> /dev/null; exit 0' TERM
    while :; do
      sleep "${progress_interval:-2}" &
      wait "$!"
      newest=
      for log in "${_logs[@]}"; do
        if [ -f "$log" ] && { [ -z "$newest" ] || [ "$log" -nt "$newest" ]; }; then newest=$log; fi
      done
      [ -n "$newest" ] || continue
      line=$(tail -n 20 -- "$newest" | sed -n 's/^[0-9-]* [0-9:,]* INFO //p' | tail -n 1) || true
      columns=$(tput cols 2> /dev/null) || columns=80
      [ -z "$line" ] || printf '\r\033[K  %s' "${line:0:$((columns - 3))}"
    done
  ) &
  _progress=$!
}

_end_progress() {
  [ -n "$_progress" ] || return 0
  kill "$_progress" 2> /dev/null || true
  wait "$_progress" 2> /dev/null || true
  _progress=
  printf '\r\033[K'
}

# Run a command in the background, so that a signal to this script is passed on at once: to the command or, if the first
# argument is '-', to the process group that it leads.
_ended_with_us() {
  local status=0
  _runner_group=$1
  shift
  "$@" &
  _runner=$!
  trap '_pass_on TERM 143' TERM HUP
  trap '_pass_on TERM 130' INT
  wait "$_runner" || status=$?
  trap - TERM HUP INT
  return "$status"
}

_pass_on() {
  trap '' TERM HUP INT
  _end_progress
  kill "-$1" -- "$_runner_group$_runner" 2> /dev/null || true
  wait "$_runner" || true
  exit "$2"
}

# Print a word quoted for the shell, without blanks and with JOB unchanged; operators are not quoted.
_quoted() {
  local LC_ALL=C word=$1 result='' index character code
  local special=$' \t\n"$`\\*?[]{}()<>|&;#!~^\''
  case $word in '|' | '||' | '&&' | ';' | '>' | '>>' | '<' | '2>' | '2>>' | '2>&1' | '&>') special= ;; esac
  for ((index = 0; index < ${#word}; index++)); do
    character=${word:index:1}
    if [[ $special == *"$character"* ]]; then
      printf -v code '\\x%02x' "'$character"
      character="\$'$code'"
    fi
    result+=$character
  done
  printf '%s' "${result:-"''"}"
}

# Set _logs to the logs of the jobs that a runner with its options writes.
_logs_of() {
  local word number
  _logs=("$1")
  for word in "${@:2}"; do
    if [[ $word =~ ^([A-Za-z_][A-Za-z0-9_]*)=([0-9]+)(:([0-9]+))?$ ]]; then
      _logs=()
      for ((number = 10#${BASH_REMATCH[2]}; number <= 10#${BASH_REMATCH[4]:-${BASH_REMATCH[2]}}; number++)); do
        _logs+=("${1//"${BASH_REMATCH[1]}"/$number}")
      done
    fi
  done
}

# Print one line for each of these logs that exists: inode, times and size, which change on writing, and its name.
_look_at_logs() {
  local log
  for log in "${_logs[@]}"; do
    [ ! -f "$log" ] || : < "$log" # a network file system refreshes a file when it is opened
  done
  stat -c '%i %y %s %n' -- "${_logs[@]}" 2> /dev/null || true
}

_report_failure() {
  _end_progress
  local what=$1 log line reason=
  local failed=()
  while IFS= read -r line; do
    [[ $'\n'$_logs_before$'\n' != *$'\n'"$line"$'\n'* ]] || continue # from an earlier run
    log=${line#* * * * * } # remove inode, date, time, zone and size
    # a successful log of run.sh and run.pl, or of slurm.pl and queue.pl, ends like this
    tail -n 1 "$log" | grep -q -e '^# Ended (code 0)' -e '^# Finished .* with status 0$' || failed+=("$log")
  done < <(_look_at_logs)
  for log in ${failed[@]+"${failed[@]:0:3}"}; do
    echo "--- the end of $log:" >&2
    tail -n 20 "$log" >&2
    line=$(sed -nE 's/^(([^ ]+\.py|python[^ ]* -m [^ ]+): )?error: //p' "$log" | tail -n 1) # PROGRAM: from argparse
    reason=${reason:-$line}
  done
  fail "stage $_stage_now, $what: ${reason:-no job succeeded; see above} (log: ${failed[*]:-$2})"
}
