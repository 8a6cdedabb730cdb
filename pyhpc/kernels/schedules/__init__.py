"""All-reduce algorithms, one file each; the folder listing is the list of algorithms."""
