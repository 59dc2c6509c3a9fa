"""Conversion of quiet series: claim, convert in a child process, record the outcome."""
