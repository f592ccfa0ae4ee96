"""Law: what may stand in a device's way is looked at, told with the mend, and changed by nobody.

facts.py      what was found out, as values
machine.py    this board: clock, heat, memory, disk, worker, data
network.py    the road to the broker, the login, the parent's voice
findings.py   pure: facts in, findings out
examine.py    all of it, one after the other
"""
