"""From masks to surveys: covers by site, transect and date, samples for labelling, formats of other tools."""
