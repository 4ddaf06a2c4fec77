"""Where documents are read from: whatever gives a tree of files and tells when it may have changed."""
