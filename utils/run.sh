#!/usr/bin/env bash
# Runs jobs on this machine: run.sh [OPTION VALUE]... [JOB=1:N] LOG COMMAND [ARGUMENT]... (--help says more)
exec python3 "$(dirname "${BASH_SOURCE[0]}")/run_jobs.py" local "$@"
