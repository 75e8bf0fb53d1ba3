"""The whole stack on one machine with one command. It starts torch, but never loads it."""
