"""Our readers of pictures held against other people's, on other people's pictures and on a matrix of TIFFs."""
