"""What is measured on a mask besides the share of each class, and what is done with the mask before."""
