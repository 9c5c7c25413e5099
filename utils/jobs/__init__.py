"""The job runner behind run.sh, slurm.sh and queue.sh. Standard library only, because it also runs on bare nodes."""
