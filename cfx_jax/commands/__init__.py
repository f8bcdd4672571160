"""Every command: its flags, its exit code and what it shows on the terminal."""
