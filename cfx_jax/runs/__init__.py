"""Whole-dataset runs: config -> data -> models -> all devices -> records, on one host or many."""
