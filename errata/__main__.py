"""`python -m errata`, for torchrun and for machines without the script on their path."""

from errata.cli import main

main()
