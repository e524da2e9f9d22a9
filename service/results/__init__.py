"""What a run leaves behind: pictures, rasters, tables, reports, ledgers."""
