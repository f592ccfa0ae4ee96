"""Law: what every node does stands here once. A device is a child, the cloud is a parent, a gateway is both.

Shells: they hold sockets and clocks, hand bytes to `schemas.wire`, events to `core.round`, and carry out its effects.
"""
