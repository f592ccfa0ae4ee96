"""Law: a device runs what its fleet's signer signed, newer than what it had, and never less than a version that works.

`progress` decides, `wheels` judges and unpacks, `updater` does; the launcher outside of all versions has the last word.
"""
