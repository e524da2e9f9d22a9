"""One file for each format whose files need care before or in place of Pillow."""
