"""What makes this machine's choices better than the shipped ones: searches that measure, and the files they write."""
