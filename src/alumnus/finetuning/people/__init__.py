"""The head `people`: place, pose and shape of the people in a picture."""
