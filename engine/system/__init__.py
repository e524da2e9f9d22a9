"""What the operating system is asked for: files, memory, cores, child processes."""
