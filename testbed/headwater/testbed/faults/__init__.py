"""Law: a fault is done to the real thing, from outside: a wire between two sockets, a signal, a full disk, a clock."""
