# shellcheck shell=bash
# Sourced by run.sh and by every job on the nodes of a cluster. Add what your site needs (e.g. environment modules).
# shellcheck source=utils/path.sh
. ../../utils/path.sh
