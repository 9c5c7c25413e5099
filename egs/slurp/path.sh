# shellcheck shell=bash
# Sourced by run.sh and by every job on the nodes of a cluster. What your site needs (modules, say) goes here.
# shellcheck source=utils/path.sh
. ../../utils/path.sh
