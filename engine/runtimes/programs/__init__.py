"""Models' files, read without the libraries that run them."""
