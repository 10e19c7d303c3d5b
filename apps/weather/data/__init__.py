"""Weather data: archives of gridded fields, and windows over them."""
