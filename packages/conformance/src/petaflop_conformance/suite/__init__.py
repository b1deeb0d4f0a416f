"""The installed suite: one file per subject, every test with the level that it belongs to."""
