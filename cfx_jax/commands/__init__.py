"""The commands: their flags, exit codes and terminal output."""
