"""The head `two-view`: pairs of posed pictures, cut by virtual cameras, and what learns of them."""
