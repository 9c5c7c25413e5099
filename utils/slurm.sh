#!/usr/bin/env bash
# Run jobs through Slurm: slurm.sh [OPTION VALUE]... [JOB=1:N] LOG COMMAND [ARGUMENT]... (see --help)
exec python3 "$(dirname "${BASH_SOURCE[0]}")/run_jobs.py" slurm "$@"
