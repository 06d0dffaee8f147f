"""The experiment families: each builds runs; running and reading them is the same for all."""
