"""From a table in a file to series on a regular grid: the one opening that training and prediction share."""
