"""Law: a gateway is a parent to its cluster and a child to the cloud, and adds nothing of its own to what it learns.

It sees weighted sums of its devices on the way up and models on the way down, never an example.
"""
