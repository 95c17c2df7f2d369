"""Faults on purpose: runs are killed, stopped, damaged and misled, and have to come out whole or say why."""
