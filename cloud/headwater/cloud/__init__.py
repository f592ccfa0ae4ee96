"""Law: the cloud divides once, at the top, and announces only what its history has committed.

It sees weighted sums and their weights, never an example.
"""
