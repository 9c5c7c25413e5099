"""The job runner behind run.sh, slurm.sh and queue.sh. Standard library only: it also runs on bare nodes."""
