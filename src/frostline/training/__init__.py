"""Phases, epochs, steps: a plan carried out, committed and scored."""
