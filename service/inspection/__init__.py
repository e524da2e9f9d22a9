"""What a bundle holds and needs, and what this machine has."""
