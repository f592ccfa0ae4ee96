"""Law: a testbed of containers is made before it starts: names, certificates, rules, and whose data are whose."""
