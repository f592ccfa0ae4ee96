"""Law: the contract of the fleet: what is said, how it is written, where it is published, and every limit.

This room imports nothing of ours. Other rooms get their types, bytes and topic names from here and from nowhere else.
"""
