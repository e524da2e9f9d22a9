"""The commands of `pseg`, a file each; a run loads only its own."""
