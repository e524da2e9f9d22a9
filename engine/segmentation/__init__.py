"""From pixels to masks: predictors, what they return, and the pipeline around them."""
